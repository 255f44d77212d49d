//! Models that are replaced or removed while a node waits for their bytes.

use std::path::{Path, PathBuf};

use silmaril::node::control::WarmRequest;
use silmaril::node::get::{GetProgress, GetRequest};
use silmaril::node::{Library, Node, NodeOptions};
use tokio::time::timeout;

use super::rig::{acme_m, client, config, in_home, manifest_without_holders, share_as_acme_m};
use crate::support::fixtures::{model_dir, noise};
use crate::support::process::{PATIENCE, until_async};

/// A directory to share under the name meanwhile.
fn ours(home: &Path) -> PathBuf {
    model_dir(&home.join("ours"), &[("w.bin", &noise(2, 50_000))])
}

/// Starts a node that knows the model and has no bytes of it.
async fn node(base: &Path, manifest: &[u8]) -> std::sync::Arc<Node> {
    Library::open(config(base)).unwrap().import(manifest, "a test", None, false).unwrap();
    Node::start(config(base), NodeOptions::default()).await.unwrap()
}

#[test]
fn get_continues_with_a_model_shared_meanwhile() {
    in_home(async |home| {
        let (base, manifest, ours) = (home.join("base"), manifest_without_holders(home), ours(home));
        let node = node(&base, &manifest).await;
        let request = GetRequest {
            allow_older: false,
            model: acme_m(),
            output: Some(home.join("got")),
            include: vec![],
            exclude: vec![],
            verify: true,
            publisher: None,
            peers: vec![],
            update: false,
            seed: None,
            surroundings: Default::default(),
        };
        let (waits, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let getting = client(&base).await;
        let getting = async {
            let report = |progress| {
                if matches!(progress, GetProgress::Fetching { .. }) {
                    let _ = waits.send(());
                }
            };
            timeout(PATIENCE, getting.get(&request, report)).await.unwrap().unwrap()
        };
        let sharing = async {
            timeout(PATIENCE, waiting.recv()).await.unwrap();
            until_waited_for(&node).await;
            client(&base).await.share(&share_as_acme_m(&ours), |_| ()).await.unwrap();
        };
        let (report, ()) = tokio::join!(getting, sharing);
        assert_eq!(report.total_size, 50_000);
        assert_eq!(std::fs::read(report.path.join("w.bin")).unwrap(), noise(2, 50_000));
        node.stop().await;
    });
}

#[test]
fn warm_continues_when_its_model_is_replaced_or_removed() {
    in_home(async |home| {
        let (base, manifest, ours) = (home.join("base"), manifest_without_holders(home), ours(home));
        let node = node(&base, &manifest).await;
        let warming = client(&base).await;
        let whole = WarmRequest { path: "acme/m".to_owned(), resolve: true, ..WarmRequest::default() };
        let warming = async { timeout(PATIENCE, warming.warm(&whole)).await.unwrap() };
        let removing = async {
            until_waited_for(&node).await;
            client(&base).await.remove(&acme_m()).await.unwrap();
        };
        let (warmed, ()) = tokio::join!(warming, removing);
        assert_eq!(warmed.unwrap_err().to_string(), "no such model is known: acme/m");

        node.library.import(&manifest, "a test", None, false).unwrap();
        let warming = client(&base).await;
        let warming = async { timeout(PATIENCE, warming.warm(&whole)).await.unwrap() };
        let sharing = async {
            until_waited_for(&node).await;
            client(&base).await.share(&share_as_acme_m(&ours), |_| ()).await.unwrap();
        };
        let (warmed, ()) = tokio::join!(warming, sharing);
        assert_eq!(warmed.unwrap().bytes, 50_000);
        node.stop().await;
    });
}

/// Returns when a job waits for bytes of a model: its swarm is joined only then.
async fn until_waited_for(node: &Node) {
    until_async("a job waits for bytes", PATIENCE, || !node.fetch.status().is_empty()).await;
}
