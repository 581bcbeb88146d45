//! After a crash: requests that had reserved and have no entry get one.
//!
//! **Invariant:** afterwards every reservation in the journal has ended exactly once. What nobody
//! can know is booked as it was reserved and marked [`UsageSource::CrashedUnknown`]; what had
//! ended before the crash is booked as it ended.

use super::{
    budgets::Holds,
    derived::{OpenAttempt, OpenRequest},
    effect::Hold,
    entry::{
        Attempt, AttemptOutcome, AttemptTimes, DecisionRecord, Endpoint, Entry, Notes, Outcome,
        RequestId, Role,
    },
    summary::NONE,
};
use crate::{
    store::{
        BooksError,
        catalogue::Snapshot,
        codec::{self, Event, Reserved},
    },
    timeline::StageTimes,
};
use policies::{
    Facts, PicoUsd, PolicyName, PolicyVersion, RequestFacts, RouteId, RuleName, TimeFacts,
    UsageSource,
};
use std::{collections::HashMap, sync::Arc};

/// Reads the events with these numbers.
pub(crate) fn events(
    snapshot: &Snapshot,
    mut wanted: Vec<u64>,
) -> Result<HashMap<u64, Event>, BooksError> {
    wanted.sort_unstable();
    let mut found = HashMap::new();
    for block in snapshot.blocks() {
        let first = wanted.partition_point(|seq| *seq < block.seq);
        let last = wanted.partition_point(|seq| *seq < block.next_seq);
        if first == last {
            continue;
        }
        let mut flaw = None;
        // What is lost is not among what was found.
        let _lost = snapshot.read(&block, &mut |record| {
            let head = record.head;
            if wanted[first..last].binary_search(&head.seq).is_err() {
                return;
            }
            match codec::decode(head.kind, head.version, record.payload) {
                Ok(event) => {
                    found.insert(head.seq, event);
                }
                Err(error) => flaw = Some(error.to_string()),
            }
        });
        if let Some(flaw) = flaw {
            return Err(BooksError::Unreadable(flaw.into()));
        }
    }
    Ok(found)
}

/// The entry of a request that was running when the process died.
pub(crate) fn entry(
    id: RequestId,
    open: &OpenRequest,
    events: &mut HashMap<u64, Event>,
) -> Option<Entry> {
    let mut attempts = Vec::new();
    let mut first = None;
    for attempt in &open.attempts {
        let reserved = match events.remove(&attempt.reserved_seq) {
            Some(Event::Reserved(reserved)) => reserved,
            _ => Box::new(held(&attempt.hold)),
        };
        attempts.push(record(attempt, &reserved, events));
        first.get_or_insert(reserved);
    }
    let reserved = *first?;
    Some(Entry {
        id,
        arrived_unix_ms: reserved.arrived_unix_ms,
        decision: decision(&reserved),
        key: reserved.key,
        user: reserved.user,
        team: reserved.team,
        session: reserved.session,
        tags: reserved.tags,
        endpoint: reserved.endpoint,
        model_asked: reserved.model_asked,
        stream: reserved.stream,
        cost: Entry::sum(&attempts),
        attempts,
        answered_by: None,
        outcome: Outcome::Crashed,
        status: None,
        stages: StageTimes::default(),
        ttft_us: None,
        tpot_ns: None,
        output_cap_asked: reserved.output_cap_asked,
        parent: reserved.request_parent,
        step: reserved.step,
        notes: Notes::default(),
    })
}

fn record(open: &OpenAttempt, reserved: &Reserved, events: &mut HashMap<u64, Event>) -> Attempt {
    if let Some(Event::Settled(settled)) =
        open.settled_seq.and_then(|settled| events.remove(&settled))
    {
        return settled.record;
    }
    Attempt {
        route: reserved.route.clone(),
        model: reserved.model.clone(),
        provider: reserved.provider.clone(),
        role: reserved.role,
        parent: reserved.parent,
        outcome: AttemptOutcome::CrashedUnknown,
        upstream_status: None,
        upstream_id: None,
        usage: None,
        usage_source: Some(UsageSource::CrashedUnknown),
        price: reserved.price.clone(),
        budgeted: reserved.budgeted,
        reserved: open.hold.held.money,
        reserved_tokens: reserved.reserved_tokens,
        voided: false,
        // As reserved; with an unknown price nobody can say.
        cost: reserved.price.is_some().then(|| {
            let extended = open.hold.held.money.less(reserved.reserved);
            reserved.worst_money.add(extended).unwrap_or(PicoUsd::MAX)
        }),
        overrun: PicoUsd::ZERO,
        avoided_cost: None,
        output_cap: reserved.output_cap,
        finish: None,
        times: AttemptTimes { offset_us: reserved.offset_us, ..AttemptTimes::default() },
        model_file: reserved.model_file.clone(),
        service_tier: reserved.service_tier.clone(),
        finishes: Vec::new(),
        hedge_winner: None,
        retries: 0,
        guesses: None,
    }
}

/// A reservation whose event is lost, as far as the balances know it: what was held, and by whom.
fn held(hold: &Hold) -> Reserved {
    let none = || NONE.to_owned();
    Reserved {
        id: hold.id,
        attempt: hold.attempt,
        arrived_unix_ms: hold.id.unix_ms().unwrap_or(0),
        key: hold.key.clone(),
        user: None,
        team: None,
        session: None,
        tags: Vec::new(),
        endpoint: Endpoint::ChatCompletions,
        model_asked: none(),
        stream: false,
        output_cap_asked: 0,
        request_parent: None,
        step: None,
        policy: PolicyName(NONE.into()),
        version: PolicyVersion(NONE.into()),
        rule: RuleName(NONE.into()),
        route: RouteId::new(NONE),
        model: none(),
        provider: none(),
        role: Role::Primary,
        parent: None,
        price: None,
        budgeted: hold.held.money > PicoUsd::ZERO,
        worst_money: hold.held.money,
        reserved: hold.held.money,
        reserved_tokens: hold.held.tokens,
        output_cap: 0,
        offset_us: 0,
        model_file: None,
        service_tier: None,
        holds: Holds::clone(&hold.holds),
    }
}

/// The decision as far as a reservation tells. Facts of version 0: not recorded, not replayable.
fn decision(reserved: &Reserved) -> DecisionRecord {
    DecisionRecord {
        policy: reserved.policy.clone(),
        version: reserved.version.clone(),
        rule: reserved.rule.clone(),
        plan: vec![reserved.route.clone()],
        left_out: Vec::new(),
        facts: Facts {
            version: 0,
            request: RequestFacts::default(),
            caller: Arc::default(),
            budgets: Vec::new(),
            routes: Vec::new(),
            time: TimeFacts::default(),
            draw: 0,
        },
    }
}
