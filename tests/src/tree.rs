//! Trees for tests, and their equality as judged by tools that are not ours.

use std::path::Path;
use std::process::Command;

use crate::invariant;
use crate::process::run;

/// What `rsync` would still have to change in `copy` to make it `original`:
/// names, contents, owners, modes, times, links, xattrs, ACLs, devices.
/// Empty when they are equal. Times to the nanosecond: without the window it
/// compares whole seconds.
pub fn rsync_differences(original: &Path, copy: &Path) -> String {
    run(Command::new("rsync")
        .args(["-naHAXS", "--checksum", "--modify-window=-1", "--delete", "--itemize-changes"])
        .arg(slash(original))
        .arg(slash(copy)))
}

/// Differences in extended attributes of every namespace, ours included.
pub fn xattr_differences(original: &Path, copy: &Path) -> String {
    let dump = |root: &Path| {
        let mut command = Command::new("getfattr");
        command.args(["-R", "-h", "-dm-", "--absolute-names", "."]).current_dir(root);
        let text = run(&mut command);
        let mut blocks: Vec<String> = text.split("\n\n").map(|block| block.trim().to_owned()).collect();
        blocks.sort();
        blocks
    };
    let (a, b) = (dump(original), dump(copy));
    let only = |a: &[String], b: &[String], sign: &str| {
        a.iter()
            .filter(|block| !b.contains(block))
            .map(|block| format!("{sign} {block}\n"))
            .collect::<String>()
    };
    only(&a, &b, "-") + &only(&b, &a, "+")
}

/// Panics with the differences unless the trees are equal (I4).
#[track_caller]
pub fn assert_equal(original: &Path, copy: &Path) {
    let rsync = rsync_differences(original, copy);
    invariant!("I4", rsync.is_empty(), "trees differ (rsync):\n{rsync}");
    let xattrs = xattr_differences(original, copy);
    invariant!("I4", xattrs.is_empty(), "trees differ (getfattr):\n{xattrs}");
}

fn slash(path: &Path) -> String {
    format!("{}/", path.display())
}

/// Fills `root` with an entry of every kind, with awkward names, modes,
/// owners, times and attributes. Needs root.
pub fn every_kind(root: &Path) {
    let script = r#"
set -e
mkdir -p dir/sub/deeper empty-dir "sp ace" -- "-dash"
echo hello > file; echo other > dir/file; : > empty
head -c 300000 /dev/urandom > dir/random; head -c 3000000 /dev/zero | tr '\0' x > dir/large
head -c 6000000 /dev/urandom > dir/sub/larger
for i in $(seq 1 200); do echo "small $i" > dir/sub/small-$i; done
ln file hard-1; ln file dir/hard-2
ln -s file link; ln -s /absolute/nowhere dangling; ln -s ../.. dir/up
mkfifo fifo; mkfifo -m 600 dir/fifo
mknod null c 1 3; mknod loop b 7 200
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
truncate -s 50M sparse; printf middle | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
truncate -s 1M all-hole
printf name > "$(printf 'bad\377utf8')"; printf name > "$(printf 'new\nline')"; printf name > "$(printf 'esc\033[31m')"
printf name > "$(printf 'n%.0s' $(seq 1 255))"
setfattr -n user.note -v value file; setfattr -n user.empty -v '' dir; setfattr -n trusted.secret -v 0x00ff00 dir/file
setcap cap_net_bind_service=ep dir/random 2>/dev/null || true
setfacl -m u:1234:rwx,g:99:r file; setfacl -d -m u:1234:rx dir
chown 1000:2000 dir/file; chown -h 7:8 link; chmod 4755 dir/large; chmod 2770 dir/sub; chmod 1777 empty-dir; chmod 0000 empty
touch -d '1901-12-14 00:00:00.123456789 UTC' dir/file; touch -d '1969-12-31 23:59:58.5 UTC' file
touch -d '2200-01-01 00:00:00.999999999 UTC' empty; touch -h -d '2001-02-03 04:05:06.789 UTC' link
touch -d '2010-10-10 10:10:10.101010101 UTC' dir/sub dir empty-dir
setfattr -n user.root -v yes .; chown 33:44 .; chmod 2751 .; touch -d '2011-11-11 11:11:11.111 UTC' .
"#;
    run(Command::new("bash").args(["-c", script]).current_dir(root));
}
