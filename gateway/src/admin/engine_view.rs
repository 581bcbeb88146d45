//! A loaded engine as the admin API shows it: its cells, its queue, its costs, and whose request
//! took cells from whose.

use crate::{ledger::KeyId, routes::caller_number, serve::Gateway, timeline::micros};
use local_engine::{Engine, Eviction, EvictionKind, SpeculationStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The engine's live numbers and its last evictions, oldest first.
pub(super) fn engine(gateway: &Gateway, engine: &Engine) -> Value {
    let status = engine.status();
    let evictions = engine.evictions();
    json!({
        "running": status.running,
        "swapped": status.swapped,
        "swap_bytes": status.swap_bytes,
        "checkpoint_bytes": status.checkpoint_bytes,
        "kv_cells_used": status.kv_used,
        "kv_cells": status.kv_total,
        "busy_us": micros(status.busy),
        "swap_us": micros(status.swap_time),
        "prefill_tokens": status.prefill_tokens,
        "decode_tokens": status.decode_tokens,
        "cached_tokens": status.cached_tokens,
        "prefix_hits": status.prefix_hits,
        "prefix_misses": status.prefix_misses,
        "prefix_evictions": status.evictions,
        "preemptions": status.preemptions,
        "recomputed": status.recomputed,
        "slot_moves": status.moves,
        "predicted_wait_us": engine.wait_behind_all().map(micros),
        "step_cost_ns": status.costs.map(|costs| json!({
            "fixed": nanos(costs.fixed),
            "decode_token": nanos(costs.decode),
            "prefill_token": nanos(costs.prefill),
        })),
        "speculation": status.speculation.iter().map(speculation).collect::<Vec<_>>(),
        "draft_model": engine.info().draft.as_ref().zip(status.draft).map(|(info, draft)| json!({
            "model": info.name,
            "kv_cells_used": draft.kv_used,
            "kv_cells": draft.kv_total,
            "tokens": draft.tokens,
            "busy_us": micros(draft.busy),
        })),
        "heartbeat_age_us": micros(status.heartbeat_age),
        "evictions": told(gateway, &evictions),
    })
}

/// How guessing tokens has gone for a class of requests.
fn speculation(told: &SpeculationStatus) -> Value {
    json!({
        "sampled": told.class.sampled,
        "constrained": told.class.constrained,
        "long_prompt": told.class.long_prompt,
        "steps": told.steps,
        "drafted_tokens": told.drafted,
        "accepted_tokens": told.accepted,
        "gain_permille": told.gain_permille,
        "resting": told.resting,
    })
}

/// Events with the ids of the keys they are about. The engine knows keys by number only.
fn told(gateway: &Gateway, evictions: &[Eviction]) -> Vec<Value> {
    if evictions.is_empty() {
        return Vec::new();
    }
    let keys: BTreeMap<u64, KeyId> = gateway
        .keys
        .list()
        .iter()
        .map(|record| (caller_number(&record.id), record.id.clone()))
        .collect();
    let view = |event: &Eviction| {
        json!({
            "age_us": micros(event.age),
            "kind": match event.kind {
                EvictionKind::Prefix => "prefix",
                EvictionKind::Swapped => "swapped",
                EvictionKind::Dropped => "dropped",
            },
            "cells": event.cells,
            "of": { "key": keys.get(&event.of.caller), "job": event.of.number },
            "by": { "key": keys.get(&event.by.caller), "job": event.by.number },
        })
    };
    evictions.iter().map(view).collect()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
