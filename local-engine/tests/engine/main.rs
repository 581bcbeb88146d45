//! What the engine promises, on the real model. One binary, a module per promise. Tests assert
//! shape, counts and determinism, never facts: the model is small and often wrong.

#![expect(clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod accounting;
mod apart;
mod batching;
mod constraints;
mod drafting;
mod embeddings;
mod gpu;
mod harness;
mod hostile;
mod hosting;
mod loading;
mod prompts;
mod sampling;
mod sharing;
mod sliding;
mod speculation;
mod stopping;
mod tools;
