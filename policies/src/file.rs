//! Reading the crate's TOML files (policies, decision tables, prices) with exact places.
//!
//! **Invariants:** every error names the file, line, column and key; a key that nobody asked for is
//! an error with the nearest known key; numbers stay as they were written until a unit says what
//! they are, so no float ever enters.

use std::{fmt, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// What is wrong in a policy or price file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// Name of the policy or price file.
    pub file: String,
    /// Line, from 1; 0 when the error is about the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 when the error is about the whole file.
    pub column: usize,
    /// The key, such as `choose[1].when.prompt_tokens.gtt`; empty where there is none.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What may have been meant, such as ``did you mean `gt`?``.
    pub help: Option<String>,
}

/// A policy file that cannot be used.
pub type PolicyError = FileError;
/// A price file that cannot be used.
pub type PriceError = FileError;

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

/// Where a key stands in a file, for errors that are only found once the file has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    span: Range<usize>,
    key: Box<str>,
}

/// A file being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'d> {
    pub(crate) name: &'d str,
    pub(crate) text: &'d str,
}

/// A value with its place and the path of keys that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct Node<'d> {
    source: Source<'d>,
    path: String,
    /// The last key of the path.
    pub(crate) key: &'d str,
    value: &'d DeValue<'d>,
    span: Range<usize>,
    /// Where the key stands; the value's own place for elements of arrays.
    key_span: Range<usize>,
}

/// The keys of a table, handed out one by one; [`Fields::finish`] refuses what is left.
#[derive(Debug)]
pub(crate) struct Fields<'d> {
    source: Source<'d>,
    path: String,
    span: Range<usize>,
    /// Still to be asked for, in the order of the file.
    left: Vec<Node<'d>>,
    asked: Vec<&'static str>,
}

// === impl Source ===

impl<'d> Source<'d> {
    /// Parses the text as TOML.
    pub(crate) fn parse(self) -> Result<Spanned<DeTable<'d>>, FileError> {
        if self.text.len() > FILE_BYTES_MAX {
            return Err(self.error(0..0, "", format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        DeTable::parse(self.text)
            .map_err(|e| self.error(e.span().unwrap_or(0..0), "", e.message().to_owned()))
    }

    pub(crate) fn error(self, span: Range<usize>, key: &str, message: String) -> FileError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        FileError {
            file: self.name.to_owned(),
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
            key: key.to_owned(),
            message,
            help: None,
        }
    }

    /// An error about the file as a whole.
    pub(crate) fn whole(self, message: String) -> FileError {
        FileError {
            file: self.name.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            message,
            help: None,
        }
    }
}

impl Place {
    /// An error there, in the file that it was read from.
    pub(crate) fn error(&self, source: Source<'_>, message: String) -> FileError {
        source.error(self.span.clone(), &self.key, message)
    }
}

impl FileError {
    pub(crate) fn help(mut self, help: String) -> Self {
        self.help = Some(help);
        self
    }

    /// Adds the nearest of `known` to `word`, or all of them when none is near.
    pub(crate) fn suggest(self, word: &str, known: &[&str]) -> Self {
        match nearest(word, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => self,
            None => {
                let known: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
                self.help(format!("known here: {}", known.join(", ")))
            }
        }
    }
}

// === impl Node ===

impl<'d> Node<'d> {
    pub(crate) fn error(&self, message: impl Into<String>) -> FileError {
        self.source.error(self.key_span.clone(), &self.path, message.into())
    }

    /// An error that points at the value rather than at its key.
    pub(crate) fn value_error(&self, message: impl Into<String>) -> FileError {
        self.source.error(self.span.clone(), &self.path, message.into())
    }

    /// The value as it was written.
    pub(crate) fn written(&self) -> &'d str {
        self.source.text.get(self.span.clone()).unwrap_or_default()
    }

    /// Line of the key, from 1.
    pub(crate) fn line(&self) -> usize {
        self.source.error(self.key_span.clone(), "", String::new()).line
    }

    /// Where the key stands.
    pub(crate) fn place(&self) -> Place {
        Place { span: self.key_span.clone(), key: self.path.as_str().into() }
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.value.type_str()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    fn wrong(&self, wanted: &str) -> FileError {
        let article = if matches!(self.kind(), "integer" | "array") { "an" } else { "a" };
        self.value_error(format!("is {article} {} where {wanted} is needed", self.kind()))
    }

    /// A string.
    pub(crate) fn text(&self, wanted: &str) -> Result<&'d str, FileError> {
        self.value.as_str().ok_or_else(|| self.wrong(wanted))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self) -> Result<bool, FileError> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A whole number that is not negative.
    pub(crate) fn whole(&self, wanted: &str) -> Result<u64, FileError> {
        let number = self.value.as_integer().ok_or_else(|| self.wrong(wanted))?;
        u64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| self.value_error(format!("is not {wanted}: `{}`", self.written())))
    }

    /// The digits of a number with or without a point, for exact reading.
    pub(crate) fn decimal(&self, wanted: &str) -> Result<&'d str, FileError> {
        match self.value {
            DeValue::Float(number) => Ok(number.as_str()),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str()),
            _ => Err(self.wrong(wanted)),
        }
    }

    /// The elements of an array.
    pub(crate) fn array(&self, wanted: &str) -> Result<Vec<Self>, FileError> {
        let items = self.value.as_array().ok_or_else(|| self.wrong(wanted))?;
        Ok(items
            .iter()
            .enumerate()
            .map(|(ix, item)| Self {
                source: self.source,
                path: format!("{}[{ix}]", self.path),
                key: self.key,
                value: item.get_ref(),
                span: item.span(),
                key_span: item.span(),
            })
            .collect())
    }

    /// The keys of a table.
    pub(crate) fn table(&self, wanted: &str) -> Result<Fields<'d>, FileError> {
        let table = self.value.as_table().ok_or_else(|| self.wrong(wanted))?;
        Ok(Fields::new(self.source, self.path.clone(), self.key_span.clone(), table))
    }
}

// === impl Fields ===

impl<'d> Fields<'d> {
    pub(crate) fn of_file(source: Source<'d>, doc: &'d Spanned<DeTable<'d>>) -> Self {
        Self::new(source, String::new(), 0..0, doc.get_ref())
    }

    fn new(source: Source<'d>, path: String, span: Range<usize>, table: &'d DeTable<'d>) -> Self {
        let mut left: Vec<Node<'d>> = table
            .iter()
            .map(|(key, value)| {
                let name: &'d str = key.get_ref();
                let shown = if is_bare(name) { name.to_owned() } else { format!("\"{name}\"") };
                Node {
                    source,
                    path: if path.is_empty() { shown } else { format!("{path}.{shown}") },
                    key: name,
                    value: value.get_ref(),
                    span: value.span(),
                    key_span: key.span(),
                }
            })
            .collect();
        left.sort_by_key(|node| node.key_span.start);
        Self { source, path, span, left, asked: Vec::new() }
    }

    /// Takes a key, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Node<'d>> {
        self.asked.push(key);
        let at = self.left.iter().position(|node| node.key == key)?;
        Some(self.left.remove(at))
    }

    /// Takes a key that must be there.
    pub(crate) fn require(&mut self, key: &'static str) -> Result<Node<'d>, FileError> {
        self.take(key).ok_or_else(|| self.error(format!("needs the key `{key}`")))
    }

    /// Takes every key that is left, in the order of the file.
    pub(crate) fn rest(&mut self) -> Vec<Node<'d>> {
        std::mem::take(&mut self.left)
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> FileError {
        self.source.error(self.span.clone(), &self.path, message.into())
    }

    /// Refuses keys that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), FileError> {
        self.left
            .first()
            .map_or(Ok(()), |node| Err(node.error("unknown key").suggest(node.key, &self.asked)))
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The word of `known` nearest to `word`, if one is near enough to have been meant.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let reach = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .min_by_key(|(far, _)| *far)
        .filter(|(far, _)| *far <= reach)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (row[j] + usize::from(a != b)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[to.len()]
}
