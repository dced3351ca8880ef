//! What an audited call is about, read from its first message with the
//! descriptors, so that a forwarded call is recorded without this process
//! having its message's type.

use std::sync::LazyLock;

use bytes::Buf as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::roles::AdminField;

/// Longest text of one field in an audit row, in characters.
const MAX_VALUE_LEN: usize = 200;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(holdfast_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors are generated together with the code")
});

/// A first message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request cannot be read as this call's message")]
pub struct UnreadableRequest;

/// `field=value` of the named fields that are set, in order. `frame` is a gRPC
/// frame: one flag byte, four of length, the message.
pub fn describe(path: &str, fields: &[&str], frame: &[u8]) -> Result<String, UnreadableRequest> {
    let message = DynamicMessage::decode(input(path).ok_or(UnreadableRequest)?, payload(frame)?)
        .map_err(|_| UnreadableRequest)?;
    let shown = fields.iter().filter_map(|name| {
        let field = message.descriptor().get_field_by_name(name)?;
        message.has_field(&field).then(|| {
            let text: String = show(&message.get_field(&field)).chars().take(MAX_VALUE_LEN).collect();
            format!("{name}={text}")
        })
    });
    Ok(shown.collect::<Vec<_>>().join(" "))
}

/// The first of these fields that says something else than it may.
pub fn admin_field(
    path: &str,
    fields: &[AdminField],
    frame: &[u8],
) -> Result<Option<&'static str>, UnreadableRequest> {
    if fields.is_empty() {
        return Ok(None);
    }
    let message = DynamicMessage::decode(input(path).ok_or(UnreadableRequest)?, payload(frame)?)
        .map_err(|_| UnreadableRequest)?;
    let is_set = |field: &&AdminField| {
        let Some(found) = message.descriptor().get_field_by_name(field.name) else { return true };
        message.has_field(&found) && message.get_field(&found).as_str() != Some(field.harmless)
    };
    Ok(fields.iter().find(is_set).map(|field| field.name))
}

fn input(path: &str) -> Option<MessageDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|candidate| candidate.name() == method).map(|method| method.input())
}

fn payload(mut frame: &[u8]) -> Result<&[u8], UnreadableRequest> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return Err(UnreadableRequest);
    }
    let length = usize::try_from(frame.get_u32()).map_err(|_| UnreadableRequest)?;
    frame.get(..length).ok_or(UnreadableRequest)
}

/// Control characters are escaped: a name must not forge a line of a log.
fn show(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::EnumNumber(value) => value.to_string(),
        Value::String(text) => text.escape_debug().to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).escape_debug().to_string(),
        Value::List(values) => values.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Map(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}:{}", show_key(key), show(value))).collect();
            pairs.sort();
            pairs.join(",")
        }
        Value::Message(_) => "(message)".to_owned(),
    }
}

fn show_key(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.escape_debug().to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::{LabelHostRequest, RemoveVolumeRequest};
    use prost::Message;

    use super::*;

    fn frame(message: &impl Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.encoded_len()).expect("small").to_be_bytes());
        message.encode(&mut bytes).expect("room");
        bytes
    }

    #[test]
    fn shows_the_named_fields_only() {
        let request = LabelHostRequest {
            host: "web-1".to_owned(),
            set: [("role".to_owned(), "db".to_owned())].into(),
            remove: vec!["a".to_owned(), "b".to_owned()],
        };
        let path = "/holdfast.v1.HostService/LabelHost";
        assert_eq!(
            describe(path, &["host", "set", "remove"], &frame(&request)),
            Ok("host=web-1 set=role:db remove=a,b".to_owned())
        );
        assert_eq!(describe(path, &["host"], &frame(&request)), Ok("host=web-1".to_owned()));
    }

    #[test]
    fn hostile_text_is_escaped_and_cut_and_broken_frames_refused() {
        let path = "/holdfast.v1.VolumeService/RemoveVolume";
        let request = RemoveVolumeRequest { name: format!("a\nb\u{1b}{}", "x".repeat(500)) };
        let text = describe(path, &["name"], &frame(&request)).expect("readable");
        assert!(text.starts_with("name=a\\nb\\u{1b}xxx") && text.len() < 220, "{text}");
        let whole = frame(&request);
        for broken in [&whole[..3], &whole[..40], &[1, 0, 0, 0, 0][..], &[0, 255, 255, 255, 255][..]] {
            assert_eq!(describe(path, &["name"], broken), Err(UnreadableRequest));
        }
    }
}
