//! The routes for known models, transfers (once, or as they change) and metrics.

use std::convert::Infallible;
use std::sync::Weak;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use tokio::time::MissedTickBehavior;

use super::SILENCE;
use super::error_reply::ErrorReply;
use super::stream::alive;
use crate::fetch::TransferStatus;
use crate::node::models::KnownModel;
use crate::node::{Node, blocking, metrics, models};

/// How often the stream compares the transfers with those it sent last.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// All routes of this file.
pub(super) fn routes() -> Router<Weak<Node>> {
    Router::new()
        .route("/v1/models", get(known_models))
        .route("/v1/transfers", get(transfers))
        .route("/v1/metrics", get(figures))
}

async fn known_models(State(node): State<Weak<Node>>) -> Result<Json<Vec<KnownModel>>, ErrorReply> {
    let node = alive(&node)?;
    Ok(Json(blocking::cancellable(move |_| models::all(&node.library)).await?))
}

async fn transfers(
    State(node): State<Weak<Node>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ErrorReply> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let follow =
        query.is_some_and(|query| query.split('&').any(|term| term == "follow" || term == "follow=true"));
    if follow || accept.contains("text/event-stream") {
        return Ok(changes(node).into_response());
    }
    Ok(Json(alive(&node)?.fetch.status()).into_response())
}

/// Immediately one event with all transfers, and another when they have changed, until the node or the client is gone.
fn changes(node: Weak<Node>) -> impl IntoResponse {
    let mut clock = tokio::time::interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sent: Option<Vec<TransferStatus>> = None;
    let events = stream::unfold((node, clock, sent), |(node, mut clock, sent)| async move {
        loop {
            clock.tick().await;
            let now = node.upgrade()?.fetch.status();
            if sent.as_ref() == Some(&now) {
                continue;
            }
            let event = Event::default().event("transfers").json_data(&now);
            let event = event.unwrap_or_else(|e| Event::default().event("error").data(e.to_string()));
            return Some((Ok::<_, Infallible>(event), (node, clock, Some(now))));
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE))
}

async fn figures(State(node): State<Weak<Node>>) -> Result<Response, ErrorReply> {
    let text = metrics::text(&alive(&node)?).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
