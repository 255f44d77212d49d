//! All integration tests, in one binary.
//!
//! `support` has their helpers: hosts in network namespaces, processes with deadlines, real models. Every other directory
//! has the tests of one part, with one file for each promise or symptom. The tests need root (`make test`).

mod cli {
    pub mod config;
    pub mod doctor;
    pub mod errors;
    pub mod exit;
    pub mod help;
    pub mod init;
    pub mod outputs;
    pub mod pipes;
    pub mod program;
    pub mod trust;
}

mod support {
    pub mod capture;
    pub mod clock;
    pub mod dht_node;
    pub mod fake_web;
    pub mod file_server;
    pub mod file_site;
    pub mod fixtures;
    pub mod git_server;
    pub mod host;
    pub mod hostile;
    pub mod hub;
    pub mod manifests;
    pub mod mirror;
    pub mod mounts;
    pub mod multi_shard;
    pub mod net;
    pub mod old_cache;
    pub mod overlay;
    pub mod private_net;
    pub mod process;
    pub mod raw_peer;
    pub mod raw_peer_content;
    pub mod raw_peer_leech;
    pub mod raw_peer_message;
    pub mod raw_peer_pex;
    pub mod raw_peer_seed;
    pub mod repos;
    pub mod rig;
    pub mod share;
    pub mod swarm;
    pub mod tracker;
    pub mod transcript;
    pub mod web;
    pub mod wire;
}

mod e2e {
    mod absent_disk;
    mod addresses;
    mod bad_input;
    mod by_name;
    mod cached_bytes;
    mod commands;
    mod configuration;
    mod daemon;
    mod damage;
    mod demo;
    mod discovery;
    mod disputed_names;
    mod equal_files;
    mod few_descriptors;
    mod figures;
    mod get;
    mod holders;
    mod hostile_hosts;
    mod hub_fallback;
    mod interrupted;
    mod killed_mount;
    mod lazy_read;
    mod mirror_faults;
    mod mirror_hub;
    mod mirror_sharing;
    mod models_dir;
    mod mount_by_name;
    mod mounting;
    mod moved_seeder;
    mod no_downgrade;
    mod not_pinned;
    mod one_node;
    mod other_clients;
    mod other_users;
    mod outputs;
    mod policies;
    mod refused_manifests;
    mod restarted_seeder;
    mod rotation;
    mod share;
    mod six_hosts;
    mod small_reads;
    pub mod space;
    mod space_random;
    mod stalled;
    mod terminal;
    mod trust;
    mod two_publishers;
    mod vanished_peers;
    mod withheld;
}

mod catalog {
    mod dht;
    mod full_disk;
    mod hostile;
    mod manifests;
    mod resolving;
    pub mod rig;
    mod searching;
    mod simulation;
    mod spreading;
}

mod coordination {
    mod goals;
    pub mod host;
    pub mod net;
    mod reader;
    pub mod scenario;
}

mod engine {
    mod alone;
    mod dht;
    mod disk;
    mod doubt;
    mod download;
    mod gate;
    mod given;
    mod hostile;
    mod impossible;
    mod lazy;
    mod limits;
    mod network;
    mod offers;
    mod parts;
    mod pieces;
    mod quiet;
    mod resume;
    mod returning;
    pub mod rig;
    mod rumours;
    mod socks;
    mod talk;
    mod together;
    mod urgent;
    mod utp;
    mod waste;
    mod withdrawn;
    mod withheld;
}

mod mount {
    mod killed_readers;
    mod lifecycle;
    mod lookups;
    mod processes;
    mod reading;
    mod rig;
    mod semantics;
    mod stalls;
}

mod fetch {
    mod damage;
    mod deadlines;
    mod jobs;
    mod lifecycle;
    mod local_files;
    mod parts;
    mod random;
    mod reads;
    mod real;
    mod sharing;
    mod space;
    mod tensors;
    mod unproved;
    mod web;
    mod web_failures;
    mod windows;
    mod withheld;
}

mod hub {
    mod adopt;
    mod common_files;
    mod complete;
    mod endpoint;
    mod faults;
    mod full_disk;
    mod names;
    mod reading;
    mod restricted;
    pub mod rig;
    mod several_ranges;
    mod witness;
}

mod http {
    mod addresses;
}

mod mirror {
    mod git;
    mod git_bounds;
    mod hub;
    mod killed;
    mod one_swarm;
    pub mod rig;
}

mod hostile {
    mod answers;
    mod busy;
    mod costs;
    mod crowd;
    mod equal;
    mod floods;
    mod hashes;
    mod identity;
    mod lab;
    mod late;
    mod liars;
    mod measure;
    mod memory;
    mod metadata;
    mod metadata_peer;
    mod named;
    mod newcomers;
    mod offers;
    mod parts;
    mod siege;
    mod slots;
    mod strike;
    mod strikes;
    mod together;
    mod unread;
    mod wasters;
    mod welcome;
}

mod node {
    mod changing;
    mod rig;
    mod starting;
    mod stopping;
}

mod servers {
    mod faults;
    mod files;
    mod git;
    mod hub;
}

mod serve {
    mod cache_layout;
    mod clients;
    mod hub_clients;
    mod listening;
    mod registry;
    mod requests;
    pub mod rig;
    mod warming;
}

mod docs {
    mod imports;
    mod protocol;
    mod readme;
}

mod fuzz {
    mod claims;
    mod gate;
    mod harness;
    mod mutate;
    mod offers;
    mod seeds;
    mod targets;
}

/// A test file without a `mod` line here would never run.
#[test]
fn every_test_file_is_included() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let here = include_str!("main.rs");
    for part in
        std::fs::read_dir(tests).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        let name = part.file_name().unwrap().to_string_lossy();
        let included =
            here.split(&format!("\nmod {name} {{\n")).nth(1).and_then(|rest| rest.split("\n}\n").next());
        for file in std::fs::read_dir(&part).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "rs") {
                let line = format!("mod {};", file.file_stem().unwrap().to_string_lossy());
                assert!(
                    included.is_some_and(|i| i.contains(&line)),
                    "{} is not in tests/main.rs",
                    file.display()
                );
            }
        }
    }
}
