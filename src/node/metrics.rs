//! Figures in the text form that Prometheus reads (OpenMetrics 1.0).
//!
//! Nothing is counted here: every figure is read from its owner when it is requested.

use std::sync::{Arc, Weak};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::control::Status;
use super::{Node, NodeError, blocking};
use crate::fetch::ReadFigures;
use crate::http::RequestCounts;
use crate::serve::{Guard, HubError};

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of a node now.
pub(super) async fn text(node: &Arc<Node>) -> Result<String, NodeError> {
    let (status, store) = (node.status(), node.library.store.clone());
    let cache = blocking::cancellable(move |_| Ok(store.cache().usage()?)).await;
    let cache_bytes = cache.inspect_err(|e| tracing::warn!(error = %e, "could not measure the cache")).ok();
    let (reads, requests) = (node.fetch.figures().clone(), node.web.client.counts().clone());
    render(MetricFigures { status, cache_bytes, reads, requests })
        .map_err(|e| NodeError::Internal(format!("the figures cannot be written: {e}")))
}

/// `/metrics` and `/healthz`, for a TCP port.
pub(super) fn router(node: Weak<Node>, guard: Guard) -> Router {
    let alive = |node: Weak<Node>| node.upgrade().filter(|node| !node.is_stopping());
    let gone = || HubError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
    let figures = move |State(node): State<Weak<Node>>| async move {
        let node = alive(node).ok_or_else(gone)?;
        let text = text(&node)
            .await
            .map_err(|error| HubError::new(StatusCode::INTERNAL_SERVER_ERROR, super::chain(&error)))?;
        Ok::<_, HubError>(([(CONTENT_TYPE_HEADER, CONTENT_TYPE)], text))
    };
    let health =
        move |State(node): State<Weak<Node>>| async move { alive(node).map(|_| "ok\n").ok_or_else(gone) };
    let check = move |request: Request, next: Next| {
        let checked = guard.check_origin(request.headers());
        async move {
            match checked {
                Ok(()) => next.run(request).await,
                Err(error) => error.into_response(),
            }
        }
    };
    Router::new()
        .route("/metrics", get(figures))
        .route("/healthz", get(health))
        .layer(from_fn(check))
        .with_state(node)
}

fn render(figures: MetricFigures) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("silmaril");
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct MetricFigures {
    status: Status,
    /// None if the cache could not be measured.
    cache_bytes: Option<u64>,
    reads: Arc<ReadFigures>,
    requests: Arc<RequestCounts>,
}

impl Collector for MetricFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let status = &self.status;
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            EncodeMetric::encode(&ConstGauge::new(value), encoder)
        };
        let sum = |of: fn(&crate::fetch::TransferStatus) -> u64| status.transfers.iter().map(of).sum::<u64>();
        gauge("uptime", "Time since the node started", Some(Unit::Seconds), status.uptime)?;
        gauge("transfers", "Swarms joined", None, status.transfers.len() as u64)?;
        gauge("peers", "Connections to peers in the swarms of models", None, sum(|t| t.peers.into()))?;
        gauge("parked_reads", "Reads that wait for bytes", None, sum(|t| t.waiting_reads as u64))?;
        gauge("jobs", "Jobs in progress that other commands asked for", None, status.jobs.len() as u64)?;
        if let Some(bytes) = self.cache_bytes {
            gauge("cache", "Bytes that the cache takes on the disk", Some(Unit::Bytes), bytes)?;
        }
        if let Some(catalog) = &status.catalog {
            gauge("catalog_records", "Records known", None, catalog.records as u64)?;
            gauge("catalog_peers", "Peers in the swarm of the catalog", None, catalog.peers as u64)?;
            gauge("dht_nodes", "Nodes in the routing table of the DHT", None, catalog.dht_nodes.into())?;
        }
        gauge(
            "damaged",
            "Bytes that did not match their hashes",
            Some(Unit::Bytes),
            sum(|t| t.damaged_bytes),
        )?;
        gauge(
            "storage_problems",
            "Files on the disk that are absent, changed or damaged",
            None,
            status.problems.len() as u64,
        )?;
        gauge(
            "memory_files",
            "Files that are read through memory, because the cache has no space",
            None,
            status.space.as_ref().map_or(0, |space| space.files as u64),
        )?;
        let endpoint = status.endpoint.as_ref();
        gauge(
            "endpoint_files",
            "Files that the endpoint is sending",
            None,
            endpoint.map_or(0, |endpoint| endpoint.sending as u64),
        )?;
        self.by_model(&mut encoder, "received", "Payload received from peers", |t| t.downloaded)?;
        self.by_model(&mut encoder, "received_web", "Bytes received over HTTP", |t| t.downloaded_web)?;
        self.by_model(&mut encoder, "sent", "Payload sent", |t| t.uploaded)?;
        let waits = self.reads.waits();
        let help = "Time that reads waited whose bytes were not stored";
        let family =
            encoder.encode_descriptor("read_wait", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        EncodeMetric::encode(waits, family)?;
        let (stored, awaited) = self.reads.bytes();
        let bytes = [("stored", stored), ("awaited", awaited)];
        counters(&mut encoder, "read", "Bytes that readers received", Some(Unit::Bytes), "origin", bytes)?;
        let failed = self.reads.failures();
        counters(&mut encoder, "failed_reads", "Reads that failed", None, "reason", failed)?;
        let requests = self.requests.all();
        counters(&mut encoder, "http_requests", "Requests to hubs and web servers", None, "answer", requests)
    }
}

/// Counters that differ in one label.
fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    for (value, count) in values {
        EncodeMetric::encode(&ConstCounter::new(count), family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

impl MetricFigures {
    fn by_model(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: fn(&crate::fetch::TransferStatus) -> u64,
    ) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?;
        for transfer in &self.status.transfers {
            let info_hash = transfer.info_hash.to_string();
            let labels = [("model", transfer.model.as_str()), ("info_hash", info_hash.as_str())];
            EncodeMetric::encode(&ConstCounter::new(value(transfer)), family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The table of docs/GUIDE.md has the name, the type and the meaning of every metric.
    #[test]
    fn metrics_are_those_of_the_guide() {
        let figures = MetricFigures {
            status: crate::cli::samples::status(),
            cache_bytes: Some(1),
            reads: Arc::default(),
            requests: Arc::default(),
        };
        let text = render(figures).unwrap();
        let mut units = std::collections::BTreeMap::new();
        let mut rendered = BTreeSet::new();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "TYPE", name, kind] => drop(units.insert((*name).to_owned(), (*kind).to_owned())),
                ["#", "HELP", name, help] => {
                    rendered.insert(((*name).to_owned(), help.trim_end_matches('.').to_owned()));
                }
                _ => {}
            }
        }
        let rendered: BTreeSet<_> = rendered
            .into_iter()
            .map(|(name, help)| {
                let kind = units[&name].clone();
                let shown = if kind == "counter" { format!("{name}_total") } else { name };
                (shown, kind, help)
            })
            .collect();
        let guide = include_str!("../../docs/GUIDE.md");
        let rows = guide.lines().filter_map(|line| line.strip_prefix("| `silmaril_"));
        let documented: BTreeSet<_> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                let name = cells[0].split(['`', '{']).next().unwrap();
                (format!("silmaril_{name}"), cells[1].to_owned(), cells[2].to_owned())
            })
            .collect();
        assert_eq!(rendered, documented, "the metrics, and the table in docs/GUIDE.md");
    }
}
