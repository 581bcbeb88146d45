//! Answers that are kept for a while, so that a conversation can be continued by the id of its last
//! answer.
//!
//! **Invariants:** bounded in entries, bytes and time, the oldest go first; an answer is found only by
//! the key that asked for it; nothing is written to a disk.

use super::given::{self, Item};
use crate::{ledger::KeyId, wire::BadRequest};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Most tags, and most pairs of metadata, of a request and what it goes on from together.
const MARKS_MAX: usize = 64;

/// Limits of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLimits {
    /// Answers.
    pub entries_max: usize,
    /// Bytes of answers and conversations together.
    pub bytes_max: usize,
    /// How long one is kept.
    pub ttl: Duration,
}

/// The answers that are kept.
pub struct Kept {
    limits: KeptLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: HashMap<String, Record>,
    /// Ids of the records, oldest first.
    order: VecDeque<(Instant, String)>,
    bytes: usize,
}

struct Record {
    owner: KeyId,
    expires: Instant,
    turn: Turn,
}

/// What is kept of one request and its answer.
pub struct Turn {
    /// The conversation up to and with the answer: chat messages, separated by commas.
    pub conversation: Bytes,
    /// The request's `input`, as the client wrote it.
    pub input: Bytes,
    /// The response object.
    pub response: Bytes,
    /// How it was marked.
    pub marks: Marks,
}

/// What a request says of itself for policies to go by. Whatever is taken from a kept turn brings its
/// marks along: what was private stays so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Tags, without those of the key.
    pub tags: Vec<String>,
    /// `metadata`.
    pub metadata: BTreeMap<String, String>,
}

impl Marks {
    /// Adds an earlier turn's: its tags, and what of its metadata is not said anew. Not many more than
    /// there may be.
    pub(super) fn inherit(&mut self, earlier: Self) {
        for tag in earlier.tags {
            let is_new = !self.tags.iter().any(|known| known.eq_ignore_ascii_case(&tag));
            if is_new && self.tags.len() <= MARKS_MAX {
                self.tags.push(tag);
            }
        }
        for (name, value) in earlier.metadata {
            if self.metadata.len() <= MARKS_MAX {
                self.metadata.entry(name).or_insert(value);
            }
        }
    }

    /// The marks, if they are not too many. None may be left out: what goes by them would go wrong.
    ///
    /// # Errors
    /// They are.
    pub(super) fn bounded(self) -> Result<Self, BadRequest> {
        if self.tags.len() <= MARKS_MAX && self.metadata.len() <= MARKS_MAX {
            return Ok(self);
        }
        let message = format!(
            "this request and the kept answers that it goes on from have more than {MARKS_MAX} tags or \
             pairs of metadata between them"
        );
        Err(BadRequest::value("metadata", message))
    }

    fn bytes(&self) -> usize {
        let tags = self.tags.iter().map(String::len);
        tags.chain(self.metadata.iter().map(|(name, value)| name.len() + value.len())).sum()
    }
}

impl Turn {
    fn bytes(&self) -> usize {
        self.conversation.len() + self.input.len() + self.response.len() + self.marks.bytes()
    }
}

// === impl Kept ===

impl Kept {
    /// A store that keeps nothing yet.
    #[must_use]
    pub fn new(limits: KeptLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Keeps an answer, in place of one of this id. One that is larger than all that may be kept is not.
    pub fn put(&self, id: &str, owner: KeyId, turn: Turn) {
        let bytes = id.len() + turn.bytes();
        if bytes > self.limits.bytes_max {
            return;
        }
        // The configuration bounds the time far below what an instant can hold.
        let Some(expires) = Instant::now().checked_add(self.limits.ttl) else { return };
        self.with(|state| {
            state.forget(id);
            state.bytes += bytes;
            state.order.push_back((expires, id.to_owned()));
            let record = Record { owner, expires, turn };
            state.records.insert(id.to_owned(), record);
            while state.bytes > self.limits.bytes_max || state.order.len() > self.limits.entries_max
            {
                let Some((_, oldest)) = state.order.pop_front() else { break };
                state.remove(&oldest);
            }
        });
    }

    /// The response object.
    #[must_use]
    pub fn response(&self, id: &str, owner: &KeyId) -> Option<Bytes> {
        self.with(|state| state.get(id, owner).map(|record| record.turn.response.clone()))
    }

    /// The response object, and how its request was marked.
    #[must_use]
    pub fn marked_response(&self, id: &str, owner: &KeyId) -> Option<(Bytes, Marks)> {
        let of = |turn: &Turn| (turn.response.clone(), turn.marks.clone());
        self.with(|state| state.get(id, owner).map(|record| of(&record.turn)))
    }

    /// The conversation up to and with the answer, and how it is marked.
    #[must_use]
    pub fn conversation(&self, id: &str, owner: &KeyId) -> Option<(Bytes, Marks)> {
        let of = |turn: &Turn| (turn.conversation.clone(), turn.marks.clone());
        self.with(|state| state.get(id, owner).map(|record| of(&record.turn)))
    }

    /// What the answer was given by its own request.
    #[must_use]
    pub fn input_items(&self, id: &str, owner: &KeyId) -> Option<Vec<Item>> {
        let found =
            |state: &mut State| state.get(id, owner).map(|record| record.turn.input.clone());
        self.with(found).map(|input| given::items(&input))
    }

    /// Forgets an answer; `false` where there was none.
    #[must_use]
    pub fn delete(&self, id: &str, owner: &KeyId) -> bool {
        self.with(|state| {
            let found = state.get(id, owner).is_some();
            if found {
                state.forget(id);
            }
            found
        })
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while state.order.front().is_some_and(|(expires, _)| *expires <= now) {
            if let Some((_, id)) = state.order.pop_front() {
                state.remove(&id);
            }
        }
        body(&mut state)
    }
}

impl State {
    fn get(&self, id: &str, owner: &KeyId) -> Option<&Record> {
        let record = self.records.get(id)?;
        (record.owner == *owner && record.expires > Instant::now()).then_some(record)
    }

    /// Removes a record together with its place in the order.
    fn forget(&mut self, id: &str) {
        if self.remove(id) {
            self.order.retain(|(_, known)| known != id);
        }
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(record) = self.records.remove(id) else { return false };
        self.bytes -= id.len() + record.turn.bytes();
        true
    }
}

/// Without its texts: prompts must not reach a log.
impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Without what is kept: prompts must not reach a log.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Duration, Kept, KeptLimits, KeyId, MARKS_MAX, Marks, Turn};

    fn kept(entries_max: usize, bytes_max: usize) -> Kept {
        Kept::new(KeptLimits { entries_max, bytes_max, ttl: Duration::from_secs(60) })
    }

    fn put(kept: &Kept, id: &str, owner: &str) {
        let text = Bytes::from_static(b"0123456789");
        let turn = Turn {
            conversation: text.clone(),
            input: Bytes::new(),
            response: text,
            marks: Marks::default(),
        };
        kept.put(id, KeyId(owner.into()), turn);
    }

    #[test]
    fn marks_that_are_inherited_are_all_there_or_too_many() {
        let of = |names: std::ops::Range<usize>| Marks {
            tags: names.clone().map(|at| format!("Tag-{at}")).collect(),
            metadata: names.map(|at| (format!("m{at}"), "1".to_owned())).collect(),
        };
        let mut marks = of(0..40);
        marks.inherit(of(20..MARKS_MAX));
        let marks = marks.bounded().unwrap();
        assert_eq!((marks.tags.len(), marks.metadata.len()), (MARKS_MAX, MARKS_MAX));
        let again = Marks { tags: vec!["tag-3".to_owned()], ..Marks::default() };
        let mut same = marks.clone();
        same.inherit(again);
        assert_eq!(same.bounded().unwrap(), marks);
        for one_more in [
            Marks { tags: vec!["one".to_owned()], ..Marks::default() },
            Marks { metadata: [("one".to_owned(), String::new())].into(), ..Marks::default() },
            of(100..100_000),
        ] {
            let mut many = marks.clone();
            many.inherit(one_more);
            assert!(many.tags.len() <= MARKS_MAX + 1 && many.metadata.len() <= MARKS_MAX + 1);
            assert!(many.bounded().is_err());
        }
    }

    fn has(kept: &Kept, id: &str, owner: &str) -> bool {
        kept.response(id, &KeyId(owner.into())).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_belongs_to_its_key_and_ends_with_its_time() {
        let kept = kept(10, 1000);
        put(&kept, "a", "ann");
        assert!(has(&kept, "a", "ann") && !has(&kept, "a", "bob"));
        assert!(!kept.delete("a", &KeyId("bob".into())));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!has(&kept, "a", "ann"));
        put(&kept, "b", "ann");
        assert!(kept.delete("b", &KeyId("ann".into())) && !has(&kept, "b", "ann"));
        assert!(!kept.delete("b", &KeyId("ann".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_no_clock_can_hold_keeps_nothing() {
        let limits = KeptLimits { entries_max: 10, bytes_max: 1000, ttl: Duration::MAX };
        let kept = Kept::new(limits);
        put(&kept, "a", "ann");
        assert!(!has(&kept, "a", "ann"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_go_first() {
        let kept = kept(2, 1000);
        for id in ["a", "b", "c"] {
            put(&kept, id, "ann");
        }
        assert!(!has(&kept, "a", "ann") && has(&kept, "b", "ann") && has(&kept, "c", "ann"));
        let kept = self::kept(10, 42);
        for id in ["a", "b", "c"] {
            put(&kept, id, "ann");
        }
        assert!(!has(&kept, "a", "ann"), "42 bytes hold two of 21");
        assert!(has(&kept, "b", "ann") && has(&kept, "c", "ann"));
        let kept = self::kept(10, 20);
        put(&kept, "a", "ann");
        assert!(!has(&kept, "a", "ann"), "larger than all that may be kept");
        // One that is kept again takes the place that it had.
        let kept = self::kept(2, 1000);
        for id in ["a", "b", "b"] {
            put(&kept, id, "ann");
        }
        assert!(has(&kept, "a", "ann") && has(&kept, "b", "ann"));
        // Deleted ones take no place.
        let kept = self::kept(2, 1000);
        for round in 0..50 {
            let id = format!("r{round}");
            put(&kept, &id, "ann");
            assert!(kept.delete(&id, &KeyId("ann".into())));
        }
        put(&kept, "a", "ann");
        put(&kept, "b", "ann");
        assert!(has(&kept, "a", "ann") && has(&kept, "b", "ann"));
    }
}
