//! The address of the S3 service, and what is trusted there.

use std::net::IpAddr;

use http::Uri;

use crate::store::{S3Options, StoreError, StoreErrorKind};

fn refused(text: String) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, text)
}

/// `scheme://host[:port][/path]`, without a slash at its end.
///
/// # Errors
/// When it is no whole address, has more than an address, or leads over a
/// network without encryption and the settings do not allow that.
pub(super) fn address(options: &S3Options, region: &str) -> Result<String, StoreError> {
    let Some(endpoint) = &options.endpoint else {
        return Ok(format!("https://s3.{region}.amazonaws.com"));
    };
    only_an_address(endpoint)?;
    let uri: Uri = endpoint.parse().map_err(|_| not_whole(endpoint))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(not_whole(endpoint));
    };
    let host = authority.host();
    let has_port = authority.as_str().len() > host.len();
    if host.is_empty() || has_port && authority.port_u16().is_none() {
        return Err(not_whole(endpoint));
    }
    if scheme == "http" && !options.allow_http && !is_loopback(host) {
        return Err(refused(format!(
            "the S3 endpoint `{endpoint}` is not encrypted: everybody on the way reads and changes all that is stored; use https://, or allow it with `allow_http = true` (--s3-allow-http)"
        )));
    }
    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
}

/// Before anything is parsed, and without the endpoint in the error: what
/// stands there may be a password or a signature.
fn only_an_address(endpoint: &str) -> Result<(), StoreError> {
    let extra = [('@', "a user name or password"), ('?', "a query"), ('#', "a fragment")];
    match extra.iter().find(|(sign, _)| endpoint.contains(*sign)) {
        None => Ok(()),
        Some((sign, what)) => Err(refused(format!(
            "the S3 endpoint has `{sign}`, and with it {what}; write https:// or http://, the host and its port alone, and name the access key in `credentials_file`"
        ))),
    }
}

fn not_whole(endpoint: &str) -> StoreError {
    refused(format!(
        "the S3 endpoint `{endpoint}` is not https:// or http:// with a host and perhaps a port; write the whole address"
    ))
}

/// Whether a host of an address does not leave this machine.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The certificates to trust instead of the machine's, if any.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub(super) fn ca(options: &S3Options) -> Result<Option<String>, StoreError> {
    let Some(path) = &options.ca_file else { return Ok(None) };
    let pem = std::fs::read_to_string(path).map_err(|error| {
        refused(format!("could not read the CA file {}: {error}", path.display())).caused_by(error)
    })?;
    // What is no certificate would be a panic deep inside.
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(refused(format!(
            "the CA file {} holds no certificate; it is to be in PEM form",
            path.display()
        )));
    }
    Ok(Some(pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(endpoint: &str, allow_http: bool) -> Result<String, String> {
        let options = S3Options { endpoint: Some(endpoint.to_owned()), allow_http, ..S3Options::default() };
        address(&options, "eu-1").map_err(|error| error.to_string())
    }

    #[test]
    fn v15_http_is_for_this_machine_alone_unless_it_is_allowed() {
        for endpoint in
            ["http://127.0.0.1:3900", "http://localhost", "http://[::1]:3900", "http://127.9.9.9/"]
        {
            assert_eq!(asked(endpoint, false).unwrap(), endpoint.trim_end_matches('/'));
        }
        for endpoint in [
            "http://10.0.0.7:3900",
            "http://store.example",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://[fd00::1]:3900",
        ] {
            let error = asked(endpoint, false).unwrap_err();
            assert!(error.contains(endpoint) && error.contains("--s3-allow-http"), "{error}");
            assert_eq!(asked(endpoint, true).unwrap(), endpoint.trim_end_matches('/'));
        }
    }

    #[test]
    fn v15_an_endpoint_with_more_than_an_address_is_refused_and_not_shown() {
        for (endpoint, what) in [
            ("http://127.0.0.1:80@store.example", "a user name or password"),
            ("http://127.0.0.1@store.example", "a user name or password"),
            ("http://[::1]:hush@store.example", "a user name or password"),
            ("https://user:hush@store.example", "a user name or password"),
            ("https://store.example/?X-Amz-Signature=hush", "a query"),
            ("https://store.example#hush", "a fragment"),
        ] {
            for allow_http in [false, true] {
                let error = asked(endpoint, allow_http).unwrap_err();
                assert!(error.contains(what) && !error.contains("hush"), "{error}");
            }
        }
    }

    #[test]
    fn https_needs_no_leave_and_other_schemes_are_refused() {
        assert_eq!(asked("https://store.example/", false).unwrap(), "https://store.example");
        assert_eq!(asked("HTTPS://store.example/s3/", false).unwrap(), "https://store.example/s3");
        for endpoint in [
            "store.example:3900",
            "http://",
            "http://:3900",
            "http://store.example:",
            "http://store.example:65536",
            "ftp://store.example",
            "",
        ] {
            assert!(asked(endpoint, true).unwrap_err().contains("whole address"), "{endpoint}");
        }
        let aws = address(&S3Options::default(), "eu-1").unwrap();
        assert_eq!(aws, "https://s3.eu-1.amazonaws.com");
    }
}
