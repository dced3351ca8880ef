//! The filesystems Engines keep volumes on, each real.

use std::fs;
use std::path::Path;

use support::command::shell;
use support::disk::{Mounted, is_root};
use support::tree::{assert_equal, every_kind};

use super::{GO_ON, Volume};
use crate::clone::*;

/// An exchange below the directory of a volume that is mounted nowhere, with
/// labels as SELinux sets them.
fn exchanged(dir: &Path, means: &[Means]) {
    let volume = Volume::in_dir(dir);
    every_kind(&volume.root);
    let room = room(&volume.root, volume.job, &GO_ON).unwrap();
    assert_eq!(room.refusal(), None, "{room:?}");
    assert!(means.contains(&room.means), "{room:?}");
    let first = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    shell(
        &volume.root,
        "echo more >> small; rm -r locked; mv dir/large dir/moved; echo new > dir/new; touch .",
    );
    let stats = second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert_eq!(stats.shared_files > 0, room.means == Means::Reflink, "{stats:?}");
    assert_equal(&volume.root, &volume.clone);
    let (original, cloned) = (identity(&volume.root).unwrap(), identity(&volume.clone).unwrap());

    let kept = dir.join("kept");
    shell(dir, "cp -a volumes/data/_data kept");
    shell(&volume.root, "echo migrated > small; rm -r dir; chmod 700 .");
    // What was open before sees the tree it opened: nothing is copied over it.
    let open = fs::File::open(volume.root.join("small")).unwrap();
    put_back(&volume.root, &volume.clone, original, cloned).unwrap();
    assert_eq!(std::io::read_to_string(open).unwrap(), "migrated\n");
    assert_equal(&volume.root, &kept);
    assert_eq!((identity(&volume.root).unwrap(), identity(&volume.clone).unwrap()), (cloned, original));
    let label = shell(&volume.root, "getfattr -n security.selinux --only-values small");
    assert_eq!(label, "system_u:object_r:container_file_t:s0:c1,c2");
    remove(&volume.clone).unwrap();
    assert_equal(&volume.root, &kept);
}

#[test]
fn upgrade_inference_8_a_volume_is_exchanged_on_ext4() {
    let Some(mounted) = Mounted::new("ext4", "") else { return };
    exchanged(mounted.path(), &[Means::Copy]);
}

#[test]
fn upgrade_inference_8_a_volume_is_exchanged_on_xfs() {
    let Some(mounted) = Mounted::new("xfs", "-m reflink=1") else { return };
    exchanged(mounted.path(), &[Means::Reflink]);
}

#[test]
fn upgrade_inference_8_a_volume_is_exchanged_on_xfs_without_reflink() {
    let Some(mounted) = Mounted::new("xfs", "-m reflink=0") else { return };
    exchanged(mounted.path(), &[Means::Copy]);
}

#[test]
fn upgrade_inference_8_a_volume_is_exchanged_on_btrfs() {
    let Some(mounted) = Mounted::new("btrfs", "") else { return };
    exchanged(mounted.path(), &[Means::Reflink]);
}

#[test]
fn identities_outlive_an_unmount_and_the_exchange_too() {
    let Some(mounted) = Mounted::new("ext4", "") else { return };
    let volume = Volume::in_dir(mounted.path());
    fs::write(volume.root.join("file"), "old").unwrap();
    second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    let (original, cloned) = (identity(&volume.root).unwrap(), identity(&volume.clone).unwrap());
    fs::write(volume.root.join("file"), "new").unwrap();
    put_back(&volume.root, &volume.clone, original, cloned).unwrap();
    shell(
        Path::new("/"),
        &format!(
            "i=$(losetup -nO BACK-FILE $(findmnt -nro SOURCE {0})); umount {0}; mount -o loop $i {0}",
            mounted.path().display()
        ),
    );
    assert_eq!((identity(&volume.root).unwrap(), identity(&volume.clone).unwrap()), (cloned, original));
    assert_eq!(fs::read_to_string(volume.root.join("file")).unwrap(), "old");
    put_back(&volume.root, &volume.clone, original, cloned).expect("it is done already");
}

#[test]
fn files_written_in_place_and_subvolumes_on_btrfs() {
    let Some(mounted) = Mounted::new("btrfs", "") else { return };
    let volume = Volume::in_dir(mounted.path());
    shell(
        &volume.root,
        "mkdir db; chattr +C db; head -c 300000 /dev/urandom > db/file; mkdir db/cow; chattr -C db/cow; head -c 300000 /dev/urandom > db/cow/f; chattr +c db/cow",
    );
    let stats = second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    assert_eq!(stats.shared_files, 2, "{stats:?}");
    assert_equal(&volume.root, &volume.clone);
    let list = |path| shell(path, "lsattr -R . | awk 'NF == 2' | sort");
    assert_eq!(list(&volume.root), list(&volume.clone));
    remove(&volume.clone).unwrap();

    shell(&volume.root, "btrfs subvolume create db/sub >&2");
    let error = second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap_err();
    assert!(matches!(&error, CloneError::MountInside { path } if path.ends_with("db/sub")), "{error}");
    let error = room(&volume.root.join("db/sub"), volume.job, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::MountPoint { .. }), "{error}");
}

#[test]
fn volumes_with_a_project_quota_are_refused() {
    let Some(mounted) = Mounted::new("xfs", "") else { return };
    let volume = Volume::in_dir(mounted.path());
    let set = shell(&volume.root, "chattr +P . 2>&1 || echo no");
    if set.contains("no") {
        support::record::skipped("chattr cannot set what a project quota sets");
        return;
    }
    let error = room(&volume.root, volume.job, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::Quota { .. }), "{error}");
}

#[test]
fn a_filesystem_that_cannot_exchange_is_refused_beforehand() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "mkdir lower upper work merged; mkdir -p lower/data; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged",
    );
    let error = room(&dir.path().join("merged/data"), holdfast_proto::ids::JobId::generate(), &GO_ON);
    shell(dir.path(), "umount merged");
    let error = error.unwrap_err();
    assert!(matches!(error, CloneError::NoExchange { .. }), "{error}");
}
