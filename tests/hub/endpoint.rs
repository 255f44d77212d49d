//! The endpoint for other programs serves models that are read from the hub.

use std::fs;

use crate::serve::rig::{Rig, bytes, json};
use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::hub::{Access, Hub, MEMBER, STRANGER};
use crate::support::process::PATIENCE;
use crate::support::repos::Repos;
use crate::support::web::place::Place;

const CONFIG: &[u8] = b"{\"model_type\": \"bert\"}";

/// A hub with one repository on the publisher's host, and a user who may hold a token.
fn rig(repos: &Repos, token: Option<&str>) -> (Rig, Hub, std::path::PathBuf) {
    let mut rig = Rig::new();
    let hub = Hub::start(&Place::from(&rig.publisher), repos);
    let dir = model_dir(
        &rig.publisher.home().join("m"),
        &[
            (".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
            ("README.md", b"---\nlicense: mit\n---\n"),
            ("config.json", CONFIG),
            ("w.bin", &noise(3, 300_000)),
        ],
    );
    repos.create("acme/m").commit(&dir);
    rig.user.configure(&format!("hub:\n  endpoint: {}\n", hub.url()));
    rig.user.keep_daemon();
    if let Some(token) = token {
        let file = rig.user.home().join(".cache/huggingface/token");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, token).unwrap();
    }
    rig.serve();
    (rig, hub, dir)
}

#[test]
fn endpoint_serves_a_model_of_the_hub() {
    let repos = Repos::new();
    let (rig, hub, dir) = rig(&repos, None);
    let answers = rig.requests(
        "[('GET', '/acme/m/resolve/main/config.json', {}), ('GET', '/api/models/acme/m/tree/main', {})]",
    );
    assert_eq!((&answers[0]["status"], bytes(&answers[0])), (&200.into(), CONFIG.to_vec()));
    let oid = silmaril::model::GitOid::of_blob(CONFIG).to_string();
    assert_eq!(answers[0]["headers"]["etag"], format!("\"{oid}\""));
    let tree = json(&answers[1]);
    let entry = |path: &str| tree.as_array().unwrap().iter().find(|e| e["path"] == path).unwrap().clone();
    assert_eq!(
        (&entry("config.json")["oid"], &entry("config.json")["lfs"]),
        (&oid.into(), &serde_json::Value::Null)
    );
    assert_eq!(entry("w.bin")["lfs"]["size"], 300_000);
    let downloaded = rig.download("venv", &["acme/m"]);
    let _ = fs::remove_dir_all(downloaded.join(".cache"));
    assert_eq!(hashes(&downloaded, PATIENCE), hashes(&dir, PATIENCE));
    assert!(!hub.log().all().is_empty());
}

#[test]
fn endpoint_shows_a_gated_model_only_to_accepted_tokens() {
    for own in [Some(MEMBER), None] {
        let repos = Repos::new();
        let (rig, hub, _) = rig(&repos, own);
        hub.set_access("acme/m", Access::Gated);
        let get = |token: &str| {
            let headers = match token {
                "" => "{}".to_owned(),
                token => format!("{{'Authorization': 'Bearer {token}'}}"),
            };
            let paths = ["/acme/m/resolve/main/w.bin", "/api/models/acme/m", "/api/models/acme/m/refs"];
            let requests = paths.map(|path| format!("('GET', '{path}', {headers})")).join(", ");
            rig.requests(&format!("[{requests}]"))
        };
        // Without a token of its own, the node cannot read the model for a client.
        let expected = if own.is_some() { 200 } else { 403 };
        for (token, status) in [("", 401), (MEMBER, expected), ("", 401), (STRANGER, 403)] {
            for answer in get(token) {
                assert_eq!(answer["status"], status, "{token:?}, own token {own:?}: {answer}");
                if status != 200 {
                    assert_eq!(answer["headers"]["x-error-code"], "GatedRepo", "{answer}");
                }
            }
        }
    }
}
