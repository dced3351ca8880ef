//! A process that dies at any point leaves what the next one can go on from.

use std::fs;

use support::command::shell;
use support::tree::assert_equal;

use super::{GO_ON, Volume};
use crate::clone::*;

fn filled() -> (tempfile::TempDir, Volume) {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    shell(
        &volume.root,
        "mkdir a b; for i in $(seq 30); do echo $i > a/$i; done; ln a/1 b/one; ln -s ../a b/a",
    );
    (dir, volume)
}

#[test]
fn an_exchange_that_nobody_recorded_is_not_done_a_second_time() {
    let (dir, volume) = filled();
    second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    let (original, cloned) = (identity(&volume.root).unwrap(), identity(&volume.clone).unwrap());
    assert_ne!(original, cloned);
    // As they are read back after a crash.
    let text = serde_json::to_string(&[original, cloned]).unwrap();
    let [original, cloned]: [Identity; 2] = serde_json::from_str(&text).unwrap();
    let before = dir.path().join("before");
    shell(dir.path(), "cp -a volumes/data/_data before");
    shell(&volume.root, "rm -r a; echo migrated > b/new");

    put_back(&volume.root, &volume.clone, original, cloned).unwrap();
    assert_equal(&volume.root, &before);
    assert_eq!(identity(&volume.root).unwrap(), cloned);
    assert_eq!(fs::read_to_string(volume.clone.join("b/new")).unwrap(), "migrated\n");
    for _ in 0..2 {
        put_back(&volume.root, &volume.clone, original, cloned).expect("it is done already");
        assert_equal(&volume.root, &before);
    }
    remove(&volume.clone).unwrap();
    put_back(&volume.root, &volume.clone, original, cloned).expect("and cleaned up after");
    assert_equal(&volume.root, &before);
}

#[test]
fn other_trees_than_those_recorded_are_not_exchanged() {
    let (_dir, volume) = filled();
    second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    let (original, cloned) = (identity(&volume.root).unwrap(), identity(&volume.clone).unwrap());
    let refused = |what: &str| {
        let error = put_back(&volume.root, &volume.clone, original, cloned).unwrap_err();
        let CloneError::Unexpected { root, clone, .. } = &error else { panic!("{error}") };
        assert!(root.ends_with("_data") && clone.contains("holdfast-clone-"), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    shell(&volume.root, "mv ../_data ../kept; mkdir ../_data");
    refused("is something else");
    shell(&volume.clone, "rmdir ../_data; mv ../kept ../_data; mv ../holdfast-clone-* ../kept");
    refused("is not there");
    shell(
        &volume.root,
        "mv ../_data ../holdfast-clone-x; mkdir ../_data; ln -s x ../$(basename ../kept)-link",
    );
    refused("is something else");
}

#[test]
fn a_half_made_clone_is_begun_again() {
    let (_dir, volume) = filled();
    first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    // Dead in the middle: some is missing, some is cut short, some is not what it seems.
    shell(&volume.clone, "rm a/3 b/a; : > a/4; echo 5! > a/5; touch -r a/6 a/5; mkdir b/a; echo x > extra");
    let error = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::Exists { .. }), "{error}");
    second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    assert_equal(&volume.root, &volume.clone);
}

#[test]
fn a_clone_that_was_touched_between_the_passes_is_made_good() {
    let (_dir, volume) = filled();
    shell(&volume.root, "touch -d 2020-01-01 a/*");
    std::thread::sleep(std::time::Duration::from_millis(25));
    let first = crate::clone::pass::first_pass_with(&volume.root, &volume.clone, 10_000_000, &GO_ON).unwrap();
    shell(
        &volume.clone,
        "rm a/3 b/a; echo 44 > a/4; rm a/5; echo 5 > a/5; mkdir b/a; echo x > extra; ln -f a/6 a/7",
    );
    let second = second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert!(second.unchanged > 20, "{second:?}");
    assert_equal(&volume.root, &volume.clone);
}

#[test]
fn what_a_trial_left_is_removed_like_a_clone() {
    let (_dir, volume) = filled();
    shell(&volume.root, &format!("mkdir -p {0}/a {0}/b; echo x > {0}/from", volume.clone.display()));
    let error = room(&volume.root, volume.job, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::Exists { .. }), "{error}");
    remove(&volume.clone).unwrap();
    room(&volume.root, volume.job, &GO_ON).unwrap();
    assert_eq!(shell(&volume.root, "ls -A .."), "_data");
}
