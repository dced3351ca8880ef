//! Trees, filesystems of their own, and tools that are not ours to compare with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a shell script in a directory and gives what it printed.
pub(super) fn shell(dir: &Path, script: &str) -> String {
    let output =
        Command::new("bash").args(["-eo", "pipefail", "-c", script]).current_dir(dir).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One of every kind. Needs root.
pub(super) fn every_kind(root: &Path) {
    shell(
        root,
        r#"
mkdir -p dir/sub/deeper empty-dir locked "sp ace" -- "-dash"
echo hello > file; echo other > dir/file; : > empty; echo in > locked/inside
head -c 300000 /dev/urandom > dir/random; head -c 3000000 /dev/zero | tr '\0' x > dir/large
for i in $(seq 1 100); do echo "small $i" > dir/sub/small-$i; done
ln file hard-1; ln file dir/hard-2; ln dir/large z-large
ln -s file link; ln -s /absolute/nowhere dangling; ln dangling dangling-2; ln -s ../.. dir/up
mkfifo fifo; mkfifo -m 600 dir/fifo; ln fifo dir/fifo-2; mknod null c 1 3; mknod loop b 7 200
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
truncate -s 50M sparse; printf middle | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
truncate -s 1M all-hole; truncate -s 300M huge
printf name > "$(printf 'bad\377utf8')"; printf name > "$(printf 'new\nline')"
printf name > "$(printf 'n%.0s' $(seq 1 255))"
setfattr -n user.note -v value file; setfattr -n user.empty -v '' dir
setfattr -n trusted.secret -v 0x00ff00 dir/file; setfattr -h -n trusted.on-link -v x link
setfattr -n security.selinux -v system_u:object_r:container_file_t:s0:c1,c2 dir/file
setcap cap_net_bind_service=ep dir/random
setfacl -m u:1234:rwx,g:99:r file; setfacl -d -m u:1234:rx,g:77:rwx dir; setfacl -d -m u:5:r .
chown 1000:2000 dir/file; chown -h 7:8 link; chmod 4755 dir/large; chmod 2770 dir/sub
chmod 1777 empty-dir; chmod 0000 empty locked; chown 0:50 dir/sub
touch -d '1969-12-31 23:59:58.5 UTC' file; touch -d '2037-01-01 00:00:00.999999999 UTC' empty
touch -h -d '2001-02-03 04:05:06.789 UTC' link fifo
touch -d '2010-10-10 10:10:10.101010101 UTC' dir/sub dir empty-dir
setfattr -n user.root -v yes .; chown 33:44 .; chmod 2751 .; touch -d '2011-11-11 11:11:11.111 UTC' .
"#,
    );
}

/// Fails unless `rsync`, `getfattr` and `find` find no difference.
pub(super) fn assert_equal(a: &Path, b: &Path) {
    assert_rsync_finds_nothing(a, b);
    for list in [
        "getfattr -dhR -m - -e hex . | awk -v RS= '{ gsub(\"\\n\", \" \"); print }' | sort",
        // The size of a directory is the filesystem's own affair, that of its blocks too.
        "find . -type d -printf '%P %y %m %U %G %T@\\n' -o -printf '%P %y %m %U %G %s %T@ %n %l\\n' | sort",
    ] {
        assert_eq!(shell(a, list), shell(b, list));
    }
}

pub(super) fn assert_rsync_finds_nothing(a: &Path, b: &Path) {
    let rsync = Command::new("rsync")
        .args([
            "-naHAXS",
            "--specials",
            "--devices",
            "--checksum",
            "--modify-window=-1",
            "--delete",
            "--itemize-changes",
        ])
        .args([a, b].map(|path| format!("{}/", path.display())))
        .output()
        .unwrap();
    assert!(rsync.status.success(), "{}", String::from_utf8_lossy(&rsync.stderr));
    assert_eq!(String::from_utf8_lossy(&rsync.stdout), "", "rsync finds differences");
}

/// A filesystem in a file, unmounted when dropped.
pub(super) struct Mounted {
    pub(super) path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// None, said aloud, where it cannot be made.
    pub(super) fn new(kind: &str, options: &str) -> Option<Self> {
        let skip = |why: &str| crate::record::skipped(&format!("on {kind}: {}", why.trim()));
        if !super::is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("mount"));
        fs::create_dir(&path).unwrap();
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}")).args(options.split_whitespace()).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            skip("its mkfs is not there or refuses");
            return None;
        }
        // The loop device goes away with the mount.
        let mount = Command::new("mount").args(["-o", "loop"]).args([&image, &path]).output().unwrap();
        if !mount.status.success() {
            skip(&String::from_utf8_lossy(&mount.stderr));
            return None;
        }
        Some(Self { path, _dir: dir })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// Files and directories that may be immutable, made writable when dropped.
pub(super) struct Thawed(pub(super) PathBuf);

impl Drop for Thawed {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(&self.0).status();
    }
}
