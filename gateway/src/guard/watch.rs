//! The guard's decisions: a function of what it was told, without a clock.
//!
//! **Invariants:** memory is bounded by [`SUBJECTS_MAX`] profiles of bounded size; an effect lasts
//! while what caused it does, and at least its time; who is on the allow-list is watched and never
//! held up.

use super::{
    profile::{Asked, Found, Held, Profile, Served, Shape},
    settings::{Settings, Signal},
};
use crate::ledger::GuardEffect;
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Keys, users and teams that are watched at a time.
pub(super) const SUBJECTS_MAX: usize = 20_000;
/// A throttled subject's requests pass no closer than this.
const THROTTLE_MS: u64 = 10_000;

/// Who is watched: a key's id, or `user:` or `team:` and a name.
pub type Subject = Arc<str>;

/// What is done to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The strongest effect; `None` lets it pass untouched.
    pub effect: Option<Effect>,
    /// What begins with this request, to be written down and told.
    pub events: Vec<Event>,
}

/// An effect that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Whom it concerns.
    pub subject: Subject,
    /// What is done.
    pub effect: GuardEffect,
    /// Why.
    pub signal: Signal,
    /// What was seen.
    pub seen: String,
    /// Until when at least, milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// Whether this very request is turned away.
    pub turned_away: bool,
}

/// Something that the guard did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Whom it concerns.
    pub subject: Subject,
    /// Why.
    pub signal: Signal,
    /// What is done.
    pub effect: GuardEffect,
    /// What was seen, in words and numbers.
    pub seen: String,
    /// Until when at least; `None` for what is only written down.
    pub until_ms: Option<u64>,
}

/// What is known of one who is watched, as it is kept over a restart.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    subject: Subject,
    profile: Profile,
    told: Vec<(Signal, u64)>,
}

impl Kept {
    /// What its models' answers are like, which is written down apart.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        self.profile.shapes()
    }

    pub(super) fn reshape(&mut self, shapes: &[Shape]) {
        self.profile.reshape(shapes);
    }
}

/// By names that the operator gives, and no caller.
type Profiles = HashMap<Subject, Profile, RandomState>;

/// Everyone who is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    settings: Settings,
    profiles: Profiles,
    /// When a signal was last written down for a subject, so that it is told once an hour.
    told: HashMap<(Subject, Signal), u64, RandomState>,
}

impl Watch {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, profiles: Profiles::default(), told: HashMap::default() }
    }

    /// A request of these subjects (its key first, then its user and its team if it has them) is
    /// about to be served.
    pub fn ask(&mut self, subjects: &[Subject], asked: &Asked) -> Verdict {
        let mut verdict = Verdict { effect: None, events: Vec::new() };
        if !self.settings.enabled {
            return verdict;
        }
        let key = subjects.first().map(|key| super::name_hash(key));
        for (at, subject) in subjects.iter().enumerate() {
            let (settings, of) = (&self.settings, key.filter(|_| at > 0));
            let profile = profile(&mut self.profiles, subject, asked.unix_ms);
            let found = profile.ask(asked, of, settings);
            self.note(subject, found, asked.unix_ms, asked.in_session(), &mut verdict.events);
        }
        for subject in subjects {
            let effect = self.standing(subject, asked);
            verdict.effect = stronger(verdict.effect.take(), effect);
        }
        if verdict.effect.as_ref().is_some_and(|effect| effect.turned_away) {
            for subject in subjects {
                if let Some(profile) = self.profiles.get_mut(subject) {
                    profile.turned_away();
                }
            }
        }
        verdict
    }

    /// A request of these subjects was served, or ended otherwise after it was let through.
    pub fn served(&mut self, subjects: &[Subject], served: &Served) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.settings.enabled {
            return events;
        }
        for subject in subjects {
            let settings = &self.settings;
            let found =
                profile(&mut self.profiles, subject, served.unix_ms).serve(served, settings);
            self.note(subject, found, served.unix_ms, None, &mut events);
        }
        events
    }

    /// A request that was let through and found no route: it is not running any more.
    pub fn unserved(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            if let Some(profile) = self.profiles.get_mut(subject) {
                profile.turned_away();
            }
        }
    }

    /// Requests of a subject that run.
    #[cfg(test)]
    pub(super) fn running(&self, subject: &str) -> u32 {
        self.profiles.get(subject).map_or(0, Profile::counted)
    }

    /// Ends what is being done to a subject and takes what was seen as usual from now on. Whether
    /// there was anything.
    pub fn lift(&mut self, subject: &Subject, now_ms: u64) -> bool {
        self.told.retain(|(of, _), _| of != subject);
        let held = self.profiles.get_mut(subject).filter(|profile| profile.held.is_some());
        held.map(|profile| profile.lift(now_ms)).is_some()
    }

    /// Everyone who is watched, by name.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let mut all: Vec<_> = self.profiles.keys().cloned().collect();
        all.sort_unstable();
        all
    }

    /// What is known of one.
    pub(super) fn kept(&self, subject: &Subject) -> Option<Kept> {
        let profile = self.profiles.get(subject)?.clone();
        let told = self.told.iter().filter(|((of, _), _)| of == subject);
        let told = told.map(|((_, signal), at)| (*signal, *at)).collect();
        Some(Kept { subject: Arc::clone(subject), profile, told })
    }

    /// Takes back what was known.
    pub(super) fn restore(&mut self, kept: Kept) {
        for (signal, at) in kept.told {
            self.told.insert((Arc::clone(&kept.subject), signal), at);
        }
        self.profiles.insert(kept.subject, kept.profile);
    }

    /// Takes back an effect that began after what was known had been kept.
    pub(super) fn hold(&mut self, subject: &Subject, signal: Signal, until_ms: u64, seen: &str) {
        let held = Held { signal, until_ms, seen: seen.to_owned(), next_ms: 0, question: None };
        profile(&mut self.profiles, subject, until_ms).held = Some(held);
    }

    /// Everything that is being done, by subject.
    #[must_use]
    pub fn standing_all(&self) -> Vec<(Subject, Effect)> {
        let held = self.profiles.iter().filter_map(|(subject, profile)| {
            Some((Arc::clone(subject), self.effect(subject, profile.held.as_ref()?, false)))
        });
        let mut all: Vec<_> = held.collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    fn effect(&self, subject: &Subject, held: &Held, turned_away: bool) -> Effect {
        Effect {
            subject: Arc::clone(subject),
            effect: self.settings.effect(held.signal),
            signal: held.signal,
            seen: held.seen.clone(),
            until_ms: held.until_ms,
            turned_away,
        }
    }

    /// What would be done to a request that is not one: it counts for nothing, and holds nobody up.
    pub fn stands(&self, subjects: &[Subject], asked: &Asked) -> Option<Effect> {
        // Holds of before may be there all the same.
        if !self.settings.enabled {
            return None;
        }
        let of = |subject: &Subject| {
            let held = self.profiles.get(subject)?.held.as_ref()?;
            self.concerned(subject, held, asked)
        };
        subjects.iter().map(of).fold(None, stronger)
    }

    /// What is being done to a subject at this moment.
    fn standing(&mut self, subject: &Subject, asked: &Asked) -> Option<Effect> {
        let held = self.profiles.get(subject)?.held.as_ref()?;
        let effect = self.concerned(subject, held, asked);
        let is_over = held.until_ms <= asked.unix_ms;
        let profile = self.profiles.get_mut(subject)?;
        if is_over {
            profile.held = None;
        } else if let (Some(effect), Some(held)) = (&effect, &mut profile.held)
            && effect.effect == GuardEffect::Throttled
            && !effect.turned_away
        {
            held.next_ms = asked.unix_ms + THROTTLE_MS;
        }
        effect
    }

    /// What a subject's hold means for a request, if it is one that it means.
    fn concerned(&self, subject: &Subject, held: &Held, asked: &Asked) -> Option<Effect> {
        let now_ms = asked.unix_ms;
        let is_meant = held.question.is_none() || held.question == asked.in_session();
        if held.until_ms <= now_ms || !is_meant {
            return None;
        }
        let turned_away = match self.settings.effect(held.signal) {
            GuardEffect::Blocked => true,
            GuardEffect::Throttled => now_ms < held.next_ms,
            GuardEffect::Logged | GuardEffect::LocalOnly => false,
        };
        Some(self.effect(subject, held, turned_away))
    }

    fn note(
        &mut self,
        subject: &Subject,
        found: Vec<Found>,
        now_ms: u64,
        question: Option<u64>,
        events: &mut Vec<Event>,
    ) {
        for Found { signal, seen } in found {
            let allowed = self.settings.allow.contains(subject.as_ref());
            let mut effect = self.settings.effect(signal);
            let profile = self.profiles.get_mut(subject);
            let knows = profile.as_ref().is_some_and(|known| known.knows(now_ms, &self.settings));
            if allowed || (signal.compares() && !knows) {
                effect = GuardEffect::Logged;
            }
            let hold_ms = u64::try_from(self.settings.hold.as_millis()).unwrap_or(u64::MAX);
            let until_ms = now_ms.saturating_add(hold_ms);
            let mut begins = true;
            if effect != GuardEffect::Logged
                && let Some(profile) = profile
            {
                // One loop gives way to what concerns everything that the subject does.
                let wider = |held: &Held| held.question.is_some() && signal != Signal::PromptLoop;
                match &mut profile.held {
                    // It goes on: so does what is done about it.
                    Some(held) if !wider(held) => {
                        held.until_ms = held.until_ms.max(until_ms);
                        begins = false;
                    }
                    _ => {
                        let question = question.filter(|_| signal == Signal::PromptLoop);
                        let seen = seen.to_string();
                        let held = Held { signal, until_ms, seen, next_ms: 0, question };
                        profile.held = Some(held);
                    }
                }
            }
            if begins && self.tells(subject, signal, now_ms) {
                events.push(Event {
                    unix_ms: now_ms,
                    subject: Arc::clone(subject),
                    signal,
                    effect,
                    seen: seen.to_string(),
                    until_ms: (effect != GuardEffect::Logged).then_some(until_ms),
                });
            }
        }
    }

    /// Whether a signal of a subject is told now: once an hour.
    fn tells(&mut self, subject: &Subject, signal: Signal, now_ms: u64) -> bool {
        let hour = 3_600_000;
        if self.told.len() >= SUBJECTS_MAX {
            self.told.retain(|_, at| *at + hour > now_ms);
        }
        let key = (Arc::clone(subject), signal);
        if self.told.get(&key).is_some_and(|at| *at + hour > now_ms) {
            return false;
        }
        if self.told.len() < SUBJECTS_MAX {
            self.told.insert(key, now_ms);
        }
        true
    }
}

/// A subject's profile. When there are too many, those unused for longest are forgotten, but not
/// those who are held up.
fn profile<'a>(profiles: &'a mut Profiles, subject: &Subject, now_ms: u64) -> &'a mut Profile {
    if profiles.len() >= SUBJECTS_MAX && !profiles.contains_key(subject) {
        let mut used: Vec<u64> = profiles.values().map(|profile| profile.last_ms).collect();
        used.sort_unstable();
        let oldest = used.get(used.len() / 8).copied().unwrap_or(now_ms);
        profiles.retain(|_, profile| profile.last_ms > oldest || profile.held.is_some());
    }
    profiles.entry(Arc::clone(subject)).or_default()
}

fn stronger(one: Option<Effect>, other: Option<Effect>) -> Option<Effect> {
    let strength = |effect: &Effect| match effect.effect {
        GuardEffect::Logged => 0,
        GuardEffect::Throttled => 1,
        GuardEffect::LocalOnly => 2,
        GuardEffect::Blocked => 3,
    };
    one.into_iter().chain(other).max_by_key(|effect| (effect.turned_away, strength(effect)))
}
