//! `repo.json` is written again on request, and nowhere else than where it was.

use super::*;

impl World {
    fn repo_json(&self) -> std::path::PathBuf {
        self.dir.path().join("bucket/repo.json")
    }

    /// As a command opens it, which has asked the store nothing yet.
    fn opened_anew(&self) -> Repository {
        let store = Store::open(&config(&self.dir.path().join("bucket"))).expect("opens");
        Repository::new(self.repository.catalog().clone(), store, self.repository.settings().clone())
    }
}

fn config(bucket: &std::path::Path) -> holdfast_archive::store::StoreConfig {
    let location = bucket.display().to_string().parse().expect("a path");
    holdfast_archive::store::StoreConfig { location, s3: Default::default() }
}

#[tokio::test]
async fn a_repo_json_that_was_lost_or_damaged_is_written_again_as_it_was() {
    let world = World::new().await;
    let id = world.backup(&tree("kept")).await;
    let whole = std::fs::read(world.repo_json()).expect("there");
    assert!(!world.opened_anew().write_info_again().await.expect("asked"), "it is whole");

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(world.repo_json(), flipped).expect("written");
    let refused = world.opened_anew().verify(true).await.expect_err("it is damaged").to_string();
    assert!(refused.contains("repo.json") && refused.contains("--write-repo-json"), "{refused}");
    assert!(world.opened_anew().write_info_again().await.expect("written"));
    assert_eq!(std::fs::read(world.repo_json()).expect("there"), whole);

    std::fs::remove_file(world.repo_json()).expect("removed");
    let refused = world.opened_anew().verify(true).await.expect_err("it is missing").to_string();
    assert!(refused.contains("--write-repo-json"), "{refused}");
    assert!(world.opened_anew().write_info_again().await.expect("written"));
    assert_eq!(std::fs::read(world.repo_json()).expect("there"), whole);
    let opened = world.opened_anew();
    opened.reconcile(None, false).await.expect("reconciled");
    assert!(opened.verify(false).await.expect("verified").report.is_clean());
    assert!(world.is_whole(&id).await);
}

#[tokio::test]
async fn a_catalogue_without_a_copy_of_repo_json_makes_one() {
    let world = World::new().await;
    world.backup(&tree("kept")).await;
    sqlx::query("delete from settings where name = 'repo_json'")
        .execute(world.repository.catalog().pool())
        .await
        .expect("of an older controller");
    std::fs::remove_file(world.repo_json()).expect("removed");
    assert!(world.opened_anew().write_info_again().await.expect("written"));
    assert!(world.opened_anew().verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn repo_json_is_written_into_no_mount_point_and_over_no_other_controller_s() {
    let world = World::new().await;
    world.backup(&tree("kept")).await;
    let (bucket, disk) = (world.dir.path().join("bucket"), world.dir.path().join("disk"));
    std::fs::rename(&bucket, &disk).expect("unmounted");
    std::fs::create_dir(&bucket).expect("mount point");
    let refused = world.opened_anew().write_info_again().await.expect_err("nothing is there").to_string();
    assert!(refused.contains("mounted"), "{refused}");
    assert!(!world.repo_json().exists());
    std::fs::remove_dir(&bucket).expect("removed");
    std::fs::rename(&disk, &bucket).expect("mounted");

    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let other =
        Repository::new(catalog, world.repository.store().clone(), world.repository.settings().clone());
    other.reconcile(Some("another"), false).await.expect("taken over");
    let before = std::fs::read(world.repo_json()).expect("there");
    let refused = world.opened_anew().write_info_again().await;
    assert!(matches!(refused, Err(RepositoryError::Suspended(_))), "{refused:?}");
    assert_eq!(std::fs::read(world.repo_json()).expect("there"), before);
}
