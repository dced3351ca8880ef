//! Spreads the hosts of one firing over a window.
//!
//! Derived from the names, not drawn: a host keeps its place from night to
//! night, so that `explain` can say it and the interval between two backups
//! of one host stays what the schedule says.

use std::time::Duration;

use holdfast_archive::ids::HostId;
use sha2::{Digest, Sha256};

/// Delay of `host` after each fire time of `policy`: whole seconds, less than
/// or equal to `most`.
pub(crate) fn jitter(policy: &str, host: HostId, most: Duration) -> Duration {
    let seconds = most.as_secs();
    if seconds == 0 {
        return Duration::ZERO;
    }
    let hash = Sha256::digest(format!("{policy}\0{host}"));
    let mut head = [0; 8];
    head.copy_from_slice(&hash[..8]);
    Duration::from_secs(u64::from_be_bytes(head) % (seconds + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p17_a_thousand_hosts_spread_over_the_window_and_keep_their_place() {
        let most = Duration::from_secs(600);
        let hosts: Vec<HostId> = (0..1000).map(|_| HostId::generate()).collect();
        let mut minutes = [0_u32; 11];
        for host in &hosts {
            let delay = jitter("nightly", *host, most);
            assert!(delay <= most);
            assert_eq!(delay, jitter("nightly", *host, most));
            minutes[usize::try_from(delay.as_secs() / 60).expect("small")] += 1;
        }
        assert!(minutes[..10].iter().all(|n| (50..=170).contains(n)), "{minutes:?}");
        assert_eq!(jitter("nightly", hosts[0], Duration::ZERO), Duration::ZERO);
    }
}
