//! `tollgate prices diff`: what another price file would change.

use crate::cli::{
    CliError, Common, link,
    output::{self, Align, text},
};
use clap::Args;
use policies::{PriceList, PriceRow, RateTable};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf};

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The new price file
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// What it is compared with; without it, the list in the configuration
    #[arg(value_name = "OLD")]
    old: Option<PathBuf>,
    /// Also list rows that only the old list has
    #[arg(long)]
    gone: bool,
}

/// Where a row stands: provider, model, first day.
type Place<'a> = (&'a str, &'a str, &'a str);

/// Compares.
pub(super) fn run(common: &Common, args: &DiffArgs) -> Result<(), CliError> {
    let new = super::read(&args.new)?;
    let old = match &args.old {
        Some(path) => super::read(path)?,
        None => link::config(common)?.prices,
    };
    let changes = changes(&old, &new, args.gone);
    if common.json {
        return output::json(&json!({ "object": "list", "data": changes }));
    }
    output::table(
        &changes,
        &[
            ("CHANGE", Align::Left, &|row| text(row, "/change")),
            ("PROVIDER", Align::Left, &|row| text(row, "/provider")),
            ("MODEL", Align::Left, &|row| text(row, "/model")),
            ("FROM", Align::Left, &|row| text(row, "/effective_from")),
            ("OLD INPUT/OUTPUT", Align::Right, &|row| text(row, "/old")),
            ("NEW INPUT/OUTPUT", Align::Right, &|row| text(row, "/new")),
        ],
    )
}

fn changes(old: &PriceList, new: &PriceList, gone: bool) -> Vec<Value> {
    let mut rows: BTreeMap<Place<'_>, [Option<&PriceRow>; 2]> = BTreeMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for row in list.rows() {
            let place = (row.provider.as_str(), row.model.as_str(), row.effective_from.as_str());
            if let Some(slot) = rows.entry(place).or_default().get_mut(side) {
                *slot = Some(row);
            }
        }
    }
    let changed = rows.into_iter().filter_map(|(place, [old, new])| {
        let change = match (old, new) {
            (None, Some(_)) => "added",
            (Some(_), None) if gone => "gone",
            (Some(old), Some(new)) if old.price.id != new.price.id => "changed",
            _ => return None,
        };
        let rates = |row: Option<&PriceRow>| row.map(|row| shown(&row.price.standard));
        Some(json!({
            "change": change,
            "provider": place.0,
            "model": place.1,
            "effective_from": place.2,
            "old": rates(old),
            "new": rates(new),
        }))
    });
    changed.collect()
}

/// USD per million tokens of input and output.
fn shown(table: &RateTable) -> String {
    let million = |rate: policies::PicoUsd| {
        rate.times(1_000_000).map_or_else(|_| "?".to_owned(), policies::PicoUsd::to_plain)
    };
    format!("{}/{}", million(table.base.input), million(table.base.output))
}
