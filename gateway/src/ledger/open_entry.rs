//! One request while it runs: its attempts' reservations and the entry that grows with them.
//!
//! **Invariants:** every reservation ends exactly once, whatever happens: an [`OpenEntry`] that is
//! dropped settles itself, by the place in the queue it took when it was opened, so `Drop` never
//! waits. A settlement is queued before the money it frees can be reserved again, so that any
//! prefix of the journal balances. Unknown usage or an unknown price is `None`, never 0, and the
//! budgets are then charged with what was held.

use super::{
    accounts::Amount,
    books::Shared,
    budgets::{BudgetPath, Holds, Payer},
    effect::{Effect, Hold},
    entry::{
        Attempt, AttemptOutcome, DecisionRecord, Endpoint, Entry, KeyId, ModelFile, Notes, Outcome,
        RequestId, Role,
    },
    extension::Extension,
    lined::{Granted, InLine, Lined},
    running::{Running, State},
    short::Short,
};
use crate::{
    admission::Passed,
    guard::Counted,
    store::{
        BooksError, CommitTicket,
        codec::{self, ReservedRef},
    },
    timeline::{Stage, Timeline},
};
use policies::{PicoUsd, RouteId, RoutePrice, ServiceTier, TokenPrice, Usage, Used};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::time::Instant;

/// What is known of a request when its routes are about to be tried.
#[derive(Clone, Debug)]
pub struct EntryHead {
    /// From [`super::Books::request_id`].
    pub id: RequestId,
    /// When it arrived, milliseconds since the Unix epoch.
    pub arrived_unix_ms: u64,
    /// The key that asks.
    pub key: KeyId,
    /// The key's user.
    pub user: Option<String>,
    /// The key's team.
    pub team: Option<String>,
    /// Session named by the request.
    pub session: Option<String>,
    /// Tags of the request.
    pub tags: Vec<String>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The `model` the caller wrote.
    pub model_asked: String,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// How the decision came about.
    pub decision: DecisionRecord,
    /// The output cap the caller asked for, or the configured default.
    pub output_cap_asked: u64,
    /// The request that caused this one, where the caller named it.
    pub parent: Option<RequestId>,
    /// The caller's name for the step of its run.
    pub step: Option<String>,
    /// The running clock.
    pub timeline: Timeline,
}

/// One attempt about to be made, at its worst.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The route.
    pub route: RouteId,
    /// The model asked of it.
    pub model: String,
    /// The provider.
    pub provider: String,
    /// Why it is made.
    pub role: Role,
    /// The attempt that led to it.
    pub parent: Option<AttemptIndex>,
    /// Its price.
    pub price: RoutePrice,
    /// The most it can cost; for an unknown price the configured maximum, and nothing where neither is
    /// known and no budget pays.
    pub worst_money: PicoUsd,
    /// Whether its cost counts against money budgets.
    pub budgeted: bool,
    /// The most tokens it can use, prompt and answer.
    pub worst_tokens: u64,
    /// The output cap that is sent.
    pub output_cap: u64,
    /// The service tier that is asked for.
    pub service: ServiceTier,
    /// Images in the request.
    pub images: u32,
    /// Local attempts: the price of the cheapest allowed cloud route.
    pub avoided: Option<Arc<TokenPrice>>,
    /// Local attempts: the file that will answer.
    pub model_file: Option<Arc<ModelFile>>,
    /// The service tier that is asked of the provider.
    pub service_tier: Option<String>,
}

/// Which attempt of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptIndex(pub(super) u16);

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// The status that was sent, if one was.
    pub status: Option<u16>,
    /// The attempt whose answer the caller got.
    pub answered_by: Option<AttemptIndex>,
    /// Client's TTFT in microseconds, see [`Entry::ttft_us`].
    pub ttft_us: Option<u64>,
    /// Client's TPOT in nanoseconds, see [`Entry::tpot_ns`].
    pub tpot_ns: Option<u64>,
}

/// An entry being written. Owned by the handler, then by the response body.
#[derive(Debug)]
pub struct OpenEntry {
    /// The running clock; its stages become the entry's.
    pub timeline: Timeline,
    /// What is booked if the entry is dropped now. Keep it up to date as the answer goes out.
    pub ending: Ending,
    /// What happened on the way; kept up to date like `ending`.
    pub notes: Notes,
    /// Where a head, a 200, may leave before there is an answer: whether it has.
    pub head_left: Option<Arc<AtomicBool>>,
    /// That the guard counts it as running.
    pub counted: Option<Counted>,
    /// That its model's requests per minute count it, if anything is sent.
    pub passed: Option<Passed>,
    books: Arc<Shared>,
    /// `None` once it is settled.
    head: Option<Box<EntryHead>>,
    attempts: Vec<Running>,
    /// Whose budgets it counts against.
    path: BudgetPath,
    /// Attempts that were made.
    tries: Arc<AtomicUsize>,
    /// Whether it has its place in the queue. Only while the store fails and the queue is full may
    /// free work go on without one.
    placed: bool,
}

// === impl OpenEntry ===

impl OpenEntry {
    pub(crate) fn new(books: Arc<Shared>, head: EntryHead, placed: bool) -> Self {
        let ending = Ending {
            outcome: Outcome::ClientGone,
            status: None,
            answered_by: None,
            ttft_us: None,
            tpot_ns: None,
        };
        let timeline = head.timeline.clone();
        let payer = Payer {
            key: &head.key,
            team: head.team.as_deref(),
            user: head.user.as_deref(),
            session: head.session.as_deref(),
            tags: &head.tags,
            model: None,
        };
        let path = books.budgets.path(&payer, &head.model_asked);
        Self {
            timeline,
            ending,
            notes: Notes::default(),
            head_left: None,
            counted: None,
            passed: None,
            books,
            head: Some(Box::new(head)),
            // Most requests make one, and it is large.
            attempts: Vec::with_capacity(1),
            path,
            tries: Arc::default(),
            placed,
        }
    }

    /// Holds the worst case of one attempt on every budget of its path, or on none. A paid attempt
    /// may be sent once the ticket resolves.
    ///
    /// # Errors
    /// [`Short`]: which limit has too little left, or that the store cannot record paid work.
    pub fn reserve(&mut self, ask: Ask) -> Result<(AttemptIndex, CommitTicket), Short> {
        let (held, paid) = self.needs(&ask)?;
        let now_ms = self.books.clock.unix_ms();
        let holds = self.books.budgets.reserve(&self.path, held, now_ms)?;
        self.hold(ask, holds, held, paid)
    }

    /// As [`OpenEntry::reserve`]; where enough would be free once what runs has settled, it gives a
    /// place in the line of those who wait for that.
    ///
    /// # Errors
    /// As [`OpenEntry::reserve`].
    pub fn line_up(&mut self, ask: Ask) -> Result<Lined, Short> {
        let (held, paid) = self.needs(&ask)?;
        let now_ms = self.books.clock.unix_ms();
        match self.books.budgets.reserve_or_wait(&self.path, held, now_ms)? {
            Ok(holds) => {
                let (attempt, ticket) = self.hold(ask, holds, held, paid)?;
                Ok(Lined::Reserved(attempt, ticket))
            }
            Err(place) => {
                let clock = self.books.clock.clone();
                Ok(Lined::Waits(Box::new(ask), InLine { place, held, paid, clock }))
            }
        }
    }

    /// Takes what the line granted.
    ///
    /// # Errors
    /// Why it granted nothing, or as [`OpenEntry::reserve`].
    pub fn take_up(
        &mut self,
        ask: Ask,
        granted: Granted,
    ) -> Result<(AttemptIndex, CommitTicket), Short> {
        self.notes.budget_wait_us += granted.waited_us;
        self.hold(ask, granted.holds?, granted.held, granted.paid)
    }

    /// What an attempt holds at worst, and whether it counts against money budgets.
    fn needs(&mut self, ask: &Ask) -> Result<(Amount, bool), Short> {
        self.settle_ended();
        if self.head.is_none() {
            return Err(BooksError::Closed.into());
        }
        let paid = ask.budgeted && !ask.price.is_free();
        if paid {
            self.books.condition().paid_work()?;
            if !self.placed {
                return Err(BooksError::Full.into());
            }
        }
        let money = if paid { ask.worst_money } else { PicoUsd::ZERO };
        // The first attempt is the request; later ones are the same request again.
        let requests = u64::from(self.attempts.is_empty());
        Ok((Amount { money, tokens: ask.worst_tokens, requests }, paid))
    }

    /// Writes down what is held. If that cannot be done nothing is held any more.
    fn hold(
        &mut self,
        ask: Ask,
        holds: Holds,
        held: Amount,
        paid: bool,
    ) -> Result<(AttemptIndex, CommitTicket), Short> {
        let books = Arc::clone(&self.books);
        let undone = |error: BooksError| {
            books.budgets.cancel(&holds, held, books.clock.unix_ms());
            Short::from(error)
        };
        let Some(head) = &self.head else { return Err(undone(BooksError::Closed)) };
        let index = u16::try_from(self.attempts.len()).map_err(|_| undone(BooksError::Full))?;
        // One place for the reservation, one for a settlement before the entry.
        if self.placed {
            self.books.queue.take_places(2).map_err(undone)?;
        }
        let offset_us = self.timeline.offset_us(Instant::now());
        let holds = Arc::new(holds);
        let running = Running::new(ask, held, Arc::clone(&holds), paid, offset_us);
        let mut ticket = CommitTicket::ready();
        if self.placed {
            let reserved = ReservedRef {
                head,
                attempt: index,
                record: &running.record,
                worst_money: running.worst_money,
                holds: &running.holds,
            };
            let hold = Hold { id: head.id, attempt: index, key: head.key.clone(), holds, held };
            let wait = paid && self.books.strict;
            let written = self
                .books
                .write(wait, Effect::Reserved(hold), |out| codec::encode_reserved(out, reserved));
            if wait {
                ticket = written;
            }
        }
        self.books.reservations.fetch_add(1, Ordering::Relaxed);
        self.attempts.push(running);
        self.tries.store(self.attempts.len(), Ordering::SeqCst);
        Ok((AttemptIndex(index), ticket))
    }

    /// How many attempts were made so far.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// Whether anything is owed, or may be, for what was tried so far.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.committed() > PicoUsd::ZERO
    }

    /// Which request it is of; `None` once the entry is settled.
    #[must_use]
    pub fn id(&self) -> Option<RequestId> {
        self.head.as_ref().map(|head| head.id)
    }

    /// The key that asks; `None` once the entry is settled.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.head.as_ref().map(|head| &head.key)
    }

    /// Whose budgets and limits it counts against.
    #[must_use]
    pub fn path(&self) -> &BudgetPath {
        &self.path
    }

    /// What the request has cost, where all its attempts have ended and none's cost is unknown.
    #[must_use]
    pub fn cost(&self) -> Option<PicoUsd> {
        let mut costs = self.attempts.iter().map(|running| running.record.cost);
        costs.try_fold(PicoUsd::ZERO, |sum, cost| sum.add(cost?).ok())
    }

    /// What the request has cost so far, and what its running attempts may cost at worst.
    #[must_use]
    pub fn committed(&self) -> PicoUsd {
        let of = |running: &Running| match running.state {
            State::Open => {
                let extended = running.extra.as_ref().map(|extra| extra.granted().worst);
                let extended = extended.unwrap_or(PicoUsd::ZERO);
                running.worst_money.add(extended).unwrap_or(PicoUsd::MAX)
            }
            // An unknown cost is what could have been.
            State::Ended | State::Settled => running.record.cost.unwrap_or(running.worst_money),
        };
        let sum = |sum: PicoUsd, running| sum.add(of(running)).unwrap_or(PicoUsd::MAX);
        self.attempts.iter().fold(PicoUsd::ZERO, sum)
    }

    /// The way to set more aside for a running attempt that is paid by engine time; `None` for
    /// another. `cost_max`: the most the whole request may cost by its own limit.
    #[must_use]
    pub fn extension(&self, index: AttemptIndex, cost_max: Option<PicoUsd>) -> Option<Extension> {
        let running = self.attempts.get(usize::from(index.0))?;
        let (Some(extra), State::Open) = (&running.extra, running.state) else { return None };
        Some(Extension {
            books: Arc::clone(&self.books),
            id: self.head.as_ref()?.id,
            attempt: index.0,
            path: self.path.clone(),
            holds: Arc::clone(&running.holds),
            price: running.price.clone(),
            paid: running.record.budgeted,
            extra: Arc::clone(extra),
            most: cost_max.map(|max| max.less(self.committed())),
            attempts: Arc::clone(&self.tries),
        })
    }

    /// The output cap the caller asked for, or the configured default.
    #[must_use]
    pub fn output_cap_asked(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.output_cap_asked)
    }

    /// The running record of an attempt, to look at.
    #[must_use]
    pub fn attempt_ref(&self, index: AttemptIndex) -> &Attempt {
        &self.attempts[usize::from(index.0)].record
    }

    /// The running record of an attempt: usage, times and the provider's words are written into it
    /// as they come.
    #[must_use]
    pub fn attempt(&mut self, index: AttemptIndex) -> &mut Attempt {
        &mut self.attempts[usize::from(index.0)].record
    }

    /// What an attempt cost in all by the word of whoever was asked; `None`: nobody knows. Tokens are
    /// told by neither.
    pub fn tell_cost(&mut self, index: AttemptIndex, cost: Option<PicoUsd>) {
        if let Some(running) = self.attempts.get_mut(usize::from(index.0)) {
            running.told = cost;
            (running.record.usage, running.record.usage_source) = (None, None);
        }
    }

    /// The price of an attempt, and what it used if it ended now with `usage`.
    #[must_use]
    pub fn priced(&self, index: AttemptIndex, usage: Usage) -> (&RoutePrice, Used) {
        let running = &self.attempts[usize::from(index.0)];
        (&running.price, running.used(usage, self.books.clock.unix_ms() / 1000))
    }

    /// What all attempts but the one that answers cost; `None` where that of one is not known, or
    /// it still runs.
    #[must_use]
    pub fn missed_cost(&self, answering: AttemptIndex) -> Option<PicoUsd> {
        let answering = usize::from(answering.0);
        let others = self.attempts.iter().enumerate().filter(|(at, _)| *at != answering);
        others
            .map(|(_, running)| running.record.cost)
            .try_fold(PicoUsd::ZERO, |sum, cost| sum.add(cost?).ok())
    }

    /// The only attempt of a test.
    #[cfg(test)]
    pub(crate) fn first_attempt(&self) -> AttemptIndex {
        AttemptIndex(0)
    }

    /// Ends an attempt: prices what its record holds. `void`: nothing is owed, because nothing was
    /// sent or the provider answered with an error status. The money is free from the next
    /// reservation of this request, [`OpenEntry::settle_ended`] or its end on.
    pub fn end_attempt(&mut self, index: AttemptIndex, outcome: AttemptOutcome, void: bool) {
        if let Some(running) = self.attempts.get_mut(usize::from(index.0)) {
            running.end(outcome, void, self.books.clock.unix_ms() / 1000);
        }
    }

    /// Ends the request; attempts that still run are booked as cancelled.
    pub fn finish(mut self, ending: Ending) -> CommitTicket {
        self.ending = ending;
        self.settle()
    }

    /// Forgets a request for which no route could be tried: it leaves a refusal, not an entry. One
    /// that has attempts is settled as [`Outcome::Short`] instead.
    pub fn discard(mut self) {
        if self.attempts.is_empty() {
            self.head = None;
            if self.placed {
                self.books.queue.give_places(1);
            }
        } else {
            self.ending.outcome = Outcome::Short;
            let _waited_by_nobody = self.settle();
        }
    }

    /// Queues the ends of attempts that ended, then frees their money.
    pub fn settle_ended(&mut self) {
        let Some(head) = &self.head else { return };
        let ended = self.attempts.iter_mut().enumerate();
        for (index, running) in ended.filter(|(_, running)| running.state == State::Ended) {
            if self.placed {
                let attempt = u16::try_from(index).unwrap_or(u16::MAX);
                let effect =
                    Effect::Settled { id: head.id, attempt, charge: running.record.charge() };
                // Nobody waits for this one: the next event of the request does.
                let _ticket = self.books.write(false, effect, |out| {
                    codec::encode_settled(out, head.id, attempt, &running.record)
                });
            }
            running.settle(&self.books);
        }
    }

    /// The one end of every request.
    fn settle(&mut self) -> CommitTicket {
        let Some(head) = self.head.take() else { return CommitTicket::ready() };
        let now_ms = self.books.clock.unix_ms();
        for running in &mut self.attempts {
            running.end(AttemptOutcome::Cancelled, false, now_ms / 1000);
        }
        self.timeline.end(Stage::Settle);
        let running = std::mem::take(&mut self.attempts);
        let mut records = Vec::with_capacity(running.len());
        let mut ends = Vec::with_capacity(running.len());
        for Running { record, holds, held, state, .. } in running {
            if state != State::Settled {
                ends.push((holds, held, record.charge()));
            }
            records.push(record);
        }
        let is_sent = |attempt: &Attempt| attempt.outcome != AttemptOutcome::NotSent;
        if let Some(passed) = self.passed.take().filter(|_| records.iter().any(is_sent)) {
            passed.sent();
        }
        let entry = self.entry(head, records);
        let strict = self.books.strict;
        let mut ticket = CommitTicket::ready();
        if self.placed {
            let written = self.books.write_entry(strict, entry);
            if strict {
                ticket = written;
            }
        } else {
            // It happened all the same: who counts what runs must hear that it has ended.
            self.books.observed(&entry);
            self.books.lost.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever counts what runs was told of the entry.
        if let Some(counted) = self.counted.take() {
            counted.told();
        }
        if self.placed {
            // The places of the settlements that this entry makes.
            self.books.queue.give_places(ends.len());
        }
        for (holds, held, charge) in ends {
            self.books.release(&holds, held, charge, now_ms);
        }
        ticket
    }

    fn head_left(&self) -> bool {
        self.head_left.as_ref().is_some_and(|left| left.load(Ordering::Relaxed))
    }

    fn entry(&self, head: Box<EntryHead>, attempts: Vec<Attempt>) -> Entry {
        let head = *head;
        let ending = self.ending;
        // A caller that left in the middle was being answered by whoever had begun to speak.
        let speaking = || attempts.iter().rposition(|attempt| attempt.times.ttft_us.is_some());
        let answered_by = match (ending.answered_by, ending.outcome) {
            (Some(AttemptIndex(index)), _) => Some(index),
            (None, Outcome::ClientGone) => speaking().and_then(|at| u16::try_from(at).ok()),
            (None, _) => None,
        };
        Entry {
            id: head.id,
            arrived_unix_ms: head.arrived_unix_ms,
            key: head.key,
            user: head.user,
            team: head.team,
            session: head.session,
            tags: head.tags,
            endpoint: head.endpoint,
            model_asked: head.model_asked,
            stream: head.stream,
            decision: head.decision,
            cost: Entry::sum(&attempts),
            attempts,
            answered_by,
            outcome: ending.outcome,
            status: ending.status.or_else(|| self.head_left().then_some(200)),
            stages: self.timeline.stages(),
            ttft_us: ending.ttft_us,
            tpot_ns: ending.tpot_ns,
            output_cap_asked: head.output_cap_asked,
            parent: head.parent,
            step: head.step,
            notes: self.notes.clone(),
        }
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        let _nobody_waits = self.settle();
    }
}
