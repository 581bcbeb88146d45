//! Reading `[[test]]` in policy files and decision tables: a request sketched in a few words, and
//! what must become of it.
//!
//! What a sketch leaves out has a plain default (below), so that a test says only what it is about.

use super::{
    signal::STATES,
    sketch::{Expect, ExpectOutcome, Sketch},
};
use crate::{
    BudgetFacts, CallerFacts, FACTS_VERSION, Facts, PicoUsd, PromptTokens, RequestFacts,
    RouteFacts, RouteId, TimeFacts,
    file::{Fields, FileError, Node},
    units::{Number, Unit},
};
use std::{collections::HashSet, sync::Arc};

/// Most tests in one file.
const TESTS_MAX: usize = 2_000;
/// Price of a cloud route that a sketch says nothing about: expected and worst case.
const CLOUD_PRICE: (PicoUsd, PicoUsd) =
    (PicoUsd::from_pico(2_000_000_000), PicoUsd::from_pico(20_000_000_000));
/// Context of a local and of a cloud route that a sketch says nothing about.
const CONTEXT_TOKENS: (u64, u64) = (4_096, 128_000);

/// Reads `[[test]]`.
pub(crate) fn read_tests<'d>(node: Option<Node<'d>>) -> Result<Vec<Sketch<'d>>, FileError> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let items = node.array("a list of tables, written `[[test]]`,")?;
    if items.len() > TESTS_MAX {
        return Err(node.error(format!("has more than {TESTS_MAX} tests")));
    }
    let mut names = HashSet::new();
    items.iter().map(|item| Sketch::read(item, &mut names)).collect()
}

impl<'d> Sketch<'d> {
    /// `names` are those of the tests before it.
    fn read(node: &Node<'d>, names: &mut HashSet<&'d str>) -> Result<Self, FileError> {
        let mut fields = node.table("a test")?;
        let named = fields.require("name")?;
        let name = named.text("the test's name")?;
        if !names.insert(name) {
            return Err(named.value_error(format!("`{name}` names two tests")));
        }
        let facts = Facts {
            version: FACTS_VERSION,
            request: read_request(fields.take("request"))?,
            caller: Arc::new(read_caller(fields.take("caller"))?),
            budgets: read_budgets(fields.take("budgets"))?,
            routes: read_routes(fields.take("routes"))?,
            time: read_time(fields.take("time"))?,
            draw: 0,
        };
        let expect = read_expect(&fields.require("expect")?)?;
        fields.finish()?;
        let sketch = Self { name, facts, expect };
        sketch.check_routes(node)?;
        Ok(sketch)
    }

    /// Refuses names of routes that the sketch does not have: of them anything would hold.
    fn check_routes(&self, node: &Node<'d>) -> Result<(), FileError> {
        let unknown = |id: &str| !self.facts.routes.iter().any(|route| route.id.as_str() == id);
        let request = &self.facts.request;
        let mut asked = request.pinned.iter().chain(&request.named);
        if let Some(id) = asked.find(|id| unknown(id.as_str())) {
            return Err(node.error(format!("asks for the route `{id}`, which it does not have")));
        }
        match self.expect.left_out.iter().find(|(route, _)| unknown(route.key)) {
            Some((route, _)) => Err(route.error("is no route of this test")),
            None => Ok(()),
        }
    }
}

fn table<'d>(node: Option<Node<'d>>, wanted: &str) -> Result<Option<Fields<'d>>, FileError> {
    node.map(|node| node.table(wanted)).transpose()
}

fn read_request(node: Option<Node<'_>>) -> Result<RequestFacts, FileError> {
    let mut request = RequestFacts {
        model: "auto".to_owned(),
        prompt_tokens: PromptTokens::exactly(100),
        max_output_tokens: 256,
        choices: 1,
        messages: 1,
        ..RequestFacts::default()
    };
    let Some(mut fields) = table(node, "a sketch of a request")? else { return Ok(request) };
    if let Some(node) = fields.take("model") {
        request.model = node.text("a model")?.to_owned();
    }
    if let Some(node) = fields.take("prompt_tokens") {
        request.prompt_tokens = read_prompt_tokens(&node)?;
    }
    if let Some(node) = fields.take("max_output_tokens") {
        request.max_output_tokens = node.whole("a number of tokens")?;
        request.max_output_tokens_asked = true;
    }
    if let Some(node) = fields.take("choices") {
        request.choices = small(&node)?;
        if request.choices == 0 {
            return Err(node.value_error("is at least 1"));
        }
    }
    if let Some(node) = fields.take("messages") {
        request.messages = small(&node)?;
    }
    let flags = [
        ("stream", &mut request.stream),
        ("tools", &mut request.tools),
        ("images", &mut request.images),
        ("structured", &mut request.structured),
        ("logprobs", &mut request.logprobs),
    ];
    for (key, place) in flags {
        if let Some(node) = fields.take(key) {
            *place = node.flag()?;
        }
    }
    if let Some(node) = fields.take("tags") {
        request.tags = texts(&node)?.into_iter().map(str::to_owned).collect();
    }
    if let Some(node) = fields.take("metadata") {
        for entry in node.table("metadata")?.rest() {
            request.metadata.insert(entry.key.to_owned(), entry.text("text")?.to_owned());
        }
    }
    request.session = own(fields.take("session"))?;
    request.pinned = own(fields.take("pinned"))?.map(|name| RouteId::new(&name));
    if let Some(node) = fields.take("named") {
        request.named = texts(&node)?.into_iter().map(RouteId::new).collect();
    }
    fields.finish()?;
    Ok(request)
}

/// A number where a tokenizer counted, or `{ min, likely, max }`.
fn read_prompt_tokens(node: &Node<'_>) -> Result<PromptTokens, FileError> {
    if !node.is_table() {
        return node.whole("a number of tokens").map(PromptTokens::exactly);
    }
    let mut fields = node.table("bounds")?;
    let mut bound = |key| fields.require(key)?.whole("a number of tokens");
    let tokens = PromptTokens { min: bound("min")?, likely: bound("likely")?, max: bound("max")? };
    fields.finish()?;
    if tokens.min > tokens.likely || tokens.likely > tokens.max {
        return Err(node.error("needs min <= likely <= max"));
    }
    Ok(tokens)
}

fn read_caller(node: Option<Node<'_>>) -> Result<CallerFacts, FileError> {
    let mut caller = CallerFacts::default();
    if let Some(mut fields) = table(node, "a sketch of a caller")? {
        caller.key = own(fields.take("key"))?.unwrap_or_default();
        caller.label = own(fields.take("label"))?.unwrap_or_default();
        caller.user = own(fields.take("user"))?;
        caller.team = own(fields.take("team"))?;
        fields.finish()?;
    }
    Ok(caller)
}

fn read_budgets(node: Option<Node<'_>>) -> Result<Vec<BudgetFacts>, FileError> {
    let Some(mut fields) = table(node, "budgets by id")? else { return Ok(Vec::new()) };
    let read = |entry: Node<'_>| {
        let mut fields = entry.table("limit_usd and left_usd, or limit_tokens and left_tokens,")?;
        let hard = fields.take("hard").map_or(Ok(true), |node| node.flag())?;
        let mut pair = |limit, left, unit: Unit| {
            Ok::<_, FileError>(match (fields.take(limit), fields.take(left)) {
                (Some(limit), Some(left)) => Some((unit.read(&limit)?.num, unit.read(&left)?.num)),
                (None, None) => None,
                _ => return Err(entry.error(format!("needs both `{limit}` and `{left}`"))),
            })
        };
        let money = pair("limit_usd", "left_usd", Unit::Usd)?;
        let money = money.map(|(of, left)| (PicoUsd::from_pico(of), PicoUsd::from_pico(left)));
        let tokens = pair("limit_tokens", "left_tokens", Unit::Count)?;
        fields.finish()?;
        Ok(BudgetFacts { id: entry.key.to_owned(), hard, money, tokens })
    };
    fields.rest().into_iter().map(read).collect()
}

/// Routes in the order of the file; without any, `edge` (local, free) and `cloud`.
fn read_routes(node: Option<Node<'_>>) -> Result<Vec<RouteFacts>, FileError> {
    let Some(mut fields) = table(node, "routes by name")? else {
        return Ok(vec![plain_route("edge", true), plain_route("cloud", false)]);
    };
    fields.rest().iter().map(read_route).collect()
}

fn plain_route(name: &str, local: bool) -> RouteFacts {
    let (local_context, cloud_context) = CONTEXT_TOKENS;
    let (expected, worst) = if local { (PicoUsd::ZERO, PicoUsd::ZERO) } else { CLOUD_PRICE };
    RouteFacts {
        context_tokens: Some(if local { local_context } else { cloud_context }),
        free: local,
        budgeted: !local,
        worst_case: Some(worst),
        expected: Some(expected),
        ..RouteFacts::ready(name, local)
    }
}

fn read_route(node: &Node<'_>) -> Result<RouteFacts, FileError> {
    let mut fields = node.table("a sketch of a route")?;
    let mut route = plain_route(node.key, fields.require("local")?.flag()?);
    if let Some(model) = own(fields.take("model"))? {
        route.model = model;
    }
    if let Some(node) = fields.take("state") {
        let text = node.text("a state")?;
        let known = STATES.iter().find(|(name, _)| *name == text);
        let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
        let unknown = || node.value_error(format!("unknown state `{text}`")).suggest(text, &names);
        route.state = known.ok_or_else(unknown)?.1;
    }
    if let Some(node) = fields.take("context_tokens") {
        route.context_tokens = Some(node.whole("a number of tokens")?);
    }
    if let Some(node) = fields.take("prompt_tokens") {
        route.prompt_tokens = Some(node.whole("a number of tokens")?);
    }
    let capabilities = [
        ("tools", &mut route.tools),
        ("images", &mut route.images),
        ("structured", &mut route.structured),
        ("logprobs", &mut route.logprobs),
    ];
    for (key, place) in capabilities {
        if let Some(node) = fields.take(key) {
            *place = Some(node.flag()?);
        }
    }
    read_price(node, &mut fields, &mut route)?;
    for (key, place) in [("queued", &mut route.queued), ("in_flight", &mut route.in_flight)] {
        if let Some(node) = fields.take(key) {
            *place = small(&node)?;
        }
    }
    route.ttft_p50_us = number(fields.take("ttft_p50"), Unit::Duration)?.map(|n| n.num);
    route.ttft_p95_us = number(fields.take("ttft_p95"), Unit::Duration)?.map(|n| n.num);
    if route.ttft_p50_us.zip(route.ttft_p95_us).is_some_and(|(p50, p95)| p50 > p95) {
        return Err(node.error("needs ttft_p50 <= ttft_p95"));
    }
    let duration = |node| Ok::<_, FileError>(number(node, Unit::Duration)?.map(|n| n.num));
    route.predicted_wait_us = duration(fields.take("predicted_wait"))?;
    route.predicted_ttft_p95_us = duration(fields.take("predicted_ttft_p95"))?;
    if let Some(node) = fields.take("failed_fraction") {
        let failed = Unit::Fraction.read(&node)?;
        if failed.num * 1_000 % failed.den != 0 {
            return Err(node.value_error("is no whole thousandth, which is how finely it is known"));
        }
        route.failed_permille = u32::try_from(failed.num * 1_000 / failed.den).ok();
    }
    fields.finish()?;
    Ok(route)
}

fn read_price(
    node: &Node<'_>,
    fields: &mut Fields<'_>,
    route: &mut RouteFacts,
) -> Result<(), FileError> {
    let expected = number(fields.take("expected_usd"), Unit::Usd)?;
    let worst = number(fields.take("worst_usd"), Unit::Usd)?;
    let known = fields.take("price_known").map_or(Ok(true), |node| node.flag())?;
    let budgeted = fields.take("budgeted").map(|node| node.flag()).transpose()?;
    route.budgeted = budgeted.unwrap_or(route.budgeted);
    if !known {
        // What is the worst of an unknown price is the maximum that stands in its place.
        let worst = worst.map(|number| PicoUsd::from_pico(number.num));
        (route.expected, route.worst_case, route.free) = (None, worst, false);
        return Ok(());
    }
    if let Some(number) = expected.or(worst) {
        let expected = PicoUsd::from_pico(number.num);
        let worst = worst.map_or(expected, |number| PicoUsd::from_pico(number.num));
        if expected > worst {
            return Err(node.error("needs expected_usd <= worst_usd"));
        }
        (route.expected, route.worst_case) = (Some(expected), Some(worst));
        route.free = worst.is_zero();
    }
    Ok(())
}

fn read_time(node: Option<Node<'_>>) -> Result<TimeFacts, FileError> {
    let mut time = TimeFacts { unix_ms: 0, minute_of_day: 12 * 60, weekday: 1 };
    if let Some(mut fields) = table(node, "a weekday and a time of day")? {
        if let Some(day) = number(fields.take("weekday"), Unit::Weekday)? {
            time.weekday = u8::try_from(day.num).unwrap_or_default();
        }
        if let Some(at) = number(fields.take("of_day"), Unit::TimeOfDay)? {
            time.minute_of_day = u16::try_from(at.num).unwrap_or_default();
        }
        fields.finish()?;
    }
    Ok(time)
}

fn read_expect<'d>(node: &Node<'d>) -> Result<Expect<'d>, FileError> {
    let mut fields = node.table("what must become of the request")?;
    let outcome = match (fields.take("routes"), fields.take("refuse")) {
        (Some(routes), None) => ExpectOutcome::Routes(routes.clone(), texts(&routes)?),
        (None, Some(refuse)) => {
            let text = match refuse.kind() {
                "string" => Some(refuse.text("a part of the message")?),
                _ if refuse.flag()? => None,
                _ => return Err(refuse.value_error("is true, or a part of the message")),
            };
            ExpectOutcome::Refuse(refuse, text)
        }
        _ => {
            fields.finish()?;
            return Err(node.error("needs exactly one of `routes` and `refuse`"));
        }
    };
    let mut word = |key| {
        let node = fields.take(key);
        node.map(|node| node.text("a name").map(|text| (node, text))).transpose()
    };
    let (rule, on_short) = (word("rule")?, word("on_short")?);
    if let (ExpectOutcome::Refuse(..), Some((node, _))) = (&outcome, &on_short) {
        return Err(node.error("is about routes, and a refusal is expected"));
    }
    let mut left_out = Vec::new();
    if let Some(node) = fields.take("left_out") {
        for entry in node.table("reasons by route")?.rest() {
            let reason = entry.text("a reason")?;
            left_out.push((entry, reason));
        }
    }
    fields.finish()?;
    Ok(Expect { outcome, rule, on_short, left_out })
}

fn texts<'d>(node: &Node<'d>) -> Result<Vec<&'d str>, FileError> {
    node.array("a list of text")?.iter().map(|item| item.text("text")).collect()
}

fn own(node: Option<Node<'_>>) -> Result<Option<String>, FileError> {
    node.map(|node| node.text("text").map(str::to_owned)).transpose()
}

fn number(node: Option<Node<'_>>, unit: Unit) -> Result<Option<Number>, FileError> {
    node.map(|node| unit.read(&node)).transpose()
}

fn small(node: &Node<'_>) -> Result<u32, FileError> {
    u32::try_from(node.whole("a whole number")?).map_err(|_| node.value_error("is too large"))
}
