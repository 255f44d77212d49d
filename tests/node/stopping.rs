//! A node that stops while it does jobs for commands.

use std::sync::Arc;
use std::time::Duration;

use silmaril::node::control::Seed;
use silmaril::node::lock::NodeLock;
use silmaril::node::{Node, NodeError, NodeOptions};

use super::rig::{client, config, in_home, share_as_acme_m};
use crate::support::fixtures::{model_dir, noise};
use crate::support::process::{PATIENCE, until};

#[test]
fn requests_to_a_stopping_node_fail_with_host_lost() {
    in_home(async |home| {
        let base = home.join("base");
        let dir = model_dir(&home.join("m"), &[("w.bin", &noise(1, 100_000))]);
        let request = share_as_acme_m(&dir);
        let all = Arc::new(Seed::default());
        for round in 0..10 {
            let node = Node::start(config(&base), NodeOptions::default()).await.unwrap();
            if round == 0 {
                client(&base).await.share(&request, |_| ()).await.unwrap();
            }
            let (answered, mut first) = tokio::sync::mpsc::channel(8);
            let mut requests = Vec::new();
            for _ in 0..8 {
                let (client, answered, all) = (client(&base).await, answered.clone(), all.clone());
                requests.push(tokio::spawn(async move {
                    loop {
                        match client.seed(&all).await {
                            Ok(seeded) => {
                                assert_eq!(seeded.models.len(), 1, "the node seeds another number of models")
                            }
                            Err(NodeError::HostLost) => return,
                            Err(e) => panic!("{e}"),
                        }
                        let _ = answered.try_send(());
                    }
                }));
            }
            first.recv().await.unwrap();
            node.stop().await;
            for request in requests {
                tokio::time::timeout(Duration::from_secs(60), request).await.unwrap().unwrap();
            }
            drop(node);
            // The last request may hold it for a moment.
            let paths = config(&base).paths();
            until("the base directory is released", PATIENCE, || NodeLock::holder(&paths).is_none());
        }
    });
}

#[test]
fn clients_learn_why_their_node_has_ended() {
    in_home(async |home| {
        let base = home.join("base");
        for replaced in [false, true] {
            let node = Node::start(config(&base), NodeOptions::default()).await.unwrap();
            let (waiting, stopping) = (client(&base).await, client(&base).await);
            let everything = silmaril::node::discover::DiscoverRequest {
                query: String::new(),
                within: 60_000,
                peers: vec![],
            };
            let waits = tokio::spawn(async move { waiting.discover(&everything, |_| ()).await.map(drop) });
            while stopping.status().await.unwrap().jobs.is_empty() {
                tokio::task::yield_now().await;
            }
            let pid = std::process::id();
            let stopped = tokio::spawn(async move { stopping.stop(pid, replaced).await });
            node.stop_requested().await;
            let error =
                tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap().unwrap_err();
            if replaced {
                assert!(matches!(error, NodeError::HostLost), "{error:?}");
            } else {
                assert!(matches!(error, NodeError::Stopped), "{error:?}");
            }
            node.stop().await;
            drop(node);
            stopped.await.unwrap().unwrap();
        }
    });
}

#[test]
fn stop_for_another_process_is_ignored() {
    in_home(async |home| {
        let base = home.join("base");
        let node = Node::start(config(&base), NodeOptions::default()).await.unwrap();
        let former = std::process::id() + 1;
        client(&base).await.stop(former, false).await.unwrap();
        tokio::select! {
            biased;
            _ = node.stop_requested() => panic!("the wrong node stops"),
            () = std::future::ready(()) => {}
        }
        node.stop().await;
    });
}
