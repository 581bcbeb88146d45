//! What is wrong with a configuration, and where: file, line, column and key.
//!
//! **Invariants:** a value that came from the environment is never quoted, and neither is a text that
//! stands where none belongs: it may be a secret at the wrong key.

use std::{ops::Range, path::Path};

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{place}: {message}", place = place(*.at))]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// Line and column, both from 1, where they are known.
    pub at: Option<(usize, usize)>,
    /// What is wrong, and where it helps, what would be right.
    pub message: String,
}

/// A finding inside a document, before it is known which file that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Bytes of the document it is about.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong.
    pub(super) message: String,
}

impl Finding {
    /// A finding about these bytes.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: Some(span), message: message.into() }
    }
}

impl ConfigError {
    /// Places a finding in its file.
    pub(super) fn place(finding: &Finding, text: &str, file: &Path) -> Self {
        let at = finding.span.as_ref().map(|span| line_and_column(text, span.start));
        let start = finding.span.as_ref().map(|span| span.start);
        let message = start.map_or_else(
            || in_our_words(&finding.message, "", None),
            |at| in_our_words(&finding.message, inside(text, at), key_of(text, at)),
        );
        Self { file: file.display().to_string(), at, message }
    }

    /// A finding about the file as a whole.
    pub(super) fn whole(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.display().to_string(), at: None, message: message.into() }
    }
}

/// Values that came from the environment, and where they stand.
#[derive(Debug, Default)]
pub(super) struct FromEnv(Vec<Filled>);

/// One of them.
#[derive(Debug)]
struct Filled {
    span: Range<usize>,
    value: String,
    /// The first variable in it that is not set, where that is no error.
    missing: Option<String>,
}

impl FromEnv {
    pub(super) fn note(&mut self, span: Range<usize>, value: &str, missing: Option<String>) {
        self.0.push(Filled { span, value: value.to_owned(), missing });
    }

    /// A variable of the value at `span` that is not set.
    pub(super) fn missing_at(&self, span: &Range<usize>) -> Option<&str> {
        self.within(span).find_map(|filled| filled.missing.as_deref())
    }

    /// A finding that quotes none of them.
    pub(super) fn unsaid(&self, mut finding: Finding) -> Finding {
        if let Some(span) = finding.span.clone() {
            for Filled { value, .. } in self.within(&span) {
                for quoted in [format!("{value:?}"), format!("`{value}`")] {
                    finding.message =
                        finding.message.replace(&quoted, "(a value from the environment)");
                }
            }
        }
        finding
    }

    /// Those that stand in `span`, or around it.
    fn within(&self, span: &Range<usize>) -> impl Iterator<Item = &Filled> {
        self.0.iter().filter(|filled| filled.span.start < span.end && span.start < filled.span.end)
    }
}

/// The finding of the TOML reader. Where it points at a value of the environment, the value stays
/// unsaid.
pub(super) fn from_toml(error: &toml::de::Error, from_env: &FromEnv) -> Finding {
    let span = error.span();
    let hidden = span.as_ref().is_some_and(|at| from_env.within(at).next().is_some());
    let message = if hidden && !error.message().starts_with("unknown field") {
        "the value from the environment has the wrong type or form for this key".to_owned()
    } else {
        error.message().to_owned()
    };
    Finding { span, message }
}

fn place(at: Option<(usize, usize)>) -> String {
    at.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default()
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

/// The header of the section that `offset` is in, such as `[server]`; empty above the first.
fn section(text: &str, offset: usize) -> &str {
    let until_line_end =
        text.get(offset..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| offset + end);
    text.get(..until_line_end)
        .unwrap_or(text)
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| line.starts_with('[') && line.contains(']'))
        .map_or("", |line| {
            let end = line.rfind(']').map_or(line.len(), |end| end + 1);
            line.get(..end).unwrap_or(line)
        })
}

/// Where a key stands: in its section, or at the top of the file, where sections do too.
fn inside(text: &str, offset: usize) -> &str {
    let before = text.get(..offset).unwrap_or_default();
    let names_section = before.rsplit('\n').next().is_some_and(|line| {
        let line = line.trim();
        line == "[" || line == "[["
    });
    if names_section { "" } else { section(text, offset) }
}

/// The key whose value begins at `offset`.
fn key_of(text: &str, offset: usize) -> Option<&str> {
    let line = text.get(..offset)?.rsplit('\n').next()?;
    let before = line.trim_end().strip_suffix('=')?.trim_end();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = before.rsplit(|c| !is_part(c)).next()?;
    (!key.is_empty()).then_some(key)
}

/// The reader's words turned into the words of this file: key, section, suggestion.
fn in_our_words(message: &str, section: &str, key: Option<&str>) -> String {
    let inside = if section.is_empty() {
        " at the top of the file".to_owned()
    } else {
        format!(" in {section}")
    };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut words = backticked(rest);
        let key = words.next().unwrap_or_default();
        let known: Vec<&str> = words.collect();
        let hint = match closest(key, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "no key is known here".to_owned(),
            None => format!("known are {}", known.join(", ")),
        };
        return format!("unknown key `{key}`{inside}; {hint}");
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("missing key {rest}{inside}");
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        return format!("unknown value {rest}{inside}");
    }
    if message.starts_with("invalid type: ") || message.starts_with("invalid value: ") {
        let of = key.map(|key| format!("`{key}`: ")).unwrap_or_default();
        return format!("{of}{}", wrong_form(message));
    }
    message.trim_end().to_owned()
}

/// A wrong type or value: a text is not quoted, and what is expected has a name that is not Rust's.
fn wrong_form(message: &str) -> String {
    let Some((found, expected)) = message.trim_end().rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let found = match found.split_once(": string ") {
        Some((wrong, _)) => format!("{wrong}: a text"),
        None => found.to_owned(),
    };
    let expected = match expected {
        "a nonzero u32" => "an integer from 1 to 4294967295",
        "a nonzero u64" => "an integer of at least 1",
        "u16" => "an integer from 0 to 65535",
        "u32" => "an integer from 0 to 4294967295",
        "u64" => "an integer of at least 0",
        "a boolean" => "true or false",
        "a string" => "a text in quotes",
        "a map" => "a table",
        "a sequence" => "a list",
        of if of.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{found}, expected {expected}")
}

fn backticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
pub(crate) fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let near_enough = (name.len() / 3).max(2);
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| {
            *distance <= near_enough || (name.len() > 3 && known.contains(name))
        })
        .min()
        .map(|(_, known)| known)
}

/// Edit distance in bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let next = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = next;
            left = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
