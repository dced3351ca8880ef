//! Trees for the tests, and outside tools that compare them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// One of every kind, with everything a filesystem can say about it. Needs root.
pub(super) fn make_everything(root: &Path) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("small"), "content\n").unwrap();
    fs::write(root.join("small-again"), "content\n").unwrap();
    fs::write(root.join("dir/large"), noise(9 << 20, 1)).unwrap();
    fs::write(root.join("dir/medium"), noise(600 << 10, 2)).unwrap();
    for n in 0..40 {
        fs::write(root.join(format!("dir/f{n:02}")), noise(30_000 + n, n as u64 + 10)).unwrap();
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
    symlink(OsStr::from_bytes(b"..\xff"), root.join("dir/odd")).unwrap();
    fs::write(root.join("first-name"), "one inode").unwrap();
    fs::hard_link(root.join("first-name"), root.join("dir/second-name")).unwrap();
    fs::hard_link(root.join("first-name"), root.join("third-name")).unwrap();
    fs::hard_link(root.join("dangling"), root.join("dangling-too")).unwrap();
    fs::write(root.join("dir/large-name"), noise(2 << 20, 3)).unwrap();
    fs::hard_link(root.join("dir/large-name"), root.join("z-large-name")).unwrap();
}

fn nodes(root: &Path) {
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, root.join("socket"), FileType::Socket, mode, 0).unwrap();
    mknodat(CWD, root.join("char"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
    mknodat(CWD, root.join("block"), FileType::BlockDevice, mode, rustix::fs::makedev(259, 300)).unwrap();
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
    set("dir", "user.on-a-directory", &noise(1500, 6));
    set("dangling", "trusted.on-a-link", b"yes");
    set("fifo", "trusted.on-a-fifo", b"yes");
    // cap_net_raw+ep, revision 2.
    set("dir/medium", "security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    run("setfacl", &["-m", "u:1234:r,g:77:rw"], &root.join("small"));
    run("setfacl", &["-m", "d:u:1234:rwx,d:g::r"], &root.join("dir"));
}

fn modes(root: &Path) {
    let chmod = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    std::os::unix::fs::lchown(root.join("small-again"), Some(70_000), Some(80_000)).unwrap();
    std::os::unix::fs::lchown(root.join("absolute"), Some(5), Some(6)).unwrap();
    std::os::unix::fs::chown(root.join("dir/f01"), Some(1000), Some(1000)).unwrap();
    chmod("dir/f01", 0o6755);
    chmod("dir/f02", 0o000);
    chmod("dir/empty", 0o1777);
    chmod("dir", 0o2750);
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/inside"), "x").unwrap();
    chmod("locked", 0o000);
    std::os::unix::fs::chown(root, Some(33), Some(34)).unwrap();
    chmod(".", 0o751);
}

fn times(root: &Path) {
    for (path, time) in [
        ("dir/f03", "@-1.000000000"),
        ("dir/f04", "@-2145916800.5"),
        ("small", "@1234567890.987654321"),
        ("dangling", "@1111111111.000000001"),
        ("fifo", "@1000000000"),
        ("dir/empty", "@1000000001.5"),
        ("locked", "@1000000002"),
        ("dir", "@1000000003"),
        (".", "@1000000004.000000007"),
    ] {
        run("touch", &["-h", "-d", time], &root.join(path));
    }
}

pub(super) fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}", path.display());
}

/// Fails unless rsync finds nothing to do and getfattr prints the same.
pub(super) fn assert_equal(a: &Path, b: &Path) {
    let with_slash = |path: &Path| format!("{}/", path.display());
    let output = Command::new("rsync")
        .args([
            "-naHAXS",
            "--specials",
            "--devices",
            "--checksum",
            "--modify-window=-1",
            "--delete",
            "--itemize-changes",
        ])
        .args([with_slash(a), with_slash(b)])
        .output()
        .unwrap();
    let changes = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(changes, "", "rsync finds differences");
    assert_eq!(attributes_of(a), attributes_of(b));
    assert_eq!(times_of(a), times_of(b));
}

fn attributes_of(root: &Path) -> String {
    let output = Command::new("getfattr")
        .args(["-dhR", "-m", "-", "-e", "hex", "."])
        .current_dir(root)
        .output()
        .unwrap();
    sorted_blocks(&String::from_utf8_lossy(&output.stdout))
}

/// Its blocks come in the order of the directory.
fn sorted_blocks(text: &str) -> String {
    let mut blocks: Vec<&str> = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()).collect();
    blocks.sort_unstable();
    blocks.join("\n\n")
}

/// Type, mode, owner, size, time to the nanosecond, number of names, link target.
fn times_of(root: &Path) -> Vec<Vec<u8>> {
    let format = "%P %y %m %U %G %s %T@ %n %l\\0";
    // The size of a directory is the filesystem's own affair.
    let output = Command::new("find")
        .args([".", "-type", "d", "-printf", "%P %y %m %U %G %T@\\0", "-o", "-printf", format])
        .current_dir(root)
        .output()
        .unwrap();
    let mut lines: Vec<Vec<u8>> = output.stdout.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    lines.sort_unstable();
    lines
}

/// Appends to a file.
pub(super) fn append(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}
