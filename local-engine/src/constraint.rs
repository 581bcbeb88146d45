//! What an answer must match, enforced token by token by llguidance. A rule that cannot be enforced
//! is an error; no answer is ever left unconstrained for one.
//!
//! Rules come from callers, so each is measured before any parser sees it, compiled on a thread of
//! its own with a deep stack, and bounded in what it may compute for a token: a job whose rule
//! costs more than that fails, and no other waits for it.

use std::{
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use llguidance::{Matcher, ParserFactory, api::TopLevelGrammar};
use serde_json::Value as Json;
use toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::{arguments, closing, counted, dates, gbnf, llama::Model, numbers, pointers};

/// Longest rule in bytes.
const RULE_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a schema's JSON: a property takes two levels.
const SCHEMA_DEPTH_MAX: usize = 64;
/// Most values (members and elements) in a schema.
const SCHEMA_VALUES_MAX: usize = 20_000;
/// Longest regular expression in a schema, in bytes.
const PATTERN_BYTES_MAX: usize = 4 * 1024;
/// Longest compilation, and longest wait for one of the others to end.
const COMPILE_MAX: Duration = Duration::from_secs(5);
/// Rules compiled at the same time: they take cores from the model.
pub const COMPILERS_MAX: usize = 2;
/// Stack of the compiling thread: parsers recurse on a rule's nesting.
const STACK_BYTES: usize = 32 << 20;
/// Characters of a reason that are passed on.
const REASON_CHARS_MAX: usize = 300;
/// White space between a JSON answer's tokens. Without a bound a small model writes line feeds until
/// its cap; this is what llama.cpp's own grammars allow.
const JSON_SPACE: &str = r"( |\n{1,2}[ \t]{0,20})?";

/// What may stand behind a `\` in a text. Not `u`: members are told apart by how their names are written,
/// and `"\u0061"` would be one that is not `"a"`.
const JSON_ESCAPES: &str = "nrbtf\\\"";

/// What an answer must match.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    /// Any JSON object.
    JsonObject,
    /// A JSON schema, as JSON text.
    JsonSchema(String),
    /// A grammar in llama.cpp's GBNF; its start is `root`.
    Gbnf(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
    /// A grammar in llguidance's Lark dialect, for the engine's own rules.
    Lark(String),
}

/// Why a rule was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It is malformed, or asks for something that cannot be enforced.
    #[error("{0}")]
    Refused(String),
    /// The parameters of one function are.
    #[error("the parameters of function {at}: {reason}")]
    Parameters {
        /// The function's place among the tools, from 0.
        at: usize,
        /// What is wrong with them.
        reason: String,
    },
    /// It takes more to compile than a caller may ask for.
    #[error("it takes too much to compile")]
    TooDear,
    /// As many are compiled as may be.
    #[error("too many rules are being compiled")]
    Busy,
}

/// A compiled rule at a place in an answer. A clone goes on by itself.
pub struct Constraint {
    matcher: Matcher,
    /// What it was compiled from, for another process.
    rule: Option<Arc<Rule>>,
}

/// The tokens that may come next.
#[derive(Debug)]
pub(crate) struct Allowed(SimpleVob);

/// Compiles rules for one model. Made with it; its view of the vocabulary is made for the first rule.
pub(crate) struct Compiler {
    model: Arc<Model>,
    factory: OnceLock<Option<Arc<ParserFactory>>>,
    running: Arc<Running>,
}

/// How many rules are being compiled.
#[derive(Debug, Default)]
struct Running {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One of them, counted until it is dropped.
struct Turn(Arc<Running>);

// === impl Constraint ===

impl Constraint {
    /// What it was compiled from.
    pub(crate) fn rule(&self) -> Option<&Rule> {
        self.rule.as_deref()
    }

    /// The tokens that may come next: never none, the end of the turn where the rule is fulfilled.
    pub(crate) fn allowed(&mut self) -> Result<Allowed, String> {
        let mask = self.matcher.compute_mask_or_eos();
        mask.map(Allowed)
            .map_err(|_| "the request's constraint takes too much to compute".to_owned())
    }

    /// Goes on by a token that was allowed.
    pub(crate) fn accept(&mut self, token: i32) -> Result<(), String> {
        // After the end only the end is allowed, and there is nothing to go on from.
        if self.matcher.is_stopped() {
            return Ok(());
        }
        let token = u32::try_from(token).unwrap_or(u32::MAX);
        let taken = self.matcher.consume_token(token);
        taken.map_err(|_| "the request's constraint takes too much to compute".to_owned())
    }
}

impl Clone for Constraint {
    fn clone(&self) -> Constraint {
        Constraint { matcher: self.matcher.deep_clone(), rule: self.rule.clone() }
    }
}

/// Without the rule: it is a caller's.
impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

// === impl Allowed ===

impl Allowed {
    /// These tokens of so many.
    #[cfg(test)]
    pub(crate) fn of(tokens: &[u32], vocabulary: usize) -> Allowed {
        let mut set = SimpleVob::alloc(vocabulary);
        for token in tokens {
            set.allow_token(*token);
        }
        Allowed(set)
    }

    /// Shows every token that may come, from the first on.
    pub(crate) fn each(&self, mut show: impl FnMut(i32)) {
        self.0.iter_set_entries(|token| {
            if let Ok(token) = i32::try_from(token) {
                show(token);
            }
        });
    }

    /// Whether a token may come.
    pub(crate) fn holds(&self, token: i32) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.0.len() && self.0.get(token))
    }
}

// === impl Compiler ===

impl Compiler {
    pub(crate) fn new(model: Arc<Model>) -> Compiler {
        Compiler { model, factory: OnceLock::new(), running: Arc::default() }
    }

    /// Compiles a rule; blocks for up to twice [`COMPILE_MAX`].
    pub(crate) fn compile(&self, rule: &Rule) -> Result<Constraint, ConstraintError> {
        let grammar = grammar(rule)?;
        let refused = |reason: &str| ConstraintError::Refused(reason.to_owned());
        let factory = self.factory.get_or_init(|| factory(&self.model).map(Arc::new));
        let factory = Arc::clone(
            factory
                .as_ref()
                .ok_or_else(|| refused("this model's vocabulary cannot be constrained"))?,
        );
        let turn = Running::turn(&self.running).ok_or(ConstraintError::Busy)?;
        let (told, result) = mpsc::sync_channel(1);
        let compile = move || {
            let _turn = turn;
            let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                compile(&factory, grammar)
            }));
            let _ = told.send(compiled.unwrap_or(Err(ConstraintError::TooDear)));
        };
        let thread = std::thread::Builder::new().name("constraint".to_owned());
        thread.stack_size(STACK_BYTES).spawn(compile).map_err(|_| ConstraintError::Busy)?;
        let compiled = result.recv_timeout(COMPILE_MAX).unwrap_or(Err(ConstraintError::TooDear));
        compiled.map(|compiled| Constraint { rule: Some(Arc::new(rule.clone())), ..compiled })
    }
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

// === impl Running ===

impl Running {
    /// Waits for a turn, not for ever.
    fn turn(running: &Arc<Running>) -> Option<Turn> {
        let count = running.count.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut count, _) = running
            .fewer
            .wait_timeout_while(count, COMPILE_MAX, |count| *count >= COMPILERS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        if *count >= COMPILERS_MAX {
            return None;
        }
        *count += 1;
        Some(Turn(Arc::clone(running)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
        self.0.fewer.notify_one();
    }
}

/// The grammar of a rule that is not too large to be looked at.
fn grammar(rule: &Rule) -> Result<TopLevelGrammar, ConstraintError> {
    let refused = |reason: String| Err(ConstraintError::Refused(reason));
    let (Rule::JsonSchema(text) | Rule::Gbnf(text) | Rule::Regex(text) | Rule::Lark(text)) = rule
    else {
        return Ok(schema_grammar(serde_json::json!({ "type": "object" })));
    };
    if text.len() > RULE_BYTES_MAX {
        return refused(format!("it has more than {RULE_BYTES_MAX} bytes"));
    }
    Ok(match rule {
        Rule::Gbnf(text) => {
            TopLevelGrammar::from_lark(gbnf::to_lark(text).map_err(ConstraintError::Refused)?)
        }
        Rule::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        Rule::Regex(text) if text.len() > PATTERN_BYTES_MAX => {
            return refused(format!("it has more than {PATTERN_BYTES_MAX} bytes"));
        }
        Rule::Regex(text) => TopLevelGrammar::from_regex(text),
        Rule::JsonObject | Rule::JsonSchema(_) => schema_grammar(schema(text)?),
    })
}

/// Reads a schema within the limits, as it is to be compiled.
fn schema(text: &str) -> Result<Json, ConstraintError> {
    let refused = |reason: String| ConstraintError::Refused(reason);
    // The parser itself refuses more than 128 levels.
    let mut schema: Json = serde_json::from_str(text)
        .map_err(|error| refused(format!("it is not valid JSON: {error}")))?;
    let mut values = 0;
    measure(&schema, 0, &mut values)?;
    pointers::unescape(&mut schema)?;
    numbers::exact(&mut schema)?;
    if counted::counts_any_names(&schema) {
        let reason = "`minProperties` cannot be met by members that are not `required`: they might \
                      all be written under one name";
        return Err(refused(reason.to_owned()));
    }
    closing::close(&mut schema);
    // Behind that: to it an `allOf` is one that may combine objects.
    dates::exact(&mut schema);
    match schema {
        Json::Object(mut fields) => {
            // The compiler's own switches, one of which would leave parts of a schema unenforced.
            fields.remove("x-guidance");
            Ok(Json::Object(fields))
        }
        Json::Bool(_) => Ok(schema),
        _ => Err(refused("a schema must be an object or a boolean".to_owned())),
    }
}

fn measure(value: &Json, depth: usize, values: &mut usize) -> Result<(), ConstraintError> {
    let refused = |reason: String| Err(ConstraintError::Refused(reason));
    *values += 1;
    if *values > SCHEMA_VALUES_MAX {
        return refused(format!("it has more than {SCHEMA_VALUES_MAX} values"));
    }
    if depth > SCHEMA_DEPTH_MAX {
        return refused(format!("it nests deeper than {SCHEMA_DEPTH_MAX} levels"));
    }
    match value {
        Json::Array(items) => items.iter().try_for_each(|item| measure(item, depth + 1, values)),
        Json::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            if key == "pattern" && value.as_str().is_some_and(|text| text.len() > PATTERN_BYTES_MAX)
            {
                return refused(format!("a pattern has more than {PATTERN_BYTES_MAX} bytes"));
            }
            measure(value, depth + 1, values)
        }),
        _ => Ok(()),
    }
}

fn schema_grammar(schema: Json) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_space(schema))
}

/// A schema with our bound on white space, and with one way to write each text.
fn with_space(schema: Json) -> Json {
    let mut fields = match schema {
        Json::Object(fields) => fields,
        // `true` allows everything, `false` nothing.
        other => serde_json::Map::from_iter([("allOf".to_owned(), Json::from(vec![other]))]),
    };
    let ours = serde_json::json!({
        "whitespace_pattern": JSON_SPACE,
        "json_allowed_escapes": JSON_ESCAPES,
    });
    fields.insert("x-guidance".to_owned(), ours);
    Json::Object(fields)
}

/// A caller's schema of a function's arguments, as a part of one of the engine's own rules.
pub(crate) fn arguments_rule(schema: &str) -> Result<Json, ConstraintError> {
    if schema.len() > RULE_BYTES_MAX {
        return Err(ConstraintError::Refused(format!("it has more than {RULE_BYTES_MAX} bytes")));
    }
    arguments::of_objects(self::schema(schema)?).map(with_space)
}

fn compile(
    factory: &ParserFactory,
    grammar: TopLevelGrammar,
) -> Result<Constraint, ConstraintError> {
    let parser = factory.create_parser(grammar);
    let mut matcher = Matcher::new(parser);
    if matcher.is_error() {
        return Err(refused(&matcher.get_error().unwrap_or_default()));
    }
    let mut warnings = matcher.grammar_warnings();
    if let Some(warning) = warnings.pop() {
        return Err(refused(&warning));
    }
    // The first mask is the dearest, and shows whether anything can begin.
    matcher.compute_mask().map_err(|_| ConstraintError::TooDear)?;
    Ok(Constraint { matcher, rule: None })
}

/// Why the compiler refuses a rule. It names its own limits, which no caller can change.
fn refused(told: &str) -> ConstraintError {
    if told.contains("limits.") || told.contains("fuel") {
        return ConstraintError::TooDear;
    }
    if told.contains("coerce_one_of") {
        let reason = "the alternatives of a `oneOf` are not seen to exclude each other";
        return ConstraintError::Refused(reason.to_owned());
    }
    ConstraintError::Refused(reason(told))
}

/// What is wrong, without the place and the lines of a grammar: it is the engine's own, made of what
/// the caller wrote, and tells them nothing.
fn reason(told: &str) -> String {
    let of_grammar = |line: &&str| {
        let number = line.trim_start().split_once(" | ").map(|(number, _)| number);
        number.is_none_or(|number| number.parse::<u32>().is_err())
    };
    let said = told.lines().take_while(of_grammar).collect::<Vec<_>>().join("\n");
    let is_place = |place: &str| {
        place.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'(' | b')'))
    };
    let placed = said.strip_prefix("at ").and_then(|rest| rest.split_once(": "));
    let said = placed.filter(|(place, _)| is_place(place)).map_or(said.as_str(), |(_, said)| said);
    said.chars().take(REASON_CHARS_MAX).collect()
}

/// The vocabulary as llguidance sees it: texts as bytes, control tokens marked so that no text
/// matches them. `None`: it has no token that ends a turn.
fn factory(model: &Model) -> Option<ParserFactory> {
    let words = (0..i32::try_from(model.vocabulary()).unwrap_or(i32::MAX)).map(|token| {
        let (bytes, control) = model.token_bytes(token);
        if control && !bytes.is_empty() { [&[0xFF][..], &bytes].concat() } else { bytes }
    });
    let words: Vec<Vec<u8>> = words.collect();
    let ends: Vec<u32> =
        model.end_tokens().into_iter().filter_map(|token| u32::try_from(token).ok()).collect();
    let info = TokRxInfo::new(model.vocabulary(), *ends.first()?);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).ok()?;
    // It would print parts of answers.
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    // For each token about 5 ms and 2 ms, some MB for each constraint, 20 ms to begin.
    limits.step_lexer_fuel = 70_000;
    limits.step_max_items = 40_000;
    limits.max_lexer_states = 20_000;
    limits.initial_lexer_fuel = 1_000_000;
    limits.max_grammar_size = 100_000;
    Some(factory)
}

#[cfg(test)]
mod tests {
    use super::{
        ApproximateTokEnv, ConstraintError, ParserFactory, compile, reason, refused, schema,
        schema_grammar,
    };
    use serde_json::{Value as Json, json};

    /// Whether a text is an answer under a schema; `None`: the schema is refused. Bytes are the tokens.
    fn takes(of: &Json, text: &str) -> Option<bool> {
        let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
        let grammar = schema_grammar(schema(&of.to_string()).ok()?);
        let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compile(&factory, grammar).ok()
        }));
        let mut matcher = compiled.ok()??.matcher;
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let taken = matcher.try_consume_tokens(&tokens).unwrap();
        Some(taken == tokens.len() && matcher.is_accepting().unwrap())
    }

    #[test]
    fn what_is_excluded_is_not_taken_however_near_the_other_bound() {
        for (bounds, out, inside) in [
            (
                json!({"exclusiveMinimum": 0, "exclusiveMaximum": 0.5}),
                &["0", "0.0", "0.5"][..],
                "0.1",
            ),
            (json!({"exclusiveMinimum": 3, "maximum": 3.9}), &["3", "3.0"], "3.9"),
            (json!({"minimum": -1.5, "exclusiveMaximum": -1}), &["-1", "-1.0"], "-1.5"),
            (json!({"minimum": -0.5, "exclusiveMaximum": 0}), &["0", "-0", "-0.0"], "-0.5"),
            (json!({"exclusiveMinimum": 0, "allOf": [{"maximum": 0.5}]}), &["0"], "0.5"),
            (json!({"exclusiveMinimum": 0, "maximum": 7}), &["0"], "0.25"),
            (json!({"minimum": 0, "maximum": 0.5}), &["-0.1"], "0"),
            (
                json!({"minimum": 0, "exclusiveMinimum": true, "maximum": 0.5}),
                &["0", "0.0", "-0.1"],
                "0.5",
            ),
            (json!({"minimum": -0.5, "maximum": 0, "exclusiveMaximum": true}), &["0"], "-0.5"),
            (
                json!({"minimum": 0, "anyOf": [{"maximum": 0.5}], "exclusiveMinimum": true}),
                &["0"],
                "0.5",
            ),
            (json!({"minimum": 0, "exclusiveMinimum": false, "maximum": 0.5}), &["-0.1"], "0"),
        ] {
            let mut schema = bounds.clone();
            schema["type"] = json!("number");
            for out in out {
                assert_eq!(takes(&schema, out), Some(false), "{bounds}: {out}");
            }
            assert_eq!(takes(&schema, inside), Some(true), "{bounds}: {inside}");
        }
        let positive = json!({"type": "integer", "exclusiveMinimum": 0, "anyOf": [{"maximum": 3}]});
        for (number, fits) in [("0", false), ("1", true), ("3", true), ("4", false)] {
            assert_eq!(takes(&positive, number), Some(fits), "{number}");
        }
        let twice = json!({
            "type": "object", "properties": {"a": {"type": "number", "exclusiveMinimum": 0}},
            "patternProperties": {"^a": {"type": "number", "maximum": 0.5}},
        });
        assert_eq!(takes(&twice, r#"{"a":0}"#), Some(false));
        assert_eq!(takes(&twice, r#"{"a":0.5}"#), Some(true));
    }

    /// Compiled for use the compiler would wrap: its checks of overflow are on in every profile.
    #[test]
    fn steps_that_hold_together_are_enforced_or_refused() {
        let of = |steps: [u32; 2]| {
            let [one, other] = steps.map(|step| json!({"type": "integer", "multipleOf": step}));
            json!({"allOf": [one, other]})
        };
        for wraps in [[100_000, 100_000], [65_537, 65_539]] {
            assert_eq!(takes(&of(wraps), "100000"), None, "{wraps:?}");
        }
        assert_eq!(takes(&of([4, 6]), "12"), Some(true));
        assert_eq!(takes(&of([4, 6]), "8"), Some(false));
    }

    #[test]
    fn a_text_is_written_in_one_way() {
        let schema = json!({
            "type": "object", "properties": {"a": {"type": "integer"}},
            "additionalProperties": {"type": "string"},
        });
        for (text, fits) in [
            (r#"{"a":1,"b":"é\n\"\\"}"#, true),
            (r#"{"a":1,"\u0061":"x"}"#, false),
            (r#"{"a":1,"b":"\u0061"}"#, false),
            (r#"{"a":1,"b":"\/"}"#, false),
        ] {
            assert_eq!(takes(&schema, text), Some(fits), "{text}");
        }
        // What the caller names is taken in that way, or refused where there is none.
        for (named, taken) in
            [("\"", true), ("\n", true), ("é", true), ("/", true), ("\u{1}", false)]
        {
            let text = Json::from(named).to_string();
            let taken = taken.then_some(true);
            assert_eq!(takes(&json!({ "const": named }), &text), taken, "{text}");
        }
    }

    #[test]
    fn a_date_is_one_that_there_is() {
        let date = json!({"type": "string", "format": "date"});
        let time = json!({"type": "string", "format": "date-time", "pattern": "Z$"});
        for (day, there_is) in [
            ("2024-02-29", true),
            ("2023-02-29", false),
            ("2023-02-28", true),
            ("2000-02-29", true),
            ("1900-02-29", false),
            ("2023-12-31", true),
            ("2023-11-31", false),
            ("2023-2-3", false),
        ] {
            assert_eq!(takes(&date, &format!("\"{day}\"")), Some(there_is), "{day}");
            let at = |zone: &str| takes(&time, &format!("\"{day}T10:00:00{zone}\""));
            assert_eq!((at("Z"), at("+01:00")), (Some(there_is), Some(false)), "{day}");
        }
    }

    #[test]
    fn a_date_with_a_pattern_leaves_no_object_open() {
        let date = json!({"type": "string", "format": "date", "pattern": "^20"});
        let schema = json!({
            "type": "object", "properties": {"on": date, "a": {"type": "object", "properties": {}}},
            "required": ["on"],
        });
        for (text, fits) in [
            (r#"{"on":"2024-02-29","a":{}}"#, true),
            (r#"{"on":"2024-02-29","b":1}"#, false),
            (r#"{"on":"2024-02-29","a":{"b":1}}"#, false),
            (r#"{"on":"2023-02-29"}"#, false),
            (r#"{"on":"1924-02-29"}"#, false),
        ] {
            assert_eq!(takes(&schema, text), Some(fits), "{text}");
        }
    }

    #[test]
    fn what_is_referred_to_is_looked_at_as_a_schema_or_refused() {
        let date = json!({"type": "string", "format": "date"});
        let at = |place: &str, of: Json| json!({"$ref": format!("#/{place}/a"), place: {"a": of}});
        for (place, taken) in [("$defs", Some(false)), ("default", None), ("const", None)] {
            assert_eq!(takes(&at(place, date.clone()), "\"2023-02-29\""), taken, "{place}");
        }
        let names = json!({"$ref": "#/$defs/a/properties", "$defs": {"a": {"properties": date}}});
        assert_eq!(takes(&names, "\"2023-02-29\""), None);
    }

    #[test]
    fn a_limit_of_the_compilers_own_is_told_as_one() {
        let told = "cannot compile: either increase limits.initial_lexer_fuel or disable it";
        assert_eq!(refused(told), ConstraintError::TooDear);
        assert!(matches!(refused("Unimplemented keys: [\"not\"]"), ConstraintError::Refused(_)));
    }

    #[test]
    fn a_reason_holds_no_line_of_the_grammar() {
        let told = "at 5(5): failed to compile JSON schema: Unimplemented keys: [\"not\"]\n   \
            3 | REPLY: \"{\"\n   5 | a0: %json {}\n          ^\n";
        assert_eq!(reason(told), "failed to compile JSON schema: Unimplemented keys: [\"not\"]");
        let patterns = "regex parse error:\n    ((\n    ^\nerror: unclosed group";
        assert_eq!(reason(patterns), patterns);
        assert_eq!(reason("at least one: x | y"), "at least one: x | y");
    }
}
