//! Files that mean something only to the processes that made them: the number
//! of a process, the lock of a socket. They end with the old container, and its
//! successor makes its own.
//!
//! Whether one is no data is told from where it lies, what it is called and how
//! small it is, because its content belongs to a program nobody here knows.
//! Sockets and other special files hold nothing in any place.

use std::path::Path;

/// Where programs keep such files. In another place one counts as data.
const DIRECTORIES: [&str; 4] = ["/run", "/var/run", "/tmp", "/var/tmp"];

/// The longest such file, bytes: a process number, a path, a port.
const MAX_BYTES: u64 = 4096;

/// The rule as plans state it.
pub(crate) const RULE: &str = "under /run, /var/run, /tmp and /var/tmp neither empty files \
     nor pid and lock files of at most 4 KiB count as data";

/// Whether a regular file of this length is no data.
pub(crate) fn is_runtime(path: &Path, bytes: u64) -> bool {
    is_in_place(path) && (bytes == 0 || (bytes <= MAX_BYTES && has_runtime_name(path)))
}

/// Whether a file of the image that is gone was such a file.
pub(crate) fn was_runtime(path: &Path) -> bool {
    is_in_place(path) && has_runtime_name(path)
}

fn is_in_place(path: &Path) -> bool {
    DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// `app.pid`, PostgreSQL's `.s.PGSQL.5432.lock`, MySQL's `mysqlx.sock.lock`,
/// X's `.X0-lock`.
fn has_runtime_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".pid", ".lock", ".lck", "-lock"].iter().any(|end| name.ends_with(end))
}

/// A pid file, or the lock of a socket, names a process that ends in any case.
pub(crate) fn names_a_process(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // `.s.PGSQL.5432.lock` and `mysqlx.sock.lock`.
    let of_socket = (name.starts_with(".s.") && name.ends_with(".lock")) || name.ends_with(".sock.lock");
    of_socket || name.ends_with(".pid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pid_and_lock_files_of_the_right_places_are_no_data() {
        let is = |path: &str, bytes| is_runtime(Path::new(path), bytes);
        for path in [
            "/tmp/.s.PGSQL.5432.lock",
            "/run/postgresql/.s.PGSQL.5432.lock",
            "/var/run/nginx.pid",
            "/run/mysqld/mysqlx.sock.lock",
            "/tmp/.X0-lock",
            "/var/tmp/app/worker.lck",
        ] {
            assert!(is(path, 60) && is(path, 4096) && was_runtime(Path::new(path)), "{path}");
            assert!(!is(path, 4097), "{path} is too long for one");
        }
        assert!(is("/tmp/ready", 0), "there is nothing in it");
        for path in [
            "/tmp/export.csv",
            "/tmp/.psql_history",
            "/run/state",
            "/srv/app.pid",
            "/data/Cargo.lock",
            "/tmpfile.pid",
            "/var/lib/tmp/x.lock",
        ] {
            assert!(!is(path, 1) && !was_runtime(Path::new(path)), "{path}");
        }
        assert!(!is("/srv/empty", 0), "elsewhere that may be what tells a program something");
    }
}
