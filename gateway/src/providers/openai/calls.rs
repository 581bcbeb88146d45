//! The calls of an answer in OpenAI's format: which piece belongs to which.
//!
//! **Invariants:** a call is told as begun once, however often its provider names it, and before its
//! arguments, whichever comes first; every call has an id, its own to its end, that no other call of the
//! answer has.

use crate::{providers::call_ids, wire::DeltaKind};
use std::collections::{HashMap, HashSet};

/// The calls that have begun in an answer. Apart: most answers have none.
#[derive(Debug, Default)]
pub(super) struct Calls(Option<Box<Begun>>);

#[derive(Debug, Default)]
struct Begun {
    /// Of each number of each choice the last one.
    last: HashMap<Place, Call>,
    /// The ids that were told, each with its choice.
    told: HashSet<(u32, String)>,
    /// Arguments that came before the name of their call.
    early: HashMap<Place, String>,
}

/// Where a call stands: its choice, and its number there as the provider gives it.
pub(super) type Place = (u32, u32);

#[derive(Debug)]
struct Call {
    /// As the provider gave it; empty where it gave none.
    id: String,
    name: String,
    arguments: Arguments,
    /// Where it was named again though it was whole, the id that came with the name: either it is
    /// repeated, or another call begins, which is known once that has arguments.
    again: Option<String>,
}

/// How far the object of a call's arguments has come.
#[derive(Debug, Default)]
struct Arguments {
    depth: u32,
    in_string: bool,
    escaped: bool,
    whole: bool,
}

// === impl Calls ===

impl Calls {
    /// A call is named: one that begins, or one that has begun. Of servers that name a call in every
    /// piece, some give no id with it; of others every call has the same number and id.
    pub(super) fn named(&mut self, place: Place, id: &str, name: &str, kinds: &mut Vec<DeltaKind>) {
        match self.at(place) {
            Some(call) if call.is_meant(id, name) => {
                if call.arguments.whole {
                    call.again = Some(id.to_owned());
                } else if call.id.is_empty() {
                    id.clone_into(&mut call.id);
                }
            }
            _ => self.begin(place, id, name, kinds),
        }
    }

    /// Arguments of the call that was named last under this number.
    pub(super) fn argued(&mut self, place: Place, json: &str, kinds: &mut Vec<DeltaKind>) {
        if json.is_empty() {
            return;
        }
        let another = self.at(place).filter(|_| !json.trim().is_empty());
        let another = another.and_then(|call| Some((call.again.take()?, call.name.clone())));
        if let Some((id, name)) = another {
            self.begin(place, &id, &name, kinds);
        }
        match self.at(place) {
            Some(call) => {
                call.arguments.read(json);
                kinds.push(DeltaKind::ToolArguments { index: place.1, json: json.to_owned() });
            }
            None => self.hold(place, json),
        }
    }

    /// Arguments that wait for the name of their call.
    fn hold(&mut self, place: Place, json: &str) {
        let early = &mut self.0.get_or_insert_default().early;
        early.entry(place).or_default().push_str(json);
    }

    /// Whether arguments of a choice wait for a name that nobody gave.
    pub(super) fn lacks_names(&self, choice: u32) -> bool {
        self.0.as_ref().is_some_and(|begun| begun.early.keys().any(|(of, _)| *of == choice))
    }

    fn begin(&mut self, place: Place, id: &str, name: &str, kinds: &mut Vec<DeltaKind>) {
        let Begun { last, told, early } = &mut **self.0.get_or_insert_default();
        let told = if !id.is_empty() && told.insert((place.0, id.to_owned())) {
            id.to_owned()
        } else {
            call_ids::new_id()
        };
        kinds.push(DeltaKind::ToolCall { index: place.1, id: told, name: name.to_owned() });
        let call = Call {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: Arguments::default(),
            again: None,
        };
        last.insert(place, call);
        if let Some(json) = early.remove(&place) {
            self.argued(place, &json, kinds);
        }
    }

    fn at(&mut self, place: Place) -> Option<&mut Call> {
        self.0.as_mut()?.last.get_mut(&place)
    }
}

impl Call {
    /// Whether a name that comes under its number is its own once more.
    fn is_meant(&self, id: &str, name: &str) -> bool {
        let same_id = match (self.id.as_str(), id) {
            (_, "") => true,
            ("", _) => !self.arguments.whole,
            (own, other) => own == other,
        };
        same_id && self.name == name
    }
}

impl Arguments {
    fn read(&mut self, piece: &str) {
        for byte in piece.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    self.whole = false;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.whole = self.depth == 0;
                }
                _ => {}
            }
        }
    }
}
