//! Tokens are counted exactly, and the jobs' engine time sums to the time the engine was busy.

use std::time::Duration;

use crate::harness::{answer, ask, engine, first_text, read, small, warm};

#[tokio::test]
async fn engine_time_of_all_jobs_sums_to_the_busy_time() {
    let mut config = small();
    config.slots = 3;
    let engine = engine(&config);
    let jobs: Vec<_> = (0..7_u32)
        .map(|n| {
            let mut job = ask(&engine, &format!("Tell me about the number {n}."), 4 + 3 * n);
            if n % 2 == 0 {
                job.sampling = warm(u64::from(n));
            }
            engine.submit(job).expect("taken")
        })
        .collect();
    let mut sum = Duration::ZERO;
    let (mut prompt, mut cached) = (0_u64, 0_u64);
    for job in jobs {
        let usage = read(job).await.usage();
        assert!(usage.prefill_time > Duration::ZERO && usage.decode_time > Duration::ZERO);
        sum += usage.prefill_time + usage.decode_time;
        prompt += u64::from(usage.prompt_tokens);
        cached += u64::from(usage.cached_tokens);
    }
    let status = engine.status();
    assert_eq!(sum, status.busy, "to the nanosecond");
    assert_eq!(status.attributed, status.busy);
    assert_eq!(status.cached_tokens, cached);
    assert_eq!(status.prefill_tokens, prompt - cached);
    assert_eq!((status.finished, status.failed, status.running, status.queued), (7, 0, 0, 0));
}

#[tokio::test]
async fn a_job_that_is_left_early_has_a_readable_usage() {
    let engine = engine(&small());
    let job = ask(&engine, "Tell me a long story.", 100);
    let prompt_tokens = u32::try_from(job.prompt.len()).expect("small");
    let mut job = engine.submit(job).expect("taken");
    first_text(&mut job).await;
    let usage = job.usage();
    assert_eq!(usage.prompt_tokens, prompt_tokens);
    assert!(usage.generated_tokens >= 1 && usage.prefill_time > Duration::ZERO);
}

#[tokio::test]
async fn idle_prefixes_make_room_for_jobs() {
    let mut config = small();
    config.context_tokens = 256;
    let engine = engine(&config);
    for n in 0..3_u32 {
        let mut job = ask(&engine, &format!("{n} is a number."), 4);
        let token = job.prompt[3] + i32::try_from(n).expect("small");
        job.prompt = vec![token; 150];
        answer(&engine, job).await;
    }
    let status = engine.status();
    assert!(status.evictions > 0);
    assert!(status.kv_used <= status.kv_total, "{status:?}");
}
