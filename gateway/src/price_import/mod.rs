//! Other programs' price files as rows of ours, with a report of every model in them.
//!
//! **Invariants:** a row is exact, or the report says that it was rounded; a price that a row cannot
//! say is left out by name and never approximated; what is read becomes the operator's only when
//! the operator puts it into the configuration.

mod decimal;
mod genai;
mod litellm;
mod parts;
#[cfg(test)]
mod tests;

use policies::{PriceName, PriceRow, RowRates, TokenPrice};
use serde::Serialize;
use std::sync::Arc;

/// Whose format a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// LiteLLM's `model_prices_and_context_window.json`.
    Litellm,
    /// The `data.json` of genai-prices.
    Genai,
}

/// What rows say about where they come from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where the file was read; a provider's own page is added where the file names one.
    pub source: String,
    /// The day on which it stood there, `YYYY-MM-DD`.
    pub source_date: String,
    /// The first day of rows that the file gives no date for.
    pub effective_from: String,
    /// Only these providers, by our names; all where it is empty.
    pub providers: Vec<String>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The rows, in the order of the file.
    pub rows: Vec<PriceRow>,
    /// One line for each model of the file.
    pub report: Vec<Line>,
}

/// What became of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The provider, by our name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was rounded, is not carried, or kept it out.
    pub notes: Vec<String>,
}

/// What became of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its rows say exactly what the file does.
    Exact,
    /// An amount was finer than a pico-USD and was rounded half-even.
    Rounded,
    /// A row cannot say it, for the reason in the notes.
    Unsupported,
}

/// A file that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("this is no price file in the format `{format}`: {source}")]
pub struct ImportError {
    format: &'static str,
    source: serde_json::Error,
}

/// One model of a file: its names and what holds from which day.
struct Model {
    provider: String,
    /// The first names the model in the report.
    names: Vec<String>,
    snapshots: bool,
    source: String,
    periods: Vec<Period>,
    /// Whether the file names a fee for searches.
    search_fee: bool,
    /// Said in the report.
    notes: Vec<String>,
}

/// What holds from a day on.
struct Period {
    from: String,
    rates: RowRates,
    rounded: bool,
}

/// Reads a price file.
///
/// # Errors
/// [`ImportError`] where it is not of that format at all.
pub fn import(text: &str, format: Format, origin: &Origin) -> Result<Imported, ImportError> {
    match format {
        Format::Litellm => {
            litellm::read(text, origin).map_err(|source| ImportError { format: "litellm", source })
        }
        Format::Genai => {
            genai::read(text, origin).map_err(|source| ImportError { format: "genai", source })
        }
    }
}

impl Imported {
    /// How many models came to this.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.report.iter().filter(|line| line.outcome == outcome).count()
    }

    /// Adds a model's rows and its line.
    fn add(&mut self, mut model: Model, origin: &Origin) {
        let mut rows = Vec::new();
        let mut notes = std::mem::take(&mut model.notes);
        if let Some(why) = model.names.first().and_then(|id| unasked(id, model.search_fee)) {
            notes.push(why.to_owned());
            return self.refuse(&model.provider, &model.names, notes);
        }
        model.names.retain(|name| {
            let why = unasked(name, model.search_fee);
            notes.extend(why.map(|why| format!("not carried: `{name}`, {why}")));
            why.is_none()
        });
        let mut rounded = false;
        for period in &model.periods {
            rounded |= period.rounded;
            for name in &model.names {
                let place = PriceName {
                    provider: &model.provider,
                    model: name,
                    effective_from: &period.from,
                };
                match TokenPrice::new(place, period.rates.clone()) {
                    Ok(price) => rows.push(PriceRow {
                        provider: model.provider.clone(),
                        model: name.clone(),
                        effective_from: period.from.clone(),
                        snapshots: model.snapshots,
                        source: model.source.clone(),
                        source_date: origin.source_date.clone(),
                        price: Arc::new(price),
                    }),
                    Err(error) => {
                        notes.push(error.to_string());
                        return self.refuse(&model.provider, &model.names, notes);
                    }
                }
            }
        }
        // A name that an earlier model of the file has taken is that one's.
        let taken = |row: &PriceRow| {
            self.rows.iter().any(|other| {
                other.provider == row.provider
                    && other.model == row.model
                    && other.effective_from == row.effective_from
            })
        };
        rows.retain(|row| !taken(row));
        self.rows.append(&mut rows);
        let outcome = if rounded { Outcome::Rounded } else { Outcome::Exact };
        self.line(&model.provider, &model.names, outcome, notes);
    }

    /// Says why a model is left out.
    fn refuse(&mut self, provider: &str, names: &[String], notes: Vec<String>) {
        self.line(provider, names, Outcome::Unsupported, notes);
    }

    fn line(&mut self, provider: &str, names: &[String], outcome: Outcome, notes: Vec<String>) {
        self.report.push(Line {
            provider: provider.to_owned(),
            model: names.first().cloned().unwrap_or_default(),
            outcome,
            notes,
        });
    }
}

impl Origin {
    fn wants(&self, provider: &str) -> bool {
        self.providers.is_empty() || self.providers.iter().any(|wanted| wanted == provider)
    }
}

/// Why an answer of a model costs more than its tokens of text, whatever the request says, as far as its
/// name tells: files list such models at the rates of text alone.
fn unasked(name: &str, search_fee: bool) -> Option<&'static str> {
    let has = |word: &str| name.split(['-', '/', '_', ':', '.']).any(|part| part == word);
    if has("search") || search_fee && (has("sonar") || has("compound")) {
        return Some("it searches without being asked, and a row cannot say what that costs");
    }
    has("image").then_some("it draws without being asked, and a row cannot say what that costs")
}

/// Our name for a provider.
fn our_name(theirs: &str) -> &str {
    match theirs {
        "x-ai" => "xai",
        "gemini" => "google",
        "together_ai" => "together",
        "azure_ai" => "azure",
        other => other,
    }
}
