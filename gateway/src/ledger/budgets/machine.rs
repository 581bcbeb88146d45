//! The budget machine: every limit on a request's path is taken, or none.
//!
//! **Invariants:** settled plus held never exceeds a hard budget, because checking and holding are
//! one step; a charge belongs to the windows of its admission; what costs nothing is never stopped
//! by a money budget; a soft budget counts and never refuses; whoever waits for a budget is served
//! before those who came later. The machine has no clock: times are told to it.

mod line;

use super::{
    super::{
        accounts::{Accounts, Amount, Correction, Starts},
        calendar::{Calendar, ZoneHistory},
        entry::KeyId,
        short::Short,
    },
    At, BudgetPath, BudgetState, Crossing, Holds, Marks, Need, Scope, TokenRate,
    book::{self, Lack, ScopeBook},
    budget_id,
    sessions::{self, Sessions},
    states,
    waiting::{Awaited, Waiting},
};
use crate::caller::{BudgetSpec, KeyLimits, Window, Zone};
use foldhash::fast::RandomState;
use jiff::tz::TimeZone;
use policies::{BudgetFacts, PicoUsd};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::oneshot;

/// All budgets, their balances, and who waits for them.
#[derive(Debug)]
pub struct Machine {
    calendar: Calendar,
    /// Seeded at random; what callers name in it (sessions) is bounded.
    books: ScopeBooks,
    sessions: Sessions,
    pub(super) waiting: Waiting,
}

/// A place among those who wait, and what tells that it was answered.
#[derive(Debug)]
pub struct Ticket {
    /// The place.
    pub place: u64,
    /// Resolves when the place has its answer.
    pub woken: oneshot::Receiver<()>,
}

type ScopeBooks = HashMap<Scope, ScopeBook, RandomState>;

/// A scope of a path with what is to be held in it.
struct Planned {
    scope: Scope,
    starts: Starts,
}

/// What stands in a request's way.
struct Obstacle {
    short: Short,
    on: Option<Awaited>,
}

impl Machine {
    /// No budgets yet; calendar windows follow `zone` where a budget names no other.
    #[must_use]
    pub fn new(zone: &TimeZone) -> Self {
        Self::with_zones(&ZoneHistory::new(Zone::from(zone)))
    }

    /// The same, for a configured zone that was another before.
    pub(crate) fn with_zones(zones: &ZoneHistory) -> Self {
        Self {
            calendar: Calendar::new(zones),
            books: HashMap::default(),
            sessions: Sessions::default(),
            waiting: Waiting::default(),
        }
    }

    /// The operator's settings of a scope, in force at once; those who wait may profit.
    pub fn set(
        &mut self,
        scope: &Scope,
        limits: &KeyLimits,
        budgets: (&[BudgetSpec], &[BudgetSpec]),
        at: At,
    ) {
        let (budgets, of_sessions) = budgets;
        let book = self.books.entry(scope.clone()).or_default();
        book.set(limits, budgets, of_sessions, at.mono);
        self.serve(None, at);
    }

    /// A scope's balances as recovered. Only before the first reservation.
    pub(crate) fn restore(
        &mut self,
        scope: &Scope,
        (accounts, marks): (Accounts, Marks),
        used_unix_ms: u64,
    ) {
        if let Scope::Session(key, session) = scope {
            self.sessions.touch(key, session, used_unix_ms);
        }
        let book = self.books.entry(scope.clone()).or_default();
        (book.accounts, book.marks) = (accounts, marks);
    }

    /// Holds `need` in every budget and rate on the path, or in none.
    ///
    /// # Errors
    /// [`Short`]: the first limit with too little left, the widest scope first.
    pub fn reserve(&mut self, path: &BudgetPath, need: Need, at: At) -> Result<Holds, Short> {
        self.take(path, need, at, None).map_err(|obstacle| obstacle.short)
    }

    /// As [`Machine::reserve`]; where enough would be free once what runs has settled, it gives a
    /// place in the line instead of failing.
    ///
    /// # Errors
    /// [`Short`] when waiting cannot help, or too many wait already.
    pub fn reserve_or_wait(
        &mut self,
        path: &BudgetPath,
        need: Need,
        at: At,
    ) -> Result<Result<Holds, Ticket>, Short> {
        match self.take(path, need, at, None) {
            Ok(holds) => Ok(Ok(holds)),
            Err(obstacle) => match obstacle.on {
                Some(on) if self.waiting.has_place(path) => {
                    let (place, woken) = self.waiting.join(path.clone(), need, on);
                    Ok(Err(Ticket { place, woken }))
                }
                _ => Err(obstacle.short),
            },
        }
    }

    /// Money that a hold could be enlarged by in its own windows; `None`: no hard budget on its path
    /// limits money.
    #[must_use]
    pub fn room(&mut self, path: &BudgetPath, holds: &Holds) -> Option<PicoUsd> {
        let Self { books, calendar, .. } = self;
        let mut room: Option<PicoUsd> = None;
        for (scope, starts) in &holds.held {
            let Some(book) = books.get(scope) else { continue };
            for spec in specs(books, scope, path.scopes()).filter(|spec| spec.hard) {
                let Some(limit) = spec.money else { continue };
                for start in own_starts(calendar, spec, starts) {
                    let left =
                        states::left(limit, book.accounts.balance(spec.window, start).money());
                    room = Some(room.map_or(left, |room| room.min(left)));
                }
            }
        }
        room
    }

    /// Enlarges a hold in its own windows, if every hard budget there has room. What runs comes
    /// before who waits: its end is what they wait for.
    #[must_use]
    pub fn enlarge(&mut self, path: &BudgetPath, holds: &Holds, money: PicoUsd) -> bool {
        if self.room(path, holds).is_some_and(|room| money > room) {
            return false;
        }
        for (scope, starts) in &holds.held {
            if let Some(book) = self.books.get_mut(scope) {
                book.accounts.enlarge(starts, Amount { money, ..Amount::default() });
            }
        }
        true
    }

    /// Ends a hold with what it came to; those who wait are served. Returns the parts of limits
    /// that spending passed by it.
    pub fn settle(&mut self, holds: &Holds, held: Amount, charge: Amount, at: At) -> Vec<Crossing> {
        // A request that reached a route is one, whatever became of it.
        let charge = Amount { requests: held.requests, ..charge };
        self.end(holds, held, charge, at);
        let crossings =
            if charge == Amount::default() { Vec::new() } else { self.crossings(holds) };
        self.serve_after(holds, at);
        crossings
    }

    /// Gives back a hold that was not used at all.
    pub fn cancel(&mut self, holds: &Holds, held: Amount, at: At) {
        self.end(holds, held, Amount::default(), at);
        self.serve_after(holds, at);
    }

    fn end(&mut self, holds: &Holds, held: Amount, charge: Amount, at: At) {
        for (place, (scope, starts)) in holds.held.iter().enumerate() {
            if let Some(book) = self.books.get_mut(scope) {
                book.settle(starts, held, charge, holds.refilled_at(place), at);
            }
        }
    }

    /// What the windows of these holds have passed and nobody was told.
    fn crossings(&mut self, holds: &Holds) -> Vec<Crossing> {
        let scopes = holds.scopes();
        let (mut due, mut of_several) = (Vec::new(), Vec::new());
        for (scope, starts) in holds.held.iter().filter(|(_, starts)| !starts.is_empty()) {
            let Some(book) = self.books.get(scope) else { continue };
            for spec in self.specs(scope, &scopes) {
                let mut held = starts.iter().filter(|(window, _)| *window == spec.window);
                let Some((_, start)) = held.next() else { continue };
                if held.next().is_some() {
                    of_several.push((scope, spec.clone(), starts));
                    continue;
                }
                let balance = book.accounts.balance(spec.window, *start);
                if book.marks.is_due(spec, &balance) {
                    due.push((scope, spec.clone(), balance));
                }
            }
        }
        for (scope, spec, starts) in of_several {
            let mut own = own_starts(&mut self.calendar, &spec, starts);
            if let (Some(start), None, Some(book)) = (own.next(), own.next(), self.books.get(scope))
            {
                let balance = book.accounts.balance(spec.window, start);
                due.push((scope, spec, balance));
            }
        }
        let mut all = Vec::new();
        for (scope, spec, balance) in due {
            if let Some(book) = self.books.get_mut(scope) {
                all.extend(book.marks.pass(scope, &spec, &balance));
            }
        }
        all
    }

    /// The same of the windows that are open now, of one scope or of all. A session's limits come
    /// from what is above each request: its next charge tells.
    pub fn untold(&mut self, of: Option<&Scope>, at: At) -> Vec<Crossing> {
        let scopes: Vec<Scope> = match of {
            Some(scope) => vec![scope.clone()],
            None => self.books.keys().cloned().collect(),
        };
        let mut all = Vec::new();
        for scope in scopes {
            let Some(book) = self.books.get_mut(&scope) else { continue };
            for spec in &book.budgets {
                let start = self.calendar.span(spec, at.unix_ms).start;
                let balance = book.accounts.balance(spec.window, start);
                all.extend(book.marks.pass(&scope, spec, &balance));
            }
        }
        all.sort_by(|one, other| (&one.scope, one.window).cmp(&(&other.scope, other.window)));
        all
    }

    /// Start of the window in which a budget counts now; `None` where there is no such budget.
    pub(crate) fn current(&mut self, scope: &Scope, window: Window, at: At) -> Option<u64> {
        let spec = self.specs(scope, &[]).find(|spec| spec.window == window)?.clone();
        Some(self.calendar.span(&spec, at.unix_ms).start)
    }

    /// Books a correction; those who wait may profit.
    pub(crate) fn correct(&mut self, correction: &Correction, at: At) {
        if let Some(book) = self.books.get_mut(&correction.scope) {
            book.accounts.correct(correction);
        }
        self.serve(None, at);
    }

    /// Marks which budgets changed their zone while a window of theirs runs, from what they were
    /// `before`.
    pub(crate) fn turn(&mut self, before: &[BudgetSpec], after: &mut [BudgetSpec], unix_ms: u64) {
        for spec in after {
            let was = before.iter().find(|was| was.window == spec.window);
            spec.turn = self.calendar.turn(was, spec, unix_ms);
        }
    }

    /// The budgets of a scope; those of a session come from everything above it.
    fn specs<'a>(
        &'a self,
        scope: &Scope,
        path: &'a [Scope],
    ) -> impl Iterator<Item = &'a BudgetSpec> + use<'a> {
        specs(&self.books, scope, path)
    }

    fn take(
        &mut self,
        path: &BudgetPath,
        need: Need,
        at: At,
        place: Option<u64>,
    ) -> Result<Holds, Box<Obstacle>> {
        let mut forgets = None;
        let mut planned = Vec::with_capacity(path.scopes().len());
        for scope in path.scopes() {
            let scope = match scope {
                Scope::Session(key, session)
                    if self.specs(scope, path.scopes()).next().is_some() =>
                {
                    let found = self.session_of(key, session, at);
                    forgets = found.forgets;
                    Scope::Session(key.clone(), found.session)
                }
                Scope::Session(..) => continue,
                other if !self.books.contains_key(other) => continue,
                other => other.clone(),
            };
            planned.push(self.plan(scope, path, (need, at, place))?);
        }
        for planned in &planned {
            self.check_rate(&planned.scope, need.tokens, at)?;
        }
        Ok(self.hold(planned, path, forgets, (need, at)))
    }

    /// The session that a request of this one is counted in. Nothing changes yet.
    fn session_of(&self, key: &KeyId, session: &Arc<str>, at: At) -> sessions::Place {
        self.sessions.place(key, session, at.unix_ms, |name| self.is_settled(name))
    }

    /// What to hold in one scope, if every hard budget of it has room.
    fn plan(
        &mut self,
        scope: Scope,
        path: &BudgetPath,
        (need, at, place): (Need, At, Option<u64>),
    ) -> Result<Planned, Box<Obstacle>> {
        let Self { books, calendar, waiting, .. } = self;
        let specs = || specs(books, &scope, path.scopes());
        let starts = book::starts(specs(), calendar, at.unix_ms);
        let book = books.get(&scope);
        for spec in specs().filter(|spec| spec.hard) {
            let span = calendar.span(spec, at.unix_ms);
            let balance = book.map(|book| book.accounts.balance(spec.window, span.start));
            let balance = balance.unwrap_or_default();
            let sides = || book::sides(spec, &balance, need);
            // What it would have to wait for: what others wait for, and what it lacks itself.
            let (ahead, mut units) = waiting
                .ahead((&scope, spec.window), place, |unit| sides().any(|side| side.unit == unit));
            let lack = sides().find(Lack::lacks);
            let Some(told) = lack.or_else(|| sides().find(|side| units.contains(&side.unit)))
            else {
                continue;
            };
            let frees = book.and_then(|book| book.accounts.of(spec.window)?.frees_at(span.start));
            let may_wait = lack.is_none_or(|lack| lack.needed <= lack.left_at_most);
            let short = Short::Budget {
                id: budget_id(&scope, spec.window),
                scope: scope.clone(),
                unit: told.unit,
                limit: told.limit,
                left: told.left,
                needed: told.needed,
                left_at_most: told.left_at_most,
                ahead,
                opens_unix_ms: frees.or(span.end),
            };
            units.extend(sides().filter(Lack::lacks).map(|side| side.unit));
            units.sort_unstable();
            units.dedup();
            let (window, opens_unix_ms) = (spec.window, frees.or(span.end));
            let on =
                may_wait.then(|| Awaited { scope: scope.clone(), window, units, opens_unix_ms });
            return Err(Box::new(Obstacle { short, on }));
        }
        Ok(Planned { scope, starts })
    }

    fn check_rate(&self, scope: &Scope, tokens: u64, at: At) -> Result<(), Box<Obstacle>> {
        match self.books.get(scope).and_then(|book| book.rate.as_ref()) {
            Some(rate) if !rate.allows(tokens, at.mono) => {
                let short = Short::TokensPerMinute {
                    scope: scope.clone(),
                    limit: rate.limit(),
                    left: rate.left(at.mono),
                    needed: tokens,
                    retry_after: rate.wait(tokens, at.mono),
                };
                Err(Box::new(Obstacle { short, on: None }))
            }
            _ => Ok(()),
        }
    }

    fn hold(
        &mut self,
        planned: Vec<Planned>,
        path: &BudgetPath,
        forgets: Option<(KeyId, Arc<str>)>,
        (need, at): (Need, At),
    ) -> Holds {
        let mut holds = Holds { held: Vec::with_capacity(planned.len()), ..Holds::default() };
        if let Some(name) = forgets {
            self.sessions.forget(&name);
            let scope = Scope::Session(name.0, name.1);
            self.books.remove(&scope);
            holds.forgotten.push(scope);
        }
        for Planned { scope, starts } in planned {
            if let Scope::Session(key, session) = &scope {
                self.sessions.touch(key, session, at.unix_ms);
                self.note_tags(&scope, path);
            }
            let book = self.books.entry(scope.clone()).or_default();
            if starts.is_empty() && book.rate.is_none() && book.session_budgets.is_empty() {
                continue;
            }
            let (starts, refilled_at) = book.hold(&starts, need, at);
            if let Some(refilled_at) = refilled_at {
                holds.refills.push((holds.held.len(), refilled_at));
            }
            holds.held.push((scope, starts));
        }
        holds
    }

    /// Remembers which tags give a session budgets: only its requests know.
    fn note_tags(&mut self, session: &Scope, path: &BudgetPath) {
        for tag in path.scopes().iter().filter(|scope| matches!(scope, Scope::Tag(_))) {
            if self.books.get(tag).is_some_and(|book| !book.session_budgets.is_empty()) {
                let book = self.books.entry(session.clone()).or_default();
                if !book.tags.contains(tag) {
                    book.tags.push(tag.clone());
                }
            }
        }
    }

    fn is_settled(&self, (key, session): &(KeyId, Arc<str>)) -> bool {
        let scope = Scope::Session(key.clone(), Arc::clone(session));
        self.books.get(&scope).is_none_or(|book| book.accounts.is_settled())
    }
}

/// Where a hold's windows of one kind begin that a budget counts in: one, or of a session whose
/// budgets have several zones the budget's own. All of them where none is: its zone has changed since.
fn own_starts<'s>(
    calendar: &mut Calendar,
    spec: &BudgetSpec,
    starts: &'s Starts,
) -> impl Iterator<Item = u64> + use<'s> {
    let window = spec.window;
    let of_kind = move || starts.iter().filter(move |(of, _)| *of == window).map(|(_, at)| *at);
    let several = of_kind().nth(1).is_some();
    let own = several.then(|| of_kind().find(|at| calendar.span(spec, *at).start == *at)).flatten();
    of_kind().filter(move |at| own.is_none_or(|own| own == *at))
}

/// As [`Machine::specs`], of the books alone.
fn specs<'a>(
    books: &'a ScopeBooks,
    scope: &Scope,
    path: &'a [Scope],
) -> impl Iterator<Item = &'a BudgetSpec> + use<'a> {
    let (own, above) = match scope {
        Scope::Session(..) => (None, path),
        _ => (books.get(scope), &path[..0]),
    };
    let of_sessions = above
        .iter()
        .filter(|above| !matches!(above, Scope::Session(..)))
        .filter_map(|above| books.get(above))
        .flat_map(|book| &book.session_budgets);
    own.into_iter().flat_map(|book| &book.budgets).chain(of_sessions)
}

// === looking ===

impl Machine {
    /// Every budget on a path and what is left of it, the widest scope first.
    pub fn facts(&mut self, path: &BudgetPath, at: At) -> Vec<BudgetFacts> {
        let mut facts = Vec::new();
        for scope in path.scopes() {
            // A session of too many has what those share.
            let shared;
            let counted = match scope {
                Scope::Session(key, session) if !self.books.contains_key(scope) => {
                    shared = Scope::Session(key.clone(), self.session_of(key, session, at).session);
                    &shared
                }
                other => other,
            };
            let Self { books, calendar, .. } = self;
            let book = books.get(counted);
            for spec in specs(books, scope, path.scopes()) {
                let start = calendar.span(spec, at.unix_ms).start;
                let balance = book.map(|book| book.accounts.balance(spec.window, start));
                facts.push(states::facts(scope, spec, &balance.unwrap_or_default()));
            }
        }
        facts
    }

    /// The least that one request may cost by any limit on the path.
    #[must_use]
    pub fn request_cost_max(&self, path: &BudgetPath) -> Option<PicoUsd> {
        let books = path.scopes().iter().filter_map(|scope| self.books.get(scope));
        books.filter_map(|book| book.request_cost_max).min()
    }

    /// The tightest tokens-per-minute limit of a path.
    #[must_use]
    pub fn token_rate(&self, path: &BudgetPath, at: At) -> Option<TokenRate> {
        let books = path.scopes().iter().filter_map(|scope| self.books.get(scope));
        books
            .filter_map(|book| book.rate)
            .map(|rate| TokenRate {
                limit: rate.limit(),
                remaining: rate.left(at.mono),
                reset: rate.reset(at.mono),
            })
            .min_by_key(|rate| rate.remaining)
    }

    /// Every budget there is, by scope; `wanted` chooses the scopes. A session shows with what each
    /// scope that is `above` the sessions of its key gives it, and each tag of its requests.
    pub fn states(
        &mut self,
        at: At,
        wanted: impl Fn(&Scope) -> bool,
        above: impl Fn(&KeyId) -> Vec<Scope>,
    ) -> Vec<BudgetState> {
        let mut scopes: Vec<Scope> =
            self.books.keys().filter(|scope| wanted(scope)).cloned().collect();
        scopes.sort_unstable();
        let mut states = Vec::new();
        for scope in scopes {
            let mut path = match &scope {
                Scope::Session(key, _) => above(key),
                _ => Vec::new(),
            };
            let tags = self.books.get(&scope).map_or(&[][..], |book| book.tags.as_slice());
            for tag in tags {
                if !path.contains(tag) {
                    path.push(tag.clone());
                }
            }
            let specs: Vec<BudgetSpec> = self.specs(&scope, &path).cloned().collect();
            for spec in &specs {
                let start = self.calendar.span(spec, at.unix_ms).start;
                let Some(book) = self.books.get(&scope) else { continue };
                let balance = book.accounts.balance(spec.window, start);
                let frees =
                    book.accounts.of(spec.window).and_then(|account| account.frees_at(start));
                let calendar = (&mut self.calendar, at.unix_ms);
                let mut state = states::state(&scope, spec, &balance, calendar, frees);
                let whose = (&scope, spec.window);
                (state.waiting, _) = self.waiting.ahead(whose, None, |_| true);
                states.push(state);
            }
        }
        states
    }

    /// The balances of every scope in which anything was ever held.
    #[cfg(test)]
    pub(crate) fn balances(&self) -> Vec<(Scope, Accounts)> {
        let books = self.books.iter().filter(|(_, book)| !book.accounts.is_empty());
        books.map(|(scope, book)| (scope.clone(), book.accounts.clone())).collect()
    }
}
