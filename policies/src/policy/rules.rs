//! Rules as checked at load: guards that narrow, choices of which the first that matches wins.

use super::{condition::Condition, conditions_read::read_when, routes::Pick, signal::Scope};
use crate::{
    OnShort, RuleName,
    file::{Fields, FileError, Node},
};
use std::sync::Arc;

/// Most rules of a kind in one policy.
const RULES_MAX: usize = 500;
/// Longest name of a rule, in bytes: it travels in a header.
const NAME_BYTES_MAX: usize = 64;

/// A guard: it takes routes away, or refuses.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) name: RuleName,
    pub(crate) line: usize,
    pub(crate) when: Vec<Condition>,
    pub(crate) action: GuardAction,
    /// Whether its conditions look at each route in turn (`route.*`).
    pub(crate) per_route: bool,
}

/// What a guard does where it matches.
#[derive(Clone, Debug)]
pub(crate) enum GuardAction {
    /// Only these stay allowed.
    Allow(Vec<Pick>),
    /// These do not.
    Deny(Vec<Pick>),
    /// Nobody answers.
    Refuse(Box<str>),
}

/// A choice.
#[derive(Clone, Debug)]
pub(crate) struct Choose {
    pub(crate) name: RuleName,
    pub(crate) line: usize,
    pub(crate) when: Vec<Condition>,
    pub(crate) action: ChooseAction,
    pub(crate) on_short: OnShort,
}

/// What a choice does where it matches.
#[derive(Clone, Debug)]
pub(crate) enum ChooseAction {
    /// These, in this order.
    Routes(Vec<Pick>),
    /// These, the cheapest first.
    Cheapest(Vec<Pick>),
    /// These, the one that usually speaks first first.
    Fastest(Vec<Pick>),
    /// These, in an order drawn by their weights (one for each pick, above 0).
    Weighted(Vec<Pick>, Vec<u32>),
    /// These, in this order, and the second beside the first where that one is late.
    Hedge(Vec<Pick>),
    /// Nobody answers.
    Refuse(Box<str>),
}

/// Reads `[[guard]]`.
pub(crate) fn read_guards(node: Option<Node<'_>>) -> Result<Vec<Guard>, FileError> {
    let mut guards: Vec<Guard> = Vec::new();
    for (node, mut fields) in rules(node)? {
        let name = rule_name(&mut fields, guards.iter().map(|guard| &guard.name))?;
        let when = match fields.take("when") {
            Some(when) => read_when(&when, Scope::EachRoute)?,
            None => Vec::new(),
        };
        let per_route = super::reads_current_route(&when);
        let given = [fields.take("allow"), fields.take("deny"), fields.take("refuse")];
        let action = match given {
            [Some(picks), None, None] => GuardAction::Allow(Pick::read_list(&picks)?),
            [None, Some(picks), None] => GuardAction::Deny(Pick::read_list(&picks)?),
            [None, None, Some(text)] if per_route => {
                return Err(text.error("a guard that looks at each route takes routes away").help(
                    "use `deny = [\"@all\"]`: the request is refused when no route is left"
                        .to_owned(),
                ));
            }
            [None, None, Some(text)] => GuardAction::Refuse(message(&text)?),
            _ => {
                fields.finish()?;
                return Err(node.error("needs exactly one of `allow`, `deny` and `refuse`"));
            }
        };
        fields.finish()?;
        guards.push(Guard { name, line: node.line(), when, action, per_route });
    }
    Ok(guards)
}

/// Reads `[[choose]]`; `on_short` is the policy's own.
pub(crate) fn read_chooses(
    node: Option<Node<'_>>,
    on_short: OnShort,
) -> Result<Vec<Choose>, FileError> {
    let mut chooses: Vec<Choose> = Vec::new();
    for (node, mut fields) in rules(node)? {
        let name = rule_name(&mut fields, chooses.iter().map(|choose| &choose.name))?;
        let when = match fields.take("when") {
            Some(when) => read_when(&when, Scope::Request)?,
            None => Vec::new(),
        };
        let action = read_action(&mut fields)?;
        let own = read_on_short(&mut fields)?;
        let Some(action) = action else {
            fields.finish()?;
            return Err(node.error(format!("needs exactly one of {ACTIONS_SAID}")));
        };
        fields.finish()?;
        let on_short = own.unwrap_or(on_short);
        chooses.push(Choose { name, line: node.line(), when, action, on_short });
    }
    Ok(chooses)
}

/// The actions of a choice, as they are written.
const ACTIONS: [&str; 6] = ["routes", "cheapest", "fastest", "weighted", "hedge", "refuse"];
/// The same, in a sentence.
const ACTIONS_SAID: &str = "`routes`, `cheapest`, `fastest`, `weighted`, `hedge` and `refuse`";

/// Reads the one action of a choice; `None` where there is none, or more than one.
fn read_action(fields: &mut Fields<'_>) -> Result<Option<ChooseAction>, FileError> {
    let given: Vec<_> = ACTIONS.into_iter().filter_map(|name| fields.take(name)).collect();
    let [node] = given.as_slice() else { return Ok(None) };
    Ok(Some(match node.key {
        "routes" => ChooseAction::Routes(Pick::read_list(node)?),
        "cheapest" => ChooseAction::Cheapest(Pick::read_list(node)?),
        "fastest" => ChooseAction::Fastest(Pick::read_list(node)?),
        "hedge" => ChooseAction::Hedge(Pick::read_list(node)?),
        "weighted" => read_weighted(node)?,
        _ => ChooseAction::Refuse(message(node)?),
    }))
}

/// Reads `weighted = { cloud-a = 9, cloud-b = 1 }`.
fn read_weighted(node: &Node<'_>) -> Result<ChooseAction, FileError> {
    let mut picks = Vec::new();
    let mut weights = Vec::new();
    for item in node.table("weights by route, such as { cloud-a = 9, cloud-b = 1 }")?.rest() {
        let weight = item.whole("a weight from 1 to 1000000")?;
        match u32::try_from(weight) {
            Ok(weight @ 1..=1_000_000) => weights.push(weight),
            _ => return Err(item.value_error("must be from 1 to 1000000")),
        }
        picks.push(Pick::read(item.key, &item)?);
    }
    if picks.is_empty() {
        return Err(node.value_error("lists no route"));
    }
    Ok(ChooseAction::Weighted(picks, weights))
}

/// Reads `on_short` and `min_output_tokens`.
pub(crate) fn read_on_short(fields: &mut Fields<'_>) -> Result<Option<OnShort>, FileError> {
    let (short, least) = (fields.take("on_short"), fields.take("min_output_tokens"));
    let Some(short) = short else {
        return least.map_or(Ok(None), |least| {
            Err(least.error("is for `on_short = \"clamp\"`, which is not here"))
        });
    };
    let word = short.text("what to do when money is short")?;
    if word == "clamp" {
        let least = least.ok_or_else(|| {
            short.error("needs `min_output_tokens` beside it: the smallest cap worth sending")
        })?;
        let min_output_tokens = least.whole("a number of tokens")?;
        if min_output_tokens == 0 {
            return Err(least.value_error("must be at least 1"));
        }
        return Ok(Some(OnShort::Clamp { min_output_tokens }));
    }
    if let Some(least) = least {
        return Err(least.error(format!("is for `on_short = \"clamp\"`, not for \"{word}\"")));
    }
    match word {
        "refuse" => Ok(Some(OnShort::Refuse)),
        "next" => Ok(Some(OnShort::Next)),
        "local" => Ok(Some(OnShort::Local)),
        _ => Err(short
            .value_error(format!("unknown answer `{word}`"))
            .suggest(word, &["refuse", "clamp", "next", "local"])),
    }
}

fn rules<'d>(node: Option<Node<'d>>) -> Result<Vec<(Node<'d>, Fields<'d>)>, FileError> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let items = node.array("a list of tables, written `[[guard]]` or `[[choose]]`,")?;
    if items.len() > RULES_MAX {
        return Err(node.error(format!("has more than {RULES_MAX} rules")));
    }
    let with_fields = |item: Node<'d>| item.table("a rule").map(|fields| (item, fields));
    items.into_iter().map(with_fields).collect()
}

fn rule_name<'n>(
    fields: &mut Fields<'_>,
    mut taken: impl Iterator<Item = &'n RuleName>,
) -> Result<RuleName, FileError> {
    let node = fields.require("name")?;
    let name = node.text("the rule's name")?;
    let shown = |b: u8| (b' '..=b'~').contains(&b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(shown) {
        return Err(
            node.value_error(format!("must be 1 to {NAME_BYTES_MAX} printable ASCII characters"))
        );
    }
    if name.starts_with('@') || name.trim() != name {
        return Err(node.value_error("must not begin with `@` nor begin or end with a space"));
    }
    if taken.any(|other| *other.0 == *name) {
        return Err(node.value_error(format!("`{name}` names two rules")));
    }
    Ok(RuleName(Arc::from(name)))
}

fn message(node: &Node<'_>) -> Result<Box<str>, FileError> {
    match node.text("what the caller is told")? {
        "" => Err(node.value_error("must say why; the caller reads it")),
        text => Ok(text.into()),
    }
}
