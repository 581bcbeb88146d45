//! The model in this process as a route: a chat request becomes a job, its tokens become events.

mod answer;
mod job;
mod vectors;

pub use answer::LocalAnswer;
pub use job::LocalJob;

use super::{Fault, FaultKind};
use crate::{config::LocalConfig, wire::BadRequest};
use local_engine::{Engine, EngineState};
use policies::RouteState;
use std::time::Duration;

/// Prompt tokens the engine reads in the time of about one generated token: what expected engine
/// time is computed with when a route is compared with others by price.
const PREFILL_PER_DECODE: u32 = 2;
/// A loaded model and how it is asked.
#[derive(Debug)]
pub struct LocalRoute {
    engine: Engine,
    config: LocalConfig,
}

// === impl LocalRoute ===

impl LocalRoute {
    /// A route over a loaded engine.
    #[must_use]
    pub fn new(engine: Engine, config: LocalConfig) -> Self {
        Self { engine, config }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The bound of a job's engine time, which the engine enforces.
    #[must_use]
    pub fn engine_time_max(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        times(self.config.prefill_per_token_max, prompt_tokens)
            .saturating_add(times(self.config.decode_per_token_max, output_tokens))
    }

    /// Engine time of a usual job, from what the engine has done so far; its configured maximum
    /// before it has done anything.
    #[must_use]
    pub fn engine_time_expected(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        let status = self.engine.status();
        let weight = |prompt: u64, output: u64| prompt / u64::from(PREFILL_PER_DECODE) + output;
        let done = weight(status.prefill_tokens, status.decode_tokens);
        match done {
            0 => self.engine_time_max(prompt_tokens, output_tokens),
            done => {
                let per_weight = status.busy.as_nanos() / u128::from(done);
                let nanos = per_weight * u128::from(weight(prompt_tokens, output_tokens));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }

    /// Whether it can take a job now.
    #[must_use]
    pub fn state(&self) -> RouteState {
        let status = self.engine.status();
        match status.state {
            EngineState::Running if status.queued as usize >= self.config.queue_max => {
                RouteState::Busy
            }
            EngineState::Running => RouteState::Ready,
            EngineState::Draining | EngineState::Stopped | EngineState::Failed { .. } => {
                RouteState::Unavailable
            }
        }
    }

    /// The model and the engine as `/ready` tells them.
    #[must_use]
    pub fn report(&self) -> serde_json::Value {
        let (info, status) = (self.engine.info(), self.engine.status());
        serde_json::json!({
            "model": info.name,
            "file": info.file.file_name().map(|name| name.to_string_lossy()),
            "sha256": self.engine.sha256(),
            "quantisation": info.quantisation,
            "backend": info.backend(),
            "devices": info.devices.iter().map(|device| &device.name).collect::<Vec<_>>(),
            "layers": info.layers,
            "layers_offloaded": info.layers_offloaded,
            "context_tokens": info.context_tokens,
            "slots_running": status.running,
            "queued": status.queued,
            "kv_used": status.kv_used,
            "kv_total": status.kv_total,
            "heartbeat_age_ms": u64::try_from(status.heartbeat_age.as_millis()).unwrap_or(u64::MAX),
            "load_ms": u64::try_from(info.load_time.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Jobs waiting for a slot.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.engine.status().queued
    }
}

fn times(each: Duration, count: u64) -> Duration {
    let nanos = each.as_nanos().saturating_mul(u128::from(count));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn unfit(bad: BadRequest) -> Fault {
    let detail = bad.code;
    Fault::new(FaultKind::Unfit(bad), detail)
}
