//! The address of the S3 service, and what is trusted there.

use std::net::IpAddr;

use crate::store::{S3Options, StoreError, StoreErrorKind};

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

fn refused(text: String) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, text)
}

/// `scheme://host[:port]`, without a slash at its end.
///
/// # Errors
/// When it is no whole address, or leads over a network without encryption and
/// the settings do not allow that.
pub(super) fn address(options: &S3Options, region: &str) -> Result<String, StoreError> {
    let Some(endpoint) = &options.endpoint else {
        return Ok(format!("https://s3.{region}.amazonaws.com"));
    };
    let address = endpoint.trim_end_matches('/').to_owned();
    if let Some(rest) = address.strip_prefix(HTTP) {
        if options.allow_http || is_loopback(rest) {
            return Ok(address);
        }
        return Err(refused(format!(
            "the S3 endpoint `{endpoint}` is not encrypted: everybody on the way reads and changes all that is stored; use https://, or allow it with `allow_http = true` (--s3-allow-http)"
        )));
    }
    if address.starts_with(HTTPS) {
        return Ok(address);
    }
    Err(refused(format!(
        "the S3 endpoint `{endpoint}` does not start with https:// or http://; write the whole address"
    )))
}

/// Whether `host[:port][/path]` does not leave this machine.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
            "http://127.0.0.1@store.example",
            "http://127.0.0.1.example",
            "http://[fd00::1]:3900",
        ] {
            let error = asked(endpoint, false).unwrap_err();
            assert!(error.contains(endpoint) && error.contains("--s3-allow-http"), "{error}");
            assert_eq!(asked(endpoint, true).unwrap(), endpoint.trim_end_matches('/'));
        }
    }

    #[test]
    fn https_needs_no_leave_and_other_schemes_are_refused() {
        assert_eq!(asked("https://store.example/", false).unwrap(), "https://store.example");
        for endpoint in ["store.example:3900", "http://", "ftp://store.example", ""] {
            assert!(asked(endpoint, true).unwrap_err().contains("whole address"), "{endpoint}");
        }
        let aws = address(&S3Options::default(), "eu-1").unwrap();
        assert_eq!(aws, "https://s3.eu-1.amazonaws.com");
    }
}
