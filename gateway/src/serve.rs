//! The life of a request, from the socket to the ledger.
//!
//! [`answer`] is the whole of it, one line per step; each step's name tells which module to open.

mod body;
mod count;
mod decided;
mod early;
mod facts;
mod front;
#[cfg(test)]
mod given_back;
mod headers;
mod outside;
mod pages;
#[cfg(test)]
mod room;
mod shared;
mod stored;
mod watched;

pub use front::Front;
pub(crate) use watched::served;

use crate::{
    admission::{Admission, BodyRoom, Permit},
    cache::{self, AnswerCache, Idempotency},
    caller::{Caller, Keys},
    clock::Clock,
    config::Config,
    execute::{Bounds, Execution, Hedging, Started},
    guard::Guard,
    idle::IdleMeter,
    ledger::{
        Books, CommitTicket, DecisionRecord, Ending, Endpoint, EntryHead, OpenEntry, Outcome,
        RefusedRow, RequestId, word,
    },
    paths::{self, Listed, Paths},
    policy_watch::PolicyBox,
    refusal::Refusal,
    relay::{KeepAlive, Relay, committed},
    routes::Routes,
    telemetry::Metrics,
    timeline::{Stage, Timeline},
    webhook::Webhook,
    wire::{self, ChatRequest, Context, Kept, chat::AnswerHead},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get, post},
};
use decided::decided;
use facts::{admitted, facts};
use http::{HeaderMap, HeaderValue, StatusCode};
use policies::{Decision, Facts, PicoUsd, Refuse};
use shared::Source;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::task::TaskTracker;

/// Methods of a path that is only read.
const READS: &str = "GET, HEAD";

/// Everything a request meets on its way.
#[derive(Debug)]
pub struct Gateway {
    /// The checked configuration.
    pub config: Config,
    /// The time of day.
    pub clock: Clock,
    /// Who may ask.
    pub keys: Keys,
    /// Who may come in now.
    pub admission: Admission,
    /// Budgets and the ledger.
    pub books: Books,
    /// Sees and stops abuse.
    pub guard: Arc<Guard>,
    /// How long local models stand loaded.
    pub idle: Arc<IdleMeter>,
    /// The policy in force.
    pub policy: Arc<PolicyBox>,
    /// The ways to get an answer.
    pub routes: Routes,
    /// The device that local models share; `None` where no route is local or none may be asked.
    pub host: Option<local_engine::Host>,
    /// When the process started, milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Answers that may be given again.
    pub cache: AnswerCache,
    /// Requests that may be repeated.
    pub idempotency: Idempotency,
    /// What hedges are allowed.
    pub hedging: Hedging,
    /// What is counted for operators.
    pub metrics: Arc<Metrics>,
    /// Who is told of events.
    pub webhooks: Vec<Arc<Webhook>>,
    /// Answers kept for `previous_response_id`, where the operator keeps any.
    pub kept: Option<Arc<Kept>>,
    /// Work that outlives its request; shutdown waits for it.
    pub tasks: TaskTracker,
}

/// Which planes a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planes {
    /// Both.
    Both,
    /// What callers ask.
    Data,
    /// What operators ask.
    Admin,
}

/// The planes of one listener.
pub(crate) fn router(gateway: &Arc<Gateway>, planes: Planes) -> Router {
    let mut router = small_pages(planes).router();
    if planes != Planes::Admin {
        router = router.merge(data_plane().router());
    }
    if planes != Planes::Data {
        router = router
            .nest("/admin/v1", crate::admin::router(Arc::clone(gateway)))
            .nest("/v1/organization", crate::admin::organization(Arc::clone(gateway)));
    }
    // Not ids of answers: what OpenAI has there is not here.
    router
        .route("/v1/responses/compact", any(no_such_path))
        .route("/v1/responses/input_tokens", any(no_such_path))
        .fallback(no_such_path)
        .with_state(Arc::clone(gateway))
}

async fn no_such_path(request: Request) -> Refusal {
    Refusal::NoSuchPath(request.uri().path().to_owned())
}

/// Every path of [`router`].
pub(crate) fn listed(planes: Planes) -> Vec<Listed> {
    let mut listed = small_pages(planes).listed();
    if planes != Planes::Admin {
        listed.extend(data_plane().listed());
    }
    if planes != Planes::Data {
        listed.extend(paths::below("/admin/v1", crate::admin::listed()));
        listed.extend(paths::below("/v1/organization", crate::admin::organization_listed()));
    }
    listed
}

fn small_pages(planes: Planes) -> Paths<Arc<Gateway>> {
    let document = move || pages::document(planes);
    let pages = Paths::new()
        .at("/health", READS, get(pages::health))
        .at("/ready", READS, get(pages::ready))
        .at("/openapi.json", READS, get(document));
    if planes == Planes::Data { pages } else { pages.at("/metrics", READS, get(pages::metrics)) }
}

fn data_plane() -> Paths<Arc<Gateway>> {
    Paths::new()
        .at("/v1/chat/completions", "POST", asks(Endpoint::ChatCompletions))
        .at("/v1/completions", "POST", asks(Endpoint::Completions))
        .at("/v1/embeddings", "POST", asks(Endpoint::Embeddings))
        .at("/v1/responses", "POST", asks(Endpoint::Responses))
        .at("/v1/responses/{id}", "GET, HEAD, DELETE", get(stored::show).delete(stored::delete))
        .at("/v1/responses/{id}/input_items", READS, get(stored::input_items))
        .at("/v1/messages", "POST", asks(Endpoint::Messages))
        .at("/v1/messages/count_tokens", "POST", post(count::count_tokens))
        .at("/v1/models", READS, get(pages::models))
        .at("/v1/models/{*id}", READS, get(pages::model))
}

/// Asks requests of one endpoint.
fn asks(endpoint: Endpoint) -> MethodRouter<Arc<Gateway>> {
    // Boxed where it is made: it is large, and what stands around a handler moves it about.
    post(move |State(gateway): State<Arc<Gateway>>, request: Request| {
        Box::pin(live(gateway, endpoint, request))
    })
}

async fn live(gateway: Arc<Gateway>, endpoint: Endpoint, request: Request) -> Response {
    let mut life = Life::begun(&gateway, endpoint);
    match answer(&gateway, request, &mut life).await {
        Ok(response) => response,
        Err(refusal) => life.refuse(&gateway, refusal),
    }
}

/// What is known of a request so far; what a refusal is told with.
#[derive(Clone, Debug)]
struct Life {
    id: RequestId,
    /// What was asked, and so the format of the answer.
    endpoint: Endpoint,
    /// The id as `x-request-id` shows it.
    id_header: HeaderValue,
    /// When it arrived, milliseconds since the Unix epoch.
    arrived_unix_ms: u64,
    timeline: Timeline,
    caller: Option<Arc<Caller>>,
    /// The model it asks for, where that has limits of its own.
    model: Option<Arc<str>>,
    decision: Option<Arc<Decision>>,
    /// What the policy said, where it refused.
    refused: Option<Box<Refuse>>,
    /// Whether an entry tells of it already, so that no refusal need.
    recorded: bool,
    /// Whether it is the repetition of a request that has an answer, or a refusal, already.
    repeats: bool,
    /// Where a head may leave before there is an answer: whether it has.
    head_left: Option<Arc<AtomicBool>>,
    /// What it cost by the time that it is refused; `None` where nobody here knows.
    cost: Option<PicoUsd>,
}

/// From the head of a request to the head of its answer.
async fn answer(
    gateway: &Arc<Gateway>,
    request: Request,
    life: &mut Life,
) -> Result<Response, Refusal> {
    // A block of its own, so that the future has no room for what is over when a route is asked.
    let (source, asked) = {
        let (head, body) = request.into_parts();

        let caller = gateway.keys.authenticate(&head.headers, headers::peer(&head.extensions))?;
        life.caller = Some(Arc::clone(&caller));
        life.timeline.end(Stage::Identify);

        let mut permit = gateway.admission.admit(&caller)?;
        life.timeline.end(Stage::Admit);

        let (mut request, room) =
            read(gateway, life.endpoint, &caller, body, &head.headers).await?;
        request.upstream_request_id = Some(life.id_header.clone());
        request.answer_by = request.deadline.map(|deadline| life.timeline.arrived() + deadline);
        life.timeline.end(Stage::Read);

        let mut facts = facts(gateway, &caller, &request)?;
        if headers::asks_dry_run(&head.headers)? {
            gateway.idempotency.key(&head.headers)?;
            cache::check(&head.headers)?;
            watched::looked_at(gateway, &caller, &request, &mut facts)?;
            return Ok(pages::dry_run(&gateway.policy.current(), &facts));
        }
        life.model = gateway.admission.limited(&request.model).cloned();
        gateway.admission.admit_to(&request.model, &mut permit)?;
        let (source, decision, mut open) =
            decided(gateway, life, &caller, &request, &head.headers, facts)?;
        open.passed = permit.passed();
        (source, Box::new(Asked { request, room, decision, open, permit }))
    };
    match early::wanted(gateway, &asked) {
        None => from(gateway, life, source, asked).await,
        Some(every) => Box::pin(early::answer(gateway, life, every, source, asked)).await,
    }
}

/// A request that has been let in and decided. Boxed on its way: it is large.
struct Asked {
    request: ChatRequest,
    /// What its body takes; given back with it.
    room: BodyRoom,
    decision: Arc<Decision>,
    open: OpenEntry,
    permit: Permit,
}

/// The answer from its source.
async fn from(
    gateway: &Arc<Gateway>,
    life: &mut Life,
    source: Source,
    mut asked: Box<Asked>,
) -> Result<Response, Refusal> {
    // From here on a route may be asked.
    life.cost = None;
    let answered = match source {
        Source::Route(cache) => {
            asked.open.notes.cache = cache;
            ask(gateway, life, asked).await
        }
        // Boxed, so that a request which shares nothing does not carry their room about.
        Source::Flight(takeoff, cache) => {
            asked.open.notes.cache = cache;
            Box::pin(shared::lead(gateway, life, asked, takeoff)).await
        }
        Source::Other(waiter, cache) => {
            asked.open.notes.cache = cache;
            Box::pin(shared::follow(gateway, life, asked, waiter)).await
        }
        Source::Repeat(waiter) => {
            asked.open.notes.idempotent_replay = true;
            Box::pin(shared::follow(gateway, life, asked, waiter)).await
        }
    };
    answered.map_err(|refusal| refusal.named_for(life.endpoint))
}

/// Asks the routes of the plan and relays what the first one says that answers.
async fn ask(
    gateway: &Gateway,
    life: &mut Life,
    mut asked: Box<Asked>,
) -> Result<Response, Refusal> {
    let Asked { request, decision, open, .. } = &mut *asked;
    let begun = match execute(gateway, request, decision, open).await {
        Ok(started) => {
            // Whatever becomes of it now, an entry tells of it.
            life.recorded = true;
            Ok(answering(gateway, life, *asked, started))
        }
        Err(refusal) => Err(unanswered(gateway, asked.open, refusal, life)),
    };
    match begun {
        Ok((headers, relay)) => relayed(gateway, life, headers, relay).await,
        Err((refusal, ticket)) => {
            committed(ticket).await;
            Err(refusal)
        }
    }
}

/// The headers of a route's answer, and what relays it.
fn answering(
    gateway: &Gateway,
    life: &Life,
    asked: Asked,
    started: Started,
) -> (HeaderMap, Box<Relay>) {
    let Asked { request, open, permit, .. } = asked;
    let told = headers::Told {
        route: started.route.id(),
        attempts: open.attempts(),
        output_cap: started.output_cap,
        output_cap_asked: open.output_cap_asked(),
        cache: open.notes.cache,
        path: open.path(),
        timeline: &open.timeline,
    };
    let headers = headers::answer(gateway, life, &told, permit.rate());
    let head = answer_head(gateway, life, &started);
    (headers, Relay::new(started, Some(open), &request, head, Some(permit)))
}

/// The body as the inner request.
async fn read(
    gateway: &Gateway,
    endpoint: Endpoint,
    caller: &Caller,
    body: Body,
    headers: &HeaderMap,
) -> Result<(ChatRequest, BodyRoom), Refusal> {
    let (body, room) = body::whole(gateway, caller, body, headers).await?;
    let output_tokens_default = gateway.config.limits.output_tokens_default;
    let (request, room) = if body::is_long(&body) {
        let (kept, owner) = (gateway.kept.clone(), caller.id().clone());
        let headers = headers.clone();
        let read = move || {
            let context = Context { kept: kept.as_ref(), owner: &owner, output_tokens_default };
            wire::read(endpoint, body, &headers, &context)
        };
        Box::pin(body::read_apart(gateway, caller, room, read)).await?
    } else {
        let (kept, owner) = (gateway.kept.as_ref(), caller.id());
        let context = Context { kept, owner, output_tokens_default };
        (wire::read(endpoint, body, headers, &context)?, room)
    };
    Ok((admitted(gateway, caller, request), room))
}

fn open_entry(
    gateway: &Gateway,
    life: &Life,
    caller: &Caller,
    request: &ChatRequest,
    decision: &Decision,
    facts: Facts,
) -> Result<OpenEntry, Refusal> {
    let record = DecisionRecord {
        policy: decision.policy.clone(),
        version: decision.version.clone(),
        rule: decision.rule.clone(),
        plan: decision.plan.routes().cloned().collect(),
        left_out: decision.left_out.clone(),
        facts,
    };
    let head = EntryHead {
        id: life.id,
        arrived_unix_ms: life.arrived_unix_ms,
        key: caller.record.id.clone(),
        user: caller.record.user.clone(),
        team: caller.team.clone(),
        session: request.session.clone(),
        tags: request.tags.clone(),
        endpoint: request.endpoint,
        model_asked: request.model.clone(),
        stream: request.stream,
        output_cap_asked: request.output_cap,
        decision: record,
        parent: request.parent,
        step: request.step.clone(),
        timeline: life.timeline.clone(),
    };
    gateway.books.open_entry(head).map_err(|error| Refusal::StoreDown(error.to_string()))
}

/// Walks the plan, within the caller's own deadline if it named one.
async fn execute(
    gateway: &Gateway,
    request: &ChatRequest,
    decision: &Decision,
    open: &mut OpenEntry,
) -> Result<Started, Refusal> {
    let arrived = open.timeline.arrived();
    let cost_max = gateway.books.request_cost_max(open.path());
    let (busy, places) = (gateway.admission.in_flight(), gateway.config.limits.in_flight_max);
    let bounds = Bounds {
        attempts: gateway.config.attempts,
        arrived,
        deadline: request.answer_by,
        hedging: Some(&gateway.hedging).filter(|hedging| !hedging.is_off_at(busy, places)),
        budget_wait: gateway.config.limits.budget_wait_max,
        cost_max: request.max_cost.into_iter().chain(cost_max).min(),
    };
    let run = Execution::new(&gateway.routes, request, decision, open, bounds).run();
    match bounds.deadline {
        None => run.await,
        Some(deadline) => tokio::time::timeout_at(deadline, run).await.map_err(|_| {
            let asked = deadline - arrived;
            Refusal::Deadline(format!("no answer within the {} ms asked", asked.as_millis()))
        })?,
    }
}

/// Hands the answer to the client; what is left to do now lives in the response body.
async fn relayed(
    gateway: &Gateway,
    life: &mut Life,
    mut headers: HeaderMap,
    relay: Box<Relay>,
) -> Result<Response, Refusal> {
    if relay.is_streamed() {
        headers::stream(&mut headers);
        let frames = relay.into_stream();
        return Ok(response(
            headers,
            match gateway.config.keep_alive.every {
                Some(every) => Body::from_stream(KeepAlive::new(frames, every)),
                None => Body::from_stream(frames),
            },
        ));
    }
    let whole = relay.into_whole().await.map_err(|broken| {
        life.cost = broken.cost;
        broken.refusal
    })?;
    headers::whole(&mut headers, whole.cost);
    Ok(response(headers, whole.body.into_body()))
}

/// The id of an answer in the client's format.
fn answer_id(life: &Life) -> String {
    [wire::id_prefix(life.endpoint), life.id.0.simple().encode_lower(&mut [0; 32])].concat()
}

/// What an answer in the client's format begins with.
fn answer_head(gateway: &Gateway, life: &Life, started: &Started) -> AnswerHead {
    AnswerHead {
        id: answer_id(life),
        created: gateway.clock.unix_ms() / 1000,
        model: started.route.model().to_owned(),
    }
}

/// A 200 with these headers and no others: cheaper than merging them into a default head.
fn response(headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

/// No route answered. If one was tried the entry says so, and its commit comes before what the caller is
/// told; otherwise it is a refusal like others.
fn unanswered(
    gateway: &Gateway,
    open: OpenEntry,
    refusal: Refusal,
    life: &mut Life,
) -> (Refusal, Option<CommitTicket>) {
    life.cost = open.cost();
    if open.attempts() == 0 {
        open.discard();
        return (refusal, None);
    }
    life.recorded = true;
    let outcome = match &refusal {
        Refusal::Rejected { .. } | Refusal::Bad(_) => Outcome::Rejected,
        Refusal::Budget(_) | Refusal::RateLimited { .. } | Refusal::StoreDown(_) => Outcome::Short,
        _ => Outcome::Failed,
    };
    let status = Some(life.status(gateway, &refusal).as_u16());
    let ending = Ending { outcome, status, answered_by: None, ttft_us: None, tpot_ns: None };
    (refusal, Some(open.finish(ending)))
}

impl Life {
    /// Nothing is known but that it is there.
    fn begun(gateway: &Gateway, endpoint: Endpoint) -> Self {
        let arrived_unix_ms = gateway.clock.unix_ms();
        let id = gateway.books.request_id_at(arrived_unix_ms);
        Self {
            id,
            endpoint,
            id_header: headers::of_id(id),
            arrived_unix_ms,
            timeline: Timeline::start(),
            caller: None,
            model: None,
            decision: None,
            refused: None,
            recorded: false,
            repeats: false,
            head_left: None,
            cost: Some(PicoUsd::ZERO),
        }
    }

    /// The status that the caller sees of a refusal.
    fn status(&self, gateway: &Gateway, refusal: &Refusal) -> StatusCode {
        match &self.head_left {
            Some(left) if left.load(Ordering::Relaxed) => StatusCode::OK,
            _ => headers::status(gateway, refusal),
        }
    }

    /// Writes the refusal down.
    fn record(&self, gateway: &Gateway, refusal: &Refusal) {
        gateway.books.refuse(RefusedRow {
            id: self.id,
            unix_ms: gateway.clock.unix_ms(),
            key: self.caller.as_ref().map(|caller| caller.record.id.clone()),
            code: word(refusal.code().unwrap_or("rejected")),
            status: self.status(gateway, refusal).as_u16(),
            rule: self.refused.as_ref().and_then(|refused| refused.rule.clone()),
            unwritten: 0,
        });
        gateway.metrics.refused(refusal.code().unwrap_or("rejected"));
    }

    /// Writes the refusal down, unless that was done, and tells the caller.
    fn refuse(self, gateway: &Gateway, refusal: Refusal) -> Response {
        let status = self.status(gateway, &refusal);
        if !self.recorded {
            self.record(gateway, &refusal);
        }
        let mut response = match self.endpoint {
            Endpoint::Messages => {
                outside::in_anthropics_shape(gateway, &refusal, &self.id.to_string())
            }
            _ => refusal.into_response(),
        };
        *response.status_mut() = status;
        headers::refusal(&mut response, &self, gateway);
        response
    }
}
