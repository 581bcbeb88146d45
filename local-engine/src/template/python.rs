//! Methods of Python's strings that templates call, beside those of `minijinja_contrib::pycompat`.
//! Places in a text are counted in characters, as slices of it are.

use minijinja::{Error, ErrorKind, State, Value, value::from_args};
use minijinja_contrib::pycompat::unknown_method_callback;

/// A method that minijinja does not know.
pub(super) fn unknown_method(
    state: &State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let own = value.as_str().and_then(|text| of_text(text, method, arguments));
    own.unwrap_or_else(|| unknown_method_callback(state, value, method, arguments))
}

fn of_text(text: &str, method: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "removeprefix" => {
            one(arguments).map(|prefix| text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            one(arguments).map(|suffix| text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "find" => one(arguments).map(|part| place(text, text.find(part)).into()),
        "rfind" => one(arguments).map(|part| place(text, text.rfind(part)).into()),
        "index" => one(arguments).and_then(|part| found(place(text, text.find(part)))),
        "rindex" => one(arguments).and_then(|part| found(place(text, text.rfind(part)))),
        "partition" => separator(arguments).map(|by| match text.split_once(by) {
            Some((head, tail)) => list(&[head, by, tail]),
            None => list(&[text, "", ""]),
        }),
        "rpartition" => separator(arguments).map(|by| match text.rsplit_once(by) {
            Some((head, tail)) => list(&[head, by, tail]),
            None => list(&["", "", text]),
        }),
        "rsplit" => from_args(arguments).and_then(|(by, most)| rsplit(text, by, most)),
        _ => return None,
    })
}

fn one(arguments: &[Value]) -> Result<&str, Error> {
    from_args::<(&str,)>(arguments).map(|(part,)| part)
}

fn separator(arguments: &[Value]) -> Result<&str, Error> {
    one(arguments)
        .and_then(|by| if by.is_empty() { Err(invalid("empty separator")) } else { Ok(by) })
}

/// The characters before a byte's place; -1 where there is none.
fn place(text: &str, at: Option<usize>) -> i64 {
    let before = at.and_then(|at| text.get(..at));
    before.map_or(-1, |before| i64::try_from(before.chars().count()).unwrap_or(i64::MAX))
}

fn found(place: i64) -> Result<Value, Error> {
    if place < 0 { Err(invalid("substring not found")) } else { Ok(place.into()) }
}

/// The parts from the end, at most `most` cuts.
fn rsplit(text: &str, by: Option<&str>, most: Option<i64>) -> Result<Value, Error> {
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts = match by {
        Some("") => return Err(invalid("empty separator")),
        Some(by) => text.rsplitn(most.saturating_add(1), by).collect(),
        None => rsplit_words(text, most),
    };
    parts.reverse();
    Ok(list(&parts))
}

fn rsplit_words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end();
    while parts.len() < most {
        let Some(at) = rest.rfind(char::is_whitespace) else { break };
        let (head, word) = rest.split_at(at);
        parts.push(word.trim_start());
        rest = head.trim_end();
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn list(parts: &[&str]) -> Value {
    parts.iter().map(|part| Value::from(*part)).collect()
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    fn rendered(expression: &str) -> String {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(super::unknown_method);
        let rendered = environment.render_str(&format!("{{{{ {expression} }}}}"), ());
        rendered.unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn texts_have_pythons_methods() {
        for (expression, expected) in [
            ("'abcabc'.removeprefix('abc')", "abc"),
            ("'abc'.removesuffix('c')", "ab"),
            ("'abc'.removesuffix('b')", "abc"),
            ("'éabé'.find('b')", "2"),
            ("'éabé'.rfind('é')", "3"),
            ("'abc'.find('x')", "-1"),
            ("'abc'.index('c')", "2"),
            ("'a-b-c'.rsplit('-', 1) | join('|')", "a-b|c"),
            ("'a-b-c'.rsplit('-') | join('|')", "a|b|c"),
            ("' a  b c '.rsplit(none, 1) | join('|')", " a  b|c"),
            ("' a  b c '.rsplit() | join('|')", "a|b|c"),
            ("'a=b=c'.partition('=') | join('|')", "a|=|b=c"),
            ("'a=b=c'.rpartition('=') | join('|')", "a=b|=|c"),
            ("'abc'.partition('=') | join('|')", "abc||"),
            ("'abc'.upper()", "ABC"),
        ] {
            assert_eq!(rendered(expression), expected, "{expression}");
        }
        assert!(rendered("'abc'.index('x')").contains("substring not found"));
        assert!(rendered("'abc'.partition('')").contains("empty separator"));
        assert!(rendered("'abc'.nothing()").contains("no method named"));
    }
}
