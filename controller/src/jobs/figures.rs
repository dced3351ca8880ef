//! Sizes and times for people.

/// A size for people: two or three digits and a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A length of time for people.
pub fn millis(count: u64) -> String {
    match count {
        0..1000 => format!("{count} ms"),
        1000..60_000 => format!("{}.{} s", count / 1000, count % 1000 / 100),
        60_000..3_600_000 => format!("{}m {:02}s", count / 60_000, count % 60_000 / 1000),
        _ => format!("{}h {:02}m", count / 3_600_000, count % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(41 << 20), "41 MiB");
        assert_eq!(bytes(8_800_000_000), "8.2 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(millis(38), "38 ms");
        assert_eq!(millis(27_400), "27.4 s");
        assert_eq!(millis(104_000), "1m 44s");
    }
}
