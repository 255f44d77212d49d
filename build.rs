//! Compiles the bridge to libtorrent (`cpp/`), with exactly the defines the installed library was built with:
//! they change the layout of its classes.

use std::path::PathBuf;

const SOURCES: &[&str] = &[
    "create.cc",
    "dht.cc",
    "disk.cc",
    "events.cc",
    "files.cc",
    "hashes.cc",
    "layers.cc",
    "outbox.cc",
    "overlay.cc",
    "plugin.cc",
    "session.cc",
    "storage.cc",
    "talk.cc",
];
const HEADERS: &[&str] = &[
    "compat.h",
    "create.h",
    "dht.h",
    "disk.h",
    "events.h",
    "files.h",
    "hashes.h",
    "layers.h",
    "outbox.h",
    "plugin.h",
    "session.h",
    "storage.h",
    "talk.h",
];

fn main() {
    for file in SOURCES.iter().chain(HEADERS) {
        println!("cargo::rerun-if-changed=cpp/{file}");
    }
    println!("cargo::rerun-if-changed=src/ffi.rs");

    // cpp/disk.cc implements an interface that 2.1 changes.
    let library = match pkg_config::Config::new().range_version("2.0.8".."2.1").probe("libtorrent-rasterbar")
    {
        Ok(library) => library,
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            println!(
                "cargo::error=libtorrent 2.0.8 or later (below 2.1) is needed: apt install libtorrent-rasterbar-dev pkg-config ({reason})"
            );
            return;
        }
    };

    let mut build = cxx_build::bridge("src/ffi.rs");
    build
        .std("c++17")
        .flag_if_supported("-Wno-deprecated-declarations")
        .flag_if_supported("-Wno-unused-parameter");
    for (name, value) in &library.defines {
        build.define(name, value.as_deref());
    }
    for path in &library.include_paths {
        build.include(path);
    }
    build.files(SOURCES.iter().map(|file| PathBuf::from("cpp").join(file)));
    build.compile("silmaril_engine");
}
