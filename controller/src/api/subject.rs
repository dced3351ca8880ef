//! What an audited call is about, read from its first message with the
//! descriptors, so that a forwarded call is recorded without this process
//! having its message's type.

use std::sync::LazyLock;

use bytes::Buf as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::roles::{AdminField, NeedsAdmin};

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

/// `field=value` of the named fields that are set, in order; `a.b` is field `b`
/// of the message in `a`. `frame` is a gRPC frame: one flag byte, four of
/// length, the message.
///
/// # Errors
/// The frame is not one message of that call.
pub fn describe(path: &str, fields: &[&str], frame: &[u8]) -> Result<String, UnreadableRequest> {
    let message = decode(path, frame)?;
    let shown = fields.iter().filter_map(|name| {
        let text: String = show(&value_at(&message, name)?).chars().take(MAX_VALUE_LEN).collect();
        Some(format!("{name}={text}"))
    });
    Ok(shown.collect::<Vec<_>>().join(" "))
}

/// The first of these fields with which the request needs an administrator.
///
/// # Errors
/// The frame is not one message of that call.
pub fn admin_field(
    path: &str,
    fields: &'static [AdminField],
    frame: &[u8],
) -> Result<Option<&'static AdminField>, UnreadableRequest> {
    if fields.is_empty() {
        return Ok(None);
    }
    let message = decode(path, frame)?;
    let needs_admin = |field: &&AdminField| {
        // A field that the descriptor does not have cannot be judged, so it needs the higher role.
        let Some(found) = message.descriptor().get_field_by_name(field.name) else { return true };
        let is_set = message.has_field(&found);
        match field.needs {
            NeedsAdmin::Set => is_set,
            NeedsAdmin::Unset => !is_set,
            NeedsAdmin::SetOtherThan(harmless) => {
                is_set && message.get_field(&found).as_str() != Some(harmless)
            }
        }
    };
    Ok(fields.iter().find(needs_admin))
}

/// The texts of these fields, empty where one is not set.
///
/// # Errors
/// The frame is not one message of that call, or a field is no text.
pub fn field_texts(path: &str, fields: &[&str], frame: &[u8]) -> Result<Vec<String>, UnreadableRequest> {
    let message = decode(path, frame)?;
    let text = |name: &&str| match value_at(&message, name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(UnreadableRequest),
    };
    fields.iter().map(text).collect()
}

fn decode(path: &str, frame: &[u8]) -> Result<DynamicMessage, UnreadableRequest> {
    DynamicMessage::decode(input(path).ok_or(UnreadableRequest)?, payload(frame)?)
        .map_err(|_| UnreadableRequest)
}

/// The value of a field that is set.
fn value_at(message: &DynamicMessage, path: &str) -> Option<Value> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let field = message.descriptor().get_field_by_name(name)?;
    let value = message.has_field(&field).then(|| message.get_field(&field))?;
    match rest {
        None => Some(value.into_owned()),
        Some(rest) => value_at(value.as_message()?, rest),
    }
}

fn input(path: &str) -> Option<MessageDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|candidate| candidate.name() == method).map(|method| method.input())
}

fn payload(mut frame: &[u8]) -> Result<&[u8], UnreadableRequest> {
    // The first byte says that the message is compressed: what it asks could not be judged here.
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
        Value::Message(message) => show_message(message),
    }
}

/// What names a message; its content may hold what is not for the record.
fn show_message(message: &DynamicMessage) -> String {
    let text = |path: &str| value_at(message, path).map(|value| show(&value)).unwrap_or_default();
    match message.descriptor().name() {
        "PolicyFile" => {
            let policy = value_at(message, "toml").and_then(|toml| policy_name(toml.as_str()?));
            policy.map_or_else(|| text("path"), |name| name.escape_debug().to_string())
        }
        "ContainerMount" => {
            let kinds = ["volume.name", "bind.source", "tmpfs"];
            let source = kinds.iter().find_map(|kind| {
                let value = value_at(message, kind)?;
                Some(if *kind == "tmpfs" { "(tmpfs)".to_owned() } else { show(&value) })
            });
            let access = if text("read_only") == "true" { ":ro" } else { "" };
            format!("{}:{}{access}", source.unwrap_or_else(|| "(anonymous)".to_owned()), text("target"))
        }
        _ => "(message)".to_owned(),
    }
}

/// The name a policy gives itself.
fn policy_name(toml: &str) -> Option<String> {
    let table: toml::Table = toml.parse().ok()?;
    Some(table.get("name")?.as_str()?.to_owned())
}

fn show_key(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.escape_debug().to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::container_mount::Kind;
    use holdfast_proto::v1::{
        ApplyPoliciesRequest, BindMount, ContainerMount, LabelHostRequest, PlanUpgradeRequest, PolicyFile,
        RemoveVolumeRequest, RunContainerRequest, StartUpgradeRequest, VolumeMount,
    };
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
    fn v11_nested_messages_are_shown_by_what_names_them() {
        let apply = ApplyPoliciesRequest {
            files: ["name = 'nightly'\nvolumes = ['secret']", "name = ", "x = 1"]
                .map(|toml| PolicyFile { path: "p.toml".to_owned(), toml: toml.to_owned() })
                .into(),
            ..ApplyPoliciesRequest::default()
        };
        let path = "/holdfast.v1.PolicyService/ApplyPolicies";
        assert_eq!(describe(path, &["files"], &frame(&apply)), Ok("files=nightly,p.toml,p.toml".to_owned()));
        let upgrade = PlanUpgradeRequest {
            container: "db".to_owned(),
            image: "postgres:17".to_owned(),
            ..PlanUpgradeRequest::default()
        };
        let start =
            StartUpgradeRequest { host: "web-1".to_owned(), upgrade: Some(upgrade), ..Default::default() };
        let path = "/holdfast.v1.UpgradeService/StartUpgrade";
        let fields = ["plan_id", "host", "upgrade.container", "upgrade.image"];
        let shown = describe(path, &fields, &frame(&start));
        assert_eq!(shown, Ok("host=web-1 upgrade.container=db upgrade.image=postgres:17".to_owned()));
        let mount = |kind, target: &str, read_only| ContainerMount {
            kind: Some(kind),
            target: target.to_owned(),
            read_only,
        };
        let run = RunContainerRequest {
            image: "busybox".to_owned(),
            env: vec!["PASSWORD=1234".to_owned()],
            mounts: vec![
                mount(
                    Kind::Volume(VolumeMount { name: "data".into(), ..Default::default() }),
                    "/data",
                    false,
                ),
                mount(Kind::Bind(BindMount { source: "/etc".into(), ..Default::default() }), "/host", true),
                mount(Kind::Volume(VolumeMount::default()), "/tmp", false),
            ],
            ..RunContainerRequest::default()
        };
        let path = "/holdfast.v1.ContainerService/RunContainer";
        let shown = describe(path, &["name", "image", "mounts"], &frame(&run)).expect("readable");
        assert_eq!(shown, "image=busybox mounts=data:/data,/etc:/host:ro,(anonymous):/tmp");
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
