//! How long local models were loaded, and how much of that time was a request's: what an idle machine
//! costs beside the requests.
//!
//! **Invariants:** it follows from the events of the journal alone; no entry, sum of entries or budget
//! has any of it; money is computed when it is shown, from nanoseconds, and rounds once.

use super::books::Books;
use crate::store::{BooksError, codec};
use policies::{PicoUsd, PriceId, RouteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rows that are kept: eleven years of one model.
const ROWS_MAX: usize = 4_096;
const DAY_MS: u64 = 86_400_000;
const HOUR_NS: u128 = 3_600_000_000_000;

/// Some time in which a local model was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Its route.
    pub route: RouteId,
    /// The price of its engine time.
    pub price: PriceId,
    /// What an hour costs in which its engine is idle.
    pub idle_per_hour: PicoUsd,
    /// How long it was loaded, nanoseconds.
    pub loaded_ns: u64,
    /// Engine time attributed to requests that ended, nanoseconds.
    pub engine_ns: u64,
}

/// The same of a day (UTC), a route and a price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoodDay {
    /// Days since the Unix epoch.
    pub day: u64,
    /// The sums.
    pub stood: Stood,
}

/// Sums by day, route and price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing(BTreeMap<(u64, RouteId, PriceId), (PicoUsd, u64, u64)>);

impl Stood {
    /// Time loaded and no request's, nanoseconds. A request's engine time is known when it ends: near
    /// midnight it may be another day's, and is never less than nothing here.
    #[must_use]
    pub fn idle_ns(&self) -> u64 {
        self.loaded_ns.saturating_sub(self.engine_ns)
    }

    /// What that cost in pico-USD, rounded half-even.
    #[must_use]
    pub fn idle_pico(&self) -> u128 {
        let product = u128::from(self.idle_per_hour.pico()) * u128::from(self.idle_ns());
        let (whole, rest) = (product / HOUR_NS, product % HOUR_NS);
        let up = rest * 2 > HOUR_NS || (rest * 2 == HOUR_NS && whole % 2 == 1);
        whole + u128::from(up)
    }
}

impl Standing {
    pub(crate) fn add(&mut self, unix_ms: u64, stood: Stood) {
        let Stood { route, price, idle_per_hour, loaded_ns, engine_ns } = stood;
        let row = self.0.entry((unix_ms / DAY_MS, route, price)).or_default();
        row.0 = idle_per_hour;
        row.1 = row.1.saturating_add(loaded_ns);
        row.2 = row.2.saturating_add(engine_ns);
        if self.0.len() > ROWS_MAX {
            self.0.pop_first();
        }
    }

    fn days(&self, from: u64, to: u64) -> Vec<StoodDay> {
        let mut days = Vec::new();
        for ((day, route, price), (idle_per_hour, loaded_ns, engine_ns)) in &self.0 {
            if (from..to).contains(day) {
                let stood = Stood {
                    route: route.clone(),
                    price: price.clone(),
                    idle_per_hour: *idle_per_hour,
                    loaded_ns: *loaded_ns,
                    engine_ns: *engine_ns,
                };
                days.push(StoodDay { day: *day, stood });
            }
        }
        days
    }
}

impl Books {
    /// Writes down how long a model was loaded. Nobody waits for it.
    ///
    /// # Errors
    /// [`BooksError`] where there is no place in the queue: it can be written with what comes next.
    pub fn stood(&self, stood: &Stood) -> Result<(), BooksError> {
        self.0.queue.take_places(1)?;
        let effect = super::effect::Effect::Stood(Box::new(stood.clone()));
        let _nobody_waits =
            self.0.write(false, effect, |out| codec::encode(out, codec::STOOD, stood));
        Ok(())
    }

    /// How long models were loaded on the days (UTC, since the Unix epoch) from `from` to before `to`.
    /// Blocking.
    #[must_use]
    pub fn standing(&self, from: u64, to: u64) -> Vec<StoodDay> {
        self.catch_up();
        self.0.keeper.derived().standing.days(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_what_is_left_of_loaded_time_and_its_cost_rounds_half_even_once() {
        let stood = |per_hour: u64, loaded_ns, engine_ns| Stood {
            route: RouteId::new("edge"),
            price: PriceId("p".into()),
            idle_per_hour: PicoUsd::from_pico(per_hour),
            loaded_ns,
            engine_ns,
        };
        let hour = 3_600_000_000_000;
        assert_eq!(stood(7, hour, 0).idle_pico(), 7);
        assert_eq!(stood(5, hour, hour / 2).idle_pico(), 2, "half to the even one");
        assert_eq!(stood(7, hour, hour / 2).idle_pico(), 4);
        assert_eq!(stood(7, hour, 2 * hour).idle_pico(), 0, "never less than nothing");
        assert_eq!(
            stood(u64::MAX, u64::MAX, 0).idle_pico() / 1_000_000_000_000_000_000,
            94_522_879
        );
    }

    #[test]
    fn days_are_kept_apart_and_the_oldest_go_first() {
        let mut standing = Standing::default();
        for day in 0..ROWS_MAX as u64 + 10 {
            for _ in 0..2 {
                let (route, price) = (RouteId::new("edge"), PriceId("p".into()));
                let idle_per_hour = PicoUsd::from_pico(1);
                let stood = Stood { route, price, idle_per_hour, loaded_ns: 3, engine_ns: 1 };
                standing.add(day * DAY_MS + 5, stood);
            }
        }
        let days = standing.days(0, u64::MAX);
        assert_eq!((days.len(), days[0].day), (ROWS_MAX, 10));
        assert_eq!((days[0].stood.loaded_ns, days[0].stood.engine_ns), (6, 2));
        assert_eq!(standing.days(20, 22).len(), 2);
    }
}
