//! The rhythm of one answer: first token, gaps between pieces, time per output token.

use crate::{
    ledger::{AttemptTimes, percentile},
    routes::live::Waited,
    timeline::micros,
};
use sketches_ddsketch::{Config, DDSketch};
use tokio::time::Instant;

/// Records when visible pieces came. Gaps go to a DDSketch (1 %), so a stream of any length takes
/// bounded memory.
pub(super) struct Pacing {
    arrived: Instant,
    sent: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Whether the route sends it in pieces: what comes whole has no first token and no rhythm.
    streamed: bool,
    gaps_us: Option<DDSketch>,
}

impl Pacing {
    pub(super) fn start(sent: Instant, arrived: Instant, streamed: bool) -> Self {
        Self { arrived, sent, first: None, last: None, streamed, gaps_us: None }
    }

    /// A visible piece came now; the first one at `first_at`, where that was held back.
    pub(super) fn visible(&mut self, first_at: Option<Instant>) {
        let Some(last) = self.last else {
            self.first = Some(first_at.unwrap_or_else(Instant::now));
            self.last = self.first;
            return;
        };
        if !self.streamed {
            return;
        }
        let now = Instant::now();
        let gap = micros(now.saturating_duration_since(last));
        #[expect(clippy::cast_precision_loss, reason = "a gap of 2^53 us is 285 years")]
        self.gaps_us.get_or_insert_with(|| DDSketch::new(Config::defaults())).add(gap as f64);
        self.last = Some(now);
    }

    /// Arrival to the first visible piece that the client got: who asked for no stream gets all of it
    /// `now`, at the end.
    pub(super) fn client_ttft_us(&self, stream: bool, now: Instant) -> Option<u64> {
        let first = self.first.map(|first| if stream { first } else { now });
        first.map(|first| micros(first.saturating_duration_since(self.arrived)))
    }

    /// How long the route let the request wait; `None` where it showed nothing.
    pub(super) fn waited(&self) -> Option<Waited> {
        let first = self.first?.saturating_duration_since(self.sent);
        Some(if self.streamed { Waited::FirstToken(first) } else { Waited::Whole(first) })
    }

    /// (Last visible piece - first) / (output tokens - 1), in nanoseconds.
    pub(super) fn tpot_ns(&self, output_tokens: u64) -> Option<u64> {
        let (first, last) = (self.first?, self.last?);
        if !self.streamed || output_tokens < 2 || last == first {
            return None;
        }
        let nanos =
            last.saturating_duration_since(first).as_nanos() / u128::from(output_tokens - 1);
        u64::try_from(nanos).ok()
    }

    /// Writes what is known by `now` beside the wait for the head.
    pub(super) fn write(&self, times: &mut AttemptTimes, output_tokens: u64, now: Instant) {
        let first = self.first.unwrap_or(now);
        let first_us = micros(first.saturating_duration_since(self.sent));
        times.first_token_us = first_us.saturating_sub(times.head_us);
        times.stream_us = micros(now.saturating_duration_since(first));
        times.ttft_us = self.first.filter(|_| self.streamed).map(|_| first_us);
        times.tpot_ns = self.tpot_ns(output_tokens);
        if let Some(gaps) = &self.gaps_us {
            times.gap_p50_us = percentile(gaps, 50);
            times.gap_p95_us = percentile(gaps, 95);
            times.gap_max_us = percentile(gaps, 100);
        }
    }
}

impl std::fmt::Debug for Pacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pacing").field("first", &self.first).finish_non_exhaustive()
    }
}
