//! The text of a configuration read into what is written in it: `${env.NAME}` filled in, routes
//! read by their kind and in the order in which they stand.

use super::{
    Environment,
    error::{Finding, FromEnv, closest, from_toml},
    written::Written,
    written_routes::{Cloud, Local},
};
use crate::providers::KIND_NAMES;
use serde::Deserialize;
use std::borrow::Cow;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

/// Where `${env.NAME}` is looked up.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A whole document.
pub(super) struct Document {
    /// Everything but the routes.
    pub(super) written: Written,
    /// The routes, in the order of the file.
    pub(super) routes: Vec<Route>,
}

/// One `[routes.<name>]`.
pub(super) struct Route {
    /// `<name>` and where it stands.
    pub(super) name: Spanned<String>,
    /// What it says.
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Local(Box<Local>),
    Cloud(Box<Cloud>),
}

/// The kinds of routes, as they are written.
fn kinds() -> Vec<&'static str> {
    std::iter::once("local").chain(KIND_NAMES).collect()
}

/// Sections of which there may be several; the others are tables.
const LISTS: [&str; 3] = ["budget", "limit", "webhook"];
const TABLES: [&str; 14] = [
    "server",
    "limits",
    "ledger",
    "guard",
    "policy",
    "prices",
    "responses",
    "attempts",
    "hedge",
    "tls",
    "admin",
    "cache",
    "idempotency",
    "engine",
];

/// Reads a document; `from_env` gets what came from the environment.
pub(super) fn read(
    text: &str,
    lookup: Lookup<'_>,
    environment: Environment,
    from_env: &mut FromEnv,
) -> Result<Document, Finding> {
    let mut table = DeTable::parse(text).map_err(|error| from_toml(&error, from_env))?.into_inner();
    for (_, value) in table.iter_mut() {
        fill_in(value, lookup, environment, from_env)?;
    }
    for (section, value) in &table {
        is_section(section.get_ref(), value)?;
    }
    let routes = match table.remove("routes") {
        Some(routes) => read_routes(routes, from_env, lookup)?,
        None => Vec::new(),
    };
    let whole = Spanned::new(0..text.len(), DeValue::Table(table));
    let written = Written::deserialize(ValueDeserializer::from(whole))
        .map_err(|error| from_toml(&error, from_env))?;
    Ok(Document { written, routes })
}

/// Whether a section has its form: the reader would take a table from a list, value by value.
fn is_section(name: &str, value: &Spanned<DeValue<'_>>) -> Result<(), Finding> {
    match value.get_ref() {
        DeValue::Array(_) if TABLES.contains(&name) => {
            let or = closest(name, &LISTS).map(|list| format!(", or [[{list}]]"));
            let message =
                format!("`{name}` is one table: write [{name}]{}", or.unwrap_or_default());
            Err(Finding::at(value.span(), message))
        }
        DeValue::Array(items) if LISTS.contains(&name) => {
            let of_tables =
                |item: &Spanned<DeValue<'_>>| matches!(item.get_ref(), DeValue::Table(_));
            match items.iter().find(|item| !of_tables(item)) {
                Some(item) => Err(Finding::at(item.span(), format!("write a table: [[{name}]]"))),
                None => Ok(()),
            }
        }
        DeValue::Table(_) if LISTS.contains(&name) => {
            let message = format!("`{name}` is a list of tables: write [[{name}]]");
            Err(Finding::at(value.span(), message))
        }
        _ => Ok(()),
    }
}

fn read_routes(
    routes: Spanned<DeValue<'_>>,
    from_env: &FromEnv,
    lookup: Lookup<'_>,
) -> Result<Vec<Route>, Finding> {
    let span = routes.span();
    let DeValue::Table(table) = routes.into_inner() else {
        return Err(Finding::at(span, "`routes` is a table of routes: write [routes.<name>]"));
    };
    let mut read = Vec::new();
    for (name, value) in table {
        let name = Spanned::new(name.span(), name.into_inner().into_owned());
        let kind = read_route(&name, value, from_env, lookup)?;
        read.push(Route { name, kind });
    }
    // The reader sorts tables by name; the order of the file is the order of routes.
    read.sort_by_key(|route| route.name.span().start);
    Ok(read)
}

fn read_route(
    name: &Spanned<String>,
    value: Spanned<DeValue<'_>>,
    from_env: &FromEnv,
    lookup: Lookup<'_>,
) -> Result<Kind, Finding> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(Finding::at(
            value.span(),
            format!("write a table: [routes.{}]", name.get_ref()),
        ));
    };
    let kinds = kinds();
    let known = kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ");
    let Some(kind) = table.get("kind") else {
        let message = format!("route `{}` has no `kind`: write kind = {known}", name.get_ref());
        return Err(Finding::at(name.span(), message));
    };
    let found = match kind.get_ref() {
        DeValue::String(kind) => kind.as_ref(),
        _ => "",
    };
    let local = match found {
        "local" => true,
        other if KIND_NAMES.contains(&other) => false,
        other => {
            let hint = closest(other, &kinds)
                .map(|near| format!("; did you mean {near:?}?"))
                .unwrap_or_default();
            let message = format!("unknown kind {other:?} of a route; known are {known}{hint}");
            return Err(Finding::at(kind.span(), message));
        }
    };
    for name in ["retry", "breaker", "health"] {
        if let Some(list) = table.get(name).filter(|it| matches!(it.get_ref(), DeValue::Array(_))) {
            let message = format!("`{name}` is a table: write {name} = {{ ... }}");
            return Err(Finding::at(list.span(), message));
        }
    }
    let reader = ValueDeserializer::from(value);
    let read = if local {
        Local::deserialize(reader).map(|local| Kind::Local(Box::new(local)))
    } else {
        Cloud::deserialize(reader).map(|mut cloud| {
            usual_key(&mut cloud, lookup);
            Kind::Cloud(Box::new(cloud))
        })
    };
    read.map_err(|error| from_toml(&error, from_env))
}

/// The key by its usual name in the environment, where neither it nor the address is written: a key
/// that nobody named goes to its own provider alone.
fn usual_key(cloud: &mut Cloud, lookup: Lookup<'_>) {
    let kind = crate::providers::Kind::find(cloud.kind.get_ref());
    if cloud.api_key.is_none() && cloud.base_url.is_none() {
        let found = kind.and_then(crate::providers::Kind::key_env).and_then(lookup);
        cloud.api_key = found.filter(|key| !key.is_empty()).map(|key| Spanned::new(0..0, key));
    }
}

/// Fills `${env.NAME}` into every string, and notes which values came from there.
fn fill_in(
    value: &mut Spanned<DeValue<'_>>,
    lookup: Lookup<'_>,
    environment: Environment,
    from_env: &mut FromEnv,
) -> Result<(), Finding> {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => {
            let (filled, missing) = filled(text, lookup, environment)
                .map_err(|message| Finding::at(span.clone(), message))?;
            from_env.note(span, &filled, missing);
            *text = Cow::Owned(filled);
        }
        DeValue::Array(items) => {
            for item in items.iter_mut() {
                fill_in(item, lookup, environment, from_env)?;
            }
        }
        DeValue::Table(table) => {
            for (_, item) in table.iter_mut() {
                fill_in(item, lookup, environment, from_env)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The text with its variables, and the first that is not set, where that is no error.
fn filled(
    text: &str,
    lookup: Lookup<'_>,
    environment: Environment,
) -> Result<(String, Option<String>), String> {
    let (mut out, mut missing) = (String::new(), None);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((reference, behind)) = after.split_once('}') else {
            return Err("`${` without `}`: write ${env.NAME}".to_owned());
        };
        let name = reference.strip_prefix("env.").filter(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        let Some(name) = name else {
            return Err(format!("`${{{reference}}}` is not a reference: write ${{env.NAME}}"));
        };
        match (lookup(name), environment) {
            (Some(value), _) => out.push_str(&value),
            (None, Environment::Needed) => return Err(not_set(name)),
            (None, Environment::Spared) => missing = missing.or(Some(name.to_owned())),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok((out, missing))
}

/// What is said of a variable that is missing.
pub(super) fn not_set(name: &str) -> String {
    format!(
        "the environment variable {name} is not set; set it (export {name}=...) or remove this key"
    )
}
