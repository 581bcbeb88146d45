//! Per-provider request and stream conversion. Only this module and `wire/` know anybody's JSON.

pub mod openai;
