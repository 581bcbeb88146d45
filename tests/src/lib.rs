//! What the end-to-end tests stand on: a stand-in cloud that is a real server on a real socket.
//!
//! The tests themselves are one binary, `tests/e2e/main.rs`, with a module per promise.

pub mod standin;
