//! Promises of callers and keys.

use super::{files::HASH_KEY_FILE, *};
use crate::{clock::Clock, ledger::KeyId, refusal::Refusal};
use http::{HeaderMap, HeaderValue};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

const PEER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
const NOW: u64 = 1_800_000_000_000;

fn open(dir: &Path) -> Keys {
    Keys::open(dir, Vec::new(), Clock::standing(NOW).0, 1000).unwrap()
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_str(value).unwrap());
    headers
}

fn bearer(secret: &Secret) -> HeaderMap {
    headers("authorization", &format!("Bearer {}", secret.reveal()))
}

fn made(keys: &Keys, new: NewKey) -> (KeyRecord, Secret) {
    let (record, secret) = keys.make(new).unwrap();
    keys.install(record.clone());
    (record, secret)
}

#[test]
fn a_key_is_256_random_bits_and_its_record_keeps_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path());
    let (record, secret) = keys.make(NewKey::default()).unwrap();
    let text = secret.reveal();
    assert_eq!(text.len(), "sk-tg-".len() + 43);
    assert!(text.starts_with("sk-tg-"));
    assert_eq!(record.id.0.len(), "key_".len() + 12);
    assert_eq!(record.hint, text[..10]);
    let stored = format!("{record:?}{}", serde_json::to_string(&record).unwrap());
    assert!(!stored.contains(&text[10..]));
    assert_ne!(record.secret_hash, *blake3::hash(text.as_bytes()).as_bytes(), "the hash is keyed");
    assert!(!format!("{secret:?}{keys:?}").contains(&text[10..]));
}

#[test]
fn a_key_is_taken_from_either_header_and_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path());
    let (record, secret) = made(&keys, NewKey::default());
    let secret = secret.reveal();
    for (name, value) in [
        ("authorization", format!("Bearer {secret}")),
        ("authorization", format!("bearer {secret}")),
        ("authorization", format!("BEARER   {secret} ")),
        ("x-api-key", secret.to_owned()),
    ] {
        let caller = keys.authenticate(&headers(name, &value), PEER).unwrap();
        assert_eq!(*caller.id(), record.id);
    }
    for (name, value) in [
        ("authorization", secret.to_owned()),
        ("authorization", format!("Basic {secret}")),
        ("authorization", format!("Bearer {secret}x")),
        ("authorization", format!("Bearer {}", &secret[..secret.len() - 1])),
        ("authorization", "Bearer ".to_owned()),
        ("x-api-key", String::new()),
        ("x-other", secret.to_owned()),
    ] {
        let refusal = keys.authenticate(&headers(name, &value), PEER).unwrap_err();
        assert_eq!(refusal.status(), 401, "{name}: {value}");
    }
}

#[test]
fn wrong_expired_and_revoked_keys_get_one_and_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::standing(NOW);
    let keys = Keys::open(dir.path(), Vec::new(), clock, 1000).unwrap();
    let (_, expiring) =
        made(&keys, NewKey { expires_unix_ms: Some(NOW + 10), ..NewKey::default() });
    let (revoked, lost) = made(&keys, NewKey::default());
    assert!(keys.authenticate(&bearer(&expiring), PEER).is_ok());
    assert!(keys.authenticate(&bearer(&lost), PEER).is_ok());

    hand.set(NOW + 10);
    keys.install(keys.revoked(&revoked.id).unwrap());
    let unknown = Secret::from_text(format!("sk-tg-{}", "a".repeat(43)));
    for secret in [expiring, lost, unknown] {
        assert_eq!(
            keys.authenticate(&bearer(&secret), PEER).unwrap_err(),
            Refusal::Unauthenticated("this API key is not valid")
        );
    }
    assert_eq!(keys.get(&revoked.id).unwrap().revoked_unix_ms, Some(NOW + 10));
    hand.set(NOW + 99);
    assert_eq!(
        keys.revoked(&revoked.id).unwrap().revoked_unix_ms,
        Some(NOW + 10),
        "revoking again does not move the time"
    );
}

#[test]
fn keys_work_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (record, secret) = made(&open(dir.path()), NewKey::default());
    let again = Keys::open(dir.path(), vec![record.clone()], Clock::standing(NOW).0, 1000).unwrap();
    assert_eq!(*again.authenticate(&bearer(&secret), PEER).unwrap().id(), record.id);
    assert_eq!(again.list(), [Arc::new(record)]);
}

#[test]
fn a_change_leaves_what_it_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path());
    let new = NewKey {
        label: "build".to_owned(),
        user: Some("ana".to_owned()),
        limits: KeyLimits { requests_per_minute: Some(5), ..KeyLimits::default() },
        ..NewKey::default()
    };
    let (record, secret) = made(&keys, new);
    let change = KeyChange {
        user: Some(None),
        limits: Some(KeyLimits { concurrency: Some(2), ..record.limits }),
        may_pin: Some(true),
        priority: Some(Priority::High),
        ..KeyChange::default()
    };
    keys.install(keys.changed(&record.id, change).unwrap());
    let now = keys.get(&record.id).unwrap();
    assert_eq!(now.label, "build");
    assert_eq!(now.user, None);
    assert_eq!(now.limits.requests_per_minute, Some(5));
    assert_eq!(now.limits.concurrency, Some(2));
    assert!(now.may_pin);
    assert_eq!((record.priority, now.priority), (Priority::Normal, Priority::High));
    assert!(keys.authenticate(&bearer(&secret), PEER).is_ok(), "the secret stays");
    let unnamed = keys.changed(&record.id, KeyChange::default()).unwrap();
    assert_eq!(unnamed.priority, Priority::High);
    assert!(keys.changed(&KeyId("key_none".into()), KeyChange::default()).is_none());
}

#[test]
fn the_admin_key_is_readable_by_its_owner_only_and_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir.path().join("data"));
    let data = dir.path().join("data");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join(ADMIN_KEY_FILE)), 0o600);
    assert_eq!(mode(&data.join(HASH_KEY_FILE)), 0o600);

    let first = read_secret(&data, ADMIN_KEY_FILE).unwrap().unwrap();
    assert!(keys.authenticate_admin(&bearer(&first), PEER).is_ok());
    let second = keys.rotate_admin().unwrap();
    assert_eq!(mode(&data.join(ADMIN_KEY_FILE)), 0o600);
    assert_eq!(keys.authenticate_admin(&bearer(&first), PEER).unwrap_err().status(), 401);
    assert!(keys.authenticate_admin(&bearer(&second), PEER).is_ok());

    let again = open(&data);
    assert!(again.authenticate_admin(&bearer(&second), PEER).is_ok());
}

#[test]
fn the_two_planes_do_not_take_each_others_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path());
    let (_, secret) = made(&keys, NewKey::default());
    assert_eq!(keys.authenticate_admin(&bearer(&secret), PEER).unwrap_err().status(), 403);
    let admin = read_secret(dir.path(), ADMIN_KEY_FILE).unwrap().unwrap();
    assert_eq!(keys.authenticate(&bearer(&admin), PEER).unwrap_err().status(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_right_key_passes_where_wrong_ones_are_throttled() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path(), Vec::new(), Clock::standing(NOW).0, 2).unwrap();
    let (_, secret) = made(&keys, NewKey::default());
    let wrong = headers("x-api-key", "sk-tg-wrong");
    let statuses: Vec<u16> =
        (0..3).map(|_| keys.authenticate(&wrong, PEER).unwrap_err().status().as_u16()).collect();
    assert_eq!(statuses, [401, 401, 429]);
    assert!(keys.authenticate(&bearer(&secret), PEER).is_ok());
}

#[test]
fn a_missing_or_damaged_hash_key_is_said_and_not_papered_over() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _) = made(&open(dir.path()), NewKey::default());
    let reopen = || Keys::open(dir.path(), vec![record.clone()], Clock::system(), 1);
    fs::write(dir.path().join(HASH_KEY_FILE), "zz").unwrap();
    assert!(matches!(reopen().unwrap_err(), KeysError::HashKeyDamaged(_)));
    fs::remove_file(dir.path().join(HASH_KEY_FILE)).unwrap();
    assert!(matches!(reopen().unwrap_err(), KeysError::HashKeyMissing(_, 1)));
}

#[test]
fn others_rights_on_the_directory_are_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    private_dir(dir.path()).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
}
