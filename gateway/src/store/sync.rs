//! What the queue and its tickets take from `std`, under one name, so that a test can put a model
//! checker's in its place: see `ledger/tests/modelled`.

pub(super) use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{Thread, current, park},
};
