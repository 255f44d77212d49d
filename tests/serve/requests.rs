//! The routes, request by request: ranges, entity tags, errors, the recorded requests of llama.cpp and hf-hub, and who is
//! refused.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::serve::rig::{Rig, bytes, json, on_the_wire};
use crate::support::fixtures::{model_dir, noise};
use crate::support::hub::{Access, Hub, MEMBER, STRANGER};
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::repos::Repos;
use crate::support::web::place::Place;

const WEIGHTS: usize = 5_000_000;

fn rig() -> Rig {
    let mut rig = Rig::new();
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{\"a\": 1}"),
        ("empty.txt", b""),
        ("sub/a b+.json", b"[1]"),
        ("w.gguf", &noise(1, WEIGHTS)),
    ];
    let dir = model_dir(&rig.publisher.home().join("m"), &files);
    rig.share(&dir, "acme/m", &[]);
    rig.serve();
    rig
}

fn header<'a>(response: &'a Value, name: &str) -> &'a str {
    response["headers"][name].as_str().unwrap_or_else(|| panic!("no {name} in {response}"))
}

#[test]
fn ranges_and_entity_tags_follow_the_rfc() {
    let rig = rig();
    let w = noise(1, WEIGHTS);
    let path = "/acme/m/resolve/main/w.gguf";
    let get = |headers: &str| rig.requests(&format!("[('GET', '{path}', {headers})]")).remove(0);
    let part = |range: &str| get(&format!("{{'Range': 'bytes={range}', 'Accept-Encoding': 'identity'}}"));
    for (range, expected) in [
        ("0-0", 0..1),
        ("100-199", 100..200),
        ("-7", WEIGHTS - 7..WEIGHTS),
        ("4999990-", 4_999_990..WEIGHTS),
        ("4999990-99999999", 4_999_990..WEIGHTS),
    ] {
        let answer = part(range);
        assert_eq!(answer["status"], 206, "{range}");
        assert_eq!(bytes(&answer), w[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{WEIGHTS}", expected.start, expected.end - 1);
        assert_eq!(header(&answer, "content-range"), content_range);
        assert_eq!(header(&answer, "content-length"), expected.len().to_string());
    }
    let beyond = part("5000000-");
    assert_eq!((&beyond["status"], header(&beyond, "content-range")), (&416.into(), "bytes */5000000"));

    let whole = get("{}");
    assert_eq!((&whole["status"], bytes(&whole) == w), (&200.into(), true));
    let etag = header(&whole, "etag").to_owned();
    let known = get(&format!("{{'If-None-Match': '{etag}'}}"));
    assert_eq!((&known["status"], bytes(&known).len()), (&304.into(), 0));
    let changed = get("{'If-Range': '\"other\"', 'Range': 'bytes=0-0'}");
    assert_eq!((&changed["status"], bytes(&changed).len()), (&200.into(), WEIGHTS));

    let head =
        rig.requests(&format!("[('HEAD', '{path}', {{}}), ('GET', '/acme/m/resolve/main/empty.txt', {{}})]"));
    assert_eq!((&head[0]["status"], header(&head[0], "content-length")), (&200.into(), "5000000"));
    assert_eq!(
        (header(&head[0], "x-linked-size"), header(&head[0], "x-linked-etag")),
        ("5000000", etag.as_str())
    );
    assert_eq!((header(&head[0], "accept-ranges"), header(&head[0], "etag")), ("bytes", etag.as_str()));
    assert_eq!(header(&head[0], "x-repo-commit").len(), 40);
    assert_eq!((&head[1]["status"], header(&head[1], "content-length")), (&200.into(), "0"));
    for answer in [&whole, &head[0]] {
        let names: BTreeSet<&String> = answer["headers"].as_object().unwrap().keys().collect();
        assert!(!names.iter().any(|name| name.contains("xet") || *name == "link"), "{names:?}");
    }
}

#[test]
fn errors_have_the_codes_of_the_hub() {
    let rig = rig();
    let none = "0".repeat(40);
    let answers = rig.requests(&format!(
        "[('GET', '/api/models/acme/absent', {{}}), ('HEAD', '/acme/absent/resolve/main/config.json', {{}}),\
          ('GET', '/api/models/acme/m/revision/v9', {{}}), ('GET', '/acme/m/resolve/{none}/config.json', {{}}),\
          ('GET', '/acme/m/resolve/main/absent.json', {{}}), ('GET', '/api/models/acme/m/tree/main/absent', {{}}),\
          ('GET', '/gpt2/resolve/main/config.json', {{}}), ('GET', '/api/agent-harnesses', {{}})]"
    ));
    let codes: Vec<(u64, &str)> = answers
        .iter()
        .map(|a| (a["status"].as_u64().unwrap(), a["headers"]["x-error-code"].as_str().unwrap_or("")))
        .collect();
    let expected = [
        "RepoNotFound",
        "RepoNotFound",
        "RevisionNotFound",
        "RevisionNotFound",
        "EntryNotFound",
        "EntryNotFound",
        "RepoNotFound",
        "",
    ];
    assert_eq!(codes, expected.map(|code| (404, code)));
    assert!(json(&answers[0])["error"].as_str().unwrap().contains("acme/absent"));
    assert!(header(&answers[0], "x-error-message").contains("peer"), "{}", answers[0]);
    assert_eq!(header(&answers[4], "x-repo-commit").len(), 40);
}

#[test]
fn recorded_requests_of_llama_cpp_and_hf_hub_are_answered() {
    let rig = rig();
    let refs = json(&rig.requests("[('GET', '/api/models/acme/m/refs', {})]")[0]);
    let branch = &refs["branches"][0];
    assert_eq!((&branch["name"], &refs["tags"]), (&"main".into(), &serde_json::json!([])));
    let commit = branch["targetCommit"].as_str().unwrap();
    let tree = json(
        &rig.requests(&format!("[('GET', '/api/models/acme/m/tree/{commit}?recursive=true', {{}})]"))[0],
    );
    let paths: Vec<&str> = tree.as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["config.json", "empty.txt", "sub", "sub/a b+.json", "w.gguf"]);
    let weights = &tree[4];
    assert_eq!((&weights["type"], &weights["size"]), (&"file".into(), &WEIGHTS.into()));
    assert_eq!(weights["lfs"]["size"], WEIGHTS);
    assert_eq!(weights["lfs"]["oid"].as_str().unwrap().len(), 64);
    assert!(weights.get("xetHash").is_none());
    // llama.cpp downloads in parts and resumes; hf-hub probes with the first byte.
    let path = format!("/acme/m/resolve/{commit}/w.gguf");
    let answers = rig.requests(&format!(
        "[('HEAD', '{path}', {{'User-Agent': 'llama-cpp/b1'}}), ('GET', '{path}', {{'Range': 'bytes=0-0'}}),\
          ('GET', '{path}', {{'Range': 'bytes=1000-'}}), ('GET', '/acme/m/resolve/main/sub/a%20b%2B.json', {{}})]"
    ));
    assert_eq!(
        answers.iter().map(|a| a["status"].as_u64().unwrap()).collect::<Vec<_>>(),
        [200, 206, 206, 200]
    );
    assert_eq!(header(&answers[1], "content-range"), format!("bytes 0-0/{WEIGHTS}"));
    assert_eq!(bytes(&answers[2]), noise(1, WEIGHTS)[1000..]);
    assert_eq!(bytes(&answers[3]), b"[1]");
}

#[test]
fn trees_have_pages_and_directories() {
    let rig = rig();
    let page = &rig.requests("[('GET', '/api/models/acme/m/tree/main?limit=3', {})]")[0];
    let entries = json(page);
    let kinds: Vec<(&str, &str)> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["type"].as_str().unwrap(), e["path"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [("file", "config.json"), ("file", "empty.txt"), ("directory", "sub")]);
    let next = header(page, "link");
    let url = next.trim_start_matches('<').split('>').next().unwrap();
    let rest = url.strip_prefix(&rig.endpoint).unwrap();
    let last = json(&rig.requests(&format!("[('GET', '{rest}', {{}})]"))[0]);
    assert_eq!(last.as_array().unwrap().len(), 1);
    assert_eq!(last[0]["path"], "w.gguf");
    let answers = rig.requests(
        "[('GET', '/api/models/acme/m/tree/main/sub', {}), ('POST', '/api/models/acme/m/paths-info/main',\
          {'Content-Type': 'application/x-www-form-urlencoded', 'body': 'paths=sub&paths=config.json&paths=no&expand=True'})]",
    );
    assert_eq!(json(&answers[0])[0]["path"], "sub/a b+.json");
    let infos = json(&answers[1]);
    assert_eq!((&infos[0]["type"], &infos[1]["size"]), (&"directory".into(), &8.into()));
    assert_eq!(infos.as_array().unwrap().len(), 2);
    assert_eq!(infos[1]["lastCommit"]["id"].as_str().unwrap().len(), 40);
}

#[test]
fn a_path_that_is_requested_many_times_is_described_once() {
    let rig = rig();
    let ask = |paths: &str| {
        rig.requests(&format!(
            "[('POST', '/api/models/acme/m/paths-info/main',\
              {{'Content-Type': 'application/x-www-form-urlencoded', 'body': {paths}}})]"
        ))
        .remove(0)
    };
    let same = ask(&format!("'{}'", "paths=config.json&".repeat(5000)));
    assert_eq!(json(&same).as_array().unwrap().len(), 1);
    let many: String = (0..1001).map(|n| format!("paths={n}&")).collect();
    let refused = ask(&format!("'{many}'"));
    assert_eq!(refused["status"], 400);
    assert!(header(&refused, "x-error-message").contains("1000 paths"), "{refused}");
}

#[test]
fn a_body_that_does_not_arrive_is_not_awaited_for_ever() {
    let rig = rig();
    let script = "import socket, sys\n\
        host, port = sys.argv[1].removeprefix('http://').rsplit(':', 1)\n\
        s = socket.create_connection((host, int(port)), timeout=60)\n\
        s.sendall(b'POST /api/models/acme/m/paths-info/main HTTP/1.1\\r\\nHost: %s:%s\\r\\nContent-Length: 100\\r\\n\\r\\np' % (host.encode(), port.encode()))\n\
        print(s.recv(100).decode().splitlines()[0])\n";
    let answer = rig.script("venv", script, &[&rig.endpoint]).ok();
    assert!(answer.contains(" 408 "), "{answer}");
}

#[test]
fn other_hosts_names_and_sites_are_refused() {
    let rig = rig();
    let answers = rig.requests(
        "[('GET', '/api/models/acme/m', {'Host': 'evil.example'}), ('GET', '/api/models/acme/m', {'Origin': 'http://evil.example'}),\
          ('GET', '/api/models/acme/m', {'Sec-Fetch-Site': 'cross-site'}), ('GET', '/healthz', {}),\
          ('POST', '/api/models/acme/m', {}), ('GET', '/../../etc/passwd', {})]",
    );
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [421, 403, 403, 200, 404, 404]);
}

#[test]
fn gated_models_need_the_clients_own_token() {
    let repos = Repos::new();
    let mut rig = Rig::new();
    let hub = Hub::start(&Place::from(&rig.publisher), &repos);
    let dir = model_dir(
        &rig.publisher.home().join("g"),
        &[
            (".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
            ("README.md", b"---\nlicense: mit\n---\n"),
            ("w.bin", &noise(3, 300_000)),
        ],
    );
    repos.create("acme/gated").commit(&dir);
    hub.set_access("acme/gated", Access::Gated);
    rig.user.configure(&format!("hub:\n  endpoint: {}\n", hub.url()));
    rig.user.keep_daemon();
    let mut mirror = rig.user.silmaril(&["mirror", "acme/gated", "--no-auto-share"]);
    Finished::of(mirror.env("HF_TOKEN", MEMBER), PATIENCE).ok();
    rig.serve();
    let get = |token: &str| {
        let headers =
            if token.is_empty() { "{}".to_owned() } else { format!("{{'Authorization': 'Bearer {token}'}}") };
        rig.requests(&format!("[('GET', '/acme/gated/resolve/main/w.bin', {headers})]")).remove(0)
    };
    let member = get(MEMBER);
    assert_eq!((&member["status"], bytes(&member) == noise(3, 300_000)), (&200.into(), true));
    for (token, status) in [("", 401), (STRANGER, 403)] {
        let refused = get(token);
        assert_eq!((&refused["status"], header(&refused, "x-error-code")), (&status.into(), "GatedRepo"));
    }
    // The client's token went to the hub, and to no log.
    let asked = hub.log().all();
    assert!(asked.iter().any(|asked| asked.path.ends_with("/auth-check")), "{asked:?}");
    let logs = std::fs::read_dir(rig.user.base().join("log")).unwrap();
    for log in logs {
        let text = std::fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(!text.contains(MEMBER) && !text.contains(STRANGER), "a token is in a log");
    }
}

#[test]
fn files_that_are_not_shared_are_not_served() {
    let mut rig = Rig::new();
    let own = rig.user.base().join("models/acme/own");
    model_dir(&own, &[("config.json", b"{}")]);
    let ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let file = std::fs::File::options().write(true).open(own.join("config.json")).unwrap();
    file.set_modified(ago).unwrap();
    rig.serve();
    let listed = || rig.user.run(&["list"]).ok();
    until("the unshared model is known", PATIENCE, || listed().contains("acme/own"));
    let ask = || rig.requests("[('GET', '/acme/own/resolve/main/config.json', {})]").remove(0);
    until("the unshared model is refused", PATIENCE, || ask()["status"] == 403);
    assert!(header(&ask(), "x-error-message").contains("not shared"));
}

#[test]
fn a_hundred_clients_of_one_file_cause_one_fetch() {
    let rig = rig();
    let before = rig.user.received();
    let script = "import sys, hashlib, http.client, threading\n\
        host, port = sys.argv[1].removeprefix('http://').rsplit(':', 1); sums = []\n\
        def get():\n    \
        c = http.client.HTTPConnection(host, int(port), timeout=100); c.request('GET', '/acme/m/resolve/main/w.gguf')\n    \
        sums.append(hashlib.sha256(c.getresponse().read()).hexdigest())\n\
        all = [threading.Thread(target=get) for _ in range(100)]\n\
        [t.start() for t in all]; [t.join() for t in all]\n\
        print(len(sums), len(set(sums)), sums[0])";
    let out = rig.script("venv", script, &[&rig.endpoint]).ok();
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(noise(1, WEIGHTS)));
    assert_eq!(out.trim(), format!("100 1 {sha256}"));
    let received = rig.user.received() - before;
    assert!(received <= on_the_wire(WEIGHTS as u64), "{received} bytes for a hundred clients");
}

#[test]
fn a_client_that_disconnects_stops_its_fetch() {
    let mut rig = Rig::new();
    let len = 48_000_000;
    let dir = model_dir(&rig.publisher.home().join("big"), &[("w.bin", &noise(7, len))]);
    rig.share(&dir, "acme/big", &["--piece-length", "256KiB"]);
    rig.publisher.limit_rate("40mbit");
    rig.serve();
    let script = "import sys, http.client\n\
        host, port = sys.argv[1].removeprefix('http://').rsplit(':', 1)\n\
        c = http.client.HTTPConnection(host, int(port), timeout=100); c.request('GET', '/acme/big/resolve/main/w.bin')\n\
        print('read', len(c.getresponse().read(1 << 20)), flush=True); sys.stdin.read(); c.close()";
    let client = rig.spawn(script, &[&rig.endpoint]);
    client.finish(PATIENCE).ok();
    let status = || serde_json::from_str::<Value>(&rig.user.run(&["status", "--json"]).ok()).unwrap();
    until("the endpoint sends nothing", PATIENCE, || status()["endpoint"]["sending"] == 0);
    // Pieces on their way may arrive; then nothing more does.
    until("no further piece arrives", PATIENCE, || status()["transfers"][0]["download_rate"] == 0);
    let last = status()["transfers"][0]["cached_bytes"].as_u64().unwrap();
    assert!(last < len as u64 / 2, "{last} of {len} bytes were fetched for a client that read 1 MiB");
}

#[test]
fn slow_downloads_of_another_local_user_shut_out_no_program() {
    let mut rig = Rig::new();
    let dir = model_dir(
        &rig.publisher.home().join("big"),
        &[("config.json", b"{}"), ("w.bin", &noise(7, 16 << 20))],
    );
    rig.share(&dir, "acme/big", &["--piece-length", "256KiB"]);
    rig.serve();
    let script = "import socket, sys, time\n\
        host, port = sys.argv[1].removeprefix('http://').rsplit(':', 1); slow = []\n\
        for _ in range(300):\n    \
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.settimeout(100)\n    \
        try:\n        \
        s.connect((host, int(port)))\n        \
        s.sendall(f'GET /acme/big/resolve/main/w.bin HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n'.encode())\n        \
        if s.recv(12) == b'HTTP/1.1 200': slow.append(s)\n    \
        except ConnectionError: pass\n\
        print('slow downloads:', len(slow), flush=True); time.sleep(600)";
    let mut command = rig.user.command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
        "/usr/bin/python3",
        "-I",
        "-c",
        script,
    ]);
    let other = Proc::spawn(command.arg(&rig.endpoint));
    let line = other.wait_for_line("slow downloads", PATIENCE);
    assert_eq!(line, "slow downloads: 256");
    let answer = rig.requests("[('GET', '/acme/big/resolve/main/config.json', {})]").remove(0);
    assert_eq!((answer["status"].as_u64(), bytes(&answer)), (Some(200), b"{}".to_vec()));
}
