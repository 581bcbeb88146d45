//! Items of earlier answers that a request names by their ids alone.
//!
//! **Invariants:** an item is found where its answer is kept, by the key that asked for that; each is
//! named once, so that what a request comes to is no more than what is kept.

use super::{Context, Marks};
use crate::wire::BadRequest;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt::Display,
};

/// What has been looked up for one request.
pub(super) struct Referred<'a> {
    context: &'a Context<'a>,
    answers: HashSet<String>,
    /// Their items that have not been named yet, by id.
    items: HashMap<String, Box<RawValue>>,
    marks: Marks,
}

impl<'a> Referred<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, answers: HashSet::new(), items: HashMap::new(), marks: Marks::default() }
    }

    /// The item of that id.
    ///
    /// # Errors
    /// [`BadRequest`]: nothing is kept, no such item is, or it was named before.
    pub(super) fn item(
        &mut self,
        param: impl Display,
        id: &str,
    ) -> Result<Box<RawValue>, BadRequest> {
        if self.context.kept.is_none() {
            let message = "items are not kept here ([responses] store = true keeps them): send the \
                           items themselves, with `store: false` in Vercel's AI SDK";
            return Err(BadRequest::unsupported(param, message));
        }
        for answer in answers_of(id) {
            self.look_up(answer);
        }
        self.items.remove(id).ok_or_else(|| {
            let message = "no item of that id is kept, or it was named before";
            BadRequest::value(param, message)
        })
    }

    /// How the answers are marked that items were looked for in.
    pub(super) fn marks(self) -> Marks {
        self.marks
    }

    /// Adds the items of an answer, once.
    fn look_up(&mut self, answer: String) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            output: Vec<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
        }
        let kept = self.context.kept.filter(|_| !self.answers.contains(&answer));
        let Some((response, marks)) =
            kept.and_then(|kept| kept.marked_response(&answer, self.context.owner))
        else {
            return;
        };
        self.marks.inherit(marks);
        self.answers.insert(answer);
        let Ok(Answer { output }) = serde_json::from_slice(&response) else { return };
        for raw in output {
            if let Ok(Item { id }) = serde_json::from_str(raw.get()) {
                self.items.insert(id.into_owned(), raw.to_owned());
            }
        }
    }
}

/// The ids of answers that an item's may be of: its answer's number, and two or three digits.
fn answers_of(item: &str) -> impl Iterator<Item = String> {
    let number = item.split_once('_').map_or("", |(_, number)| number);
    let before = |digits| number.get(..number.len().checked_sub(digits)?);
    [2, 3].into_iter().filter_map(before).map(|number| format!("resp_{number}"))
}
