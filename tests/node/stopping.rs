//! A node that stops while other commands have it do something.

use std::sync::Arc;
use std::time::Duration;

use silmaril::node::control::Seed;
use silmaril::node::lock::NodeLock;
use silmaril::node::{Node, NodeError, NodeOptions};

use super::rig::{client, config, in_home, share_as_acme_m};
use crate::support::fixtures::{model_dir, noise};
use crate::support::process::{PATIENCE, until};

#[test]
fn a_request_to_a_node_that_stops_is_left_for_the_next_and_not_refused() {
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
            let (asked, mut first) = tokio::sync::mpsc::channel(8);
            let mut askers = Vec::new();
            for _ in 0..8 {
                let (client, asked, all) = (client(&base).await, asked.clone(), all.clone());
                askers.push(tokio::spawn(async move {
                    loop {
                        match client.seed(&all).await {
                            Ok(seeded) => assert_eq!(seeded.models.len(), 1, "it had nothing left to seed"),
                            Err(NodeError::HostLost) => return,
                            Err(e) => panic!("{e}"),
                        }
                        let _ = asked.try_send(());
                    }
                }));
            }
            first.recv().await.unwrap();
            node.stop().await;
            for asker in askers {
                tokio::time::timeout(Duration::from_secs(60), asker).await.unwrap().unwrap();
            }
            drop(node);
            // The last request may hold it for a moment.
            let paths = config(&base).paths();
            until("the base directory is released", PATIENCE, || NodeLock::holder(&paths).is_none());
        }
    });
}

#[test]
fn clients_learn_whether_the_user_or_another_node_has_ended_their_node() {
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
            match replaced {
                true => assert!(matches!(error, NodeError::HostLost), "{error:?}"),
                false => assert!(matches!(error, NodeError::Stopped), "{error:?}"),
            }
            node.stop().await;
            drop(node);
            stopped.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_node_is_not_stopped_in_the_place_of_another() {
    in_home(async |home| {
        let base = home.join("base");
        let node = Node::start(config(&base), NodeOptions::default()).await.unwrap();
        let former = std::process::id() + 1;
        client(&base).await.stop(former, false).await.unwrap();
        tokio::select! {
            biased;
            _ = node.stop_requested() => panic!("the wrong one was asked to stop"),
            () = std::future::ready(()) => {}
        }
        node.stop().await;
    });
}
