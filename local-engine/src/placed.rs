//! A loaded model as it lives on the device's thread: the weights, the context that borrows them,
//! and the scheduler over it, freed in that order's reverse when the model leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use crate::{
    drill::Drill, scheduler::Turn, shared::Shared, turns::Resident, with_model::WithModel,
};

/// See the file's head.
pub(crate) struct Placed {
    scheduler: WithModel,
    shared: Arc<Shared>,
    drill: Option<Drill>,
    /// After the weights and the context, so that the memory is free when it is said to be.
    _claim: Claim,
    _ended: Ended,
}

/// Memory that models take, estimated.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) max: Option<u64>,
    used: AtomicU64,
}

/// A model's part of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    memory: Arc<Memory>,
    bytes: u64,
}

/// Tells those who wait for the model's end.
struct Ended(Arc<Shared>);

impl Placed {
    pub(crate) fn new(
        scheduler: WithModel,
        shared: Arc<Shared>,
        drill: Option<Drill>,
        claim: Claim,
    ) -> Placed {
        let ended = Ended(Arc::clone(&shared));
        Placed { scheduler, shared, drill, _claim: claim, _ended: ended }
    }
}

impl Resident for Placed {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn turn(&mut self, now: Instant) -> Result<Turn, String> {
        if let Some(drill) = &self.drill {
            drill.rehearse(&self.shared.gauges)?;
        }
        self.scheduler.with_dependent_mut(|_, scheduler| scheduler.turn(now))
    }

    fn end(&mut self, reason: &str) {
        self.scheduler.with_dependent_mut(|_, scheduler| scheduler.end(reason));
    }
}

impl Memory {
    pub(crate) fn new(max: Option<u64>) -> Memory {
        Memory { max, used: AtomicU64::new(0) }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    pub(crate) fn free(&self) -> u64 {
        self.max.map_or(u64::MAX, |max| max.saturating_sub(self.used()))
    }

    /// Whether it would have room if there were nothing else.
    pub(crate) fn could_hold(&self, bytes: u64) -> bool {
        self.max.is_none_or(|max| bytes <= max)
    }

    /// Takes memory, if there is so much; else says how much is free.
    pub(crate) fn claim(self: &Arc<Memory>, bytes: u64) -> Result<Claim, u64> {
        let most = self.max.unwrap_or(u64::MAX);
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= most);
        match self.used.fetch_update(SeqCst, SeqCst, more) {
            Ok(_) => Ok(Claim { memory: Arc::clone(self), bytes }),
            Err(used) => Err(most.saturating_sub(used)),
        }
    }
}

impl Claim {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, SeqCst);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}
