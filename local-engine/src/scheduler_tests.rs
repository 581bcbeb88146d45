//! The scheduler's rules on a scripted device: no model, no thread, no clock but the one given.
//! The device answers each token with the next letter and ends a turn after `z`; it checks that
//! every batch continues its sequences without a gap, which the real one would abort on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    device::{BatchToken, Device, Fault, RoomToEmbed},
    draft::Drafter,
    embedding::Pooling,
    error::SubmitError,
    generation::Generation,
    job::{Finish, Job, JobEvent, JobUsage, Likely, Sampling, Scheduling, TokenLogprob},
    meter::Meter,
    scheduler::{Scheduler, Turn},
    shared::Shared,
    status::EngineState,
};

const END: i32 = 0;
pub(crate) const A: i32 = 97;
/// A text with it cannot be embedded, nor its company.
pub(crate) const POISON: i32 = 66;
/// A letter that follows no other.
const WRONG: i32 = 65;

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// The decode that breaks the device.
    pub(crate) breaks_at: Option<usize>,
    /// The decode that finds the cache full.
    pub(crate) full_at: Option<usize>,
    /// The decode that panics.
    pub(crate) panics_at: Option<usize>,
    /// Whether saved cells can be put back.
    pub(crate) restores: bool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { breaks_at: None, full_at: None, panics_at: None, restores: true }
    }
}

#[derive(Debug)]
pub(crate) struct Script {
    cells: u32,
    unified: bool,
    /// Tokens and the cells they are in: a shared cell is in two sequences.
    sequences: Vec<Vec<(i32, usize)>>,
    cells_made: usize,
    faults: Faults,
    pub(crate) decodes: Vec<Vec<BatchToken>>,
    /// Tokens of each text of each batch.
    pub(crate) embedded: Vec<Vec<usize>>,
    /// Whether it was made ready to embed.
    pub(crate) embeds: bool,
    attempts: usize,
    /// A job whose owner might leave while a step runs, and what it would take then.
    pub(crate) watched: Option<Arc<Meter>>,
    pub(crate) left_at: Vec<JobUsage>,
    /// After which tokens it answers with another one than the next letter.
    pub(crate) wrong: fn(i32) -> bool,
    /// Whether cells of one job may serve another.
    pub(crate) reuses: bool,
    /// Whether its cells can be taken back. If not, but reused, it has a sliding window.
    pub(crate) rewinds: bool,
    /// Checkpoints taken.
    pub(crate) checkpoints: usize,
    /// Whether a part of a sequence's cells can be: else all of them are lost.
    pub(crate) truncates: bool,
}

impl Script {
    pub(crate) fn new(config: &EngineConfig, faults: Faults) -> Script {
        Script {
            cells: config.context_tokens,
            unified: config.unified(),
            sequences: vec![Vec::new(); config.sequences() as usize],
            cells_made: 0,
            faults,
            decodes: Vec::new(),
            embedded: Vec::new(),
            embeds: false,
            attempts: 0,
            watched: None,
            left_at: Vec::new(),
            wrong: |_| false,
            reuses: true,
            rewinds: true,
            checkpoints: 0,
            truncates: true,
        }
    }

    pub(crate) fn cells_used(&self) -> usize {
        let cells = self.sequences.iter().flatten().map(|(_, cell)| *cell);
        cells.collect::<std::collections::BTreeSet<usize>>().len()
    }

    /// Whether there is a checkpoint of a slot with the first `keep` tokens that it has.
    fn is_of(&self, slot: u32, keep: usize, at: Option<&Vec<(i32, usize)>>) -> bool {
        let tokens = self.tokens(slot as usize);
        let its_own =
            |at: &Vec<(i32, usize)>| at.iter().map(|(token, _)| token).eq(&tokens[..keep]);
        assert!(at.is_none_or(its_own), "a checkpoint of other tokens");
        at.is_some()
    }

    pub(crate) fn tokens(&self, slot: usize) -> Vec<i32> {
        self.sequences[slot].iter().map(|(token, _)| *token).collect()
    }

    fn check_cells(&self) {
        let used = self.cells_used();
        assert!(!self.unified || used <= self.cells as usize, "the cells there are suffice");
    }
}

impl Device for Script {
    type Sampler = ();
    type Saved = Vec<(i32, usize)>;

    fn cells(&self) -> u32 {
        self.cells
    }

    fn unified(&self) -> bool {
        self.unified
    }

    fn can_reuse(&self) -> bool {
        self.reuses
    }

    fn can_rewind(&self) -> bool {
        self.rewinds
    }

    fn sampler(&self, _: &Job) {}

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), Fault> {
        self.attempts += 1;
        self.left_at.extend(self.watched.as_ref().map(|meter| meter.usage_of_who_leaves()));
        if self.faults.breaks_at == Some(self.attempts) {
            return Err(Fault::Broken("scripted".to_owned()));
        }
        assert_ne!(self.faults.panics_at, Some(self.attempts), "scripted panic");
        if self.faults.full_at == Some(self.attempts) {
            return Err(Fault::Full);
        }
        for entry in batch {
            let sequence = &mut self.sequences[entry.slot as usize];
            assert_eq!(sequence.len(), entry.position as usize, "no gap in a sequence");
            self.cells_made += 1;
            sequence.push((entry.token, self.cells_made));
        }
        self.check_cells();
        self.decodes.push(batch.to_vec());
        Ok(())
    }

    fn sample(&mut self, (): &mut (), row: usize) -> Result<i32, Fault> {
        let entry = self.decodes.last().expect("decoded")[row];
        assert!(entry.logits, "only rows with logits are sampled");
        if (self.wrong)(entry.token) {
            return Ok(WRONG);
        }
        Ok(if entry.token >= A + 25 { END } else { entry.token + 1 })
    }

    fn logprobs(&self, _: usize, token: i32, _: u32) -> Option<TokenLogprob> {
        let chosen = Likely { token, bytes: vec![u8::try_from(token).ok()?], logprob: 0.0 };
        Some(TokenLogprob { chosen, top: Vec::new() })
    }

    fn pooling(&self) -> Pooling {
        Pooling::Mean
    }

    fn embeds_whole(&self) -> bool {
        false
    }

    fn ready_to_embed(&mut self) -> Result<(), Fault> {
        self.embeds = true;
        Ok(())
    }

    fn embed(
        &mut self,
        texts: &[&[i32]],
        from: usize,
        show: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), Fault> {
        assert!(self.embeds, "made ready before any time is booked");
        assert!(from == 0 || texts.len() == 1, "a piece has no company");
        let room = self.room_to_embed();
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        assert!(texts.len() <= room.texts && tokens <= room.tokens, "{texts:?}");
        self.embedded.push(texts.iter().map(|text| text.len()).collect());
        if texts.iter().any(|text| text.contains(&POISON)) {
            return Err(Fault::Sequence("poison".to_owned()));
        }
        for (text, tokens) in texts.iter().enumerate() {
            for offset in 0..tokens.len() {
                show(text, offset, &[if from + offset == 0 { 3.0 } else { 0.0 }, 4.0]);
            }
        }
        Ok(())
    }

    fn room_to_embed(&self) -> RoomToEmbed {
        RoomToEmbed { texts: 3, tokens: 64 }
    }

    fn is_end(&self, token: i32) -> bool {
        token == END
    }

    fn piece(&self, token: i32, bytes: &mut Vec<u8>) {
        bytes.push(u8::try_from(token).expect("a letter"));
    }

    fn truncate(&mut self, slot: u32, keep: u32, at: Option<&Vec<(i32, usize)>>) -> bool {
        let keep = keep as usize;
        let length = self.sequences[slot as usize].len();
        let may_cut = self.truncates
            && (self.rewinds || keep == 0 || keep == length || self.is_of(slot, keep, at));
        self.sequences[slot as usize].truncate(if may_cut { keep } else { 0 });
        may_cut
    }

    fn share(&mut self, from: u32, to: u32, keep: u32, at: Option<&Vec<(i32, usize)>>) -> bool {
        assert!(self.rewinds || self.is_of(from, keep as usize, at), "it has a checkpoint there");
        let mut tokens = self.sequences[from as usize][..keep as usize].to_vec();
        if !self.unified || !self.rewinds {
            for (_, cell) in &mut tokens {
                self.cells_made += 1;
                *cell = self.cells_made;
            }
        }
        self.sequences[to as usize] = tokens;
        self.check_cells();
        true
    }

    fn checkpoint_bytes(&self, slot: u32) -> usize {
        self.state_bytes(slot)
    }

    fn checkpoint(&mut self, slot: u32) -> Option<Vec<(i32, usize)>> {
        self.checkpoints += 1;
        Some(self.sequences[slot as usize].clone())
    }

    fn state_bytes(&self, slot: u32) -> usize {
        self.sequences[slot as usize].len() * 4
    }

    fn save(&mut self, slot: u32) -> Option<Vec<(i32, usize)>> {
        Some(self.sequences[slot as usize].clone())
    }

    fn saved_bytes(saved: &Vec<(i32, usize)>) -> usize {
        saved.len() * 4
    }

    fn restore(&mut self, slot: u32, mut saved: Vec<(i32, usize)>) -> bool {
        assert!(self.sequences[slot as usize].is_empty(), "into an empty slot");
        if !self.faults.restores {
            return false;
        }
        for (_, cell) in &mut saved {
            self.cells_made += 1;
            *cell = self.cells_made;
        }
        self.sequences[slot as usize] = saved;
        self.check_cells();
        true
    }
}

/// A greedy job of one token.
pub(crate) fn greedy(prompt: &[i32]) -> Job {
    Job {
        prompt: prompt.to_vec(),
        max_tokens: 1,
        stop: Vec::new(),
        sampling: Sampling::default(),
        constraint: None,
        logprobs: None,
        engine_time_max: Duration::from_secs(60),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    }
}

/// Settings in which little happens by itself.
fn small() -> EngineConfig {
    let mut config = EngineConfig::new("none".into());
    (config.slots, config.context_tokens) = (2, 200);
    (config.batch_tokens, config.prefill_chunk) = (Some(32), Some(8));
    (config.queue_max, config.reader_lag_max) = (4, 50);
    (config.gap_target, config.overcommit_percent) = (None, 100);
    config
}

pub(crate) struct Bench {
    pub(crate) scheduler: Scheduler<Script>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Instant,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut EngineConfig)) -> Bench {
        Bench::faulty(change, Faults::default())
    }

    pub(crate) fn faulty(change: impl FnOnce(&mut EngineConfig), faults: Faults) -> Bench {
        let mut config = small();
        change(&mut config);
        let script = Script::new(&config, faults);
        let shared = Arc::new(Shared::new(config.queue_max, config.reader_lag_max));
        let scheduler = Scheduler::new(script, &config, Arc::clone(&shared));
        Bench { scheduler, shared, now: Instant::now() }
    }

    /// Gives the scheduler a draft model that answers wrongly after some tokens.
    pub(crate) fn draft_by(
        &mut self,
        config: &EngineConfig,
        wrong: fn(i32) -> bool,
        faults: Faults,
    ) {
        let script = Script { wrong, ..Script::new(config, faults) };
        self.draft_with(script, config.slots, config.context_tokens);
    }

    /// Gives the scheduler a draft model that was made for so many tokens.
    pub(crate) fn draft_with(&mut self, script: Script, seats: u32, context_tokens: u32) {
        self.scheduler.draft_by(Drafter::new(script, seats, context_tokens));
    }

    pub(crate) fn submit(
        &self,
        prompt: &[i32],
        max_tokens: u32,
    ) -> Result<Generation, SubmitError> {
        self.submit_for(Scheduling::default(), prompt, max_tokens)
    }

    pub(crate) fn submit_for(
        &self,
        scheduling: Scheduling,
        prompt: &[i32],
        max_tokens: u32,
    ) -> Result<Generation, SubmitError> {
        let job = Job { max_tokens, scheduling, ..greedy(prompt) };
        let (events, meter) = self.shared.enqueue(job, self.now)?;
        Ok(Generation::new(events, meter, Arc::clone(&self.shared)))
    }

    pub(crate) fn job(&self, prompt: &[i32], max_tokens: u32) -> Generation {
        self.submit(prompt, max_tokens).expect("taken")
    }

    pub(crate) fn turn(&mut self) -> Turn {
        self.scheduler.turn(self.now).expect("no fault")
    }

    pub(crate) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    pub(crate) fn decodes(&self) -> &[Vec<BatchToken>] {
        &self.scheduler.device.decodes
    }
}

/// All events there are now.
pub(crate) fn events(generation: &mut Generation) -> Vec<JobEvent> {
    let mut events = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        let next = std::pin::pin!(generation.next()).poll(&mut context);
        match next {
            std::task::Poll::Ready(Some(event)) => events.push(event),
            _ => return events,
        }
    }
}

pub(crate) fn text(events: &[JobEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        JobEvent::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

pub(crate) fn finish(events: &[JobEvent]) -> Option<Finish> {
    match events.last() {
        Some(JobEvent::Finished { finish, .. }) => Some(*finish),
        _ => None,
    }
}

#[test]
fn a_job_runs_to_its_end_and_the_engine_rests() {
    let mut bench = Bench::new(|_| {});
    let mut job = bench.job(&[A + 22], 100);
    bench.turns(6);
    let events = events(&mut job);
    assert_eq!(text(&events), "xyz");
    assert_eq!(finish(&events), Some(Finish::Stop));
    assert!(matches!(bench.turn(), Turn::Park(_)));
}

#[test]
fn a_cancelled_job_is_in_no_further_batch() {
    let mut bench = Bench::new(|_| {});
    let running = bench.job(&[A], 50);
    bench.turns(3);
    let computed = bench.decodes().len();
    drop(running);
    bench.turns(3);
    assert_eq!(bench.decodes().len(), computed, "not one more");
    assert_eq!(bench.shared.gauges.read().cancelled, 1);
}

#[test]
fn a_job_cancelled_during_its_prompt_is_in_no_further_batch() {
    let mut bench = Bench::new(|_| {});
    let reading = bench.job(&[A; 150], 1);
    bench.turn();
    drop(reading);
    bench.turns(2);
    assert_eq!(bench.decodes().len(), 1);
}

#[test]
fn a_job_cancelled_in_the_queue_is_never_computed() {
    let mut bench = Bench::new(|config| config.slots = 1);
    let _running = bench.job(&[A], 20);
    bench.turn();
    let queued = bench.job(&[A + 1], 20);
    drop(queued);
    bench.turn();
    let read = bench.shared.gauges.read();
    assert_eq!((read.queued, read.running, read.cancelled), (0, 1, 1));
}

#[test]
fn who_waits_too_long_is_told() {
    let mut bench = Bench::new(|config| {
        config.slots = 1;
        config.queue_wait_max = Duration::from_secs(5);
    });
    let _running = bench.job(&[A], 20);
    bench.turn();
    let mut queued = bench.job(&[A + 1], 20);
    bench.now += Duration::from_millis(4_999);
    bench.turn();
    assert_eq!(events(&mut queued), []);
    bench.now += Duration::from_millis(1);
    bench.turn();
    assert_eq!(events(&mut queued), [JobEvent::Expired { queued: Duration::from_secs(5) }]);
    assert_eq!(bench.shared.gauges.read().expired, 1);
}

#[test]
fn the_queue_is_bounded() {
    let bench = Bench::new(|_| {});
    let jobs: Vec<_> = (0..4).map(|_| bench.job(&[A], 1)).collect();
    assert_eq!(bench.submit(&[A], 1).err(), Some(SubmitError::QueueFull { queued: 4 }));
    drop(jobs);
    assert!(bench.submit(&[A], 1).is_ok(), "places of those who left are free");
}

#[test]
fn a_long_prompt_takes_only_a_chunk_beside_running_jobs() {
    let mut bench = Bench::new(|_| {});
    let _running = bench.job(&[A], 50);
    bench.turn();
    let _long = bench.job(&[A; 100], 1);
    bench.turns(3);
    for batch in &bench.decodes()[1..] {
        assert_eq!(batch[0].slot, 0, "the running job's token comes first");
        assert_eq!(batch.len(), 1 + 8, "and one chunk of the prompt");
    }
}

#[test]
fn a_short_prompt_overtakes_a_long_one_and_neither_starves() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (4, 4_000));
    let _running = bench.job(&[A + 2], 400);
    bench.turn();
    let _long = bench.job(&[A; 100], 1);
    let mut short = bench.job(&[A + 1; 8], 1);
    bench.turns(2);
    assert_eq!(finish(&events(&mut short)), Some(Finish::Length), "it waits for one chunk at most");
    // While shorter ones keep coming, every fourth step reads the long one.
    let mut shorter = Vec::new();
    for n in 0..8 {
        shorter.push(bench.job(&[A + 3 + n; 8], 1));
        bench.turn();
    }
    let chunks = &bench.decodes()[3..];
    let of_long = chunks.iter().filter(|batch| batch.iter().any(|entry| entry.slot == 1)).count();
    assert_eq!(of_long, 2);
}

/// However many steps there were before: who has just been read can wait.
#[test]
fn a_long_prompt_that_was_just_read_is_passed_over_by_three() {
    for before in 1..5 {
        let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (5, 4_000));
        let _running = bench.job(&[A + 2], 400);
        bench.turn();
        let _long = bench.job(&[A; 100], 1);
        bench.turns(before);
        let mut shorts = [3, 4, 5].map(|n| bench.job(&[A + n; 8], 1));
        bench.turns(3);
        for short in &mut shorts {
            assert_eq!(finish(&events(short)), Some(Finish::Length), "{before} steps before");
        }
    }
}

#[test]
fn a_small_rest_of_a_prompt_is_read_at_once_and_a_step_is_not_cut_into_crumbs() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (3, 4_000));
    let _running = bench.job(&[A + 2], 50);
    bench.turn();
    let _first = bench.job(&[A; 36], 1);
    let _second = bench.job(&[A + 1; 40], 1);
    bench.turn();
    let shares = |budget, beyond| bench.scheduler.share_prefill(budget, beyond);
    assert_eq!(shares(24, 0), [(1, 24)], "8 of 36 are read");
    assert_eq!(shares(24, 3), [(1, 24)], "a rest of 28 is too long");
    assert_eq!(shares(24, 4), [(1, 28)]);
    assert_eq!(shares(36, 0), [(1, 28)], "8 of 36 are too little for another");
    assert_eq!(shares(40, 0), [(1, 28), (2, 12)]);
    assert_eq!(shares(56, 0), [(1, 28), (2, 28)]);
    assert_eq!(shares(57, 0), [(1, 28)], "29 more would make it wait twice as long");
}

#[test]
fn cells_are_set_aside_before_a_job_comes_in() {
    let mut bench = Bench::new(|_| {});
    let _first = bench.job(&[A; 50], 80);
    let _second = bench.job(&[A + 1; 50], 80);
    bench.turn();
    let read = bench.shared.gauges.read();
    assert_eq!((read.running, read.queued), (1, 1), "130 + 130 cells are more than 200");
}

#[test]
fn a_lagging_reader_pauses_its_job_alone() {
    let mut bench = Bench::new(|config| config.reader_lag_max = 3);
    let mut slow = bench.job(&[A], 20);
    let mut other = bench.job(&[A + 1], 20);
    for _ in 0..10 {
        bench.turn();
        events(&mut other);
    }
    assert_eq!(slow.usage().generated_tokens, 3, "two in the channel, one kept, no more");
    assert_eq!(other.usage().generated_tokens, 10);
    assert_eq!(bench.shared.gauges.read().paused, 1);
    let mut read = events(&mut slow);
    bench.turns(1);
    read.extend(events(&mut slow));
    for _ in 0..20 {
        bench.turn();
        read.extend(events(&mut slow));
    }
    assert_eq!(text(&read), "bcdefghijklmnopqrstu");
    assert_eq!(finish(&read), Some(Finish::Length));
}

#[test]
fn who_leaves_while_a_step_runs_is_charged_what_that_is_expected_to_take() {
    let mut bench = Bench::new(|_| {});
    let mut first = bench.job(&[A], 1);
    bench.turns(2);
    events(&mut first);
    let job = Job { max_tokens: 3, ..greedy(&[A + 1; 12]) };
    let (job, meter) = bench.shared.enqueue(job, bench.now).expect("taken");
    bench.scheduler.device.watched = Some(Arc::clone(&meter));
    bench.turns(2);
    let [reads, generates] = bench.scheduler.device.left_at[..] else { panic!("two steps") };
    assert_eq!((reads.generated_tokens, generates.generated_tokens), (0, 1));
    assert!(reads.prefill_time > Duration::ZERO && generates.decode_time > Duration::ZERO);
    assert_eq!(generates.prefill_time, meter.usage().prefill_time, "that step is over");
    assert_eq!(meter.usage_of_who_leaves(), meter.usage(), "exact between steps");
    drop(job);
}

#[test]
fn a_reader_that_stops_reading_loses_its_slot() {
    let mut bench = Bench::new(|config| {
        config.reader_lag_max = 3;
        config.reader_stall_max = Duration::from_secs(9);
    });
    let mut slow = bench.job(&[A], 20);
    bench.turns(5);
    assert_eq!(bench.turn(), Turn::Park(Duration::from_secs(1)));
    bench.now += Duration::from_secs(9);
    bench.turn();
    let read = bench.shared.gauges.read();
    assert_eq!((read.running, read.cancelled, read.failed), (0, 1, 0));
    let events = events(&mut slow);
    assert!(matches!(events.last(), Some(JobEvent::Unread { .. })), "{events:?}");
    assert_eq!(text(&events), "bcd", "what was generated still comes");
}

#[test]
fn an_idle_prefix_is_given_up_when_the_cache_is_full() {
    let faults = Faults { full_at: Some(4), ..Faults::default() };
    let mut bench = Bench::faulty(|_| {}, faults);
    let _kept = bench.job(&[A; 10], 1);
    bench.turns(2);
    let mut job = bench.job(&[A + 1; 10], 4);
    bench.turns(6);
    assert_eq!(finish(&events(&mut job)), Some(Finish::Length));
    assert_eq!(bench.shared.gauges.read().evictions, 1);
}

#[test]
fn a_full_cache_against_all_counting_fails_nobody() {
    let faults = Faults { full_at: Some(3), ..Faults::default() };
    let mut bench = Bench::faulty(|_| {}, faults);
    let mut first = bench.job(&[A], 10);
    let mut second = bench.job(&[A + 1], 10);
    bench.turns(25);
    assert_eq!(finish(&events(&mut first)), Some(Finish::Length));
    assert_eq!(finish(&events(&mut second)), Some(Finish::Length));
    assert_eq!(bench.shared.gauges.read().preemptions, 1, "the youngest waited outside");
}

#[test]
fn a_cache_too_small_for_the_only_job_fails_it() {
    let faults = Faults { full_at: Some(3), ..Faults::default() };
    let mut bench = Bench::faulty(|_| {}, faults);
    let mut only = bench.job(&[A], 10);
    bench.turns(5);
    assert!(matches!(events(&mut only).last(), Some(JobEvent::Failed { .. })));
}

#[test]
fn a_broken_device_fails_every_job_and_takes_no_more() {
    let mut bench = Bench::faulty(|_| {}, Faults { breaks_at: Some(2), ..Faults::default() });
    let mut jobs: Vec<_> = (0..3).map(|_| bench.job(&[A], 9)).collect();
    bench.turn();
    let reason = bench.scheduler.turn(bench.now).expect_err("the device broke");
    bench.shared.gauges.fail(reason.clone());
    bench.scheduler.end(&reason);
    for job in &mut jobs {
        assert!(matches!(events(job).last(), Some(JobEvent::Failed { .. })));
    }
    assert_eq!(bench.submit(&[A], 1).err(), Some(SubmitError::Failed { reason }));
    assert_eq!(bench.shared.gauges.read().failed, 3);
}

#[test]
fn a_panic_fails_every_job_and_takes_no_more() {
    let mut bench = Bench::faulty(|_| {}, Faults { panics_at: Some(2), ..Faults::default() });
    let mut jobs: Vec<_> = (0..3).map(|_| bench.job(&[A], 9)).collect();
    crate::turns::to_the_end(&mut bench.scheduler);
    for job in &mut jobs {
        assert!(matches!(events(job).last(), Some(JobEvent::Failed { .. })));
    }
    assert!(matches!(bench.shared.gauges.state(), EngineState::Failed { .. }));
    assert!(matches!(bench.submit(&[A], 1), Err(SubmitError::Failed { .. })));
}

#[test]
fn an_end_waits_for_jobs_until_its_deadline() {
    let mut bench = Bench::new(|_| {});
    let _job = bench.job(&[A], 3);
    bench.turn();
    bench.shared.end(bench.now + Duration::from_secs(5));
    assert_eq!(bench.submit(&[A], 1).err(), Some(SubmitError::Stopped));
    assert_eq!(bench.turn(), Turn::Again);
    bench.turn();
    assert_eq!(bench.turn(), Turn::Done, "all jobs are done");

    let mut bench = Bench::new(|_| {});
    let _job = bench.job(&[A], 20);
    bench.turn();
    bench.shared.end(bench.now + Duration::from_secs(5));
    bench.now += Duration::from_secs(5);
    assert_eq!(bench.turn(), Turn::Done, "the deadline has come");
}

#[test]
fn time_is_attributed_without_a_rest() {
    let mut bench = Bench::new(|_| {});
    let jobs = [bench.job(&[A; 40], 5), bench.job(&[A + 1; 7], 9), bench.job(&[A + 2; 3], 2)];
    bench.turns(30);
    let read = bench.shared.gauges.read();
    let sum: Duration =
        jobs.iter().map(|job| job.usage().prefill_time + job.usage().decode_time).sum();
    assert_eq!((read.running, read.finished), (0, 3));
    assert_eq!(sum, read.busy);
    assert_eq!(read.attributed, read.busy);
}

/// Draws numbers that are the same in every run.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, limit: u64) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit).expect("small")
    }
}

/// Jobs come, are read in fits and starts, and leave at any moment. The scripted device checks
/// every batch; here: every job that stays ends with an event, and nothing is left behind.
#[test]
fn nothing_is_left_behind_whatever_the_readers_do() {
    for (seed, slots) in [(1, 1), (2, 3), (3, 8), (4, 12)] {
        let mut draw = Draw(seed);
        let mut bench = Bench::new(|config| {
            (config.slots, config.reader_lag_max) = (slots, 2);
            config.context_tokens = 16 * slots.max(12);
        });
        let mut jobs: Vec<Generation> = Vec::new();
        let (mut ended, mut taken) = (0, 0);
        for _ in 0..3_000 {
            match draw.below(6) {
                0 => {
                    let letter = A + i32::try_from(draw.below(4)).expect("small");
                    let prompt = vec![letter; 1 + draw.below(60)];
                    // In separate caches a slot has fewer cells than a job of these may need.
                    let fits = slots <= 8 || prompt.len() < 10;
                    if fits
                        && let Ok(job) =
                            bench.submit(&prompt, 1 + u32::try_from(draw.below(6)).expect("small"))
                    {
                        taken += 1;
                        jobs.push(job);
                    }
                }
                1 if !jobs.is_empty() => {
                    let at = draw.below(jobs.len() as u64);
                    let job = jobs.swap_remove(at);
                    drop(job);
                }
                2 if !jobs.is_empty() => {
                    let at = draw.below(jobs.len() as u64);
                    if matches!(events(&mut jobs[at]).last(), Some(JobEvent::Finished { .. })) {
                        jobs.swap_remove(at);
                        ended += 1;
                    }
                }
                _ => {
                    bench.turn();
                }
            }
        }
        for _ in 0..2_000 {
            bench.turn();
            jobs.retain_mut(|job| !matches!(events(job).last(), Some(JobEvent::Finished { .. })));
        }
        assert!(jobs.is_empty(), "{} jobs never ended", jobs.len());
        assert!(ended > 10 && taken > 50, "the test does something: {ended} of {taken}");
        let read = bench.shared.gauges.read();
        assert_eq!((read.running, read.queued, read.paused, read.failed), (0, 0, 0, 0));
        assert_eq!(read.attributed, read.busy);
    }
}
