//! llama.cpp's GBNF, converted to the Lark dialect llguidance reads.
//!
//! GBNF knows no lexer, llguidance has one. Rules that reach no recursion become terminals, which
//! match exactly what they match in GBNF; rules on or above a cycle become grammar rules, whose
//! terminals take the longest match. So every answer is one the GBNF describes; a recursive grammar
//! that needs a shorter match somewhere may have fewer. Names are numbered, so that none of the
//! caller's text but escaped literals and classes gets into the Lark text.

use std::{collections::HashMap, fmt::Write as _};

/// Most rules of a grammar.
const RULES_MAX: usize = 2_000;
/// Deepest nesting of groups.
const DEPTH_MAX: usize = 64;
/// Highest number in a repetition.
const REPEAT_MAX: u32 = 2_000;

/// Alternatives, each a sequence.
type Choice = Vec<Vec<Repeated>>;

#[derive(Debug)]
struct Repeated {
    item: Item,
    least: u32,
    most: Option<u32>,
}

#[derive(Debug)]
enum Item {
    Literal(String),
    Class { negated: bool, ranges: Vec<(char, char)> },
    Any,
    Rule(usize),
    Group(Choice),
}

/// The grammar's rules by number; `None` while one is only referred to.
#[derive(Debug, Default)]
struct Rules {
    numbers: HashMap<String, usize>,
    names: Vec<String>,
    bodies: Vec<Option<Choice>>,
}

/// Converts a grammar.
///
/// # Errors
/// What is wrong, or what cannot be converted, with its line.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let mut rules = Rules::default();
    let root = rules.number("root");
    let mut parser = Parser { text, at: 0 };
    parser.space(true);
    while !parser.rest().is_empty() {
        parser.rule(&mut rules)?;
        parser.space(true);
    }
    let missing = rules.bodies.iter().position(Option::is_none);
    if let Some(at) = missing {
        return Err(format!("the rule `{}` is not defined", rules.names[at]));
    }
    let recursive = rules.recursive();
    let name = |at: usize| if recursive[at] { format!("r{at}") } else { format!("T{at}") };
    let mut out = format!("start: {}\n", name(root));
    for (at, body) in rules.bodies.iter().enumerate() {
        let _ = write!(out, "{}: ", name(at));
        if let Some(body) = body {
            write_choice(&mut out, body, &name);
        }
        out.push('\n');
    }
    Ok(out)
}

// === impl Rules ===

impl Rules {
    fn number(&mut self, name: &str) -> usize {
        if let Some(at) = self.numbers.get(name) {
            return *at;
        }
        let at = self.bodies.len();
        self.numbers.insert(name.to_owned(), at);
        self.names.push(name.to_owned());
        self.bodies.push(None);
        at
    }

    /// Which rules are on a cycle of references or reach one: all that are left when those whose
    /// references are all finite have been taken away, again and again.
    fn recursive(&self) -> Vec<bool> {
        let mut references: Vec<Vec<usize>> = Vec::with_capacity(self.bodies.len());
        for body in &self.bodies {
            let mut found = Vec::new();
            collect(body.as_ref(), &mut found);
            found.sort_unstable();
            found.dedup();
            references.push(found);
        }
        let mut users = vec![Vec::new(); references.len()];
        for (user, found) in references.iter().enumerate() {
            for used in found {
                users[*used].push(user);
            }
        }
        let mut left: Vec<usize> = references.iter().map(Vec::len).collect();
        let mut finite: Vec<usize> = (0..left.len()).filter(|at| left[*at] == 0).collect();
        let mut recursive = vec![true; left.len()];
        while let Some(at) = finite.pop() {
            recursive[at] = false;
            for user in &users[at] {
                left[*user] -= 1;
                if left[*user] == 0 {
                    finite.push(*user);
                }
            }
        }
        recursive
    }
}

/// The rules a body refers to. Groups nest at most [`DEPTH_MAX`] deep.
fn collect(body: Option<&Choice>, found: &mut Vec<usize>) {
    for repeated in body.into_iter().flatten().flatten() {
        match &repeated.item {
            Item::Rule(at) => found.push(*at),
            Item::Group(choice) => collect(Some(choice), found),
            Item::Literal(_) | Item::Class { .. } | Item::Any => {}
        }
    }
}

fn write_choice(out: &mut String, choice: &Choice, name: &dyn Fn(usize) -> String) {
    for (index, sequence) in choice.iter().enumerate() {
        if index > 0 {
            out.push_str(" | ");
        }
        if sequence.is_empty() {
            out.push_str("\"\"");
        }
        for (index, repeated) in sequence.iter().enumerate() {
            if index > 0 {
                out.push(' ');
            }
            write_item(out, &repeated.item, name);
            // Writing to a string cannot fail.
            let _ = match (repeated.least, repeated.most) {
                (1, Some(1)) => Ok(()),
                (0, None) => write!(out, "*"),
                (1, None) => write!(out, "+"),
                (0, Some(1)) => write!(out, "?"),
                (least, None) => write!(out, "{{{least},}}"),
                (least, Some(most)) => write!(out, "{{{least},{most}}}"),
            };
        }
    }
}

fn write_item(out: &mut String, item: &Item, name: &dyn Fn(usize) -> String) {
    match item {
        Item::Literal(text) => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
        Item::Any => out.push_str("/(?s:.)/"),
        Item::Rule(at) => out.push_str(&name(*at)),
        Item::Group(choice) => {
            out.push('(');
            write_choice(out, choice, name);
            out.push(')');
        }
        Item::Class { negated, ranges } => {
            out.push_str(if *negated { "/[^" } else { "/[" });
            for (from, to) in ranges {
                let _ = write!(out, "\\x{{{:x}}}-\\x{{{:x}}}", u32::from(*from), u32::from(*to));
            }
            out.push_str("]/");
        }
    }
}

/// Where the reader is in the text.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn eat(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    fn wrong<T>(&self, what: &str) -> Result<T, String> {
        let before = self.text.get(..self.at).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Err(format!("line {line}: {what}"))
    }

    /// Skips white space and comments; over line ends only where they mean nothing.
    fn space(&mut self, lines: bool) {
        while let Some(character) = self.peek() {
            match character {
                ' ' | '\t' => {}
                '\r' | '\n' if lines => {}
                '#' => {
                    while self.peek().is_some_and(|character| character != '\n') {
                        self.next();
                    }
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let part = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        let end = rest.find(|character| !part(character)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).filter(|name| !name.is_empty())
    }

    fn rule(&mut self, rules: &mut Rules) -> Result<(), String> {
        let Some(name) = self.name() else { return self.wrong("a rule's name is expected") };
        self.space(false);
        if !self.eat("::=") {
            return self.wrong(&format!("`::=` is expected after `{name}`"));
        }
        let number = rules.number(name);
        self.space(true);
        let body = self.choice(rules, 0)?;
        if rules.bodies.len() > RULES_MAX {
            return self.wrong(&format!("there are more than {RULES_MAX} rules"));
        }
        if rules.bodies[number].replace(body).is_some() {
            return self.wrong(&format!("`{name}` is defined twice"));
        }
        match self.peek() {
            None | Some('\r' | '\n') => Ok(()),
            Some(_) => self.wrong("a rule ends with its line"),
        }
    }

    fn choice(&mut self, rules: &mut Rules, depth: usize) -> Result<Choice, String> {
        if depth > DEPTH_MAX {
            return self.wrong(&format!("groups nest deeper than {DEPTH_MAX}"));
        }
        let mut choice = vec![self.sequence(rules, depth)?];
        while self.eat("|") {
            self.space(true);
            choice.push(self.sequence(rules, depth)?);
        }
        Ok(choice)
    }

    fn sequence(&mut self, rules: &mut Rules, depth: usize) -> Result<Vec<Repeated>, String> {
        let mut sequence = Vec::new();
        while let Some(item) = self.item(rules, depth)? {
            let (least, most) = self.repetition()?;
            // Inside a group a line may end anywhere.
            self.space(depth > 0);
            if !matches!(&item, Item::Literal(text) if text.is_empty()) {
                sequence.push(Repeated { item, least, most });
            }
        }
        Ok(sequence)
    }

    fn item(&mut self, rules: &mut Rules, depth: usize) -> Result<Option<Item>, String> {
        Ok(Some(match self.peek() {
            Some('"') => {
                self.next();
                let mut literal = String::new();
                while !self.eat("\"") {
                    literal.push(self.character()?);
                }
                Item::Literal(literal)
            }
            Some('[') => {
                self.next();
                self.class()?
            }
            Some('(') => {
                self.next();
                self.space(true);
                let choice = self.choice(rules, depth + 1)?;
                if !self.eat(")") {
                    return self.wrong("`)` is expected");
                }
                Item::Group(choice)
            }
            Some('.') => {
                self.next();
                Item::Any
            }
            Some('<' | '!') => {
                return self.wrong("tokens by name or number (`<…>`) are not served in a grammar");
            }
            _ => match self.name() {
                Some(name) => Item::Rule(rules.number(name)),
                None => return Ok(None),
            },
        }))
    }

    /// The rest of a class, its bracket read.
    fn class(&mut self) -> Result<Item, String> {
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let from = self.character()?;
            let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let to = if is_range {
                self.next();
                self.character()?
            } else {
                from
            };
            if to < from {
                return self.wrong("a range of characters ends before it begins");
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() {
            return self.wrong("a class of characters is empty");
        }
        Ok(Item::Class { negated, ranges })
    }

    /// A character of a literal or class, perhaps escaped.
    fn character(&mut self) -> Result<char, String> {
        let Some(character) = self.next() else {
            return self.wrong("a literal or class is not closed");
        };
        if character != '\\' {
            return Ok(character);
        }
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(plain @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(plain),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return self.wrong("an escape is unknown"),
        };
        let code = self.rest().get(..digits).and_then(|text| u32::from_str_radix(text, 16).ok());
        match code.and_then(char::from_u32) {
            Some(character) => {
                self.at += digits;
                Ok(character)
            }
            None => self.wrong("an escape is no character"),
        }
    }

    /// How often an item may come: at least, at most.
    fn repetition(&mut self) -> Result<(u32, Option<u32>), String> {
        if self.eat("*") {
            return Ok((0, None));
        }
        if self.eat("+") {
            return Ok((1, None));
        }
        if self.eat("?") {
            return Ok((0, Some(1)));
        }
        if !self.eat("{") {
            return Ok((1, Some(1)));
        }
        let Some(least) = self.number() else { return self.wrong("a number is expected") };
        let most = if self.eat(",") { self.number() } else { Some(least) };
        let ordered = most.is_none_or(|most| least <= most && most <= REPEAT_MAX);
        if !self.eat("}") || !ordered || least > REPEAT_MAX {
            return self.wrong(&format!(
                "a repetition is `{{m}}`, `{{m,}}` or `{{m,n}}`, to {REPEAT_MAX}"
            ));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Option<u32> {
        self.space(false);
        let rest = self.rest();
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest.get(..end)?.parse().ok()?;
        self.at += end;
        self.space(false);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::to_lark;

    #[test]
    fn what_does_not_recurse_is_one_terminal() {
        let lark = to_lark("root ::= \"a\" [0-9]{2,3} (ws | \".\")* # end\nws ::= [ \\t\\n]\n");
        let terminal = "start: T0\nT0: \"a\" /[\\x{30}-\\x{39}]/{2,3} (T1 | \".\")*\n\
            T1: /[\\x{20}-\\x{20}\\x{9}-\\x{9}\\x{a}-\\x{a}]/\n";
        assert_eq!(lark.as_deref(), Ok(terminal));
    }

    #[test]
    fn what_recurses_is_a_rule_and_what_it_uses_a_terminal() {
        let lark = to_lark(
            "root ::= list\nlist ::= \"[\" (item (\",\" item)*)? \"]\"\n\
            item ::= list | n\nn ::= [0-9]+",
        );
        let lark = lark.expect("converts");
        assert!(lark.starts_with("start: r0\nr0: r1\nr1: "), "{lark}");
        assert!(lark.contains("\nr2: r1 | T3\n") && lark.contains("\nT3: "), "{lark}");
    }

    #[test]
    fn lines_end_rules_but_not_groups() {
        assert!(to_lark("root ::= (\"a\"\n  | \"b\"\n) |\n \"c\"\n\n# nothing\n").is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("", "`root` is not defined"),
            ("root ::= a", "`a` is not defined"),
            ("root ::= \"a", "line 1"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2: `root` is defined twice"),
            ("root ::= <[7]>", "not served"),
            ("root ::= [z-a]", "before it begins"),
            ("root ::= \"a\"{3,2}", "repetition"),
            ("root ::= \"a\"{99999}", "repetition"),
            ("root ::= \"a\" )", "ends with its line"),
            ("root = \"a\"", "`::=` is expected"),
        ] {
            let error = to_lark(text).expect_err(text);
            assert!(error.contains(told), "{text:?}: {error}");
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        assert!(to_lark(&deep).expect_err("deep").contains("deeper"));
    }
}
