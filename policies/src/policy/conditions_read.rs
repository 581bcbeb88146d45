//! Reading `when` tables: every key, unit and comparison is checked here, at load.

use super::{
    condition::{Condition, NumberIs, RouteTest, TagsAre, Test, TextIs},
    routes::{Pick, RouteRef},
    signal::{
        BudgetNumber, BudgetRef, FlagSignal, NumberSignal, RouteFlag, RouteNumber, STATES, Scope,
        TextSignal, prefix, route_words,
    },
};
use crate::{
    RouteState,
    file::{FileError, Node},
    units::{Number, Unit},
};

/// Deepest nesting of `all`, `any` and `not`.
const DEPTH_MAX: usize = 16;
/// Signals that stand at the top of a `when` table, for suggestions.
const TOP: [&str; 12] = [
    "all", "any", "not", "model", "session", "tags", "metadata", "caller", "budget", "budgets",
    "time", "routes",
];
const NUMBER_OPS: [&str; 7] = ["eq", "ne", "gt", "ge", "lt", "le", "in"];
const TIME_OPS: [&str; 8] = ["eq", "ne", "gt", "ge", "lt", "le", "in", "between"];
const TEXT_OPS: [&str; 6] = ["eq", "ne", "in", "not_in", "prefix", "exists"];
const TAG_OPS: [&str; 3] = ["has", "has_any", "has_all"];

/// Reads the conditions of a `when` table: all of them must hold.
pub(crate) fn read_when(node: &Node<'_>, scope: Scope) -> Result<Vec<Condition>, FileError> {
    if node.kind() == "string" {
        return Err(node
            .value_error("is text where a table of conditions is needed")
            .help("write for example `when.prompt_tokens.gt = 4096`".to_owned()));
    }
    let mut conditions = Vec::new();
    read_table(node, scope, DEPTH_MAX, &mut conditions)?;
    Ok(conditions)
}

fn read_table(
    node: &Node<'_>,
    scope: Scope,
    depth: usize,
    out: &mut Vec<Condition>,
) -> Result<(), FileError> {
    let depth = depth.checked_sub(1).ok_or_else(|| {
        node.error(format!("conditions are nested deeper than {DEPTH_MAX} levels"))
    })?;
    let entries = node.table("a table of conditions")?.rest();
    if entries.is_empty() {
        return Err(
            node.error("has no condition; leave the key out for a rule that always matches")
        );
    }
    for entry in entries {
        match entry.key {
            "all" | "any" => out.push(read_list(&entry, scope, depth)?),
            "not" => {
                let mut inner = Vec::new();
                read_table(&entry, scope, depth, &mut inner)?;
                out.push(Condition {
                    written: written("not", &inner, ", "),
                    test: Test::Not(inner),
                });
            }
            _ => read_signal(&entry, scope, out)?,
        }
    }
    Ok(())
}

fn read_list(node: &Node<'_>, scope: Scope, depth: usize) -> Result<Condition, FileError> {
    let mut parts = Vec::new();
    for item in node.array("a list of condition tables")? {
        let mut inner = Vec::new();
        read_table(&item, scope, depth, &mut inner)?;
        parts.push(match <[Condition; 1]>::try_from(inner) {
            Ok([single]) => single,
            Err(several) => {
                Condition { written: written("all", &several, ", "), test: Test::All(several) }
            }
        });
    }
    if parts.is_empty() {
        return Err(node.value_error("has no condition"));
    }
    let written = written(node.key, &parts, ", ");
    let test = if node.key == "all" { Test::All(parts) } else { Test::Any(parts) };
    Ok(Condition { written, test })
}

fn written(word: &str, parts: &[Condition], between: &str) -> Box<str> {
    let parts: Vec<&str> = parts.iter().map(|part| &*part.written).collect();
    format!("{word}({})", parts.join(between)).into_boxed_str()
}

/// Reads the comparisons of one signal, or of a table of signals such as `caller`.
fn read_signal(node: &Node<'_>, scope: Scope, out: &mut Vec<Condition>) -> Result<(), FileError> {
    match node.key {
        "model" => read_text(node, "model", &TextSignal::Model, out),
        "session" => read_text(node, "session", &TextSignal::Session, out),
        "tags" => read_tags(node, out),
        "metadata" => each(node, |entry| {
            let name = format!("metadata.{}", entry.key);
            read_text(entry, &name, &TextSignal::Metadata(entry.key.into()), out)
        }),
        "caller" => each(node, |entry| {
            let (_, signal) = lookup(entry, &TextSignal::OF_CALLER, &[])?;
            read_text(entry, &format!("caller.{}", entry.key), &signal, out)
        }),
        "time" => each(node, |entry| {
            let (_, signal) = lookup(entry, &NumberSignal::OF_TIME, &[])?;
            read_number(entry, &format!("time.{}", entry.key), &signal, out)
        }),
        "budget" => read_budget(node, "budget", &BudgetRef::Tightest, out),
        "budgets" => each(node, |entry| {
            let name = format!("budgets.{}", entry.key);
            read_budget(entry, &name, &BudgetRef::Id(entry.key.into()), out)
        }),
        "routes" => each(node, |entry| {
            let over = RouteRef::Pick(Pick::read(entry.key, entry)?);
            read_route(entry, &over, out)
        }),
        "route" if scope == Scope::EachRoute => read_route(node, &RouteRef::Current, out),
        "route" => Err(node
            .error("the signals of the route under consideration exist only in guards")
            .help("write `routes.<name>` or `routes.\"@cloud\"`".to_owned())),
        _ => read_top(node, out),
    }
}

fn read_top(node: &Node<'_>, out: &mut Vec<Condition>) -> Result<(), FileError> {
    if let Some((name, signal)) = FlagSignal::NAMED.iter().find(|(name, _)| *name == node.key) {
        return comparisons(
            node,
            &["eq"],
            |op| Ok(Test::Flag((*name).into(), *signal, op.flag()?)),
            name,
            out,
        );
    }
    let extra: Vec<&str> =
        TOP.iter().copied().chain(FlagSignal::NAMED.iter().map(|(name, _)| *name)).collect();
    let (name, signal) = lookup(node, &NumberSignal::OF_REQUEST, &extra)?;
    read_number(node, name, &signal, out)
}

fn each<'d>(
    node: &Node<'d>,
    mut read: impl FnMut(&Node<'d>) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let entries =
        node.table(&format!("signals, such as {}.<signal>.<comparison>,", node.key))?.rest();
    if entries.is_empty() {
        return Err(node.error("has no condition"));
    }
    entries.iter().try_for_each(&mut read)
}

/// Finds the signal that a key names, or says which was meant.
fn lookup<S: Clone>(
    node: &Node<'_>,
    known: &[(&'static str, S)],
    more: &[&'static str],
) -> Result<(&'static str, S), FileError> {
    known.iter().find(|(name, _)| *name == node.key).cloned().ok_or_else(|| {
        let words: Vec<&str> =
            known.iter().map(|(name, _)| *name).chain(more.iter().copied()).collect();
        node.error("unknown signal").suggest(node.key, &words)
    })
}

/// Reads `{ op = value, … }` of one signal; several comparisons must all hold.
fn comparisons<'d>(
    node: &Node<'d>,
    known: &[&str],
    read: impl Fn(&Node<'d>) -> Result<Test, FileError>,
    name: &str,
    out: &mut Vec<Condition>,
) -> Result<(), FileError> {
    if !node.is_table() {
        let example = known.first().copied().unwrap_or("eq");
        return Err(node.error("needs a comparison").help(format!(
            "write `{name}.{example} = {}`; comparisons here: {}",
            node.written(),
            known.join(", ")
        )));
    }
    let ops = node.table("a comparison")?.rest();
    if ops.is_empty() {
        return Err(node.error("needs a comparison").suggest("", known));
    }
    for op in ops {
        if !known.contains(&op.key) {
            return Err(op.error("unknown comparison").suggest(op.key, known));
        }
        let written = format!("{name}.{} = {}", op.key, op.written()).into_boxed_str();
        out.push(Condition { written, test: read(&op)? });
    }
    Ok(())
}

fn read_number(
    node: &Node<'_>,
    name: &str,
    signal: &NumberSignal,
    out: &mut Vec<Condition>,
) -> Result<(), FileError> {
    let unit = signal.unit();
    let test = |op: &Node<'_>| Ok(Test::Number(name.into(), signal.clone(), number_is(op, unit)?));
    comparisons(node, number_ops(unit), test, name, out)
}

fn read_budget(
    node: &Node<'_>,
    name: &str,
    which: &BudgetRef,
    out: &mut Vec<Condition>,
) -> Result<(), FileError> {
    each(node, |entry| {
        let (key, number) = lookup(entry, &BudgetNumber::NAMED, &[])?;
        let signal = NumberSignal::Budget(which.clone(), number);
        read_number(entry, &format!("{name}.{key}"), &signal, out)
    })
}

fn read_route(node: &Node<'_>, over: &RouteRef, out: &mut Vec<Condition>) -> Result<(), FileError> {
    each(node, |entry| {
        let name = format!("{}.{}", prefix(over), entry.key);
        if entry.key == "state" {
            return comparisons(
                entry,
                &["eq", "in"],
                |op| Ok(Test::Route(over.clone(), RouteTest::State(states(op)?))),
                &name,
                out,
            );
        }
        if let Some((key, flag)) = RouteFlag::NAMED.iter().find(|(key, _)| *key == entry.key) {
            return comparisons(
                entry,
                &["eq"],
                |op| Ok(Test::Route(over.clone(), RouteTest::Flag(key, *flag, op.flag()?))),
                &name,
                out,
            );
        }
        let (key, number) = lookup(entry, &RouteNumber::NAMED, &route_words())?;
        comparisons(
            entry,
            number_ops(number.unit()),
            |op| {
                let is = number_is(op, number.unit())?;
                Ok(Test::Route(over.clone(), RouteTest::Number(key, number, is)))
            },
            &name,
            out,
        )
    })
}

const fn number_ops(unit: Unit) -> &'static [&'static str] {
    match unit {
        Unit::Hour | Unit::TimeOfDay => &TIME_OPS,
        _ => &NUMBER_OPS,
    }
}

fn number_is(op: &Node<'_>, unit: Unit) -> Result<NumberIs, FileError> {
    let list = |op: &Node<'_>| -> Result<Vec<Number>, FileError> {
        items(op, "a list")?.iter().map(|item| unit.read(item)).collect()
    };
    Ok(match op.key {
        "eq" => NumberIs::Eq(unit.read(op)?),
        "ne" => NumberIs::Ne(unit.read(op)?),
        "gt" => NumberIs::Gt(unit.read(op)?),
        "ge" => NumberIs::Ge(unit.read(op)?),
        "lt" => NumberIs::Lt(unit.read(op)?),
        "le" => NumberIs::Le(unit.read(op)?),
        "in" => NumberIs::In(list(op)?),
        _ => match list(op)?[..] {
            [from, to] if from != to => NumberIs::Between(from, to),
            _ => {
                return Err(
                    op.value_error("needs two different bounds, [from, to]; `to` is not included")
                );
            }
        },
    })
}

fn states(op: &Node<'_>) -> Result<Vec<RouteState>, FileError> {
    let one = |node: &Node<'_>| {
        let text = node.text("a state such as \"ready\"")?;
        STATES.iter().find(|(name, _)| *name == text).map(|(_, state)| *state).ok_or_else(|| {
            let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
            node.value_error(format!("unknown state `{text}`")).suggest(text, &names)
        })
    };
    if op.key == "eq" {
        Ok(vec![one(op)?])
    } else {
        items(op, "a list of states")?.iter().map(one).collect()
    }
}

fn read_text(
    node: &Node<'_>,
    name: &str,
    signal: &TextSignal,
    out: &mut Vec<Condition>,
) -> Result<(), FileError> {
    let test = |op: &Node<'_>| {
        let is = match op.key {
            "eq" => TextIs::In(vec![op.text("text")?.into()]),
            "ne" => TextIs::NotIn(vec![op.text("text")?.into()]),
            "in" => TextIs::In(texts(op)?),
            "not_in" => TextIs::NotIn(texts(op)?),
            "prefix" => TextIs::Prefix(op.text("text")?.into()),
            _ => TextIs::Exists(op.flag()?),
        };
        Ok(Test::Text(name.into(), signal.clone(), is))
    };
    comparisons(node, &TEXT_OPS, test, name, out)
}

fn read_tags(node: &Node<'_>, out: &mut Vec<Condition>) -> Result<(), FileError> {
    let test = |op: &Node<'_>| {
        Ok(Test::Tags(match op.key {
            "has" => TagsAre::HasAny(vec![op.text("a tag")?.into()]),
            "has_any" => TagsAre::HasAny(texts(op)?),
            _ => TagsAre::HasAll(texts(op)?),
        }))
    };
    comparisons(node, &TAG_OPS, test, "tags", out)
}

fn texts(op: &Node<'_>) -> Result<Vec<Box<str>>, FileError> {
    items(op, "a list of text")?.iter().map(|item| Ok(item.text("text")?.into())).collect()
}

/// Of an empty list nothing could ever be one.
fn items<'d>(op: &Node<'d>, what: &str) -> Result<Vec<Node<'d>>, FileError> {
    let items = op.array(what)?;
    if items.is_empty() {
        return Err(op.value_error("is empty"));
    }
    Ok(items)
}
