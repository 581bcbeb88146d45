//! The model in this process as a route: a chat request becomes a job, its tokens become events.

mod answer;
mod growth;
mod job;
mod prompts;
mod vectors;

pub use answer::LocalAnswer;
pub use job::LocalJob;

use super::{Fault, FaultKind, scheduling};
use crate::{
    config::LocalConfig,
    ledger::KeyId,
    makers::{Makers, NotMade},
    wire::{BadRequest, ChatRequest},
};
use local_engine::{
    COMPILERS_MAX, Engine, EngineState, HostedModel, LoadError, LoadWhen, ModelState, NotLoaded,
    Prediction,
};
use policies::RouteState;
use std::time::Duration;

/// Prompt tokens the engine reads in the time of about one generated token: what expected engine
/// time is computed with when a route is compared with others by price.
const PREFILL_PER_DECODE: u32 = 2;

/// A model the engine keeps, and how it is asked.
#[derive(Debug)]
pub struct LocalRoute {
    model: HostedModel,
    config: LocalConfig,
    /// Where its prompts are made, and where its rules are.
    prompts: Makers,
    rules: Makers,
}

// === impl LocalRoute ===

impl LocalRoute {
    /// A route over a kept model.
    #[must_use]
    pub fn new(model: HostedModel, config: LocalConfig) -> Self {
        let wait_max = config.queue_wait_max;
        // A rule may take seconds: who has one compiled leaves a place to others.
        let rules = Makers::with_places(COMPILERS_MAX, COMPILERS_MAX - 1, wait_max);
        Self { prompts: Makers::new(wait_max), rules, model, config }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &HostedModel {
        &self.model
    }

    /// Loads the model, if it is to be there from the start. Blocks.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn load_at_start(&self) -> Result<(), LoadError> {
        match self.config.keep.load {
            LoadWhen::Start => self.model.load_blocking(),
            LoadWhen::FirstUse => Ok(()),
        }
    }

    /// Most tokens one job may have, once a model has been loaded.
    #[must_use]
    pub fn context_tokens(&self) -> Option<u64> {
        self.model.loaded().map(|engine| u64::from(engine.info().context_tokens))
    }

    /// The first bound of a job's engine time, which the engine enforces.
    #[must_use]
    pub fn engine_time_max(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        self.config.engine_time_max(prompt_tokens, output_tokens)
    }

    /// Engine time of a usual job, from what the engine has done so far; its configured maximum
    /// before it has done anything.
    #[must_use]
    pub fn engine_time_expected(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        let Some(status) = self.model.loaded().map(|engine| engine.status()) else {
            return self.engine_time_max(prompt_tokens, output_tokens);
        };
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

    /// When such a request of a key could be expected to begin to be answered if it came now; `None`
    /// while no model is loaded.
    #[must_use]
    pub fn predicted(&self, key: Option<&KeyId>, request: &ChatRequest) -> Option<Prediction> {
        let prompt_tokens = usize::try_from(request.prompt_tokens_estimate).unwrap_or(usize::MAX);
        self.model.loaded()?.predict(&scheduling::of(key, request), prompt_tokens)
    }

    /// Whether it can take a job now. A model that will be loaded by the next request can.
    #[must_use]
    pub fn state(&self) -> RouteState {
        if !self.model.is_available() {
            return RouteState::Unavailable;
        }
        let full = match self.model.loaded().map(|engine| engine.status()) {
            None => self.model.waiting() >= self.config.keep.load_waiting_max,
            Some(status) if status.state == EngineState::Running => {
                status.queued as usize >= self.config.queue_max
            }
            Some(_) => return RouteState::Unavailable,
        };
        if full { RouteState::Busy } else { RouteState::Ready }
    }

    /// The model and the engine as `/ready` and the admin API tell them.
    #[must_use]
    pub fn report(&self) -> serde_json::Value {
        let counts = self.model.counts();
        let mut report = serde_json::json!({
            "state": state_name(&self.model.state()),
            "file": self.model.file().file_name().map(|name| name.to_string_lossy().into_owned()),
            "loads": counts.loads,
            "unloads": counts.unloads,
            "faults": counts.faults,
            "failed_loads": counts.failed_loads,
            "waiting_for_load": self.model.waiting(),
        });
        if let ModelState::Failed { reason, retry_in } = self.model.state() {
            report["reason"] = reason.into();
            report["retry_ms"] = millis(retry_in).into();
        }
        if let Some(engine) = self.model.loaded() {
            loaded_report(&mut report, &engine);
        }
        report
    }

    /// Jobs waiting for a slot, and requests waiting for the model.
    #[must_use]
    pub fn queued(&self) -> u32 {
        let queued = self.model.loaded().map_or(0, |engine| engine.status().queued);
        queued.saturating_add(u32::try_from(self.model.waiting()).unwrap_or(u32::MAX))
    }
}

/// A model that is not there: full and slow are the load's, an unload is the operator's, and the rest
/// is the engine's fault.
fn not_loaded(error: &NotLoaded) -> Fault {
    let kind = match error {
        NotLoaded::TooManyWait | NotLoaded::Timeout { .. } => FaultKind::Busy,
        NotLoaded::Unloaded | NotLoaded::Stopped => FaultKind::Unloaded,
        NotLoaded::Failed { .. } => FaultKind::Down,
    };
    Fault::new(kind, error.to_string())
}

impl From<NotMade> for Fault {
    fn from(why: NotMade) -> Self {
        match why {
            NotMade::Busy => Self::new(FaultKind::Busy, "too much is being made ready already"),
            NotMade::Died(how) => Self::new(FaultKind::Engine, how),
        }
    }
}

/// A model's state as it is told.
fn state_name(state: &ModelState) -> &'static str {
    match state {
        ModelState::Unloaded { .. } => "unloaded",
        ModelState::Loading { .. } => "loading",
        ModelState::Loaded => "loaded",
        ModelState::Failed { .. } => "failed",
        ModelState::Stopped => "stopped",
    }
}

/// A device as `/ready` tells it.
fn device(device: &local_engine::Device) -> serde_json::Value {
    serde_json::json!({
        "name": device.name,
        "description": device.description,
        "backend": device.backend,
        "gpu": device.gpu,
        "memory_total_bytes": device.memory_total,
        "memory_free_bytes": device.memory_free,
    })
}

/// What is known about a model while it is loaded.
fn loaded_report(report: &mut serde_json::Value, engine: &Engine) {
    let (info, status) = (engine.info(), engine.status());
    report["model"] = info.name.as_str().into();
    report["sha256"] = engine.sha256().into();
    report["quantisation"] = info.quantisation.as_str().into();
    report["template_sha256"] = info.template_sha256.as_deref().into();
    report["backend"] = info.backend().into();
    report["devices"] = info.devices.iter().map(device).collect();
    report["offloaded_to"] = info.offloaded_to.as_slice().into();
    report["gpu_memory_bytes"] = info.gpu_memory_bytes.into();
    report["layers"] = info.layers.into();
    report["layers_offloaded"] = info.layers_offloaded.into();
    report["context_tokens"] = info.context_tokens.into();
    report["slots_running"] = status.running.into();
    report["queued"] = status.queued.into();
    report["kv_used"] = status.kv_used.into();
    report["kv_total"] = status.kv_total.into();
    report["heartbeat_age_ms"] = millis(status.heartbeat_age).into();
    report["load_ms"] = millis(info.load_time).into();
    report["isolation"] = if engine.process().is_some() { "process" } else { "in_process" }.into();
    report["process"] = engine.process().into();
    report["memory_bytes"] = engine.memory_bytes().into();
    report["draft_model"] = info.draft.as_ref().map(|draft| draft.name.as_str()).into();
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unfit(bad: BadRequest) -> Fault {
    let detail = bad.code;
    Fault::new(FaultKind::Unfit(bad), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_an_operator_called_off_is_no_fault_of_the_route() {
        assert!(!not_loaded(&NotLoaded::Unloaded).is_upstreams());
        let failed = NotLoaded::Failed { reason: "no file".to_owned() };
        assert!(not_loaded(&failed).is_upstreams());
    }
}
