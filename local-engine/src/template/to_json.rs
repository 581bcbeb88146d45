//! The filter `tojson` as the templates' makers know it: Python's `json.dumps`, with its spaces, its
//! order (the one that was written) and its arguments. A model sees its tools as it was taught.

use std::io::{self, Write};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind, from_args},
};
use serde::Serialize as _;
use serde_json::{
    Value as Json,
    ser::{Formatter, Serializer},
};

/// Most spaces of one level.
const INDENT_MAX: usize = 32;

/// How the JSON is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    /// One level's; without it all is one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    ascii: bool,
}

/// Writes by a layout.
#[derive(Debug)]
struct Writer {
    layout: Layout,
    depth: usize,
    /// Whether the list or object that is open has something in it.
    filled: bool,
}

/// The value as JSON. The arguments are those of transformers: `indent`, which may come without its
/// name, `separators`, `sort_keys` and `ensure_ascii`.
pub(super) fn to_json(value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let (plain, named) = from_args::<(&[Value], Kwargs)>(arguments)?;
    let layout = Layout::asked(plain, &named)?;
    let sorted = named.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    named.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    };
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sorted {
        json.sort_all_objects();
    }
    layout.write(&json).map(Value::from_safe_string).map_err(failed)
}

impl Layout {
    fn asked(plain: &[Value], named: &Kwargs) -> Result<Layout, Error> {
        let indent = match named.get::<Option<Value>>("indent")? {
            Some(indent) => indent_of(&indent)?,
            // Jinja's own first argument; in transformers that is whether all is to be ASCII.
            None => plain
                .first()
                .filter(|first| first.kind() == ValueKind::Number)
                .map_or(Ok(None), indent_of)?,
        };
        let separators = named.get::<Option<Vec<String>>>("separators")?;
        let (between_items, after_key) = match separators.as_deref() {
            Some([between, after]) => (between.clone(), after.clone()),
            Some(_) => return Err(invalid("separators are two texts")),
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        };
        let ascii = named.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Layout { indent, between_items, after_key, ascii })
    }

    fn write(self, json: &Json) -> Result<String, serde_json::Error> {
        let mut bytes = Vec::new();
        let writer = Writer { layout: self, depth: 0, filled: false };
        json.serialize(&mut Serializer::with_formatter(&mut bytes, writer))?;
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }
}

/// As many spaces as are asked for, or the text itself; neither where it is none.
fn indent_of(asked: &Value) -> Result<Option<String>, Error> {
    match asked.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        ValueKind::String => Ok(asked.as_str().map(str::to_owned)),
        _ => {
            let spaces = i64::try_from(asked.clone())?.max(0);
            let spaces = usize::try_from(spaces).unwrap_or(INDENT_MAX).min(INDENT_MAX);
            Ok(Some(" ".repeat(spaces)))
        }
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

impl Writer {
    fn break_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.layout.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.layout.between_items.as_bytes())?;
        }
        self.break_line(writer)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.filled {
            self.break_line(writer)?;
        }
        // Of what it is in itself.
        self.filled = true;
        writer.write_all(bracket)
    }
}

impl Formatter for Writer {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.layout.after_key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.layout.ascii || fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            // The marks that part control texts are looked for in what is rendered.
            if character.is_ascii() || super::MARK_ENDS.contains(&character) {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    /// The expression rendered, as a template would.
    fn rendered(expression: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter(
            "tojson",
            |value: &minijinja::Value, rest: minijinja::value::Rest<_>| {
                super::to_json(value, &rest)
            },
        );
        let value: serde_json::Value = serde_json::from_str(
            r#"{"type":"function","n":[1,2.5,null,true],"é":{"b":"<'\"\n😀>","a":{},"c":[]}}"#,
        )
        .expect("JSON");
        environment
            .render_str(&format!("{{{{ {expression} }}}}"), minijinja::context! { value })
            .expect("renders")
    }

    /// What Python's `json.dumps(value, ensure_ascii=False, …)` gives for the same.
    #[test]
    fn json_is_written_as_the_templates_makers_write_it() {
        assert_eq!(
            rendered("value | tojson"),
            r#"{"type": "function", "n": [1, 2.5, null, true], "é": {"b": "<'\"\n😀>", "a": {}, "c": []}}"#
        );
        let lines = [
            "{",
            "    \"type\": \"function\",",
            "    \"n\": [",
            "        1,",
            "        2.5,",
            "        null,",
            "        true",
            "    ],",
            "    \"é\": {",
            "        \"b\": \"<'\\\"\\n😀>\",",
            "        \"a\": {},",
            "        \"c\": []",
            "    }",
            "}",
        ];
        assert_eq!(rendered("value | tojson(indent=4)"), lines.join("\n"));
        assert_eq!(rendered("value | tojson(4)"), lines.join("\n"));
        assert_eq!(rendered("[1] | tojson(indent=0)"), "[\n1\n]");
        assert_eq!(rendered("[1, 2] | tojson(indent=none)"), "[1, 2]");
    }

    #[test]
    fn its_arguments_are_pythons() {
        assert_eq!(
            rendered("{'a': 1, 'b': 'é'} | tojson(ensure_ascii=False)"),
            r#"{"a": 1, "b": "é"}"#
        );
        assert_eq!(rendered("'é😀' | tojson(ensure_ascii=true)"), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(rendered("{'a': [1, 2]} | tojson(separators=(',', ':'))"), r#"{"a":[1,2]}"#);
        assert_eq!(rendered("{'b': 1, 'a': 2} | tojson(sort_keys=true)"), r#"{"a": 2, "b": 1}"#);
    }
}
