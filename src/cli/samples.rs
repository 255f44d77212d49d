//! Sample values in which every list has elements, for tests of printed output.

use crate::catalog::CatalogStatus;
use crate::fetch::hub::HubStatus;
use crate::fetch::{StalledRead, TransferStatus};
use crate::model::code::RunsCode;
use crate::model::{InfoHash, PublisherKey};
use crate::mount::Namespaces;
use crate::node::clients::JobStatus;
use crate::node::control::Status;
use crate::node::directory_faults::StorageProblem;
use crate::node::discover::SharedModel;
use crate::node::disputes::{DisputedName, ModelNote};
use crate::node::endpoint::EndpointStatus;
use crate::node::get::{GetReport, ManifestOrigin};
use crate::node::limited::LimitedProcess;
use crate::node::mirror::MirrorReport;
use crate::node::models::KnownModel;
use crate::node::mounts::{MountStatus, ServeOptions};
use crate::node::sharing::WithheldReason;
use crate::node::space::LackOfSpace;
use crate::node::unresolved::UnresolvedName;
use crate::store::{ListedState, RefutedManifest};
use crate::trust::{NamedPublisher, Standing};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";

pub fn publisher(number: u8, alias: Option<&str>) -> NamedPublisher {
    let publisher = PublisherKey([number; 32]);
    NamedPublisher { publisher, fingerprint: publisher.fingerprint(), alias: alias.map(str::to_owned) }
}

pub fn model(name: &str) -> KnownModel {
    let NamedPublisher { publisher, fingerprint, alias } = publisher(1, Some("dora"));
    KnownModel {
        model: name.parse().unwrap(),
        name: name.split('@').next().unwrap().parse().unwrap(),
        revision: name.split('@').nth(1).unwrap_or("main").parse().unwrap(),
        total_size: 91_644_523,
        cached_bytes: 8_388_608,
        complete: false,
        shared: true,
        reason: None,
        withheld: None,
        license: Some("apache-2.0".to_owned()),
        publisher: Some(publisher),
        fingerprint: Some(fingerprint),
        alias,
        pinned: true,
        runs_code: vec![RunsCode::Pickle, RunsCode::AutoMap],
        info_hash: Some(InfoHash([7; 32])),
        hub_commit: None,
        hub_is_ahead: false,
        hub_state: None,
        path: Some(format!("/home/ada/.silmaril/models/{name}").into()),
    }
}

/// Models of every kind that `list` shows.
pub fn models() -> Vec<KnownModel> {
    let withheld = KnownModel {
        shared: false,
        reason: Some(WithheldReason::Licence.reason().to_owned()),
        withheld: Some(WithheldReason::Licence),
        alias: None,
        runs_code: Vec::new(),
        path: None,
        ..model("acme/very-long-model-name-of-the-kind-that-the-hub-has-0.5b-instruct@v1.0.2")
    };
    let unshared = KnownModel {
        shared: false,
        publisher: None,
        fingerprint: None,
        alias: None,
        pinned: false,
        runs_code: Vec::new(),
        info_hash: None,
        license: None,
        cached_bytes: 1024,
        total_size: 1024,
        complete: true,
        ..model("datasets/acme/mine")
    };
    let of_hub = KnownModel {
        shared: false,
        reason: Some("read from the hub, which has a newer commit".to_owned()),
        publisher: None,
        fingerprint: None,
        alias: None,
        pinned: false,
        runs_code: Vec::new(),
        info_hash: None,
        path: None,
        hub_commit: Some("1234567890abcdef1234567890abcdef12345678".to_owned()),
        hub_is_ahead: true,
        ..model("acme/from-the-hub")
    };
    vec![withheld, unshared, of_hub, model(MINILM)]
}

fn transfer(model: &str) -> TransferStatus {
    TransferStatus {
        info_hash: InfoHash([7; 32]),
        model: model.to_owned(),
        cached_bytes: 8_388_608,
        total_size: 91_644_523,
        downloaded: 8_400_000,
        downloaded_web: 0,
        uploaded: 0,
        download_rate: 1_300_000,
        web_rate: 0,
        upload_rate: 0,
        peers: 2,
        seeds: 1,
        waiting_reads: 0,
        stalled: Vec::new(),
        damaged_bytes: 0,
        last_error: None,
    }
}

/// The status of a daemon with a mount, transfers, and one fault of each kind.
pub fn status() -> Status {
    let stalled = StalledRead {
        file: "onnx/model_quantized.onnx".to_owned(),
        waiting_reads: 3,
        seconds: 125,
        reason: "1 peer is connected, but no peer that has the piece sends anything; and over HTTP: hub.example answered 503 Service Unavailable".to_owned(),
    };
    let waiting = TransferStatus {
        waiting_reads: 3,
        downloaded_web: 65_536,
        seeds: 0,
        peers: 1,
        stalled: vec![stalled],
        last_error: Some("a peer sent bad data (1 piece discarded)".to_owned()),
        ..transfer(MINILM)
    };
    let NamedPublisher { publisher: key, fingerprint, alias } = publisher(1, Some("dora"));
    Status {
        pid: 4711,
        version: "0.1.0".to_owned(),
        uptime: 3725,
        base_dir: "/home/ada/.silmaril".into(),
        config: Some("cache.max_size=200GiB".to_owned()),
        namespaces: Some(Namespaces::of_this_process().unwrap()),
        mounts: vec![MountStatus {
            path: "/home/ada/models".into(),
            options: ServeOptions {
                allow_other: false,
                resolve: true,
                peers: vec!["192.0.2.8:6881".parse().unwrap()],
                layout: crate::mount::MountLayout::Plain,
            },
            held: false,
        }],
        listening: vec!["192.0.2.7:40123".parse().unwrap(), "[2001:db8::7]:40123".parse().unwrap()],
        transfers: vec![transfer("acme/minilm"), waiting],
        dht: true,
        catalog: Some(CatalogStatus { records: 1204, peers: 3, dht_nodes: 212 }),
        jobs: vec![JobStatus { activity: "get acme/minilm".to_owned(), seconds: 61, done: 50, total: 100 }],
        unresolved: vec![UnresolvedName {
            model: "acme/absent".to_owned(),
            reason: "no peer that was asked knows it".to_owned(),
            seconds: 5,
            paths: vec!["/home/ada/models/.by/x/acme/absent".into()],
        }],
        limited: vec![LimitedProcess { pid: 99, command: "python3".to_owned(), lookups: 17, seconds: 5 }],
        disputed: vec![DisputedName {
            model: "acme/disputed".to_owned(),
            kept: Some(publisher(1, Some("dora"))),
            publishers: vec![publisher(1, Some("dora")), publisher(2, None), publisher(3, None)],
            paths: vec!["/home/ada/models/.by/x/acme/disputed".into()],
        }],
        notes: vec![ModelNote {
            model: MINILM.to_owned(),
            publisher: Some(key),
            fingerprint: Some(fingerprint),
            alias,
            pinned: true,
            runs_code: vec![RunsCode::Python],
            hub_state: Some(ListedState::Listed),
        }],
        space: Some(LackOfSpace { files: 2, free: 1 << 20, min_free: 1 << 30 }),
        hub: vec![HubStatus {
            model: "acme/lazy".to_owned(),
            commit: "1234567890abcdef1234567890abcdef12345678".to_owned(),
            cached_bytes: 1 << 20,
            total_size: 500 << 20,
            downloaded: 1 << 20,
            requests: 1,
            waiting_reads: 2,
            newer: true,
            trouble: Some("hub.example answered 429 Too Many Requests".to_owned()),
        }],
        refuted: vec![RefutedManifest {
            model: "acme/false".to_owned(),
            publisher: Some(key),
            fingerprint: Some(key.fingerprint()),
            difference: "w.bin has 5 bytes in the manifest and 6 at the hub".to_owned(),
        }],
        problems: vec![StorageProblem {
            model: "acme/on-disk".to_owned(),
            path: "/media/ada/disk/on-disk".into(),
            reason: "it is absent, so the model is not offered from there: No such file or directory"
                .to_owned(),
            help: "connect its disk or move it back, and it is offered again by itself".to_owned(),
        }],
        endpoint: Some(EndpointStatus {
            address: "127.0.0.1:8910".parse().unwrap(),
            url: "http://127.0.0.1:8910".to_owned(),
            token: false,
            open: false,
            sending: 1,
        }),
        endpoint_problem: Some("cannot listen on 127.0.0.1:8910: another program uses the port".to_owned()),
        metrics: Some("127.0.0.1:9100".parse().unwrap()),
        metrics_problem: Some("cannot listen on 127.0.0.1:9100: another program uses the port".to_owned()),
    }
}

pub fn shared_model() -> SharedModel {
    let NamedPublisher { publisher, fingerprint, alias } = publisher(1, Some("dora"));
    SharedModel {
        model: "acme/minilm@v2".parse().unwrap(),
        name: "acme/minilm".parse().unwrap(),
        revision: "v2".parse().unwrap(),
        total_size: 1,
        files: 1,
        license: None,
        tags: vec!["code".to_owned()],
        publisher,
        fingerprint,
        alias,
        trust: Standing::Pinned,
        contested: false,
        seeds: 1,
        info_hash: InfoHash([7; 32]),
        announced_at: 1,
    }
}

pub fn get_report() -> GetReport {
    let NamedPublisher { publisher, fingerprint, alias } = publisher(1, Some("dora"));
    GetReport {
        model: "acme/minilm".to_owned(),
        path: "/home/ada/.silmaril/models/acme/minilm".into(),
        files: 1,
        total_size: 1,
        downloaded: 1,
        downloaded_web: 0,
        verified: true,
        publisher: Some(publisher),
        fingerprint: Some(fingerprint),
        alias,
        origin: ManifestOrigin::Known,
        warnings: vec!["w".to_owned()],
        seeded: true,
    }
}

pub fn mirror_report() -> MirrorReport {
    MirrorReport {
        model: "acme/minilm".parse().unwrap(),
        path: "/home/ada/.silmaril/models/acme/minilm".into(),
        source: "https://huggingface.co/acme/minilm".to_owned(),
        commit: "0".repeat(40),
        files: 1,
        total_size: 1,
        downloaded: 1,
        up_to_date: false,
        pointers: vec!["model.safetensors".to_owned()],
        info_hash: None,
        withheld: Some(WithheldReason::Gated),
        warnings: vec!["w".to_owned()],
    }
}
