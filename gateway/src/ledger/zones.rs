//! What the configuration says of calendar windows, and what it said before.
//!
//! **Invariant:** a configured zone, or a configured budget's, that another start finds changed lets
//! the windows that run end as they would have; the journal knows what was configured, so that
//! nothing spent is forgotten by a change of the file.

use super::{
    Scope,
    calendar::{Calendar, ZoneHistory},
    derived::Derived,
};
use crate::caller::{BudgetSpec, Window, Zone};
use serde::{Deserialize, Serialize};

/// The configured zone and budgets when the books were last opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Configured {
    pub(crate) zones: ZoneHistory,
    /// The budgets over everything that have calendar windows.
    pub(crate) budgets: Vec<BudgetSpec>,
}

impl Configured {
    /// What holds now that the configuration says this.
    pub(crate) fn now(derived: &Derived, zone: Zone, written: &[BudgetSpec], now_ms: u64) -> Self {
        let before = derived.configured.clone().unwrap_or_else(|| Self::guessed(derived, &zone));
        let mut calendar = Calendar::new(&before.zones);
        let mut zones = before.zones;
        zones.change(zone, now_ms);
        let budget = |spec: &BudgetSpec| {
            let was = before.budgets.iter().find(|was| was.window == spec.window).cloned();
            let was = was.or_else(|| unnoted(derived, spec.window));
            BudgetSpec { turn: calendar.turn(was.as_ref(), spec, now_ms), ..spec.clone() }
        };
        Self { zones, budgets: written.iter().map(budget).collect() }
    }

    /// Whether it is what is taken for granted where nothing was written down.
    pub(crate) fn is_usual(&self) -> bool {
        self.zones == ZoneHistory::new(utc())
            && self.budgets.iter().all(|spec| spec.zone.is_none() && spec.turn.is_none())
    }

    /// Nothing was written down: by a program that knew only one zone, or because it was UTC. The
    /// newest days and months that were charged tell which.
    fn guessed(derived: &Derived, zone: &Zone) -> Self {
        let mut calendar = Calendar::new(&ZoneHistory::new(zone.clone()));
        let mut begins = |window: Window, start: u64| {
            let spec = BudgetSpec { window, ..plain() };
            calendar.span(&spec, start).start == start
        };
        let newest = derived.accounts.values().flat_map(|kept| kept.accounts.newest());
        let same = newest.clone().all(|(window, start)| begins(window, start));
        let zone = if same { zone.clone() } else { utc() };
        Self { zones: ZoneHistory::new(zone), budgets: Vec::new() }
    }
}

/// A budget over everything that counted already while nothing was written down: in the usual zone.
fn unnoted(derived: &Derived, window: Window) -> Option<BudgetSpec> {
    let counted = derived.accounts.get(&Scope::Global)?.accounts.of(window).is_some();
    let counted = counted && derived.configured.is_none();
    counted.then(|| BudgetSpec { window, ..plain() })
}

fn utc() -> Zone {
    Zone::from(&jiff::tz::TimeZone::UTC)
}

fn plain() -> BudgetSpec {
    BudgetSpec {
        window: Window::Day,
        money: None,
        tokens: None,
        hard: true,
        requests: None,
        zone: None,
        turn: None,
    }
}
