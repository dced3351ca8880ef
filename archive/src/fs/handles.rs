//! How many handles this process may hold.

use crate::process;

/// More than a tree ever needs at once here.
const ENOUGH: u64 = 65_536;

/// Allows this process as many open files as it may allow itself. Best effort.
pub fn raise_handle_limit() {
    process::raise_open_files(ENOUGH);
}

/// A part of what is allowed, for one job of several.
pub(in crate::fs) fn handle_share(least: usize, most: usize) -> usize {
    let allowed = process::open_files().unwrap_or(ENOUGH);
    usize::try_from(allowed / 8).unwrap_or(most).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn the_limit_is_raised_and_its_share_bounded() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(1024), ..before }).unwrap();
        assert_eq!((handle_share(16, 4096), handle_share(16, 64)), (128, 64));
        raise_handle_limit();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        assert_eq!(after.current, Some(before.maximum.unwrap_or(ENOUGH).min(ENOUGH)));
        assert!(handle_share(256, 4096) >= 256);
    }
}
