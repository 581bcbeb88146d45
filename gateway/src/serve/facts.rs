//! Gathers what the policy may know about a request, and tells the request what is not its own to say.

use super::Gateway;
use crate::{
    caller::Caller,
    draw::draw,
    ledger::{Books, BudgetPath, Payer},
    refusal::Refusal,
    wire::ChatRequest,
};
use policies::{FACTS_VERSION, Facts, PromptTokens, RequestFacts, RouteFacts, RouteId, TimeFacts};
use std::sync::Arc;

/// The request with what is not its own to say: the tags and the priority of its key, and the time by
/// which it is priced.
pub(super) fn admitted(
    gateway: &Gateway,
    caller: &Caller,
    mut request: ChatRequest,
) -> ChatRequest {
    bear(&caller.record.tags, &mut request.tags);
    request.key_priority = caller.record.priority;
    request.admitted_unix_s = gateway.clock.unix_ms() / 1000;
    request
}

/// Puts the operator's tags of a key before those that a request names itself, which add to them and
/// take none away.
fn bear(of_key: &[String], named: &mut Vec<String>) {
    if of_key.is_empty() {
        return;
    }
    let own = std::mem::replace(named, of_key.to_vec());
    let new = |tag: &String| !of_key.iter().any(|known| known.eq_ignore_ascii_case(tag));
    named.extend(own.into_iter().filter(new));
}

/// Everything the policy may know now.
///
/// # Errors
/// [`Refusal::UnknownModel`] when nothing goes by the name that was asked for, and
/// [`Refusal::Forbidden`] when it is a route's name and the key may not pin routes.
pub(super) fn facts(
    gateway: &Gateway,
    caller: &Caller,
    request: &ChatRequest,
) -> Result<Facts, Refusal> {
    let (pinned, named) = resolve(gateway, caller, &request.model)?;
    let unix_ms = gateway.clock.unix_ms();
    Ok(Facts {
        version: FACTS_VERSION,
        request: RequestFacts {
            model: request.model.clone(),
            pinned,
            named,
            prompt_tokens: prompt_tokens(request),
            max_output_tokens: request.output_cap,
            max_output_tokens_asked: request.output_cap_given,
            choices: request.choices,
            stream: request.stream,
            tools: request.needs.tools,
            images: request.needs.images,
            structured: request.needs.structured,
            logprobs: request.needs.logprobs,
            messages: request.messages,
            tags: request.tags.clone(),
            metadata: request.metadata.clone(),
            session: request.session.clone(),
        },
        caller: Arc::clone(&caller.facts),
        budgets: gateway.books.budget_facts(&path(&gateway.books, caller, request), unix_ms),
        routes: routes(gateway, caller, request),
        time: time(gateway, unix_ms),
        draw: draw(),
    })
}

/// What is known of each route.
fn routes(gateway: &Gateway, caller: &Caller, request: &ChatRequest) -> Vec<RouteFacts> {
    let means = gateway.routes.iter().filter_map(|route| route.output_tokens_mean());
    let (known, sum) =
        means.fold((0_u64, 0_u64), |(known, sum), mean| (known + 1, sum.saturating_add(mean)));
    // Expected costs are compared: by its cap a route that was never asked would be the dearest, and
    // never asked.
    let usual = sum.checked_div(known);
    gateway.routes.iter().map(|route| route.facts(&caller.record.id, request, usual)).collect()
}

/// Whose budgets and limits the request counts against.
fn path(books: &Books, caller: &Caller, request: &ChatRequest) -> BudgetPath {
    let session = request.session.as_deref();
    let payer = Payer { session, tags: &request.tags, ..caller.payer() };
    books.path(&payer, &request.model)
}

/// The prompt's length as far as its bytes tell.
fn prompt_tokens(request: &ChatRequest) -> PromptTokens {
    PromptTokens {
        min: PromptTokens::from_bytes(request.text_bytes(), 0).min,
        likely: request.prompt_tokens_estimate,
        max: request.prompt_tokens_max,
    }
}

/// What the `model` a caller wrote means: a policy's alias, a route's name, or a model that routes
/// serve under that name.
fn resolve(
    gateway: &Gateway,
    caller: &Caller,
    model: &str,
) -> Result<(Option<RouteId>, Vec<RouteId>), Refusal> {
    if gateway.config.policy.aliases.iter().any(|alias| alias == model) {
        return Ok((None, Vec::new()));
    }
    let serves =
        |route: &crate::routes::Route| route.config.aliases.iter().any(|alias| alias == model);
    let named: Vec<RouteId> = gateway
        .routes
        .iter()
        .filter(|route| serves(route))
        .map(|route| route.id().clone())
        .collect();
    if !named.is_empty() {
        return Ok((None, named));
    }
    match gateway.routes.iter().find(|route| route.id().as_str() == model) {
        Some(route) if caller.record.may_pin => Ok((Some(route.id().clone()), Vec::new())),
        Some(_) => Err(Refusal::Forbidden(format!(
            "this key may not pin the route `{model}`; leave the choice to the policy with model \
             `{}`, or ask the operator for a key that may pin",
            gateway.config.policy.aliases.first().map_or("auto", String::as_str)
        ))),
        None => Err(Refusal::UnknownModel(model.to_owned())),
    }
}

/// The time of day in the configured zone.
fn time(gateway: &Gateway, unix_ms: u64) -> TimeFacts {
    let instant = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let local = instant.to_zoned(gateway.config.time_zone.clone());
    let minute_of_day = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute()));
    let weekday = u8::try_from(local.weekday().to_monday_one_offset());
    TimeFacts { unix_ms, minute_of_day: minute_of_day.unwrap_or(0), weekday: weekday.unwrap_or(1) }
}
