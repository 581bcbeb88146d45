//! The patterns of the OpenAPI document: as much of a regular expression as they are made of, which is
//! characters, classes, groups of alternatives, and how often each may come.

use std::{iter::Peekable, str::Chars};

/// How often a part comes at most where nothing says so.
const OFTEN: usize = usize::MAX;

/// A piece of a pattern, and how often it comes.
struct Part {
    what: What,
    least: usize,
    most: usize,
}

enum What {
    /// One character of these ranges.
    Class(Vec<(char, char)>),
    /// One of these.
    Group(Vec<Vec<Part>>),
}

/// Whether the whole of `text` is as `pattern` says; a pattern is bound at both ends.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let inner = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
    let inner = inner.unwrap_or_else(|| panic!("{pattern} is not bound at both ends"));
    let mut left = inner.chars().peekable();
    let choices = alternatives(&mut left);
    assert!(left.next().is_none(), "{pattern} is not understood here");
    choices.iter().any(|parts| rests(parts, text).contains(&""))
}

fn alternatives(left: &mut Peekable<Chars<'_>>) -> Vec<Vec<Part>> {
    let mut choices = vec![Vec::new()];
    while let Some(next) = left.next_if(|next| *next != ')') {
        let what = match next {
            '|' => {
                choices.push(Vec::new());
                continue;
            }
            '(' => {
                let group = alternatives(left);
                assert_eq!(left.next(), Some(')'), "a group without an end");
                What::Group(group)
            }
            '[' => What::Class(class(left)),
            '\\' => literal(left.next().expect("a character")),
            '.' | '*' | '{' | '+' | '?' => panic!("`{next}` is not understood here"),
            other => literal(other),
        };
        let (least, most) = times(left);
        choices.last_mut().expect("one").push(Part { what, least, most });
    }
    choices
}

fn literal(one: char) -> What {
    What::Class(vec![(one, one)])
}

fn class(left: &mut Peekable<Chars<'_>>) -> Vec<(char, char)> {
    let mut ranges = Vec::new();
    while let Some(from) = left.next_if(|next| *next != ']') {
        assert_ne!(from, '^', "what a class leaves out is not understood here");
        let mut after = left.clone();
        let dash = after.next() == Some('-') && after.next().is_some_and(|next| next != ']');
        let to = if dash { left.nth(1).expect("an end") } else { from };
        ranges.push((from, to));
    }
    assert_eq!(left.next(), Some(']'), "a class without an end");
    ranges
}

fn times(left: &mut Peekable<Chars<'_>>) -> (usize, usize) {
    match left.peek() {
        Some('?') => left.next().map_or((1, 1), |_| (0, 1)),
        Some('+') => left.next().map_or((1, 1), |_| (1, OFTEN)),
        Some('*') => left.next().map_or((1, 1), |_| (0, OFTEN)),
        Some('{') => {
            let told: String = left.by_ref().skip(1).take_while(|next| *next != '}').collect();
            let number = |text: &str| text.parse().expect("a number");
            match told.split_once(',') {
                None => (number(&told), number(&told)),
                Some((least, "")) => (number(least), OFTEN),
                Some((least, most)) => (number(least), number(most)),
            }
        }
        _ => (1, 1),
    }
}

/// What may be left of `text` behind these parts.
fn rests<'t>(parts: &[Part], text: &'t str) -> Vec<&'t str> {
    parts.iter().fold(vec![text], |texts, part| {
        texts.into_iter().flat_map(|text| part.rests(text)).collect()
    })
}

impl Part {
    fn rests<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let (mut now, mut found) = (vec![text], Vec::new());
        for count in 0..=self.most {
            if count >= self.least {
                found.extend_from_slice(&now);
            }
            now = now.into_iter().flat_map(|text| self.what.rests(text)).collect();
            if now.is_empty() {
                break;
            }
        }
        found
    }
}

impl What {
    fn rests<'t>(&self, text: &'t str) -> Vec<&'t str> {
        match self {
            Self::Group(choices) => choices.iter().flat_map(|one| rests(one, text)).collect(),
            Self::Class(ranges) => {
                let mut left = text.chars();
                let first = left.next();
                let is = |first: char| ranges.iter().any(|(a, b)| (*a..=*b).contains(&first));
                first.filter(|first| is(*first)).map(|_| left.as_str()).into_iter().collect()
            }
        }
    }
}

#[test]
fn patterns_are_read_as_they_are_written() {
    let money = r"^-?[0-9]+(\.[0-9]{1,12})?$";
    assert!(["0", "-1.5", "12.000000000001"].iter().all(|text| fits(money, text)));
    assert!(["", "1.", "1.0000000000001", "x1", "1 "].iter().all(|text| !fits(money, text)));
    let window = "^(hour|total|rolling:[1-9][0-9]{0,2}[smhd])$";
    assert!(["hour", "total", "rolling:24h"].iter().all(|text| fits(window, text)));
    assert!(["hours", "rolling:0h", "rolling:1", ""].iter().all(|text| !fits(window, text)));
    assert!(fits("^[A-Za-z0-9_+/-]{1,64}$", "a-b/C+9") && !fits("^[a-]{2}$", "ab"));
}
