//! The routes of the control socket that report figures: models, transfers as they change, metrics, jobs.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};

const SIZE: usize = 3_000_000;

/// Sends a request as any HTTP client would, with `headers` as further lines. Checks and skips the head of the
/// answer.
fn ask(host: &Host, route: &str, headers: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(host.base().join("silmaril.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {route} HTTP/1.0\r\nhost: silmaril\r\n{headers}\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).unwrap() > 0, "{route}: only {head:?}");
    }
    assert!(head.starts_with("HTTP/1.0 200 "), "{route}: {head}");
    answer
}

fn get(host: &Host, route: &str) -> String {
    let mut text = String::new();
    ask(host, route, "").read_to_string(&mut text).unwrap();
    text
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The data of the next event, which must be one of transfers.
fn next_event(stream: &mut impl BufRead) -> Value {
    let (mut name, mut data) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
        if let Some(text) = line.strip_prefix("event: ") {
            name = text.trim_end().to_owned();
        } else if let Some(text) = line.strip_prefix("data: ") {
            data.push_str(text);
        } else if line.trim_end().is_empty() && !data.is_empty() {
            assert_eq!(name, "transfers");
            return json(&data);
        }
    }
}

/// The value of the metric whose line begins with `start`.
fn value(metrics: &str, start: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(start))?;
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn models_are_reported_as_list_prints_them() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, SIZE))]);
    let _shared = share(&a, &dir, "acme/m", &[]);
    let reported = json(&get(&a, "/v1/models"));
    assert_eq!(reported, json(&a.run(&["list", "--json"]).ok()));
    assert_eq!(reported[0]["name"], "acme/m");
    assert_eq!(reported[0]["path"], dir.to_str().unwrap());
}

#[test]
fn transfers_are_reported_once_or_as_they_change() {
    let net = Net::new();
    let a = net.host("a");
    let one = model_dir(&a.home().join("one"), &[("w.bin", &noise(1, SIZE))]);
    let _one = share(&a, &one, "acme/one", &[]);
    let once = json(&get(&a, "/v1/transfers"));
    assert_eq!(once[0]["model"], "acme/one");
    assert_eq!(once[0]["cached_bytes"], SIZE);

    for (route, headers) in [("/v1/transfers?follow", ""), ("/v1/transfers", "accept: text/event-stream\r\n")]
    {
        let mut stream = ask(&a, route, headers);
        assert_eq!(
            next_event(&mut stream)[0]["model"],
            "acme/one",
            "the first event is sent without a change"
        );
        let two = model_dir(&a.home().join("two"), &[("w.bin", &noise(2, SIZE))]);
        let name = if headers.is_empty() { "acme/two" } else { "acme/too" };
        let _two = share(&a, &two, name, &[]);
        let has = |event: &Value| event.as_array().unwrap().iter().any(|t| t["model"] == name);
        while !has(&next_event(&mut stream)) {}
    }
}

#[test]
fn metrics_have_the_prometheus_format() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, SIZE))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    b.run(&["get", "acme/m", "--peer", &a.peer()]).ok();
    let sent = "silmaril_sent_bytes_total{model=\"acme/m\",";
    until("the payload is counted", PATIENCE, || {
        value(&get(&a, "/v1/metrics"), sent).is_some_and(|bytes| bytes >= SIZE as f64)
    });
    let text = get(&a, "/v1/metrics");
    for name in
        ["uptime_seconds", "peers", "parked_reads", "jobs", "cache_bytes", "catalog_peers", "dht_nodes"]
    {
        assert!(value(&text, &format!("silmaril_{name} ")).is_some(), "no {name} in\n{text}");
    }
    assert_eq!(value(&text, "silmaril_received_web_bytes_total{model=\"acme/m\","), Some(0.0));
    assert_eq!(value(&text, "silmaril_transfers "), Some(1.0));
    assert_eq!(value(&text, "silmaril_catalog_records "), Some(1.0), "the record of the shared model");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn status_reports_the_jobs_of_other_commands() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, SIZE))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    a.power_off();
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let jobs = || json(&b.run(&["status", "--json"]).ok())["jobs"].clone();
    assert_eq!(jobs(), serde_json::json!([]));
    let mut waiting = b.spawn(&["get", "acme/m"]);
    until("the job is reported", PATIENCE, || jobs()[0]["activity"] == "get acme/m");
    let status = b.run(&["status"]).ok();
    assert!(status.contains("get acme/m") && status.contains("\ncatalog  "), "{status}");
    waiting.signal(Signal::INT);
    assert_eq!(waiting.wait(PATIENCE).code(), Some(130));
    until("the job is over", PATIENCE, || jobs() == serde_json::json!([]));
}
