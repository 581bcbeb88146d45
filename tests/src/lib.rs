//! What the end-to-end tests stand on: a stand-in cloud and a receiver of webhooks that are real
//! servers on real sockets.
//!
//! The tests themselves are one binary, `tests/e2e/main.rs`, with a module per promise.

pub mod receiver;
pub mod standin;
