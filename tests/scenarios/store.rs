//! The store of a repository against servers that work and servers that do
//! not.

use std::time::Duration;

use bytes::Bytes;
use e2e::object_store::ObjectStore;
use e2e::require_object_store;
use e2e::s3::{Misbehaviour, Mishap, S3Server};
use e2e::wait;
use holdfast_archive::backoff::Backoff;
use holdfast_archive::ids::{AllocationId, PackId};
use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::store::{
    Location, Presigned, RetryPolicy, S3Options, Store, StoreConfig, StoreErrorKind,
};

fn pack(n: u8) -> ObjectKey {
    ObjectKey::Pack(PackId { sha256: [n; 32], allocation: AllocationId::generate() })
}

/// As repeating goes in earnest, with shorter pauses. Where a server works in
/// the end, nothing is given up however slow this machine is.
fn patient() -> RetryPolicy {
    RetryPolicy {
        give_up_after: Duration::from_secs(300),
        backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(50)),
        stall_after: Duration::from_secs(120),
    }
}

fn store(server: &S3Server) -> Store {
    store_with(server, patient())
}

/// For a server that does not answer, and then does.
fn store_that_notices_silence(server: &S3Server) -> Store {
    store_with(server, RetryPolicy { stall_after: Duration::from_secs(2), ..patient() })
}

/// For a server that never works.
fn store_that_gives_up(server: &S3Server) -> Store {
    store_with(server, giving_up())
}

fn giving_up() -> RetryPolicy {
    RetryPolicy { give_up_after: Duration::from_secs(5), ..patient() }
}

fn store_with(server: &S3Server, retry: RetryPolicy) -> Store {
    Store::open(&server.config("some/prefix")).unwrap().with_retry(retry)
}

/// Requests of a method for an object, as the server counted them.
fn asked(server: &S3Server, method: &str, key: &ObjectKey) -> usize {
    let (method, key) = (format!("{method} "), key.to_string());
    server.requests().iter().filter(|line| line.starts_with(&method) && line.contains(&key)).count()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

async fn every_operation(store: &Store) {
    let key = pack(1);
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert!(store.get(&key).await.unwrap_err().is_not_found());
    store.put(&key, Bytes::from_static(b"first")).await.unwrap();
    store.put(&key, Bytes::from_static(b"hello world")).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "hello world");
    assert_eq!(store.get_range(&key, 6..11).await.unwrap(), "world");
    assert_eq!(store.head(&key).await.unwrap().unwrap().len, 11);
    let beyond = store.get_range(&key, 6..12).await.unwrap_err();
    assert_eq!(beyond.kind(), StoreErrorKind::Corrupt, "{beyond}");

    for n in 0..1003 {
        store.put(&ObjectKey::Index(n), Bytes::new()).await.unwrap();
    }
    let first = store.list(Prefix::Index, None).await.unwrap();
    let second = store.list(Prefix::Index, first.next.as_deref()).await.unwrap();
    assert_eq!((first.items.len(), second.items.len(), &second.next), (1000, 3, &None));
    let mut names: Vec<&str> = first.items.iter().chain(&second.items).map(|item| &*item.name).collect();
    assert!(names.is_sorted());
    names.dedup();
    assert_eq!(names.len(), 1003);

    let mut keys: Vec<ObjectKey> = (0..1003).map(ObjectKey::Index).collect();
    keys.push(key.clone());
    keys.push(pack(2));
    assert!(store.delete(&keys).await.unwrap().is_empty());
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert!(store.list(Prefix::All, None).await.unwrap().items.is_empty());
}

#[test]
fn every_operation_works_on_s3s() {
    let server = S3Server::start();
    block_on(every_operation(&store(&server)));
    assert!(server.requests().iter().all(|request| request.contains("some") || request.contains("?delete")));
}

fn config_of(server: &ObjectStore, dir: &std::path::Path, region: &str) -> StoreConfig {
    let credentials_file = dir.join("credentials");
    e2e::secret::write(&credentials_file, format!("{}\n{}\n", server.access_key, server.secret_key));
    StoreConfig {
        location: Location::S3 { bucket: server.bucket.clone(), prefix: "p".to_owned() },
        s3: S3Options {
            endpoint: Some(server.endpoint.clone()),
            region: Some(region.to_owned()),
            credentials_file: Some(credentials_file),
            ..S3Options::default()
        },
    }
}

#[test]
fn every_operation_works_on_a_real_server_and_its_limits_are_found() {
    let server = ObjectStore::start(require_object_store!());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&config_of(&server, dir.path(), &server.region)).unwrap();
    block_on(async {
        every_operation(&store).await;
        let (key, big) = (pack(3), Bytes::from(vec![7; 8 << 20]));
        store.put(&key, big.clone()).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), big);
        let probe = store.probe().await.unwrap();
        assert!(probe.reads_ranges && probe.lists_at_once, "{probe:?}");
        assert_eq!(probe.checks_sha256, server.checks_requests(), "{probe:?}");
        assert_eq!(probe.honours_if_none_match, server.honours_conditions(), "{probe:?}");
        assert_eq!(probe.allows_direct_uploads(), server.checks_requests(), "{probe:?}");
        let mut config = config_of(&server, dir.path(), &server.region);
        config.location = "s3://missing".parse().unwrap();
        let error = Store::open(&config).unwrap().put(&pack(1), Bytes::new()).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::NoBucket | StoreErrorKind::Auth), "{error}");
        if !server.checks_requests() {
            return;
        }
        let wrong_region = Store::open(&config_of(&server, dir.path(), "elsewhere")).unwrap();
        for error in [
            wrong_region.head(&pack(1)).await.unwrap_err(),
            wrong_region.list(Prefix::All, None).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind(), StoreErrorKind::Auth | StoreErrorKind::Refused), "{error}");
            assert!(error.to_string().contains("region"), "{error}");
        }
    });
}

/// The status `curl` got for a presigned request, and the answer's body.
fn curl(presigned: &Presigned, body: Option<&str>) -> (String, String) {
    try_curl(presigned, body).unwrap()
}

/// As [`curl`], for the probe of a wait.
fn try_curl(presigned: &Presigned, body: Option<&str>) -> Result<(String, String), String> {
    let mut command = std::process::Command::new("curl");
    command.args(["-s", "-w", "\n%{http_code}"]);
    for (name, value) in &presigned.headers {
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    if let Some(body) = body {
        command.args(["-X", "PUT", "--data-binary", body]);
    }
    let answer = e2e::command::try_run(command.arg(&presigned.url))?;
    let (body, status) = answer.rsplit_once('\n').unwrap();
    Ok((status.to_owned(), body.to_owned()))
}

fn sha256_of_hello() -> [u8; 32] {
    let sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    std::array::from_fn(|at| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap())
}

#[test]
fn x06_a_presigned_request_is_good_for_one_thing() {
    let server = S3Server::start();
    let store = store(&server);
    block_on(async {
        let key = pack(1);
        let sha256 = sha256_of_hello();
        let minute = Duration::from_secs(60);
        let told = async || store.head(&key).await.unwrap().and_then(|meta| meta.sha256);
        let put = store.presign_put(&key, 5, &sha256, minute).await.unwrap().unwrap();
        // This server keeps what it refused; only the hash it tells is to be trusted.
        assert_ne!(curl(&put, Some("jello")).0, "200");
        assert_ne!(told().await, Some(sha256));
        assert_eq!(curl(&put, Some("hello")).0, "200");
        assert_eq!(told().await, Some(sha256));
        assert_eq!(store.get(&key).await.unwrap(), "hello");

        let get = store.presign_get(&key, 1..4, minute).await.unwrap().unwrap();
        assert_eq!(curl(&get, None), ("206".to_owned(), "ell".to_owned()));
        let mut whole = get.clone();
        whole.headers.clear();
        assert_eq!(curl(&whole, None).0, "403");
        let mut wider = get.clone();
        wider.headers.iter_mut().filter(|(name, _)| name == "range").for_each(|(_, value)| {
            *value = "bytes=0-4".to_owned();
        });
        assert_eq!(curl(&wider, None).0, "403");
        let mut removal = put;
        removal.headers.clear();
        let status = e2e::command::run(
            std::process::Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE"])
                .arg(&removal.url),
        );
        assert_eq!(status, "403");
        assert_eq!(store.get(&key).await.unwrap(), "hello");
    });
}

/// Whoever comes to know one has until its time is over, and nothing of it after.
#[test]
fn x23_a_presigned_request_runs_out() {
    const SHORT: Duration = Duration::from_secs(2);
    let server = S3Server::start();
    let store = store(&server);
    block_on(async {
        let (key, other) = (pack(1), pack(2));
        let sha256 = sha256_of_hello();
        store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
        let get = store.presign_get(&key, 0..5, SHORT).await.unwrap().unwrap();
        let put = store.presign_put(&other, 5, &sha256, SHORT).await.unwrap().unwrap();
        // The same with more time are good still when these are not.
        let minute = Duration::from_secs(60 * wait::WAIT_LIMIT);
        let lasting_get = store.presign_get(&key, 0..5, minute).await.unwrap().unwrap();
        let lasting_put = store.presign_put(&other, 5, &sha256, minute).await.unwrap().unwrap();
        for (request, body) in [(&get, None), (&put, Some("hello"))] {
            wait::until("the request to run out", 20, || {
                let answer = try_curl(request, body)?;
                if answer.0 == "403" { Ok(()) } else { Err(format!("{answer:?}")) }
            });
        }
        assert_eq!(curl(&lasting_get, None), ("206".to_owned(), "hello".to_owned()));
        assert!(store.delete(std::slice::from_ref(&other)).await.unwrap().is_empty());
        assert_eq!(curl(&put, Some("hello")).0, "403");
        assert_eq!(store.head(&other).await.unwrap(), None, "it was stored after its time");
        assert_eq!(curl(&lasting_put, Some("hello")).0, "200");
        // Its time is signed as the rest is.
        let mut longer = get.clone();
        longer.url = longer.url.replace("X-Amz-Expires=2", "X-Amz-Expires=600");
        assert_ne!(longer.url, get.url, "{}", get.url);
        assert_eq!(curl(&longer, None).0, "403");
    });
}

#[test]
fn s12_a_probe_finds_out_what_the_server_does_and_leaves_nothing() {
    let server = S3Server::start();
    let store = store(&server);
    block_on(async {
        let probe = store.probe().await.unwrap();
        assert!(probe.reads_ranges && probe.lists_at_once && probe.removes_at_once, "{probe:?}");
        assert!(probe.honours_if_none_match && probe.checks_sha256 && probe.tells_sha256, "{probe:?}");
        assert!(probe.allows_direct_uploads(), "{probe:?}");
        assert!(store.list(Prefix::All, None).await.unwrap().items.is_empty());
    });
}

#[test]
fn s01_slow_down_is_waited_out() {
    let server = S3Server::start();
    let store = store(&server);
    server.plan(Mishap::new("PUT", Misbehaviour::Answer(503, "SlowDown")).times(5));
    block_on(async {
        let key = pack(1);
        store.put(&key, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(asked(&server, "PUT", &key), 6);
        assert_eq!(store.counters().retries, 5);
        assert_eq!(store.get(&key).await.unwrap(), "x");
    });
}

#[test]
fn s02_an_answer_that_got_lost_is_made_up_for_by_a_look() {
    let server = S3Server::start();
    let store = store(&server);
    server.plan(Mishap::new("PUT", Misbehaviour::AnswerLost).times(1));
    block_on(async {
        let key = pack(1);
        store.put(&key, Bytes::from(vec![7; 300_000])).await.unwrap();
        assert_eq!((asked(&server, "PUT", &key), asked(&server, "HEAD", &key)), (1, 1));
        assert_eq!(store.head(&key).await.unwrap().unwrap().len, 300_000);
    });
}

#[test]
fn s02_a_look_at_other_content_proves_nothing() {
    let server = S3Server::start();
    let store = store(&server);
    block_on(async {
        let key = ObjectKey::State(holdfast_archive::keys::StateFile::Head);
        store.put(&key, Bytes::from_static(b"old")).await.unwrap();
        server.plan(Mishap::new("PUT", Misbehaviour::Reset).times(1));
        store.put(&key, Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), "new");
    });
}

#[test]
fn s04_a_body_of_a_byte_now_and_then_is_given_up_and_read_again() {
    let server = S3Server::start();
    let store = store_that_notices_silence(&server);
    block_on(async {
        let key = pack(1);
        let bytes = Bytes::from(vec![7; 100_000]);
        store.put(&key, bytes.clone()).await.unwrap();
        server.plan(Mishap::new("GET", Misbehaviour::Trickle(Duration::from_millis(20))).times(1));
        assert_eq!(store.get(&key).await.unwrap(), bytes);
        server.plan(Mishap::new("GET", Misbehaviour::Silence).times(1));
        assert_eq!(store.get_range(&key, 1..100_000).await.unwrap(), bytes.slice(1..));
        server.plan(Mishap::new("PUT", Misbehaviour::Silence).times(1));
        store.put(&key, Bytes::from(vec![8; 2_000_000])).await.unwrap();
        // At least: a pause of this machine looks like a server that is silent.
        assert!(asked(&server, "GET", &key) >= 4, "{:?}", server.requests());
        assert!(asked(&server, "PUT", &key) >= 3, "{:?}", server.requests());
        assert!(store.counters().retries >= 3);
        assert_eq!(store.get(&key).await.unwrap(), vec![8; 2_000_000]);
    });
}

#[test]
fn s05_a_short_or_broken_body_is_read_again_then_named() {
    let server = S3Server::start();
    let (store, giving_up) = (store(&server), store_that_gives_up(&server));
    block_on(async {
        let key = pack(1);
        store.put(&key, Bytes::from_static(b"hello world")).await.unwrap();
        for how in [Misbehaviour::BreakOff(4), Misbehaviour::Shorter(3)] {
            server.plan(Mishap::new("GET", how.clone()).times(2));
            assert_eq!(store.get_range(&key, 0..11).await.unwrap(), "hello world");
            server.plan(Mishap::new("GET", how));
            let error = giving_up.get_range(&key, 0..11).await.unwrap_err();
            assert!(error.to_string().contains(&key.to_string()), "{error}");
            server.behave();
        }
    });
}

#[test]
fn s14_s15_conflicts_and_errors_inside_success_are_repeated() {
    let server = S3Server::start();
    let store = store(&server);
    server.plan(Mishap::new("PUT", Misbehaviour::Answer(409, "ConditionalRequestConflict")).times(1));
    server.plan(Mishap::new("PUT", Misbehaviour::ErrorIn200).times(1));
    block_on(async {
        let key = pack(1);
        store.put(&key, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), "x");
        assert_eq!(asked(&server, "PUT", &key), 3);
    });
}

#[test]
fn s16_wrong_or_revoked_credentials_fail_at_once_and_name_their_file() {
    let server = S3Server::start();
    let dir = tempfile::tempdir().unwrap();
    let mut config = server.config("p");
    for (id, secret) in [("nobody", "x"), (e2e::s3::ACCESS_KEY, "wrong")] {
        let file = dir.path().join("wrong");
        e2e::secret::write(&file, format!("{id}\n{secret}\n"));
        config.s3.credentials_file = Some(file.clone());
        let store = Store::open(&config).unwrap();
        let key = pack(1);
        let error = block_on(store.put(&key, Bytes::new())).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Auth, "{error}");
        assert_eq!(asked(&server, "PUT", &key), 1);
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        assert!(error.to_string().contains(&server.endpoint()), "{error}");
        assert_eq!(store.counters().retries, 0);
    }
}

/// The number before these words; the answer may have been under way for a while.
#[track_caller]
fn assert_about_1200(text: &str, words: &str) {
    let before = text.split_once(words).map(|(before, _)| before);
    let number: Option<u64> = before.and_then(|before| before.rsplit(' ').next()?.parse().ok());
    assert!(number.is_some_and(|number| (1080..=1320).contains(&number)), "{text}");
}

#[test]
fn s17_a_clock_that_is_off_is_told_by_how_much() {
    let server = S3Server::start();
    let store = store(&server);
    server.plan(Mishap::new("PUT", Misbehaviour::AnswerDated(403, "RequestTimeTooSkewed", -1200)));
    server.plan(Mishap::new("GET", Misbehaviour::AnswerDated(403, "AccessDenied", 1200)));
    block_on(async {
        let ahead = store.put(&pack(1), Bytes::new()).await.unwrap_err();
        assert_eq!(ahead.kind(), StoreErrorKind::ClockSkew);
        assert_about_1200(&ahead.to_string(), " s ahead of the store's");
        let behind = store.get(&pack(1)).await.unwrap_err();
        assert_eq!(behind.kind(), StoreErrorKind::ClockSkew);
        assert_about_1200(&behind.to_string(), " s behind the store's");
    });
}

#[test]
fn s19_a_bucket_that_is_not_there_or_elsewhere_is_refused_and_never_made() {
    let server = S3Server::start();
    let mut config = server.config("");
    config.location = "s3://missing".parse().unwrap();
    let missing = Store::create(&config).unwrap();
    block_on(async {
        for error in [missing.list(Prefix::All, None).await.unwrap_err(), missing.probe().await.unwrap_err()]
        {
            assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}");
            assert!(error.to_string().contains("create the bucket `missing`"), "{error}");
        }
        let moved = store(&server);
        server.plan(Mishap::new("GET", Misbehaviour::Answer(301, "PermanentRedirect")));
        let error = moved.list(Prefix::All, None).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("region"), "{error}");
    });
    assert!(!server.bucket_dir().with_file_name("missing").exists());
}

#[test]
fn s24_a_denied_delete_is_listed_and_the_rest_goes_on() {
    let server = S3Server::start();
    let store = store(&server);
    // A server without the request for many: one at a time.
    server.plan(Mishap::new("POST", Misbehaviour::Answer(501, "NotImplemented")));
    block_on(async {
        let keys = [pack(1), pack(2), pack(3)];
        for key in &keys {
            store.put(key, Bytes::new()).await.unwrap();
        }
        server.plan(Mishap::new("DELETE", Misbehaviour::Answer(403, "AccessDenied")).on(keys[1].to_string()));
        let failures = store.delete(&keys).await.unwrap();
        assert_eq!(failures.len(), 1);
        assert_eq!((&failures[0].0, failures[0].1.kind()), (&keys[1], StoreErrorKind::Refused));
        assert_eq!(store.list(Prefix::Packs, None).await.unwrap().items.len(), 1);
    });
}

#[test]
fn s26_an_archived_object_is_called_that() {
    let server = S3Server::start();
    let store = store(&server);
    server.plan(Mishap::new("GET", Misbehaviour::Answer(403, "InvalidObjectState")));
    let error = block_on(store.get(&pack(1))).unwrap_err();
    assert!(error.to_string().contains("archived tier"), "{error}");
}

#[test]
fn s27_only_the_configured_ca_is_trusted() {
    let server = S3Server::start_tls();
    let trusted = store(&server);
    let mut config = server.config("p");
    config.s3.ca_file = None;
    let untrusting = Store::open(&config).unwrap();
    block_on(async {
        trusted.put(&pack(1), Bytes::from_static(b"x")).await.unwrap();
        assert!(trusted.probe().await.unwrap().allows_direct_uploads());
        let error = untrusting.list(Prefix::All, None).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("ca_file"), "{error}");
        assert_eq!(untrusting.counters().retries, 0);
    });
}

#[test]
fn a_server_that_is_down_is_named() {
    let mut config = S3Server::start().config("p");
    config.s3.endpoint = Some("http://127.0.0.1:1".to_owned());
    let credentials = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(credentials.path(), "a\nb\n").unwrap();
    config.s3.credentials_file = Some(credentials.path().to_owned());
    let store = Store::open(&config).unwrap().with_retry(giving_up());
    let error = block_on(store.get(&pack(1))).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
}
