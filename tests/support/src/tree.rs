//! Trees for tests, and their equality as judged by tools that are not ours.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use crate::command::run;
use crate::invariant;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Appends to a file.
pub fn append(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// Runs a program with arguments and a path behind them.
#[track_caller]
pub fn run_on(program: &str, arguments: &[&str], path: &Path) {
    run(Command::new(program).args(arguments).arg(path));
}

/// Fills `root` with an entry of every kind and everything a filesystem can say
/// about one: awkward names, links, devices, holes, attributes, modes, owners and
/// times. About 20 MiB of content. Needs root.
pub fn every_kind(root: &Path) {
    for directory in ["dir/empty", "dir/sub/deeper", "sp ace", "-dash"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("small"), "content\n").unwrap();
    fs::write(root.join("small-again"), "content\n").unwrap();
    fs::write(root.join("dir/large"), noise(9 << 20, 1)).unwrap();
    fs::write(root.join("dir/medium"), noise(600 << 10, 2)).unwrap();
    fs::write(root.join("dir/compressible"), vec![b'x'; 3_000_000]).unwrap();
    for n in 0..40 {
        fs::write(root.join(format!("dir/f{n:02}")), noise(30_000 + n, n as u64 + 10)).unwrap();
    }
    for n in 0..100 {
        fs::write(root.join(format!("dir/sub/small-{n}")), format!("small {n}\n")).unwrap();
    }
    names(root);
    links(root);
    nodes(root);
    holes(root);
    attributes(root);
    modes(root);
    times(root);
}

fn names(root: &Path) {
    let long = "n".repeat(255);
    for name in [b"-rf".as_slice(), b"new\nline", b"esc\x1b[31m", b"bad\xff\xfeutf8", b" ", long.as_bytes()] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn links(root: &Path) {
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("nowhere/at/all", root.join("dangling")).unwrap();
    symlink("../..", root.join("dir/up")).unwrap();
    symlink(OsStr::from_bytes(b"..\xff"), root.join("dir/odd")).unwrap();
    fs::write(root.join("first-name"), "one inode").unwrap();
    fs::hard_link(root.join("first-name"), root.join("dir/second-name")).unwrap();
    fs::hard_link(root.join("first-name"), root.join("third-name")).unwrap();
    fs::hard_link(root.join("dangling"), root.join("dangling-too")).unwrap();
    fs::write(root.join("dir/large-name"), noise(2 << 20, 3)).unwrap();
    fs::hard_link(root.join("dir/large-name"), root.join("z-large-name")).unwrap();
}

fn nodes(root: &Path) {
    let make = |path: &str, kind, device| {
        mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0);
    fs::hard_link(root.join("fifo"), root.join("dir/fifo-too")).unwrap();
    make("socket", FileType::Socket, 0);
    make("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    // A minor number above 255.
    make("block", FileType::BlockDevice, rustix::fs::makedev(259, 300));
}

fn holes(root: &Path) {
    let file = File::create(root.join("sparse")).unwrap();
    file.write_all_at(&noise(300_000, 4), 1 << 20).unwrap();
    file.write_all_at(&noise(5 << 20, 5), 64 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    let file = File::create(root.join("sparse-small")).unwrap();
    file.write_all_at(b"here", 64 << 10).unwrap();
    file.write_all_at(b"and here", 256 << 10).unwrap();
    file.set_len(400 << 10).unwrap();
    File::create(root.join("only-hole")).unwrap().set_len(10 << 20).unwrap();
}

fn attributes(root: &Path) {
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("small", "user.colour", b"blue");
    set("small", "user.empty", b"");
    set("small", "trusted.secret", &[0, 1, 2, 255]);
    set("small", "security.selinux", b"system_u:object_r:container_file_t:s0:c1,c2");
    set("dir", "user.on-a-directory", &noise(1500, 6));
    set("dangling", "trusted.on-a-link", b"yes");
    set("fifo", "trusted.on-a-fifo", b"yes");
    set(".", "user.on-the-root", b"yes");
    // cap_net_raw+ep, revision 2.
    set("dir/medium", "security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    run_on("setfacl", &["-m", "u:1234:r,g:77:rw"], &root.join("small"));
    run_on("setfacl", &["-m", "d:u:1234:rwx,d:g::r"], &root.join("dir"));
    run_on("setfacl", &["-m", "d:u:5:r"], root);
}

fn modes(root: &Path) {
    let chmod = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    std::os::unix::fs::lchown(root.join("small-again"), Some(70_000), Some(80_000)).unwrap();
    std::os::unix::fs::lchown(root.join("absolute"), Some(5), Some(6)).unwrap();
    std::os::unix::fs::chown(root.join("dir/f01"), Some(1000), Some(1000)).unwrap();
    std::os::unix::fs::chown(root.join("dir/sub"), Some(0), Some(50)).unwrap();
    chmod("dir/f01", 0o6755);
    chmod("dir/f02", 0o000);
    chmod("dir/sub", 0o2770);
    chmod("dir/empty", 0o1777);
    chmod("dir", 0o2750);
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/inside"), "x").unwrap();
    chmod("locked", 0o000);
    std::os::unix::fs::chown(root, Some(33), Some(34)).unwrap();
    chmod(".", 0o2751);
}

fn times(root: &Path) {
    for (path, time) in [
        ("dir/f03", "@-1.000000000"),
        // 1902, near the first second that 32 bits hold.
        ("dir/f04", "@-2145916800.5"),
        // 2200, which 32 bits do not hold.
        ("dir/f06", "@7258118400.999999999"),
        ("small", "@1234567890.987654321"),
        ("dangling", "@1111111111.000000001"),
        ("fifo", "@1000000000"),
        ("dir/sub", "@1286705410.101010101"),
        ("dir/empty", "@1000000001.5"),
        ("locked", "@1000000002"),
        ("dir", "@1000000003"),
        (".", "@1000000004.000000007"),
    ] {
        run_on("touch", &["-h", "-d", time], &root.join(path));
    }
}

/// Panics with the differences unless the trees are equal (I4): in what rsync
/// compares, in extended attributes, and in type, mode, owner, size, time,
/// number of names and link target.
#[track_caller]
pub fn assert_equal(original: &Path, copy: &Path) {
    assert_rsync_finds_nothing(original, copy);
    let differences = xattr_differences(original, copy);
    invariant!("I4", differences.is_empty(), "trees differ (getfattr):\n{differences}");
    let differences = only_in_one(&facts(original), &facts(copy));
    invariant!("I4", differences.is_empty(), "trees differ (find):\n{differences}");
}

/// As [`assert_equal`], by rsync alone: for a copy with fewer names of an inode.
#[track_caller]
pub fn assert_rsync_finds_nothing(original: &Path, copy: &Path) {
    let differences = rsync_differences(original, copy);
    invariant!("I4", differences.is_empty(), "trees differ (rsync):\n{differences}");
}

/// What `rsync` would still have to change in `copy` to make it `original`:
/// names, contents, owners, modes, times, links, xattrs, ACLs, devices.
/// Empty when they are equal. Times to the nanosecond: without the window it
/// compares whole seconds.
pub fn rsync_differences(original: &Path, copy: &Path) -> String {
    let slash = |path: &Path| format!("{}/", path.display());
    run(Command::new("rsync")
        .args(["-naHAXS", "--checksum", "--modify-window=-1", "--delete", "--itemize-changes"])
        .args([slash(original), slash(copy)]))
}

/// Differences in extended attributes of every namespace, a line each.
pub fn xattr_differences(original: &Path, copy: &Path) -> String {
    // Its blocks, one an entry, come in the order of the directory.
    let dump = |root: &Path| {
        let mut command = Command::new("getfattr");
        let text = run(command.args(["-dhR", "-m", "-", "-e", "hex", "."]).current_dir(root));
        text.split("\n\n").map(|block| block.trim().replace('\n', " ")).collect::<Vec<_>>()
    };
    only_in_one(&dump(original), &dump(copy))
}

/// Type, mode, owner, size, time to the nanosecond, number of names, link target.
fn facts(root: &Path) -> Vec<String> {
    let format = "%P %y %m %U %G %s %T@ %n %l\\0";
    // The size of a directory is the filesystem's own affair.
    let output = Command::new("find")
        .args([".", "-type", "d", "-printf", "%P %y %m %U %G %T@\\0", "-o", "-printf", format])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Each byte for itself, so that two names that are no text stay two.
    output.stdout.split(|&byte| byte == 0).map(|line| line.escape_ascii().to_string()).collect()
}

/// Lines that one list has and the other has not, in order.
fn only_in_one(original: &[String], copy: &[String]) -> String {
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort_unstable();
        lines
    };
    let (original, copy) = (sorted(original), sorted(copy));
    let only = |a: &[String], b: &[String], sign: &str| {
        let missing = a.iter().filter(|line| b.binary_search(line).is_err());
        missing.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only(&original, &copy, "-") + &only(&copy, &original, "+")
}

/// Files and directories that may be immutable, made removable when dropped.
pub struct Thawed(pub PathBuf);

impl Drop for Thawed {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(&self.0).status();
    }
}
