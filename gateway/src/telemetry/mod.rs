//! Metrics and logs; no secret and no prompt is in either.
