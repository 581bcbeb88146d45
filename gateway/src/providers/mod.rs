//! Per-provider request and stream conversion.
