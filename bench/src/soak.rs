//! Does the engine hold out? Twice as many callers as it has slots ask for a given time, some leave
//! in the middle, and at the end nothing may be left behind: no KV cell, no job, no memory that grew.
//!
//! **Invariant:** the answer is yes only if every job ended well, expired or was cancelled, every KV
//! cell is free once the prefixes are given up, and the resident memory of the last quarter is
//! within `growth_max_percent` of the first one's after warming up.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use local_engine::{
    Engine, EngineConfig, Job, JobEvent, Message, Role, Sampling, Scheduling, SubmitError,
};

use crate::{progress, say};

/// How long the engine is asked, and how much its memory may grow.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// The model file
    #[arg(long, default_value = "models/SmolLM2-135M-Instruct-Q4_1.gguf", value_name = "FILE")]
    model: PathBuf,
    /// Seconds to ask for
    #[arg(long, default_value_t = 1_800, value_name = "S")]
    seconds: u64,
    /// Jobs decoded together; twice as many callers ask
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Threads of the engine
    #[arg(long)]
    threads: Option<u32>,
    /// Growth of resident memory that is still flat, in percent
    #[arg(long, default_value_t = 5)]
    growth_max_percent: u64,
}

/// Longest wait for the cells of prefixes to be free.
const FREE_MAX: Duration = Duration::from_secs(10);

/// What has happened.
#[derive(Debug, Default)]
struct Tally {
    finished: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    /// Waited too long for a slot: what a slow machine does to callers at twice its capacity.
    expired: AtomicU64,
    failed: AtomicU64,
}

/// Numbers that are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Soaks the engine and says how it stood it.
pub(crate) async fn run(args: SoakArgs) -> Result<(), String> {
    let mut config = EngineConfig::new(args.model.clone());
    (config.slots, config.threads) = (args.slots, args.threads);
    config.context_tokens = 512 * args.slots;
    let loading = tokio::task::spawn_blocking(move || Engine::load(&config));
    let engine = loading.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..u64::from(args.slots) * 2 {
        callers.spawn(ask(engine.clone(), caller, Arc::clone(&tally), Arc::clone(&stop)));
    }
    let resident = watch(&args, &tally).await?;
    stop.store(true, Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    // Prefixes may stay in the cache for later jobs; nothing else may.
    let kept = engine.status().kv_used;
    engine.forget_prefixes();
    all_free(&engine).await?;
    engine.shutdown(Duration::from_secs(30));
    report(&engine, &tally, (&resident, kept), args.growth_max_percent)
}

/// Waits until no KV cell is in use.
async fn all_free(engine: &Engine) -> Result<(), String> {
    let until = Instant::now() + FREE_MAX;
    while engine.status().kv_used > 0 {
        if Instant::now() > until {
            let status = engine.status();
            return Err(format!("{} KV cells are in use by nobody", status.kv_used));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Asks over and over; every third answer is left at a random place.
async fn ask(
    engine: Engine,
    caller: u64,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) -> Result<(), String> {
    let mut draw = Draw(caller);
    while !stop.load(Relaxed) {
        let words = 5 + usize::try_from(draw.below(80)).unwrap_or(0);
        let content =
            format!("Tell me about {} {}", draw.below(9), "and more of it ".repeat(words / 5));
        let message = Message {
            role: Role::User,
            content,
            name: None,
            tool_calls_json: None,
            tool_call_id: None,
        };
        let prompt = engine.tokenize_chat(&[message]).map_err(|e| e.to_string())?;
        let job = job(prompt, 8 + u32::try_from(draw.below(56)).unwrap_or(0), caller);
        let leave_after = (draw.below(3) == 0).then(|| draw.below(20));
        let mut generation = match engine.submit(job) {
            Ok(generation) => generation,
            Err(SubmitError::QueueFull { .. }) => {
                tally.refused.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(5 + draw.below(50))).await;
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut events = 0;
        loop {
            if leave_after.is_some_and(|after| events >= after) {
                tally.cancelled.fetch_add(1, Relaxed);
                break;
            }
            match generation.next().await {
                Some(JobEvent::Finished { .. }) => {
                    tally.finished.fetch_add(1, Relaxed);
                    break;
                }
                Some(JobEvent::Expired { .. }) => {
                    tally.expired.fetch_add(1, Relaxed);
                    break;
                }
                Some(JobEvent::Failed { .. }) | None => {
                    tally.failed.fetch_add(1, Relaxed);
                    break;
                }
                Some(_) => events += 1,
            }
        }
    }
    Ok(())
}

fn job(prompt: Vec<i32>, max_tokens: u32, caller: u64) -> Job {
    Job {
        prompt,
        max_tokens,
        stop: vec!["\n\n".to_owned()],
        sampling: Sampling {
            temperature: 0.8,
            top_p: 0.95,
            top_k: Some(40),
            seed: Some(caller),
            ..Sampling::default()
        },
        constraint: None,
        logprobs: None,
        engine_time_max: Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling { caller, ..Scheduling::default() },
    }
}

/// Reads the resident memory of this process every so often; in KiB.
async fn watch(args: &SoakArgs, tally: &Tally) -> Result<Vec<u64>, String> {
    let begun = Instant::now();
    let whole = Duration::from_secs(args.seconds);
    let every = (whole / 60).max(Duration::from_millis(500));
    let mut resident = Vec::new();
    while begun.elapsed() < whole {
        tokio::time::sleep(every.min(whole.saturating_sub(begun.elapsed()))).await;
        resident.push(resident_kib()?);
        progress(&format!(
            "{:>5} s: {} finished, {} cancelled, {} refused, {} expired, {} failed, {} MiB",
            begun.elapsed().as_secs(),
            tally.finished.load(Relaxed),
            tally.cancelled.load(Relaxed),
            tally.refused.load(Relaxed),
            tally.expired.load(Relaxed),
            tally.failed.load(Relaxed),
            resident.last().copied().unwrap_or(0) / 1024,
        ));
    }
    Ok(resident)
}

fn report(
    engine: &Engine,
    tally: &Tally,
    (resident, kept): (&[u64], u32),
    growth_max_percent: u64,
) -> Result<(), String> {
    let quarter = (resident.len() / 4).max(1);
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    // The first quarter warms up: caches fill and the allocator takes what it will keep.
    let before = most(resident.get(quarter..2 * quarter).unwrap_or(resident));
    let after = most(&resident[resident.len() - quarter..]);
    let status = engine.status();
    say(&format!(
        "finished {} cancelled {} refused {} expired {} failed {}; memory {} -> {} MiB; {kept} of {} cells held \
         prefixes, {} do after they were given up; running {} queued {}; busy {:.1} s, attributed \
         {:.1} s",
        tally.finished.load(Relaxed),
        tally.cancelled.load(Relaxed),
        tally.refused.load(Relaxed),
        tally.expired.load(Relaxed),
        tally.failed.load(Relaxed),
        before / 1024,
        after / 1024,
        status.kv_total,
        status.kv_used,
        status.running,
        status.queued,
        status.busy.as_secs_f64(),
        status.attributed.as_secs_f64(),
    ))?;
    let grew = after > before + before * growth_max_percent / 100;
    let left = status.running + status.queued + status.swapped + status.kv_used > 0;
    let idle = tally.finished.load(Relaxed) == 0;
    if grew || left || idle || tally.failed.load(Relaxed) > 0 || status.busy != status.attributed {
        return Err("the engine did not hold out".to_owned());
    }
    Ok(())
}

fn resident_kib() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.ok_or_else(|| "no VmRSS in /proc/self/status".to_owned())
}
