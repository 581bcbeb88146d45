//! Writing results to stdout and complaints to stderr. A reader that went away is no error.
//!
//! **Invariant:** nothing that a caller or a provider wrote is obeyed by the terminal that shows it:
//! what [`is_obeyed`] is written as an escape.

use super::CliError;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write as _};

/// Columns of a terminal below which a table is not fitted into it: some say that they have none.
const WIDTH_MIN: u16 = 40;

/// What text of several lines may have in it as it is.
const OF_LINES: [char; 2] = ['\n', '\t'];

/// Writes text and a newline to stdout.
pub(crate) fn say(text: impl AsRef<str>) -> Result<(), CliError> {
    let text = escaped(text.as_ref(), &OF_LINES, of_text);
    let mut out = io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush())).map(|_| ())
}

/// What became of a write to stdout: whether its reader is still there.
pub(crate) fn written(result: io::Result<()>) -> Result<bool, CliError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::failed(format!("stdout: {error}"))),
    }
}

/// Writes a note to stderr.
pub(crate) fn note(text: impl AsRef<str>) {
    let text = escaped(text.as_ref(), &OF_LINES, of_text);
    // Nobody listens: nothing can be said.
    let _unsaid = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a failure and its hint to stderr.
pub(crate) fn complain(error: &CliError) {
    note(format!("tollgate: {error}"));
    if let Some(hint) = error.hinted() {
        note(format!("  {hint}"));
    }
}

/// Writes JSON.
pub(crate) fn json(value: &Value) -> Result<(), CliError> {
    say(json_text(value))
}

/// JSON that says the same to a program, and nothing to a terminal.
fn json_text(value: &Value) -> String {
    escaped(&format!("{value:#}"), &OF_LINES, |c| format!("\\u{:04x}", u32::from(c)))
}

/// Whether a terminal does something at this character, or shows what follows it elsewhere: control
/// characters (C0, DEL, C1), the ends of lines and paragraphs, and what turns the direction of text.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with what [`is_obeyed`] and is not kept escaped.
fn escaped(text: &str, kept: &[char], escape: fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) && !kept.contains(&c) {
            out.push_str(&escape(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A character as people read it: `\n`, `\u{1b}`.
fn of_text(c: char) -> String {
    c.escape_default().collect()
}

/// A column of a table: its head, whether it is a number, and its text in a row.
pub(crate) type Column<'a> = (&'a str, Align, &'a dyn Fn(&Value) -> String);

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Writes rows as a table.
pub(crate) fn table(rows: &[Value], columns: &[Column<'_>]) -> Result<(), CliError> {
    if rows.is_empty() {
        note("there is nothing to list");
        return Ok(());
    }
    let terminal = io::stdout().is_terminal().then(Table::new);
    say(built(rows, columns, terminal.and_then(|table| table.width())).trim_fmt())
}

/// The table, fitted into a terminal of that width.
fn built(rows: &[Value], columns: &[Column<'_>], width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.iter().map(|(head, _, _)| *head));
    if let Some(width) = width.filter(|width| *width >= WIDTH_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for row in rows {
        table.add_row(columns.iter().map(|(_, _, text)| Cell::new(text(row))));
    }
    // Rows begin with what names them, which is there to be copied.
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    for (column, (_, align, _)) in table.column_iter_mut().zip(columns) {
        if *align == Align::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A value at a JSON pointer as text in one line: strings as they are, but for what a terminal would
/// obey; absent ones as `-`.
pub(crate) fn text(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => escaped(text, &[], of_text),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| text(item, "")).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// An amount in USD without the zeros at its end.
pub(crate) fn usd(row: &Value, pointer: &str) -> String {
    let full = text(row, pointer);
    match full.split_once('.') {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            format!("{whole}.{fraction:0<2}")
        }
        None => full,
    }
}

/// A sum in USD to which `unknown` attempts would add what nobody knows: `-` where nothing of it is
/// known, `≥` before what is known of it.
pub(crate) fn known_usd(row: &Value, pointer: &str, unknown: &str) -> String {
    let known = usd(row, pointer);
    match row.pointer(unknown).and_then(Value::as_u64) {
        None | Some(0) => known,
        Some(_) if known == "0.00" => "-".to_owned(),
        Some(_) => format!("≥ {known}"),
    }
}

/// Microseconds as milliseconds.
pub(crate) fn ms(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer).and_then(Value::as_f64) {
        Some(us) => format!("{:.1}", us / 1000.0),
        None => "-".to_owned(),
    }
}

/// The rows of a list.
pub(crate) fn rows(list: &Value) -> &[Value] {
    list["data"].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_names_a_row_is_whole_on_any_terminal() {
        let id = "req_01a21f516afc773f970df3bdfa3c1252";
        let row =
            json!({ "id": id, "said": "words that fill a line and more of them than it has" });
        let columns: [Column<'_>; 2] = [
            ("ID", Align::Left, &|row| text(row, "/id")),
            ("SAID", Align::Left, &|row| text(row, "/said")),
        ];
        for width in [None, Some(0), Some(1), Some(41), Some(80), Some(200)] {
            let table = built(std::slice::from_ref(&row), &columns, width).trim_fmt();
            assert!(table.contains(id), "{width:?}:\n{table}");
            let longest = table.lines().map(str::len).max().unwrap();
            let fits = width.is_none_or(|width| width < 60 || longest <= usize::from(width));
            assert!(fits, "{width:?}:\n{table}");
        }
    }

    #[test]
    fn what_a_caller_wrote_is_shown_and_not_obeyed() {
        let wrote =
            "\u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}2J\u{7f}\r\n\u{202e}dlog\u{2066}\u{2028}é\t日本";
        let row = json!({ "said": wrote, "list": [wrote] });
        let shown = "\\u{1b}[31mred\\u{1b}]0;title\\u{7}\\u{9b}2J\\u{7f}\\r\\n\\u{202e}dlog\\u{2066}\\u{2028}é\\t日本";
        assert_eq!(text(&row, "/said"), shown);
        assert_eq!(text(&row, "/list"), shown);
        // Text of several lines keeps them.
        let lines = shown.replace("\\n", "\n").replace("\\t", "\t");
        assert_eq!(escaped(wrote, &OF_LINES, of_text), lines);
        let told = json_text(&row);
        assert!(!told.chars().any(|c| is_obeyed(c) && c != '\n'), "{told}");
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), row);
    }
}
