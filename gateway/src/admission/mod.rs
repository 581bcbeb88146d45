//! Who may come in now: rate limits, concurrency, failed authentication.
