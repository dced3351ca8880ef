//! Time by both clocks of a host, for what is kept for a while and then removed.
//!
//! The wall clock alone does not do: one that is ahead for a moment, because a
//! virtual machine was resumed or a battery is empty, ends every such time at
//! once, and what is removed then does not come back when the clock is set
//! right. So a time has passed when it has passed by the wall clock and by a
//! clock that nobody sets: the time since the host booted.
//!
//! That one begins anew with each boot, so its sum is kept in the state
//! directory, written again every few minutes. What passes between the last
//! writing and the end of a boot is not counted: at worst something is kept for
//! longer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::durable;

/// How often the sum is written while an agent runs.
const NOTE_EVERY: Duration = Duration::from_mins(10);

/// Milliseconds since the Unix epoch, by the wall clock.
pub(crate) fn now_unix_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// For how long this host has been seen to run, milliseconds, over all its
    /// boots. 0 in what an agent wrote that did not know it: the count is
    /// younger than that, so no time is counted twice.
    pub uptime_ms: u64,
}

/// The clocks of the host that has this state directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clocks {
    path: PathBuf,
}

/// The sum over boots, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    /// The kernel's id of the boot in which it was written.
    boot: String,
    /// Milliseconds since that boot, at the writing.
    since_boot_ms: u64,
    uptime_ms: u64,
}

impl Moment {
    /// The time that has passed since then by both clocks: the lesser of the two.
    pub fn elapsed(self, now: Self) -> Duration {
        let wall = u64::try_from(now.unix_ms.saturating_sub(self.unix_ms)).unwrap_or(0);
        // The count may be behind this moment's for a while: after a boot it
        // goes on from what was written before that, and a lost one from 0.
        let up = now.uptime_ms.saturating_sub(self.uptime_ms);
        Duration::from_millis(wall.min(up))
    }
}

impl Clocks {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("uptime.json") }
    }

    /// Now, by both clocks. Reads a small file.
    pub fn now(&self) -> Moment {
        let unix_ms = now_unix_ms();
        Moment {
            unix_ms,
            uptime_ms: Count::after(self.read().as_ref(), boot_id(), since_boot_ms()).uptime_ms,
        }
    }

    /// Writes the sum as it is now. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be written; the one that was there stays.
    pub fn note(&self) -> io::Result<()> {
        let count = Count::after(self.read().as_ref(), boot_id(), since_boot_ms());
        durable::replace(&self.path, durable::OWNER_ONLY, &serde_json::to_vec(&count)?)
    }

    /// Writes the sum every few minutes, for ever. Only the agent that has the
    /// journal does: two would write over each other.
    pub async fn run(self) {
        loop {
            let clocks = self.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || clocks.note()).await {
                tracing::warn!(path = %self.path.display(), %error, "the time this host has run could not be written; \
                    what is kept for a while may be kept for longer");
            }
            tokio::time::sleep(NOTE_EVERY).await;
        }
    }

    fn read(&self) -> Option<Count> {
        let bytes = fs::read(&self.path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(path = %self.path.display(), %error, "this is not readable and is begun anew"),
            )
            .ok()
    }
}

impl Count {
    /// The sum at this time of this boot. Without one before, it begins now.
    fn after(before: Option<&Self>, boot: String, since_boot_ms: u64) -> Self {
        let uptime_ms = match before {
            None => 0,
            Some(before) => {
                let same_boot = before.boot == boot && before.since_boot_ms <= since_boot_ms;
                // Of another boot: that was over before this one began.
                let passed = if same_boot { since_boot_ms - before.since_boot_ms } else { since_boot_ms };
                before.uptime_ms.saturating_add(passed)
            }
        };
        Self { boot, since_boot_ms, uptime_ms }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Milliseconds since the host booted, with the time in which it slept.
fn since_boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1000)
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: i64 = 24 * 3_600_000;

    #[test]
    fn h10_a_time_has_passed_when_it_has_by_both_clocks() {
        let begun = Moment { unix_ms: 1_795_514_400_000, uptime_ms: 5 * HOUR };
        let at = |wall_ms: i64, up_ms: u64| {
            let now = Moment { unix_ms: begun.unix_ms + wall_ms, uptime_ms: begun.uptime_ms + up_ms };
            begun.elapsed(now).as_millis()
        };
        assert_eq!(at(30 * DAY, 60_000), 60_000, "a clock that is ahead");
        assert_eq!(at(-30 * DAY, 60_000), 0, "a clock that is behind");
        assert_eq!(at(60_000, HOUR), 60_000, "a clock that was set back after it was ahead");
        assert_eq!(at(DAY, DAY.unsigned_abs()), 86_400_000);
        // The host ended before the count was written again.
        let now = Moment { unix_ms: begun.unix_ms + DAY, uptime_ms: begun.uptime_ms - 1 };
        assert_eq!(begun.elapsed(now), Duration::ZERO);
    }

    #[test]
    fn h10_uptime_is_counted_over_restarts_of_the_agent_and_of_the_host() {
        let count = |before: Option<&Count>, boot: &str, ms| Count::after(before, boot.to_owned(), ms);
        let first = count(None, "a", 90 * HOUR);
        assert_eq!(first.uptime_ms, 0, "nobody knows what was before");
        let restarted = count(Some(&first), "a", 91 * HOUR);
        assert_eq!(restarted.uptime_ms, HOUR);
        let rebooted = count(Some(&restarted), "b", 2 * HOUR);
        assert_eq!(rebooted.uptime_ms, 3 * HOUR, "what passed before the boot was seen to its last writing");
        // Longer up than at the last writing of the boot before.
        assert_eq!(count(Some(&restarted), "c", 200 * HOUR).uptime_ms, 201 * HOUR);
        assert_eq!(count(Some(&rebooted), "b", 3 * HOUR).uptime_ms, 4 * HOUR);
        // A container's own count may begin anew without another boot.
        assert_eq!(count(Some(&rebooted), "b", HOUR).uptime_ms, 4 * HOUR);
    }

    #[test]
    fn h10_the_count_goes_on_with_what_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let clocks = Clocks::new(dir.path());
        assert_eq!(clocks.now().uptime_ms, 0);
        clocks.note().unwrap();
        let boot = boot_id();
        assert_ne!(boot, "");
        let before = Count { boot, since_boot_ms: 0, uptime_ms: 7 * HOUR };
        fs::write(&clocks.path, serde_json::to_vec(&before).unwrap()).unwrap();
        assert!(clocks.now().uptime_ms >= 7 * HOUR + since_boot_ms() - 60_000);
        clocks.note().unwrap();
        assert!(Clocks::new(dir.path()).now().uptime_ms >= clocks.read().unwrap().uptime_ms);
        fs::write(&clocks.path, "{").unwrap();
        assert_eq!(clocks.now().uptime_ms, 0);
        clocks.note().unwrap();
    }
}
