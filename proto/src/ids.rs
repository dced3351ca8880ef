//! Ids that travel on the wire. Ids of what lies in the bucket (hosts,
//! sources, snapshots, packs, frames) belong to the archive crate.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use ulid::{Generator, Ulid};

/// Ids of one process sort in the order they were made, within a millisecond
/// and when the clock goes back, too: jobs queued at one moment are begun and
/// listed in that order.
fn next() -> Ulid {
    static GENERATOR: Mutex<Generator> = Mutex::new(Generator::new());
    let mut generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    generator.generate().unwrap_or_else(|overflow| overflow.commit_overflow_increment())
}

/// A text that is no id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: 26 letters and digits are expected")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Ulid);

        impl $name {
            /// A new id: time-ordered, the rest random; greater than all this
            /// process made before.
            pub fn generate() -> Self {
                Self(next())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Ulid::from_string(text)
                    .map(Self)
                    .map_err(|_| InvalidId { kind: $kind, text: text.to_owned() })
            }
        }
    };
}

ulid_id!(
    /// One unit of orchestrated work.
    JobId,
    "job"
);
ulid_id!(
    /// An agent's open data-plane session.
    LeaseId,
    "lease"
);
ulid_id!(
    /// One firing of one policy, or one backup started by hand.
    RunId,
    "run"
);
ulid_id!(
    /// One agent state directory on one Engine.
    InstanceId,
    "instance"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_in_the_order_they_were_made() {
        let ids: Vec<JobId> = (0..10_000).map(|_| JobId::generate()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn ids_round_trip_and_refuse_others() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        let error = "web-1".parse::<JobId>().unwrap_err();
        assert_eq!(error.to_string(), "`web-1` is not a job id: 26 letters and digits are expected");
    }
}
