//! Sizes, spans, ports and probes as people write them. Each function says in
//! its error which forms it takes.

use std::net::IpAddr;

use holdfast_proto::v1::probe::Kind;
use holdfast_proto::v1::{Probe, ProbeCommand, ProbeHttp};

/// `key=value`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("key=value is expected".to_owned()),
    }
}

/// `HOST/SOURCE`; a directory begins with another `/`.
pub(super) fn host_and_source(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((host, source)) if !host.is_empty() && !source.is_empty() => {
            Ok((host.to_owned(), source.to_owned()))
        }
        _ => Err("HOST/VOLUME or HOST/PATH is expected, as web-1/db_data or web-1//srv/data".to_owned()),
    }
}

/// `key=value`, or a key alone, whose value is empty then.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("a key is expected, with or without =value".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Bytes: `512m`, `1.5g`, `64MiB`; a number alone is bytes. Never 0, which
/// means "no limit" on the wire.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is no size: 512m, 1.5g and 67108864 are");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(expected()),
    };
    let value: f64 = number.parse().map_err(|_| expected())?;
    let bytes = value * 1024_f64.powi(power);
    if bytes < 1.0 || bytes > i64::MAX as f64 {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(bytes as u64)
}

/// Seconds: `90`, `90s`, `5m`, `1h30m`, `2d`.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let expected = || format!("`{text}` is no span of time: 90s, 5m, 24h, 1h30m and 2d are");
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.chars().next() {
            None if rest.len() == text.len() => 1,
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(expected()),
        };
        let number: u64 = number.parse().map_err(|_| expected())?;
        total = number.checked_mul(unit).and_then(|span| total.checked_add(span)).ok_or_else(expected)?;
        rest = tail.get(1..).unwrap_or_default();
    }
    if text.is_empty() {
        return Err(expected());
    }
    u32::try_from(total).map_err(|_| format!("`{text}` is too long"))
}

/// Like [`seconds`], without 0, which means "the default" on the wire.
pub(super) fn some_seconds(text: &str) -> Result<u32, String> {
    match seconds(text)? {
        0 => Err("a second is the least".to_owned()),
        span => Ok(span),
    }
}

/// CPUs: `1.5`. Never 0, which means "no limit" on the wire.
pub(super) fn cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus > 0.0 => Ok(cpus),
        _ => Err(format!("`{text}` is no number of CPUs: 0.5 and 2 are")),
    }
}

/// `no`, `always`, `unless-stopped`, `on-failure[:count]`.
pub(super) fn restart(text: &str) -> Result<String, String> {
    let (policy, count) = text.split_once(':').map_or((text, None), |(policy, count)| (policy, Some(count)));
    match (policy, count) {
        ("no" | "always" | "unless-stopped" | "on-failure", None) => Ok(text.to_owned()),
        ("on-failure", Some(count)) if count.parse::<u32>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is none of no, always, unless-stopped, on-failure, on-failure:COUNT")),
    }
}

/// `[[address:][host port]:]container port[/protocol]`, checked and passed on
/// as it is.
pub(super) fn port(text: &str) -> Result<String, String> {
    let expected =
        |what: &str| format!("`{text}`: {what}; 8080:80, 127.0.0.1:8080:80 and 53:53/udp are ports");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(expected("the protocol is tcp, udp or sctp"));
    }
    if ports.contains('-') {
        return Err(expected("ranges are not taken, give -p once for each port"));
    }
    // From the end: an IPv6 address has colons of its own.
    let (rest, container) = ports.rsplit_once(':').map_or((None, ports), |(rest, port)| (Some(rest), port));
    if !container.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(expected("the container's port is a number from 1 to 65535"));
    }
    let Some(rest) = rest else { return Ok(text.to_owned()) };
    let (address, host) = rest.rsplit_once(':').map_or((None, rest), |(address, port)| (Some(address), port));
    if !host.is_empty() && host.parse::<u16>().is_err() {
        return Err(expected("the host's port is a number up to 65535, or left out"));
    }
    match address {
        Some(address) if bare_address(address).parse::<IpAddr>().is_err() => {
            Err(expected("the address is an IP address, IPv6 in brackets"))
        }
        None if host.is_empty() => Err(expected("the host's port is missing")),
        _ => Ok(text.to_owned()),
    }
}

/// IPv6 only counts in its brackets: without them its colons are ambiguous.
fn bare_address(text: &str) -> &str {
    match text.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').unwrap_or(""),
        None if text.contains(':') => "",
        None => text,
    }
}

/// A command run inside the container: a shell's line, or a JSON array that is
/// run as it is.
pub(super) fn probe_command(text: &str) -> Result<Probe, String> {
    // Decided by the first letter: a shell line that begins with `[` is a test, and its author can
    // write `test`.
    let argv = if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<String>>(text)
            .map_err(|error| format!("a JSON array of strings is expected after `[`: {error}"))?
    } else {
        ["/bin/sh", "-c", text].map(str::to_owned).to_vec()
    };
    if text.trim().is_empty() || argv.is_empty() || argv[0].is_empty() {
        return Err("a command is expected".to_owned());
    }
    Ok(Probe { kind: Some(Kind::Command(ProbeCommand { argv })) })
}

/// A port of the container.
pub(super) fn probe_tcp(text: &str) -> Result<Probe, String> {
    Ok(Probe { kind: Some(Kind::TcpPort(u32::from(container_port(text)?))) })
}

/// `8080/healthz`; without a path it is `/`.
pub(super) fn probe_http(text: &str) -> Result<Probe, String> {
    let (port, path) = text.find('/').map_or((text, "/"), |slash| text.split_at(slash));
    if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a path holds no spaces".to_owned());
    }
    let http = ProbeHttp { port: u32::from(container_port(port)?), path: path.to_owned() };
    Ok(Probe { kind: Some(Kind::Http(http)) })
}

fn container_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("`{text}` is no port of the container: 1 to 65535")),
    }
}

/// A moment in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Milliseconds since the Unix epoch.
    At(i64),
    /// So many milliseconds before now.
    Ago(i64),
}

impl Since {
    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now_ms.saturating_sub(ago),
        }
    }
}

/// "2026-11-22", "2026-11-22T02:00" (UTC), "90m", "12h", "7d".
pub(super) fn since(text: &str) -> Result<Since, String> {
    let wrong = || format!("`{text}` is no time: 2026-11-22, 2026-11-22T02:00 or 90m, 12h, 7d are");
    let minutes = match text.chars().last().ok_or_else(wrong)? {
        'm' => Some(1),
        'h' => Some(60),
        'd' => Some(24 * 60),
        _ => None,
    };
    // A date ends in a digit, so the last letter tells the two forms apart.
    if let Some(minutes) = minutes {
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        return Ok(Since::Ago(i64::from(count) * minutes * 60_000));
    }
    let date = |format| chrono::NaiveDateTime::parse_from_str(text, format).ok();
    let at = date("%Y-%m-%dT%H:%M")
        .or_else(|| date("%Y-%m-%dT%H:%M:%S"))
        .or_else(|| Some(text.parse::<chrono::NaiveDate>().ok()?.and_time(chrono::NaiveTime::MIN)));
    at.map(|at| Since::At(at.and_utc().timestamp_millis())).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_a_key_and_a_value() {
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert!(label("=b").is_err());
    }

    #[test]
    fn sizes_are_dockers() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("64MiB", 64 << 20),
            ("1kb", 1024),
            ("67108864", 64 << 20),
            ("6B", 6),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "1x", "-1m", "0", "1e3", "1 m", "9999999t", "1..5g"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_add_up() {
        for (text, span) in [
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("24h", 86_400),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("0", 0),
        ] {
            assert_eq!(seconds(text), Ok(span), "{text}");
        }
        for text in ["", "m", "5x", "5m3", "-5", "1.5h", "99999999999999999999", "200000d", "5 m", "5µ"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(some_seconds("0s").is_err());
        assert_eq!(some_seconds("1s"), Ok(1));
    }

    #[test]
    fn ports_are_checked_and_kept() {
        for text in [
            "80",
            "8080:80",
            "53:53/udp",
            "127.0.0.1:8080:80",
            "127.0.0.1::80",
            "[::1]:8080:80",
            "0:80",
            "5000:5000/sctp",
        ] {
            assert_eq!(port(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "0",
            "web",
            "8080:",
            ":80",
            "8080:0",
            "70000:80",
            "8000-8010:80",
            "80/icmp",
            "::1:8080:80",
            "localhost:8080:80",
            "[::1:8080:80",
            "1.2.3.4:80",
        ] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn restart_policies_and_cpus_are_checked() {
        for text in ["no", "always", "unless-stopped", "on-failure", "on-failure:3"] {
            assert_eq!(restart(text).as_deref(), Ok(text));
        }
        for text in ["", "never", "always:3", "on-failure:", "on-failure:x"] {
            assert!(restart(text).is_err(), "{text}");
        }
        assert_eq!(cpus("1.5"), Ok(1.5));
        for text in ["0", "-1", "inf", "NaN", "two"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn probes_name_a_command_a_port_or_a_path() {
        let command = |text: &str| match probe_command(text).map(|probe| probe.kind) {
            Ok(Some(Kind::Command(command))) => Ok(command.argv),
            Ok(other) => panic!("a command was expected, not {other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(command("pg_isready -q").expect("a line"), ["/bin/sh", "-c", "pg_isready -q"]);
        assert_eq!(command(r#"["/probe", "a b"]"#).expect("a list"), ["/probe", "a b"]);
        for text in ["", "  ", "[]", "[1]", r#"[""]"#, "[unclosed"] {
            assert!(command(text).is_err(), "{text}");
        }
        assert_eq!(probe_tcp("5432").expect("a port").kind, Some(Kind::TcpPort(5432)));
        assert!(probe_tcp("0").is_err() && probe_tcp("http").is_err());
        let http = |port, path: &str| Some(Kind::Http(ProbeHttp { port, path: path.to_owned() }));
        assert_eq!(probe_http("8080/healthz?full=1").expect("a path").kind, http(8080, "/healthz?full=1"));
        assert_eq!(probe_http("80").expect("a port").kind, http(80, "/"));
        assert!(probe_http("/healthz").is_err() && probe_http("80/a b").is_err());
    }

    #[test]
    fn times_are_given_by_date_or_by_how_long_ago() {
        assert_eq!(since("2026-11-22"), Ok(Since::At(1_795_305_600_000)));
        assert_eq!(since("2026-11-22T02:30"), Ok(Since::At(1_795_314_600_000)));
        assert_eq!(since("12h"), Ok(Since::Ago(12 * 3_600_000)));
        assert_eq!(since("7d").map(|since| since.unix_ms(8 * 86_400_000)), Ok(86_400_000));
        for text in ["", "d", "yesterday", "2026-13-01", "-1h"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
