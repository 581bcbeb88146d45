//! Numbers of a schema that the compiler, which reads every number as a 64-bit float, would change.
//!
//! A bound that no float is equal to is moved inwards to the next one, and one beyond 64 bits to the last
//! that the compiler counts with: **an answer still matches the caller's schema.** A value that must be
//! written digit by digit cannot be moved, and is refused. So is a bound that leaves only numbers beyond
//! 64 bits, at which the compiler would recurse without end. A whole number that is excluded is moved too:
//! the compiler lets it in where the other bound is less than 1 away.

use serde_json::{Map, Number, Value as Json};

use crate::{constraint::ConstraintError, schemas};

/// From here on floats leave integers out.
const EXACT_MAX: u64 = 1 << 53;
/// The last float below 2^63: the compiler counts integers in 64 bits, and negates them.
const COUNTED_MAX: f64 = f64::from_bits(0x43DF_FFFF_FFFF_FFFF);
/// How much of the way to the other bound an excluded whole number is moved, and how far where that one
/// may stand in another part of the schema.
const OPENED: f64 = 1e-6;
const OPENED_ALONE: f64 = 1e-9;
/// Keywords that let other parts of a schema hold for the same value.
const JOINING: [&str; 5] = ["allOf", "anyOf", "oneOf", "$ref", "patternProperties"];

/// Moves bounds that are not exact inwards.
///
/// # Errors
/// A `const` or an `enum` holds an integer that would be written as another, or a bound leaves none that
/// is counted.
pub(crate) fn exact(schema: &mut Json) -> Result<(), ConstraintError> {
    schemas::try_each(schema, &mut |fields| {
        as_numbers(fields);
        bounds(fields)
    })?;
    let joins = schemas::any(schema, &joins);
    schemas::each(schema, |fields| open(fields, joins));
    Ok(())
}

/// Writes what draft 4 excludes by `true` beside the bound as a bound of its own. Without one beside it
/// that says nothing.
fn as_numbers(fields: &mut Map<String, Json>) {
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        let Some(&Json::Bool(excluded)) = fields.get(exclusive) else { continue };
        match excluded.then(|| fields.shift_remove(bound)).flatten() {
            Some(bound) => fields.insert(exclusive.to_owned(), bound),
            None => fields.shift_remove(exclusive),
        };
    }
}

/// Whether another part of the schema may hold with this one.
fn joins(fields: &Map<String, Json>) -> bool {
    JOINING.iter().any(|keyword| fields.contains_key(*keyword))
}

/// Moves excluded whole numbers inwards.
fn open(fields: &mut Map<String, Json>, joins: bool) {
    let number = |name: &str| fields.get(name).and_then(Json::as_f64);
    let (least, most) = (number("exclusiveMinimum"), number("exclusiveMaximum"));
    let above = most.into_iter().chain(number("maximum")).reduce(f64::min);
    let below = least.into_iter().chain(number("minimum")).reduce(f64::max);
    let moved_up = least.and_then(|least| opened(least, above, joins));
    // The same below 0, as in a mirror.
    let moved_down =
        most.and_then(|most| opened(-most, below.map(|below| -below), joins)).map(|most| -most);
    for (name, moved) in [("exclusiveMinimum", moved_up), ("exclusiveMaximum", moved_down)] {
        if let Some(moved) = moved.and_then(Number::from_f64) {
            fields.insert(name.to_owned(), Json::Number(moved));
        }
    }
}

/// Where a lower bound goes that excludes a whole number of 0 or more, if it has to; `above` is the upper
/// bound beside it. No integer lies between.
fn opened(least: f64, above: Option<f64>, joins: bool) -> Option<f64> {
    if least < 0.0 || least.fract() != 0.0 {
        return None;
    }
    let step = match above {
        Some(above) if above > least && above < least + 1.0 => (above - least) * OPENED,
        _ if joins => OPENED_ALONE,
        _ => return None,
    };
    let moved = (least + step).max(least.next_up());
    // Where floats are integers there is nothing between to be let in.
    (moved < least + 1.0).then_some(moved)
}

/// Moves bounds that no float is equal to.
fn bounds(fields: &mut Map<String, Json>) -> Result<(), ConstraintError> {
    fields.iter_mut().try_for_each(|(key, value)| match key.as_str() {
        "const" | "enum" => kept(value),
        "minimum" | "exclusiveMinimum" => {
            bound(value, |float, exact| float < exact, f64::next_up);
            counted(key, value, |float| float > COUNTED_MAX, f64::max, -COUNTED_MAX)
        }
        "maximum" | "exclusiveMaximum" => {
            bound(value, |float, exact| float > exact, f64::next_down);
            counted(key, value, |float| float < -COUNTED_MAX, f64::min, COUNTED_MAX)
        }
        _ => Ok(()),
    })
}

/// Refuses integers that a float cannot hold for sure.
fn kept(value: &Json) -> Result<(), ConstraintError> {
    match value {
        Json::Number(number)
            if integer(number).is_some_and(|it| it.unsigned_abs() > EXACT_MAX.into()) =>
        {
            let reason =
                format!("{number} is too large to be enforced digit by digit: write it as text");
            Err(ConstraintError::Refused(reason))
        }
        Json::Array(items) => items.iter().try_for_each(kept),
        Json::Object(fields) => fields.values().try_for_each(kept),
        _ => Ok(()),
    }
}

fn bound(value: &mut Json, outside: impl Fn(i128, i128) -> bool, inwards: impl Fn(f64) -> f64) {
    let Json::Number(number) = value else { return };
    let (Some(asked), Some(float)) = (integer(number), number.as_f64()) else { return };
    #[expect(clippy::cast_possible_truncation, reason = "a float of an integer of 64 bits")]
    if outside(float as i128, asked)
        && let Some(moved) = Number::from_f64(inwards(float))
    {
        *number = moved;
    }
}

/// Moves a bound to the numbers that are counted, unless it leaves none of them.
fn counted(
    keyword: &str,
    value: &mut Json,
    leaves_none: impl Fn(f64) -> bool,
    inner: impl Fn(f64, f64) -> f64,
    last: f64,
) -> Result<(), ConstraintError> {
    let Some(float) = value.as_f64() else { return Ok(()) };
    if leaves_none(float) {
        let reason = format!("numbers beyond 64 bits cannot be enforced (`{keyword}`: {value})");
        return Err(ConstraintError::Refused(reason));
    }
    if float.abs() > COUNTED_MAX
        && let Some(moved) = Number::from_f64(inner(float, last))
    {
        *value = Json::Number(moved);
    }
    Ok(())
}

/// An integer as it was written; `None` for other numbers, and for those beyond 64 bits.
fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::{COUNTED_MAX, exact};

    #[test]
    fn bounds_move_inwards_to_what_a_float_holds() {
        let mut schema = json!({"properties": {"a": {
            "minimum": -9_007_199_254_740_995_i64, "maximum": 9_223_372_036_854_775_807_i64,
            "exclusiveMinimum": 9_007_199_254_740_993_i64, "exclusiveMaximum": 9_007_199_254_740_992_i64,
            "multipleOf": 9_007_199_254_740_993_i64}, "b": {"maximum": 0.1}}});
        exact(&mut schema).unwrap();
        let bounds = &schema["properties"]["a"];
        assert_eq!(bounds["minimum"], json!(-9_007_199_254_740_994.0));
        assert_eq!(bounds["maximum"], json!(2_f64.powi(63).next_down()));
        assert_eq!(bounds["exclusiveMinimum"], json!(9_007_199_254_740_994.0));
        assert_eq!(bounds["exclusiveMaximum"], json!(9_007_199_254_740_992_i64));
        assert_eq!(schema["properties"]["b"]["maximum"], 0.1);
    }

    #[test]
    fn a_whole_number_that_is_excluded_is_moved_where_it_would_be_let_in() {
        let moved = |mut schema: Json| {
            exact(&mut schema).unwrap();
            schema
        };
        for (schema, name, expected) in [
            (json!({"exclusiveMinimum": 0, "maximum": 0.5}), "exclusiveMinimum", json!(5e-7)),
            (
                json!({"exclusiveMinimum": 3, "exclusiveMaximum": 3.5}),
                "exclusiveMinimum",
                json!(3.000_000_5),
            ),
            (
                json!({"exclusiveMaximum": -1, "minimum": -1.5}),
                "exclusiveMaximum",
                json!(-1.000_000_5),
            ),
            (json!({"exclusiveMaximum": 0, "minimum": -0.5}), "exclusiveMaximum", json!(-5e-7)),
            (json!({"exclusiveMinimum": 0, "maximum": 5}), "exclusiveMinimum", json!(0)),
            (json!({"exclusiveMinimum": 0}), "exclusiveMinimum", json!(0)),
            (json!({"exclusiveMinimum": 0.5, "maximum": 0.6}), "exclusiveMinimum", json!(0.5)),
            (json!({"exclusiveMinimum": -1, "maximum": -0.5}), "exclusiveMinimum", json!(-1)),
            (
                json!({"exclusiveMinimum": 0, "allOf": [{"maximum": 0.5}]}),
                "exclusiveMinimum",
                json!(1e-9),
            ),
            (json!({"exclusiveMinimum": 1e17, "anyOf": []}), "exclusiveMinimum", json!(1e17)),
        ] {
            assert_eq!(moved(schema.clone())[name], expected, "{schema}");
        }
        let inner = json!({"properties": {"p": {"exclusiveMinimum": 0, "exclusiveMaximum": 0.5}}});
        assert_eq!(moved(inner)["properties"]["p"]["exclusiveMinimum"], 5e-7);
    }

    #[test]
    fn bounds_beyond_64_bits_are_moved_to_what_is_counted_or_refused() {
        let mut all = json!({
            "minimum": i64::MIN, "maximum": i64::MAX,
            "properties": {"a": {"exclusiveMinimum": -1e30, "exclusiveMaximum": 1e300}},
        });
        exact(&mut all).unwrap();
        let inner = &all["properties"]["a"];
        for (bound, sign) in [
            (&all["minimum"], -1.0),
            (&all["maximum"], 1.0),
            (&inner["exclusiveMinimum"], -1.0),
            (&inner["exclusiveMaximum"], 1.0),
        ] {
            assert_eq!(bound.as_f64(), Some(sign * COUNTED_MAX));
        }
        for mut nothing in [
            json!({"minimum": -1e30, "maximum": -1e25}),
            json!({"minimum": i64::MIN, "maximum": -9_223_372_036_854_775_000_i64}),
            json!({"items": {"exclusiveMinimum": u64::MAX}}),
        ] {
            assert!(exact(&mut nothing).is_err(), "{nothing}");
        }
    }

    #[test]
    fn a_bound_that_is_excluded_as_in_draft_4_is_one_of_the_later_drafts() {
        for (mut written, meant) in [
            (
                json!({"minimum": 0, "exclusiveMinimum": true, "maximum": 5}),
                json!({"exclusiveMinimum": 0, "maximum": 5}),
            ),
            (
                json!({"minimum": 0, "exclusiveMinimum": true, "maximum": 0.5}),
                json!({"exclusiveMinimum": 5e-7, "maximum": 0.5}),
            ),
            (
                json!({"items": {"exclusiveMaximum": true, "maximum": 9_007_199_254_740_995_i64}}),
                json!({"items": {"exclusiveMaximum": 9_007_199_254_740_994.0}}),
            ),
            (
                json!({"minimum": 0, "exclusiveMinimum": false, "maximum": 0.5}),
                json!({"minimum": 0, "maximum": 0.5}),
            ),
            (json!({"exclusiveMinimum": true, "maximum": 1}), json!({"maximum": 1})),
        ] {
            exact(&mut written).unwrap();
            assert_eq!(written, meant);
        }
        let mut nothing = json!({"minimum": 1e30, "exclusiveMinimum": true});
        assert!(exact(&mut nothing).is_err());
    }

    #[test]
    fn data_is_left_alone_and_a_propertys_name_is_no_keyword() {
        let near = json!({"exclusiveMinimum": 0, "maximum": 0.5});
        for same in [
            json!({"const": near}),
            json!({"enum": [near, {"minimum": 0, "exclusiveMinimum": true}]}),
            json!({"examples": [{"minimum": 1e30}], "default": {"maximum": -1e30}}),
            json!({"properties": {"allOf": {"exclusiveMinimum": 0}}}),
        ] {
            let mut schema = same.clone();
            exact(&mut schema).unwrap();
            assert_eq!(schema, same);
        }
        for name in ["const", "enum", "default", "minimum"] {
            let of = |schema: Json| json!({"properties": {name: schema}});
            let mut all = of(json!({"maximum": i64::MAX}));
            exact(&mut all).unwrap();
            assert_eq!(all, of(json!({"maximum": COUNTED_MAX})));
            let none = json!({"type": "integer", "minimum": -1e30, "maximum": -1e25});
            assert!(exact(&mut of(none)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_number_is_read_as_the_float_that_is_nearest() {
        // Every 2^54/1000th float from 0.1 to 100 or so.
        for bits in (0x3FB9_9999_9999_999A_u64..0x4059_0000_0000_0000).step_by(18_014_398_509_481) {
            let float = f64::from_bits(bits);
            assert_eq!(serde_json::from_str::<f64>(&format!("{float:?}")).unwrap().to_bits(), bits);
        }
    }

    #[test]
    fn values_that_would_be_written_as_others_are_refused() {
        let refused = |mut schema: Json| exact(&mut schema).is_err();
        assert!(refused(json!({"const": 1_234_567_890_123_456_789_i64})));
        assert!(refused(json!({"items": {"enum": ["a", -9_007_199_254_740_993_i64]}})));
        assert!(refused(json!({"const": {"a": [u64::MAX]}})));
        assert!(!refused(json!({"enum": [9_007_199_254_740_992_i64, 0.1, "1234567890123456789"]})));
        assert!(!refused(json!({"default": u64::MAX})));
    }
}
