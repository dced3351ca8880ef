//! Quotas: what one host may add in a day.
//!
//! A host can fill the bucket and the catalogue with what it may write. It
//! cannot be told from an honest one by a single pack, only by the sum.

use serde::{Deserialize, Serialize};

use crate::limits;

/// What one host may add in a day (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Bytes of packs.
    pub bytes_per_day: u64,
    pub packs_per_day: u64,
    /// Rows of frames.
    pub frames_per_day: u64,
    /// Uploads and restores begun.
    pub leases_per_day: u64,
    /// Certificates renewed.
    pub renewals_per_day: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            bytes_per_day: limits::BYTES_PER_DAY,
            packs_per_day: limits::PACKS_PER_DAY,
            frames_per_day: limits::FRAMES_PER_DAY,
            leases_per_day: limits::LEASES_PER_DAY,
            renewals_per_day: limits::RENEWALS_PER_DAY,
        }
    }
}

impl Quotas {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The first quota this is over: its name in the configuration and value.
    pub fn exceeded_by(&self, usage: &Usage) -> Option<(&'static str, u64)> {
        [
            ("bytes_per_day", usage.bytes, self.bytes_per_day),
            ("packs_per_day", usage.packs, self.packs_per_day),
            ("frames_per_day", usage.frames, self.frames_per_day),
            ("leases_per_day", usage.leases, self.leases_per_day),
            ("renewals_per_day", usage.renewals, self.renewals_per_day),
        ]
        .into_iter()
        .find(|(_, used, quota)| used > quota)
        .map(|(name, _, quota)| (name, quota))
    }
}

/// What a host adds, or has added in a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub packs: u64,
    pub frames: u64,
    pub leases: u64,
    pub renewals: u64,
}

/// The day of a time, counted from 1970-01-01 UTC.
pub fn day_of(now_ms: i64) -> i64 {
    now_ms.div_euclid(86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x10_the_first_quota_that_is_passed_is_named() {
        let quotas = Quotas { bytes_per_day: 10, packs_per_day: 2, ..Quotas::default() };
        let usage = |bytes, packs| Usage { bytes, packs, ..Usage::default() };
        assert_eq!(quotas.exceeded_by(&usage(10, 2)), None);
        assert_eq!(quotas.exceeded_by(&usage(11, 3)), Some(("bytes_per_day", 10)));
        assert_eq!(quotas.exceeded_by(&usage(10, 3)), Some(("packs_per_day", 2)));
    }

    #[test]
    fn days_are_those_of_utc() {
        assert_eq!((day_of(-1), day_of(0), day_of(86_399_999), day_of(86_400_000)), (-1, 0, 0, 1));
    }
}
