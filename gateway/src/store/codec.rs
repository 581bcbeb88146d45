//! The events of the journal, and their bytes.
//!
//! **Invariants:** the payload is postcard of the fields in the order in which they stand here; a
//! kind's number is never reused, and a change of its fields raises its version and keeps a reader
//! for the old one. Writers encode references, so nothing is cloned to be written.

mod v1;
pub(crate) mod v2;
pub(crate) mod v3;

use crate::{
    caller::{GroupRecord, KeyRecord},
    ledger::{
        Adjustment, Attempt, Endpoint, Entry, KeyId, ModelFile, Notes, Notice, Outcome, RefusedRow,
        RequestId, Role, Stood,
        accounts::{Amount, Correction},
        budgets::Holds,
        notice::ToldRecord,
        open_entry::EntryHead,
        zones::Configured,
    },
    timeline::StageTimes,
};
use policies::{Facts, LeftOut, PicoUsd, PolicyName, PolicyVersion, PriceId, RouteId, RuleName};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// A reservation was made.
pub(crate) const RESERVED: u8 = 1;
/// An attempt ended while its request goes on.
pub(crate) const SETTLED: u8 = 2;
/// A request ended.
pub(crate) const ENTRY: u8 = 3;
/// A request was turned away.
pub(crate) const REFUSED: u8 = 4;
/// A key was created or changed.
pub(crate) const KEY: u8 = 5;
/// A policy version came into force.
pub(crate) const POLICY: u8 = 6;
/// An attempt's cost was corrected.
pub(crate) const ADJUSTMENT: u8 = 7;
/// Something that operators are told of.
pub(crate) const NOTICE: u8 = 8;
/// A team, user, tag or the whole was set up or changed.
pub(crate) const GROUP: u8 = 9;
/// A receiver of notices was told.
pub(crate) const TOLD: u8 = 12;
/// What the configuration says of calendar windows, when that changed.
pub(crate) const CONFIGURED: u8 = 13;
/// What the operator booked on a budget by hand.
pub(crate) const CORRECTED: u8 = 14;
/// How long a local model was loaded.
pub(crate) const STOOD: u8 = 15;
/// An attempt's reservation was enlarged.
pub(crate) const EXTENDED: u8 = 16;
/// Version of most events' forms.
pub(crate) const VERSION: u8 = 2;
/// Version of the forms of groups, entries and settlements, of corrections, whose fields stayed and mean
/// more now, and of adjustments, whose second was never written.
const VERSION_OF_RECORDS: u8 = 3;
/// Version of the form of keys.
const VERSION_OF_KEYS: u8 = 4;

/// The version in which a kind is written.
const fn version_of(kind: u8) -> u8 {
    match kind {
        KEY => VERSION_OF_KEYS,
        GROUP | ADJUSTMENT | ENTRY | SETTLED | CORRECTED => VERSION_OF_RECORDS,
        _ => VERSION,
    }
}

/// Bytes that are not an event this program knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("event kind {0} version {1} is not known to this program")]
    Unknown(u8, u8),
    #[error("the event cannot be decoded: {0}")]
    Postcard(#[from] postcard::Error),
}

/// An event as read back.
#[derive(Debug)]
pub(crate) enum Event {
    Reserved(Box<Reserved>),
    /// By so much money.
    Extended((RequestId, u16, PicoUsd)),
    Settled(Box<Settled>),
    Entry(Box<Row>),
    Refused(RefusedRow),
    Key(Box<KeyRecord>),
    Group(Box<GroupRecord>),
    Policy(PolicyRecord),
    Notice(Box<Notice>),
    Told(ToldRecord),
    Configured(Box<Configured>),
    Corrected(Box<Correction>),
    Stood(Box<Stood>),
    Adjustment(Box<Adjustment>),
}

/// A reservation: enough to hold it again, and to write the request's entry if the process dies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) id: RequestId,
    pub(crate) attempt: u16,
    pub(crate) arrived_unix_ms: u64,
    pub(crate) key: KeyId,
    pub(crate) user: Option<String>,
    pub(crate) team: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) endpoint: Endpoint,
    pub(crate) model_asked: String,
    pub(crate) stream: bool,
    pub(crate) output_cap_asked: u64,
    pub(crate) request_parent: Option<RequestId>,
    pub(crate) step: Option<String>,
    pub(crate) policy: PolicyName,
    pub(crate) version: PolicyVersion,
    pub(crate) rule: RuleName,
    pub(crate) route: RouteId,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) role: Role,
    pub(crate) parent: Option<u16>,
    pub(crate) price: Option<PriceId>,
    pub(crate) budgeted: bool,
    pub(crate) worst_money: PicoUsd,
    pub(crate) reserved: PicoUsd,
    pub(crate) reserved_tokens: u64,
    pub(crate) output_cap: u64,
    pub(crate) offset_us: u64,
    pub(crate) model_file: Option<Arc<ModelFile>>,
    pub(crate) service_tier: Option<String>,
    pub(crate) holds: Holds,
}

/// The end of an attempt whose request went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settled {
    pub(crate) id: RequestId,
    pub(crate) attempt: u16,
    pub(crate) record: Attempt,
}

/// An entry without what only explanations and replays read. The id stands first, so that a search
/// by id decodes nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: RequestId,
    pub(crate) arrived_unix_ms: u64,
    pub(crate) key: KeyId,
    pub(crate) user: Option<String>,
    pub(crate) team: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) endpoint: Endpoint,
    pub(crate) model_asked: String,
    pub(crate) stream: bool,
    pub(crate) policy: PolicyName,
    pub(crate) version: PolicyVersion,
    pub(crate) rule: RuleName,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) answered_by: Option<u16>,
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<u16>,
    pub(crate) cost: Option<PicoUsd>,
    pub(crate) stages: StageTimes,
    pub(crate) ttft_us: Option<u64>,
    pub(crate) tpot_ns: Option<u64>,
    pub(crate) output_cap_asked: u64,
    pub(crate) parent: Option<RequestId>,
    pub(crate) step: Option<String>,
    pub(crate) notes: Notes,
}

/// The rest of an entry, after its [`Row`].
#[derive(Debug, Deserialize)]
struct Rest {
    plan: Vec<RouteId>,
    left_out: Vec<LeftOut>,
    facts: Facts,
}

/// A policy version that came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    /// Its name.
    pub(crate) name: PolicyName,
    /// Hash of its bytes.
    pub(crate) version: PolicyVersion,
    /// Its text.
    pub(crate) source: String,
}

/// What stands in a [`Reserved`] beside the request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReservedRef<'a> {
    pub(crate) head: &'a EntryHead,
    pub(crate) attempt: u16,
    pub(crate) record: &'a Attempt,
    pub(crate) worst_money: PicoUsd,
    pub(crate) holds: &'a Holds,
}

// === writing ===

struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends a record of `kind` whose payload is `value` to `out`, not yet numbered.
pub(crate) fn encode<T: Serialize>(
    out: &mut Vec<u8>,
    kind: u8,
    value: &T,
) -> Result<(), postcard::Error> {
    let too_long = postcard::Error::SerializeBufferFull;
    super::record::append(out, kind, version_of(kind), too_long, |out| {
        postcard::serialize_with_flavor(value, Tail(out))
    })
}

/// Appends a reservation. A tuple is encoded as the struct of the same fields.
pub(crate) fn encode_reserved(
    out: &mut Vec<u8>,
    reserved: ReservedRef<'_>,
) -> Result<(), postcard::Error> {
    let ReservedRef { head, attempt, record, worst_money, holds } = reserved;
    let asked = (
        (head.id, attempt, head.arrived_unix_ms, &head.key, &head.user, &head.team),
        (&head.session, &head.tags, head.endpoint, &head.model_asked, head.stream),
        (head.output_cap_asked, head.parent, &head.step),
        (&head.decision.policy, &head.decision.version),
    );
    let attempt = (
        (&head.decision.rule, &record.route, &record.model, &record.provider, record.role),
        (record.parent, &record.price, record.budgeted, worst_money, record.reserved),
        (record.reserved_tokens, record.output_cap, record.times.offset_us),
        (&record.model_file, &record.service_tier, holds),
    );
    encode(out, RESERVED, &(asked, attempt))
}

/// Appends the end of an attempt.
pub(crate) fn encode_settled(
    out: &mut Vec<u8>,
    id: RequestId,
    attempt: u16,
    record: &Attempt,
) -> Result<(), postcard::Error> {
    encode(out, SETTLED, &(id, attempt, record))
}

/// Appends an entry: its row, then the rest.
pub(crate) fn encode_entry(out: &mut Vec<u8>, entry: &Entry) -> Result<(), postcard::Error> {
    let decision = &entry.decision;
    let asked = (
        (entry.id, entry.arrived_unix_ms, &entry.key, &entry.user, &entry.team, &entry.session),
        (&entry.tags, entry.endpoint, &entry.model_asked, entry.stream),
        (&decision.policy, &decision.version, &decision.rule),
    );
    let answered = (
        (&entry.attempts, entry.answered_by, entry.outcome, entry.status, entry.cost),
        (entry.stages, entry.ttft_us, entry.tpot_ns, entry.output_cap_asked),
        (entry.parent, &entry.step, &entry.notes),
    );
    let rest = (&decision.plan, &decision.left_out, &decision.facts);
    encode(out, ENTRY, &(asked, answered, rest))
}

// === reading ===

/// Reads an event; of an entry only its row.
pub(crate) fn decode(kind: u8, version: u8, payload: &[u8]) -> Result<Event, CodecError> {
    if version == v1::VERSION {
        return v1::decode(kind, payload)?.ok_or(CodecError::Unknown(kind, version));
    }
    Ok(match (kind, version) {
        (KEY, v2::VERSION) => Event::Key(Box::new(whole::<v2::KeyRecord>(payload)?.into())),
        (KEY, v3::VERSION) => Event::Key(Box::new(whole::<v3::KeyRecord>(payload)?.into())),
        (GROUP, v2::VERSION) => Event::Group(Box::new(whole::<v2::GroupRecord>(payload)?.into())),
        (ENTRY, v2::VERSION) => Event::Entry(Box::new(v2::row(payload)?.0)),
        (CORRECTED, v2::VERSION) => {
            Event::Corrected(Box::new(Correction { narrow: true, ..whole(payload)? }))
        }
        (SETTLED, v2::VERSION) => Event::Settled(Box::new(v2::settled(payload)?)),
        (kind, version) if version != version_of(kind) => {
            return Err(CodecError::Unknown(kind, version));
        }
        (kind, _) => return current(kind, payload),
    })
}

/// Reads an event in the form in which it is written now.
fn current(kind: u8, payload: &[u8]) -> Result<Event, CodecError> {
    Ok(match kind {
        RESERVED => Event::Reserved(Box::new(whole(payload)?)),
        EXTENDED => Event::Extended(whole(payload)?),
        SETTLED => Event::Settled(Box::new(whole(payload)?)),
        ENTRY => Event::Entry(Box::new(postcard::take_from_bytes(payload)?.0)),
        REFUSED => Event::Refused(whole(payload)?),
        KEY => Event::Key(Box::new(whole(payload)?)),
        POLICY => Event::Policy(whole(payload)?),
        GROUP => Event::Group(Box::new(whole(payload)?)),
        NOTICE => Event::Notice(Box::new(whole(payload)?)),
        TOLD => Event::Told(whole(payload)?),
        ADJUSTMENT => Event::Adjustment(Box::new(whole(payload)?)),
        CONFIGURED => Event::Configured(Box::new(whole(payload)?)),
        CORRECTED => Event::Corrected(Box::new(whole(payload)?)),
        STOOD => Event::Stood(Box::new(whole(payload)?)),
        _ => return Err(CodecError::Unknown(kind, version_of(kind))),
    })
}

/// Reads a whole entry.
pub(crate) fn decode_entry(version: u8, payload: &[u8]) -> Result<Entry, CodecError> {
    let (row, rest): (Row, Rest) = match version {
        VERSION_OF_RECORDS => {
            let (row, rest) = postcard::take_from_bytes(payload)?;
            (row, whole(rest)?)
        }
        v2::VERSION => {
            let (row, rest) = v2::row(payload)?;
            (row, whole(rest)?)
        }
        v1::VERSION => {
            let (row, rest) = v1::row(payload)?;
            (row, v1::rest(rest)?)
        }
        _ => return Err(CodecError::Unknown(ENTRY, version)),
    };
    Ok(row.with(rest))
}

/// The request id of an entry, without decoding the rest: it stands first in every version.
pub(crate) fn entry_id(payload: &[u8]) -> Option<RequestId> {
    postcard::take_from_bytes(payload).ok().map(|(id, _)| id)
}

/// Reads a value that takes all of `payload`.
pub(super) fn whole<T: DeserializeOwned>(payload: &[u8]) -> Result<T, postcard::Error> {
    let (value, rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() { Ok(value) } else { Err(postcard::Error::DeserializeBadEncoding) }
}

impl Reserved {
    /// What was held. The first attempt of a request is the request.
    pub(crate) fn held(&self) -> Amount {
        Amount {
            money: self.reserved,
            tokens: self.reserved_tokens,
            requests: u64::from(self.attempt == 0),
        }
    }
}

impl Row {
    /// The part of an entry that stays in memory until it is applied.
    pub(crate) fn of(entry: Entry) -> Self {
        let decision = entry.decision;
        Self {
            id: entry.id,
            arrived_unix_ms: entry.arrived_unix_ms,
            key: entry.key,
            user: entry.user,
            team: entry.team,
            session: entry.session,
            tags: entry.tags,
            endpoint: entry.endpoint,
            model_asked: entry.model_asked,
            stream: entry.stream,
            policy: decision.policy,
            version: decision.version,
            rule: decision.rule,
            attempts: entry.attempts,
            answered_by: entry.answered_by,
            outcome: entry.outcome,
            status: entry.status,
            cost: entry.cost,
            stages: entry.stages,
            ttft_us: entry.ttft_us,
            tpot_ns: entry.tpot_ns,
            output_cap_asked: entry.output_cap_asked,
            parent: entry.parent,
            step: entry.step,
            notes: entry.notes,
        }
    }

    fn with(self, rest: Rest) -> Entry {
        Entry {
            id: self.id,
            arrived_unix_ms: self.arrived_unix_ms,
            key: self.key,
            user: self.user,
            team: self.team,
            session: self.session,
            tags: self.tags,
            endpoint: self.endpoint,
            model_asked: self.model_asked,
            stream: self.stream,
            decision: crate::ledger::DecisionRecord {
                policy: self.policy,
                version: self.version,
                rule: self.rule,
                plan: rest.plan,
                left_out: rest.left_out,
                facts: rest.facts,
            },
            attempts: self.attempts,
            answered_by: self.answered_by,
            outcome: self.outcome,
            status: self.status,
            cost: self.cost,
            stages: self.stages,
            ttft_us: self.ttft_us,
            tpot_ns: self.tpot_ns,
            output_cap_asked: self.output_cap_asked,
            parent: self.parent,
            step: self.step,
            notes: self.notes,
        }
    }
}

#[cfg(test)]
mod tests;
