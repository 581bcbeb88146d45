//! Reading one field's value: its type, its range, and an error that names it. The name is only
//! written out when there is an error.

use super::{
    BadRequest,
    json::{self, Kind},
};
use std::{borrow::Cow, fmt::Display};

pub(crate) fn boolean(param: impl Display, raw: &str) -> Result<bool, BadRequest> {
    match raw {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(BadRequest::kind(param, "a boolean")),
    }
}

pub(crate) fn string<'a>(param: impl Display, raw: &'a str) -> Result<Cow<'a, str>, BadRequest> {
    if json::kind(raw) != Kind::String {
        return Err(BadRequest::kind(param, "a string"));
    }
    json::text_of(raw).ok_or_else(|| {
        BadRequest::value(&param, format!("`{param}` has an escape that is no character"))
    })
}

/// An integer within `min..=max`, written as one: `5.0` is none.
pub(crate) fn integer(
    param: impl Display,
    raw: &str,
    min: i64,
    max: i64,
) -> Result<i64, BadRequest> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadRequest::kind(param, "an integer"));
    }
    raw.parse::<i64>()
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| BadRequest::value(&param, format!("`{param}` must be {min} to {max}")))
}

pub(crate) fn number(
    param: impl Display,
    raw: &str,
    min: f64,
    max: f64,
) -> Result<f64, BadRequest> {
    if json::kind(raw) != Kind::Number {
        return Err(BadRequest::kind(param, "a number"));
    }
    raw.parse::<f64>()
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| BadRequest::value(&param, format!("`{param}` must be {min} to {max}")))
}

pub(crate) fn object(param: impl Display, raw: &str) -> Result<(), BadRequest> {
    match json::kind(raw) {
        Kind::Object => Ok(()),
        _ => Err(BadRequest::kind(param, "an object")),
    }
}

pub(crate) fn array(param: impl Display, raw: &str) -> Result<(), BadRequest> {
    match json::kind(raw) {
        Kind::Array => Ok(()),
        _ => Err(BadRequest::kind(param, "an array")),
    }
}

/// The members `names` of the object `raw`, `None` where absent or null. A member that stands
/// there twice, or under its name in another case, is an error.
pub(crate) fn members<'a, const N: usize>(
    param: impl Display,
    raw: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], BadRequest> {
    object(&param, raw)?;
    let mut found = [None; N];
    let mut seen = [false; N];
    json::members(raw, |key, member| {
        if let Some(index) = names.iter().position(|name| *name == key) {
            if std::mem::replace(&mut seen[index], true) {
                return Err(twice(format_args!("{param}.{key}")));
            }
            found[index] = (member.raw != "null").then_some(member.raw);
            return Ok(());
        }
        match in_other_case(key, |lower| names.iter().find(|name| **name == lower)) {
            Some(name) => Err(other_case(format_args!("{param}.{name}"))),
            None => Ok(()),
        }
    })?;
    Ok(found)
}

/// What `find` knows by the name that `key`, which it does not, is in another case. Some readers of JSON
/// (Go's and .NET's) match names without regard to case: to them it would be a second value of that name.
pub(crate) fn in_other_case<T>(key: &str, find: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return None;
    }
    // By way of upper case, which the long s and the dotless i share with the usual ones.
    let upper = key.chars().flat_map(char::to_uppercase);
    find(&upper.flat_map(char::to_lowercase).collect::<String>())
}

/// A member that is known and written in another case.
pub(crate) fn other_case(param: impl Display) -> BadRequest {
    BadRequest::value(&param, format!("`{param}` is written in another case: use this one"))
}

/// A member that stands twice in one object: its readers could see two values.
pub(crate) fn twice(param: impl Display) -> BadRequest {
    BadRequest::value(&param, format!("`{param}` is given twice"))
}
