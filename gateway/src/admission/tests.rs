//! Promises of admission. Time is the runtime's, paused and moved by hand.

use super::{failed_auth::TEST_ADDRESSES_MAX, *};
use crate::caller::{KeyRecord, Priority};
use crate::ledger::KeyId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::time::advance;

fn limits(requests_per_minute: Option<u32>, in_flight_max: usize) -> Limits {
    Limits {
        body_bytes_max: 1,
        body_read_max: Duration::ZERO,
        header_read_max: Duration::ZERO,
        idle_max: Duration::ZERO,
        write_stall_max: Duration::ZERO,
        connections_max: 1,
        drain_max: Duration::ZERO,
        output_tokens_default: 1,
        requests_per_minute,
        tokens_per_minute: None,
        in_flight_max,
        bodies_bytes_max: 1 << 20,
        failed_auth_per_minute: 1,
        budget_wait_max: Duration::ZERO,
    }
}

fn record(requests_per_minute: Option<u32>, concurrency: Option<u32>) -> Arc<KeyRecord> {
    Arc::new(KeyRecord {
        id: KeyId(Arc::from("key_a")),
        secret_hash: [0; 32],
        hint: String::new(),
        label: String::new(),
        user: None,
        team: None,
        limits: KeyLimits { requests_per_minute, concurrency, ..KeyLimits::default() },
        budgets: Vec::new(),
        may_pin: false,
        created_unix_ms: 0,
        expires_unix_ms: None,
        revoked_unix_ms: None,
        session_budgets: Vec::new(),
        disabled_unix_ms: None,
        tags: Vec::new(),
        priority: Priority::Normal,
    })
}

fn caller(requests_per_minute: Option<u32>, concurrency: Option<u32>) -> Caller {
    let record = record(requests_per_minute, concurrency);
    let gate = KeyGate::new(&record.limits, None);
    Caller::new(record, None, Vec::new(), gate)
}

fn changed(record: Arc<KeyRecord>, before: &Caller) -> Caller {
    let gate = KeyGate::new(&record.limits, Some(&before.gate));
    Caller::new(record, None, Vec::new(), gate)
}

#[tokio::test(start_paused = true)]
async fn a_minute_lets_exactly_its_limit_through() {
    let admission = Admission::new(&limits(None, 100), &[]);
    let caller = caller(Some(60), None);
    for left in (0..60).rev() {
        let rate = admission.admit(&caller).unwrap().rate().unwrap();
        assert_eq!((rate.limit, rate.remaining), (60, left));
    }
    let refusal = admission.admit(&caller).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "this key's limit of 60 requests per minute reached, 0 left; it opens again in 1.0 s"
    );
    // One more each second, and never two.
    for _ in 0..3 {
        advance(Duration::from_secs(1)).await;
        assert!(admission.admit(&caller).is_ok());
        assert!(admission.admit(&caller).is_err());
    }
    advance(Duration::from_secs(60)).await;
    let admitted = std::iter::from_fn(|| admission.admit(&caller).ok()).count();
    assert_eq!(admitted, 60);
}

#[tokio::test(start_paused = true)]
async fn the_rate_can_be_read_without_using_it() {
    let admission = Admission::new(&limits(Some(60), 100), &[]);
    let caller = caller(None, None);
    let full = Rate { limit: 60, remaining: 60, reset: Duration::ZERO };
    assert_eq!(admission.rate(&caller, None), Some(full));
    let after = admission.admit(&caller).unwrap().rate();
    assert_eq!(after, Some(Rate { limit: 60, remaining: 59, reset: Duration::from_secs(1) }));
    assert_eq!(admission.rate(&caller, None), after);
    advance(Duration::from_secs(1)).await;
    assert_eq!(admission.rate(&caller, None), Some(full));
}

#[tokio::test(start_paused = true)]
async fn the_tightest_rate_is_told() {
    let admission = Admission::new(&limits(Some(10), 100), &[]);
    let narrow = caller(Some(3), None);
    assert_eq!(admission.admit(&narrow).unwrap().rate().unwrap().limit, 3);
    let wide = caller(Some(1000), None);
    assert_eq!(admission.admit(&wide).unwrap().rate().unwrap().limit, 10);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_key_leaves_the_gateways_minute_to_others() {
    let admission = Admission::new(&limits(Some(10), 100), &[]);
    let flood = caller(Some(2), None);
    for _ in 0..1000 {
        let _ = admission.admit(&flood);
    }
    let other = caller(None, None);
    assert_eq!(std::iter::from_fn(|| admission.admit(&other).ok()).count(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_a_wider_minute_refuses_uses_up_no_narrower_one() {
    let admission = Admission::new(&limits(Some(1), 9), &[]);
    let (first, other) = (caller(Some(9), None), caller(Some(2), None));
    drop(admission.admit(&first).unwrap());
    for _ in 0..5 {
        let refused = admission.admit(&other).unwrap_err();
        let Refusal::RateLimited { scope, .. } = refused else { panic!("{refused}") };
        assert!(scope.contains("gateway"), "{scope}");
        assert_eq!(other.gate.minute.as_deref().map(|minute| minute.rate().remaining), Some(2));
    }
    advance(Duration::from_secs(60)).await;
    assert!(admission.admit(&other).is_ok());
}

#[test]
fn a_place_comes_back_when_its_permit_is_dropped() {
    let admission = Admission::new(&limits(None, 3), &[]);
    let caller = caller(None, Some(2));
    let first = admission.admit(&caller).unwrap();
    let second = admission.admit(&caller).unwrap();
    assert_eq!(
        admission.admit(&caller).unwrap_err().to_string(),
        "this key's limit of 2 requests in flight reached, 0 left; it opens again in 1.0 s"
    );
    assert_eq!(admission.in_flight(), 2, "a request that was turned away holds no place");
    drop(first);
    let third = admission.admit(&caller).unwrap();
    assert_eq!(admission.in_flight(), 2);
    drop((second, third));
    assert_eq!(admission.in_flight(), 0);
}

#[test]
fn a_key_that_takes_every_place_it_can_get_leaves_some_to_others() {
    let admission = Admission::new(&limits(None, 8), &[]);
    let (flood, other) = (caller(None, None), caller(None, None));
    let held: Vec<Permit> = std::iter::from_fn(|| admission.admit(&flood).ok()).collect();
    assert_eq!(held.len(), 6);
    assert_eq!(
        admission.admit(&flood).unwrap_err().to_string(),
        "this key's share of the gateway's limit of 8 requests in flight reached, 0 left; it opens \
         again in 1.0 s"
    );
    let one = admission.admit(&other).expect("another key's is let in");
    let next = caller(None, None);
    let last = admission.admit(&next).expect("and one more's");
    let full = admission.admit(&caller(None, None)).unwrap_err();
    assert!(full.to_string().starts_with("the gateway's limit"), "{full}");
    drop((held, one, last));
    assert_eq!(flood.gate.places.taken(), 0, "a request that was turned away holds no place");
}

fn of_model(requests_per_minute: Option<u32>, concurrency: Option<u32>) -> Vec<ModelLimits> {
    let limits = KeyLimits { requests_per_minute, concurrency, ..KeyLimits::default() };
    vec![ModelLimits { model: "large".into(), limits }]
}

#[tokio::test(start_paused = true)]
async fn a_models_minute_is_shared_by_all_callers_and_bounds_no_other_model() {
    let admission = Admission::new(&limits(None, 100), &of_model(Some(2), None));
    let (one, other) = (caller(Some(50), None), caller(None, None));
    for (caller, left) in [(&one, 1), (&other, 0)] {
        let mut permit = admission.admit(caller).unwrap();
        admission.admit_to("large", &mut permit).unwrap();
        let rate = permit.rate().unwrap();
        assert_eq!((rate.limit, rate.remaining), (2, left), "the tightest is told");
        permit.passed().unwrap().sent();
    }
    let mut permit = admission.admit(&one).unwrap();
    assert_eq!(
        admission.admit_to("large", &mut permit).unwrap_err().to_string(),
        "the model `large`'s limit of 2 requests per minute reached, 0 left; it opens again in 30.0 s"
    );
    assert_eq!(admission.rate(&one, Some("large")).unwrap().limit, 2);
    assert_eq!(admission.rate(&one, None).unwrap().limit, 50);
    assert!(admission.admit_to("small", &mut permit).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_anything_is_sent_gives_the_models_minute_back() {
    let admission = Admission::new(&limits(None, 100), &of_model(Some(1), None));
    let caller = caller(None, None);
    for _ in 0..3 {
        let mut permit = admission.admit(&caller).unwrap();
        admission.admit_to("large", &mut permit).unwrap();
        let mut other = admission.admit(&caller).unwrap();
        assert!(admission.admit_to("large", &mut other).is_err());
        // With the permit, or with what knows whether it is sent.
        drop(permit.passed());
        assert_eq!(admission.model("large").unwrap().rate.unwrap().remaining, 1);
    }
}

#[test]
fn a_place_at_a_model_is_the_permits_and_comes_back_with_it() {
    let admission = Admission::new(&limits(None, 100), &of_model(None, Some(1)));
    let (one, other) = (caller(None, None), caller(None, None));
    let mut first = admission.admit(&one).unwrap();
    admission.admit_to("large", &mut first).unwrap();
    let mut second = admission.admit(&other).unwrap();
    let refusal = admission.admit_to("large", &mut second).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the model `large`'s limit of 1 requests in flight reached, 0 left; it opens again in 1.0 s"
    );
    assert_eq!(admission.model("large").unwrap().in_flight, 1);
    drop(first);
    admission.admit_to("large", &mut second).unwrap();
    drop(second);
    assert_eq!(admission.model("large").unwrap().in_flight, 0);
}

#[test]
fn the_gateway_sheds_load_above_its_own_limit() {
    let admission = Admission::new(&limits(None, 2), &[]);
    let (a, b) = (caller(None, None), caller(None, None));
    let _held = (admission.admit(&a).unwrap(), admission.admit(&b).unwrap());
    let refusal = admission.admit(&a).unwrap_err();
    assert_eq!(refusal.status(), 429);
    assert!(refusal.to_string().starts_with("the gateway's limit of 2 requests in flight"));
    assert_eq!(a.gate.places.taken(), 1, "the key's place was given back");
}

#[test]
fn places_hold_under_many_threads() {
    let admission = Admission::new(&limits(None, 7), &[]);
    let caller = caller(None, None);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let permit = admission.admit(&caller);
                    assert!(admission.in_flight() <= 7);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(admission.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_key_keeps_its_counts() {
    let admission = Admission::new(&limits(None, 100), &[]);
    let before = caller(Some(5), Some(3));
    let _held = [admission.admit(&before).unwrap(), admission.admit(&before).unwrap()];

    let same_minute = changed(record(Some(5), Some(2)), &before);
    assert!(admission.admit(&same_minute).is_err(), "two in flight are counted on");
    assert_eq!(admission.rate(&same_minute, None).unwrap().remaining, 3);

    let new_minute = changed(record(Some(9), None), &before);
    assert_eq!(admission.rate(&new_minute, None).unwrap().remaining, 9);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_may_come_once_more_and_never_above_the_limit() {
    let minute = MinuteLimit::new(3);
    for _ in 0..10 {
        assert!(minute.pass().is_ok(), "it was given back each time");
        minute.give_back();
        assert_eq!(minute.rate().remaining, 3);
    }
    let passes = || (0..10).filter(|_| minute.pass().is_ok()).count();
    assert_eq!(passes(), 3);
    assert_eq!((minute.rate().remaining, minute.rate().reset), (0, Duration::from_secs(60)));
    (0..10).for_each(|_| minute.give_back());
    assert_eq!((minute.rate().remaining, minute.rate().reset), (3, Duration::ZERO));
    // What has come back by itself does not come a second time.
    advance(Duration::from_secs(40)).await;
    assert_eq!(passes(), 3);
    advance(Duration::from_secs(60)).await;
    minute.give_back();
    assert_eq!(passes(), 3);
}

#[tokio::test(start_paused = true)]
async fn failed_authentications_are_throttled_by_address() {
    let failed = FailedAuth::new(3);
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    for _ in 0..3 {
        assert_eq!(failed.count(v4(1)), Ok(()));
    }
    assert_eq!(failed.count(v4(1)), Err(Duration::from_secs(20)));
    assert_eq!(failed.count(v4(2)), Ok(()), "another address has its own count");
    assert_eq!(
        failed.count(IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped())),
        Err(Duration::from_secs(20)),
        "a mapped address is the same one"
    );
    advance(Duration::from_secs(20)).await;
    assert_eq!(failed.count(v4(1)), Ok(()));

    let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, last));
    for host in 0..3 {
        assert_eq!(failed.count(v6(host)), Ok(()));
    }
    assert!(failed.count(v6(9)).is_err(), "one /64 is one address");
}

#[tokio::test(start_paused = true)]
async fn failed_authentication_remembers_a_bounded_number_of_addresses() {
    let failed = FailedAuth::new(2);
    let address = |number: usize| {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap()))
    };
    for number in 0..TEST_ADDRESSES_MAX {
        assert_eq!(failed.count(address(number)), Ok(()));
    }
    // Full: newcomers share one limit.
    assert_eq!(failed.count(address(TEST_ADDRESSES_MAX)), Ok(()));
    assert_eq!(failed.count(address(TEST_ADDRESSES_MAX + 1)), Ok(()));
    assert!(failed.count(address(TEST_ADDRESSES_MAX + 2)).is_err());
    assert_eq!(failed.addresses(), TEST_ADDRESSES_MAX);
    // A minute later all are forgotten.
    advance(Duration::from_secs(61)).await;
    assert_eq!(failed.count(address(1)), Ok(()));
    assert!(failed.addresses() < 10);
}
