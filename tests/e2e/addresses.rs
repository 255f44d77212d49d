//! Addresses that strangers supply do not lead into the private network: web seeds, links of LFS servers, trackers of
//! magnet links.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::file_site::FileSite;
use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::git_server::{GitServer, Hrefs};
use crate::support::host::Host;
use crate::support::mirror::{ATTRIBUTES, mirror, mirrored, tree};
use crate::support::net::Net;
use crate::support::private_net::in_namespace;
use crate::support::process::{Finished, PATIENCE};
use crate::support::repos::Repos;
use crate::support::share::{import, share};
use crate::support::web::place::Place;

const NAME: &str = "acme/model";

fn allow(host: &str) -> String {
    format!("  allow_private_hosts: ['{host}']\n")
}

/// Runs the program with an entry in `/etc/hosts` that gives the name this address.
fn run_with_name(host: &Host, name: &str, address: &str, args: &[&str]) -> Finished {
    let hosts = host.home().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n{address} {name}\n")).unwrap();
    let script = "mount --bind \"$1\" /etc/hosts; shift; exec \"$@\"";
    let mut command = host.command("unshare");
    command
        .args(["-m", "sh", "-euc", script, "sh"])
        .arg(&hosts)
        .arg(env!("CARGO_BIN_EXE_silmaril"))
        .args(args);
    Finished::of(&mut command, PATIENCE)
}

#[test]
fn web_seeds_of_a_manifest_lead_to_no_private_host() {
    let net = Net::new();
    let (web, publisher, reader) = (net.host("web"), net.host("publisher"), net.host("reader"));
    let dir = model_dir(&net.dir().join("m"), &[("w.bin", &noise(1, 100_000))]);
    let server = FileSite::start(&Place::from(&web), &dir);
    let (_, port) = server.url().rsplit_once(':').unwrap();
    let named = format!("http://files.example:{port}/");
    let literal = format!("{}/", server.url());
    let hosts = [("10.77.0.1", true), ("169.254.169.254", false)];
    assert_eq!(web.addr().to_string(), hosts[0].0);
    let short = "torrent:\n  download_timeout: 8\n";

    reader.configure(short);
    for (name, seed) in [(NAME, &named), ("acme/literal", &literal)] {
        let shared = share(&publisher, &dir, name, &["--web-seed", seed]);
        let manifest = net.dir().join("manifest.json");
        std::fs::copy(&shared.manifest, &manifest).unwrap();
        drop(shared);
        publisher.power_off();
        import(&reader, &manifest);
    }
    let printed = reader.run(&["get", "acme/literal"]).error(1);
    assert!(
        printed.contains("over HTTP: ") && printed.contains("10.77.0.1 is in a private network"),
        "{printed}"
    );
    for (address, private) in hosts {
        let printed = run_with_name(&reader, "files.example", address, &["get", NAME]).error(1);
        let reason = if private { "in a private network" } else { "link-local or the metadata service" };
        assert!(printed.contains("over HTTP: ") && printed.contains(reason), "{address}: {printed}");
    }
    assert_eq!(server.log().all(), []);
    reader.configure(&(allow("files.example") + short));
    run_with_name(&reader, "files.example", "169.254.169.254", &["get", NAME]).error(1);
    assert_eq!(server.log().all(), []);
    run_with_name(&reader, "files.example", "10.77.0.1", &["get", NAME]).ok();
    assert!(!server.log().all().is_empty());
}

#[test]
fn links_of_an_lfs_server_lead_to_no_other_private_host() {
    let net = Net::new();
    let (server, store, reader) = (net.host("server"), net.host("store"), net.host("reader"));
    let repos = Repos::new();
    let original = model_dir(
        &net.dir().join("original"),
        &[
            (".gitattributes", ATTRIBUTES),
            ("README.md", b"---\nlicense: mit\n---\n"),
            ("w.bin", &noise(1, 300_000)),
        ],
    );
    repos.create(NAME).commit(&original);
    let git = GitServer::with(&Place::from(&server), &Place::from(&store), &repos, None);
    let url = git.url(NAME);
    for hrefs in [Hrefs::SignedQuery, Hrefs::SignedHeader] {
        git.set_hrefs(hrefs);
        let refused = mirror(&reader, &[&url, "--no-auto-share"]);
        assert!(refused.stderr.contains("help: "), "{}", refused.stderr);
        assert!(refused.stderr.contains("network.allow_private_hosts"), "{}", refused.stderr);
        let printed = refused.error(1);
        assert!(printed.contains(&format!("{} is in a private network", store.addr())), "{printed}");
    }
    // Only the host that the user named received requests.
    assert!(git.log().all().iter().all(|asked| asked.site == "batch"), "{:?}", git.log().all());
    // Links to the same host are followed, since the user named that host.
    git.set_hrefs(Hrefs::Static);
    mirror(&reader, &[&url, "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&reader, NAME)), hashes(&original, PATIENCE));

    let second = net.host("second");
    second.configure(&allow(&store.addr().to_string()));
    git.set_hrefs(Hrefs::SignedHeader);
    mirror(&second, &[&url, "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&second, NAME)), hashes(&original, PATIENCE));
}

/// Counts what arrives at a TCP and a UDP port of the same number.
fn counter(host: &Host) -> (u16, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let address = host.addr();
    let (tcp, udp) = in_namespace(host.namespace(), move || {
        let tcp = TcpListener::bind((address, 0)).unwrap();
        let udp = UdpSocket::bind((address, tcp.local_addr().unwrap().port())).unwrap();
        (tcp, udp)
    });
    let port = tcp.local_addr().unwrap().port();
    let (connections, packets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, count) = (connections.clone(), packets.clone());
    std::thread::spawn(move || {
        tcp.incoming().for_each(|_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
    });
    std::thread::spawn(move || {
        while udp.recv(&mut [0; 2048]).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, connections, packets)
}

#[test]
fn untrusted_trackers_and_web_seeds_reach_no_private_host() {
    let net = Net::new();
    let (tracker, reader) = (net.host("tracker"), net.host("reader"));
    let (port, connections, packets) = counter(&tracker);
    let private = "  dht_enabled: false\n  lan_discovery: false\n";
    let timeout = "torrent:\n  download_timeout: 6\n";
    let hash = "ab".repeat(32);
    let mut magnet = format!("magnet:?xt=urn:btmh:1220{hash}&ws=http%3A%2F%2F{}%3A{port}%2F", tracker.addr());
    for host in [tracker.addr().to_string(), "tracker.example".to_owned()] {
        for (scheme, path) in [("udp", ""), ("http", "announce"), ("http", "other")] {
            magnet += &format!("&tr={scheme}%3A%2F%2F{host}%3A{port}%2F{path}");
        }
    }
    let address = tracker.addr().to_string();
    let args = ["registry", "import", &magnet, "--name", NAME];
    let counts = || (connections.load(Ordering::Relaxed), packets.load(Ordering::Relaxed));
    reader.configure(&format!("{private}{timeout}"));
    let printed = run_with_name(&reader, "tracker.example", &address, &args).error(1);
    assert!(printed.contains("no peer sent the torrent"), "{printed}");
    assert_eq!(counts(), (0, 0), "a tracker in the private network was contacted");

    // A torrent file: the trackers in it are not used at all.
    let sample = crate::engine::rig::Sample::new(&[("a", 100), ("b", 70_000)], 16384, false);
    let announce = format!("http://{address}:{port}/announce");
    let body =
        [format!("d8:announce{}:{announce}", announce.len()).as_bytes(), &sample.metainfo[1..]].concat();
    let torrent = net.dir().join("foreign.torrent");
    std::fs::write(&torrent, body).unwrap();
    reader.run(&["registry", "import", torrent.to_str().unwrap(), "--name", "acme/other"]).ok();
    reader.run(&["get", "acme/other"]).error(1);
    assert_eq!(counts(), (0, 0), "the tracker of a torrent was contacted");

    // When the host is allowed, both kinds of trackers are contacted.
    reader.configure(&format!("{private}{}{timeout}", allow("tracker.example")));
    run_with_name(&reader, "tracker.example", &address, &args).error(1);
    let (connections, packets) = counts();
    assert!(connections >= 2 && packets >= 1, "{connections} connections, {packets} packets");
}

#[test]
fn a_host_named_by_the_user_may_be_private_not_link_local() {
    let net = Net::new();
    let reader = net.host("reader");
    for address in
        ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "100.100.100.200"]
    {
        let printed = mirror(&reader, &[&format!("http://{address}/org/name"), "--no-auto-share"]).error(1);
        assert!(printed.contains("link-local or the metadata service"), "{address}: {printed}");
        assert!(!Path::new(&mirrored(&reader, "org/name")).exists());
    }
}
