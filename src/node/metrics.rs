//! Figures in the text form that Prometheus reads (OpenMetrics 1.0).
//!
//! Nothing is counted here: every figure is read from its owner when it is requested.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::control::Status;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Encodes the figures of a node. `cache_bytes` is none if the cache could not be measured.
pub fn render(status: Status, cache_bytes: Option<u64>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("silmaril");
    registry.register_collector(Box::new(Figures { status, cache_bytes }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures {
    status: Status,
    cache_bytes: Option<u64>,
}

impl Collector for Figures {
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
        self.by_model(&mut encoder, "received", "Payload received from peers", |t| t.downloaded)?;
        self.by_model(&mut encoder, "received_web", "Bytes received over HTTP", |t| t.downloaded_web)?;
        self.by_model(&mut encoder, "sent", "Payload sent", |t| t.uploaded)
    }
}

impl Figures {
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
