//! A node that stops while other commands have it do something.

use std::sync::Arc;
use std::time::Duration;

use silmaril::node::control::Seed;
use silmaril::node::handover::HandoverRequest;
use silmaril::node::lock::NodeLock;
use silmaril::node::{ErrorKind, Node, NodeError, NodeOptions};

use super::rig::{client, config, in_home, share_as_acme_m};
use crate::support::fixtures::{model_dir, noise};
use crate::support::process::{PATIENCE, until};

#[test]
fn what_is_asked_of_a_node_that_stops_is_left_for_the_next_and_not_refused() {
    in_home(async |home| {
        let base = home.join("base");
        let dir = model_dir(&home.join("m"), &[("w.bin", &noise(1, 100_000))]);
        let request = share_as_acme_m(&dir);
        let all = Arc::new(Seed { model: None, peers: vec![], right: false });
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
                            Ok(seeded) => assert_eq!(seeded.len(), 1, "it had nothing left to seed"),
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
            // What was asked last may hold it for a moment.
            let paths = config(&base).paths();
            until("the base directory is let go of", PATIENCE, || NodeLock::holder(&paths).is_none());
        }
    });
}

#[test]
fn a_mount_that_has_begun_to_stop_refuses_nothing_either() {
    in_home(async |home| {
        let base = home.join("base");
        let dir = model_dir(&home.join("m"), &[("w.bin", &noise(1, 100_000))]);
        let options = NodeOptions { mount: Some(home.join("mounted")), ..NodeOptions::default() };
        let node = Node::start(config(&base), options).await.unwrap();
        let client = client(&base).await;
        client.share(&share_as_acme_m(&dir), |_| ()).await.unwrap();
        let all = Seed { model: None, peers: vec![], right: false };
        let request = HandoverRequest { pid: std::process::id(), dht: false };
        let of = |result: Result<(), NodeError>| result.unwrap_err();
        assert!(matches!(
            of(client.handover(request).await),
            NodeError::Remote { kind: ErrorKind::Mounted, .. }
        ));
        node.begin_stop();
        assert!(matches!(of(client.handover(request).await), NodeError::HostLost));
        assert!(matches!(of(client.seed(&all).await.map(drop)), NodeError::HostLost));
        assert!(matches!(of(client.status().await.map(drop)), NodeError::HostLost));
        node.stop().await;
    });
}

#[test]
fn a_mount_that_was_asked_to_stop_is_waited_for_by_the_next() {
    in_home(async |home| {
        let base = home.join("base");
        let options = NodeOptions { mount: Some(home.join("mounted")), ..NodeOptions::default() };
        let node = Node::start(config(&base), options).await.unwrap();
        node.request_stop();
        let request = HandoverRequest { pid: std::process::id(), dht: false };
        assert!(matches!(client(&base).await.handover(request).await, Err(NodeError::HostLost)));
        node.stop().await;
    });
}

#[test]
fn a_node_is_not_stopped_in_the_place_of_another() {
    in_home(async |home| {
        let base = home.join("base");
        let node = Node::start(config(&base), NodeOptions::default()).await.unwrap();
        let former = std::process::id() + 1;
        client(&base).await.stop(former).await.unwrap();
        tokio::select! {
            biased;
            () = node.stop_requested() => panic!("the wrong one was asked to stop"),
            () = std::future::ready(()) => {}
        }
        node.stop().await;
    });
}
