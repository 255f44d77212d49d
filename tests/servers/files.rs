//! Tests of the plain web server that other tests use.

use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};

use crate::support::file_server::FileServer;
use crate::support::fixtures::{model_dir, noise};
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE};
use crate::support::web::place::Place;

#[tokio::test]
async fn directory_is_served_with_ranges_and_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let weights = noise(5, 1 << 20);
    model_dir(&dir.path().join("org/name"), &[("a b.bin", &weights), (".gitattributes", b"x\n")]);
    let server = FileServer::start(&Place::loopback(), dir.path());
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let url = format!("{}/org/name/a%20b.bin", server.url());

    let whole = client.get(&url).send().await.unwrap();
    let tag = whole.headers()[ETAG].clone();
    assert_eq!(whole.bytes().await.unwrap(), weights);
    let part = client.get(&url).header(RANGE, "bytes=1000-1999").header(IF_RANGE, tag);
    let part = part.bearer_auth("secret").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()[CONTENT_RANGE], format!("bytes 1000-1999/{}", 1 << 20));
    assert_eq!(part.bytes().await.unwrap(), weights[1000..2000]);
    let changed = client.get(&url).header(RANGE, "bytes=0-9").header(IF_RANGE, "\"other\"");
    assert_eq!(changed.send().await.unwrap().bytes().await.unwrap(), weights);
    let beyond = client.get(&url).header(RANGE, "bytes=2000000-").send().await.unwrap();
    assert_eq!(beyond.status(), 416);
    let hidden = client.get(format!("{}/org/name/.gitattributes", server.url())).send().await.unwrap();
    assert_eq!(hidden.bytes().await.unwrap().as_ref(), b"x\n");

    let served = server.served();
    let statuses: Vec<u16> = served.iter().map(|served| served.status).collect();
    assert_eq!(statuses, [200, 206, 200, 416, 200]);
    assert_eq!((&*served[1].path, served[1].sent), ("/org/name/a b.bin", 1000));
    assert_eq!(served[1].range.as_deref(), Some("bytes=1000-1999"));
    assert_eq!(served[1].authorization.as_deref(), Some("Bearer secret"));
    assert_eq!(served[0].authorization, None);
    assert_eq!(server.sent(".gitattributes"), 2);
}

#[test]
fn server_on_a_test_host_is_reachable_from_another() {
    let net = Net::new();
    let (web, user) = (net.host("web"), net.host("user"));
    let dir = model_dir(&web.home().join("www"), &[("file", b"hello")]);
    let server = FileServer::start(&Place::from(&web), &dir);
    let script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())";
    let mut python = user.command("/usr/bin/python3");
    let url = format!("{}/file", server.url());
    assert_eq!(Finished::of(python.args(["-c", script, &url]), PATIENCE).ok(), "b'hello'\n");
    assert_eq!(server.sent("/file"), 5);
    drop(server);
    let mut python = user.command("/usr/bin/python3");
    assert!(!Finished::of(python.args(["-c", script, &url]), PATIENCE).status.success());
}
