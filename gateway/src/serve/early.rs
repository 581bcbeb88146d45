//! A stream whose first token is late gets its head before there is one, where the operator wants
//! that (`keep_alive_early`): comments keep the connection alive while the plan goes on.
//!
//! A head that has left cannot be taken back, so this gives something up: a refusal that comes after
//! it is an event under a 200, and the head cannot name the route. **Invariant:** fallback, retry and
//! hedge are as ever, since comments are no part of an answer; whoever leaves meanwhile drops the
//! waiting as it would have dropped the handler.

use super::{Asked, Gateway, Life, answer_id, from, headers, response, shared::Source};
use crate::{
    refusal::Refusal,
    relay::KeepAlive,
    wire::{Outer, chat::AnswerHead},
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{StreamExt as _, future::Either, stream};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Whether this request's head may leave early, and after how long.
pub(super) fn wanted(gateway: &Gateway, asked: &Asked) -> Option<Duration> {
    let keep_alive = &gateway.config.keep_alive;
    keep_alive.every.filter(|_| keep_alive.early && asked.request.stream)
}

/// The answer, or after `every` a head and comments until there is one.
pub(super) async fn answer(
    gateway: &Arc<Gateway>,
    life: &mut Life,
    every: Duration,
    source: Source,
    mut asked: Box<Asked>,
) -> Result<Response, Refusal> {
    let head = AnswerHead {
        id: answer_id(life),
        created: gateway.clock.unix_ms() / 1000,
        model: asked.request.model.clone(),
    };
    let mut outer = Outer::new(head, &asked.request, asked.request.prompt_tokens_estimate);
    let left = Arc::new(AtomicBool::new(false));
    life.head_left = Some(Arc::clone(&left));
    asked.open.head_left = Some(Arc::clone(&left));
    let mut waiting = Box::pin({
        let (gateway, mut life) = (Arc::clone(gateway), life.clone());
        async move {
            let answered = from(&gateway, &mut life, source, asked).await;
            (answered, life, gateway)
        }
    });
    if let Ok((answered, its, _)) = tokio::time::timeout(every, &mut waiting).await {
        *life = its;
        return answered;
    }
    left.store(true, Ordering::Relaxed);
    let frames = stream::once(async move {
        let (answered, life, gateway) = waiting.await;
        match answered {
            Ok(response) => Either::Left(response.into_body().into_data_stream()),
            Err(refusal) => {
                let last: Bytes = outer.broken(&refusal);
                // It is written down as any refusal; its head has left long ago.
                drop(life.refuse(&gateway, refusal));
                Either::Right(stream::iter([Ok(last)]))
            }
        }
    });
    let mut early = headers::early(life);
    headers::stream(&mut early);
    Ok(response(early, Body::from_stream(KeepAlive::late(frames.flatten(), every))))
}
