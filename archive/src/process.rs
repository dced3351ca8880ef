//! What a program of Holdfast asks of the kernel for itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Keeps the keys and data in this process's memory out of core files, and from
/// other processes of the same user. Best effort; a failure is logged.
pub fn guard_memory() {
    let limit = Rlimit { current: Some(0), maximum: Some(0) };
    let guarded =
        setrlimit(Resource::Core, limit).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = guarded {
        tracing::warn!(%error, "core files could not be switched off");
    }
}

/// Allows this process as many open files as it may allow itself, at most
/// `enough`: the usual soft limit of 1024 is for programs that use `select`.
/// Best effort; a failure is logged.
pub fn raise_open_files(enough: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(enough).min(enough);
    if current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// How many files this process may have open; `None`: any number.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_core_file_is_written_of_a_guarded_process() {
        guard_memory();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        let dumpable = rustix::process::dumpable_behavior().expect("asked");
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
    }
}
