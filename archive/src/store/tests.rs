use super::*;
use crate::ids::{AllocationId, PackId};

fn pack(n: u8) -> ObjectKey {
    ObjectKey::Pack(PackId { sha256: [n; 32], allocation: AllocationId::generate() })
}

fn store(plan: &FaultPlan) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::directory(dir.path()).unwrap().faulty(plan.clone());
    (dir, store)
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test(start_paused = true)]
async fn an_object_comes_back_whole_and_in_parts() {
    let (_dir, store) = store(&FaultPlan::new());
    let key = pack(1);
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert!(store.get(&key).await.unwrap_err().is_not_found());
    assert_send(store.put(&key, Bytes::from_static(b"hello world"))).await.unwrap();
    assert_eq!(assert_send(store.get(&key)).await.unwrap(), "hello world");
    assert_eq!(assert_send(store.get_range(&key, 6..11)).await.unwrap(), "world");
    assert_eq!(store.get_range(&key, 3..3).await.unwrap(), "");
    assert_eq!(assert_send(store.head(&key)).await.unwrap().unwrap().len, 11);
    let past_the_end = store.get_range(&key, 6..12).await.unwrap_err();
    assert_eq!(past_the_end.kind(), StoreErrorKind::Corrupt);
    assert!(assert_send(store.delete(&[key.clone(), pack(2)])).await.unwrap().is_empty());
    assert_eq!(store.head(&key).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_page_by_page_and_knows_our_names() {
    let (dir, store) = store(&FaultPlan::new());
    std::fs::create_dir(dir.path().join("index")).unwrap();
    for n in 0..1003 {
        std::fs::write(dir.path().join(format!("index/{n}")), "").unwrap();
    }
    std::fs::write(dir.path().join("index/zz"), "foreign").unwrap();
    let first = assert_send(store.list(Prefix::Index, None)).await.unwrap();
    assert_eq!(first.items.len(), 1000);
    let second = store.list(Prefix::Index, first.next.as_deref()).await.unwrap();
    assert_eq!(second.next, None);
    let foreign = second.items.last().unwrap();
    assert_eq!((foreign.name.as_str(), &foreign.key, foreign.len), ("index/zz", &None, 7));
    let ours = first.items.iter().chain(&second.items).filter(|item| item.key.is_some()).count();
    assert_eq!(ours, 1003);
}

#[tokio::test(start_paused = true)]
async fn s01_a_minute_of_slow_down_is_waited_out_and_counted() {
    let plan = FaultPlan::new()
        .with(Rule::new(Verb::Put, Fault::SlowDown).lasting(Duration::from_secs(60)))
        .with(Rule::new(Verb::Get, Fault::SlowDown).times(3));
    let (_dir, store) = store(&plan);
    let key = pack(1);
    let began = Instant::now();
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(60));
    assert_eq!(store.get(&key).await.unwrap(), "x");
    assert_eq!(store.counters().retries, plan.hits());
}

#[tokio::test(start_paused = true)]
async fn s02_an_answer_that_got_lost_is_no_success_by_itself() {
    let plan = FaultPlan::new().with(Rule::new(Verb::Put, Fault::AnswerLost).times(1));
    let (_dir, store) = store(&plan);
    let key = pack(1);
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    let counted = store.counters();
    // A directory tells no checksum, so the same bytes are written again.
    assert_eq!((counted.head, counted.put), (1, 2));
    assert_eq!(store.get(&key).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn s03_a_reset_leaves_no_short_object() {
    let plan = FaultPlan::new().with(Rule::new(Verb::Put, Fault::Reset));
    let (_dir, store) = store(&plan);
    let key = pack(1);
    let error = store.put(&key, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(error.to_string().contains("tried"), "{error}");
    assert_eq!(store.head(&key).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn s04_a_transfer_that_stands_still_is_made_again() {
    let plan = FaultPlan::new().with(Rule::new(Verb::Get, Fault::Stall).times(2));
    let (_dir, store) = store(&plan);
    let key = pack(1);
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "x");
    assert_eq!(plan.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn s05_a_read_of_the_wrong_length_is_repeated_then_named() {
    for fault in [Fault::Truncated(2), Fault::TooLong(2)] {
        let plan = FaultPlan::new().with(Rule::new(Verb::Get, fault).times(2));
        let (_dir, store) = store(&plan);
        let key = pack(1);
        store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), "hello");
        plan.add(Rule::new(Verb::Get, fault));
        for read in [store.get(&key).await, store.get_range(&key, 1..4).await] {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
            assert!(error.to_string().contains(&key.to_string()), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s16_refused_credentials_fail_at_once() {
    let plan = FaultPlan::new().with(Rule::new(Verb::Put, Fault::Auth));
    let (_dir, store) = store(&plan);
    let error = store.put(&pack(1), Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Auth);
    assert_eq!(plan.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn s20_a_full_store_fails_at_once_and_can_still_be_pruned() {
    let plan = FaultPlan::new();
    let (_dir, store) = store(&plan);
    let key = pack(1);
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    plan.add(Rule::new(Verb::Put, Fault::Full));
    assert_eq!(store.put(&pack(2), Bytes::new()).await.unwrap_err().kind(), StoreErrorKind::Full);
    assert!(store.delete(&[key]).await.unwrap().is_empty());
    assert_eq!(store.counters().put, 2);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_lost_its_answer_is_repeated() {
    let plan = FaultPlan::new().with(Rule::new(Verb::Delete, Fault::AnswerLost).times(1));
    let (_dir, store) = store(&plan);
    let key = pack(1);
    store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    assert!(store.delete(&[key]).await.unwrap().is_empty());
    assert_eq!(store.counters().delete, 2);
}

#[tokio::test(start_paused = true)]
async fn rules_count_and_choose() {
    let plan =
        FaultPlan::new().with(Rule::new(Verb::Get, Fault::Flipped(1)).on("state/head").skip(1).times(1));
    let (_dir, store) = store(&plan);
    let head = ObjectKey::State(crate::keys::StateFile::Head);
    for key in [&head, &ObjectKey::Repository] {
        store.put(key, Bytes::from_static(b"abc")).await.unwrap();
    }
    assert_eq!(store.get(&ObjectKey::Repository).await.unwrap(), "abc");
    assert_eq!(store.get(&head).await.unwrap(), "abc");
    assert_eq!(store.get(&head).await.unwrap(), "arc");
    assert_eq!(store.get(&head).await.unwrap(), "abc");
}
