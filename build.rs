//! Compiles the bridge to libtorrent (`cpp/`) and links it with the engine, which `make setup` builds (`cpp/engine/`).

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &[&str] = &[
    "alerts.cc",
    "blame.cc",
    "blocks.cc",
    "choice.cc",
    "claims.cc",
    "create.cc",
    "dht.cc",
    "dial.cc",
    "doubt.cc",
    "disk.cc",
    "disk_errors.cc",
    "events.cc",
    "files.cc",
    "gate.cc",
    "guard.cc",
    "hash_answers.cc",
    "hash_requests.cc",
    "hashes.cc",
    "held.cc",
    "late.cc",
    "layers.cc",
    "leaves.cc",
    "liveness.cc",
    "local_address.cc",
    "merkle.cc",
    "meter.cc",
    "metadata.cc",
    "metadata_link.cc",
    "offer_link.cc",
    "offers.cc",
    "orders.cc",
    "outbox.cc",
    "overlay.cc",
    "pace.cc",
    "parts.cc",
    "peer.cc",
    "plugin.cc",
    "pool.cc",
    "proof.cc",
    "proof_ranges.cc",
    "session.cc",
    "shared_paths.cc",
    "room.cc",
    "rumours.cc",
    "slots.cc",
    "soon.cc",
    "spare.cc",
    "storage.cc",
    "supply.cc",
    "talk.cc",
    "together.cc",
    "trial.cc",
    "trial_peer.cc",
    "turns.cc",
    "urgent.cc",
    "waste.cc",
    "withdraw.cc",
];
const HEADERS: &[&str] = &[
    "blame.h",
    "blocks.h",
    "bucket.h",
    "choice.h",
    "claims.h",
    "compat.h",
    "create.h",
    "dht.h",
    "dial.h",
    "doubt.h",
    "disk.h",
    "disk_errors.h",
    "events.h",
    "files.h",
    "flow.h",
    "frame.h",
    "gate.h",
    "guard.h",
    "hash_answers.h",
    "hash_requests.h",
    "hashes.h",
    "held.h",
    "late.h",
    "layers.h",
    "leaves.h",
    "liveness.h",
    "local_address.h",
    "merkle.h",
    "meter.h",
    "metadata.h",
    "metadata_link.h",
    "offer_link.h",
    "offers.h",
    "outbox.h",
    "pace.h",
    "parts.h",
    "peer.h",
    "plugin.h",
    "pool.h",
    "proof.h",
    "room.h",
    "recent.h",
    "rumours.h",
    "session.h",
    "shared_paths.h",
    "slots.h",
    "soon.h",
    "source.h",
    "spare.h",
    "storage.h",
    "supply.h",
    "talk.h",
    "together.h",
    "traffic.h",
    "trial.h",
    "trial_peer.h",
    "turns.h",
    "urgent.h",
    "visibility.h",
    "waste.h",
    "withdraw.h",
];
const ENGINE: &[&str] = &["build.sh", "CMakeLists.txt", "defines.txt", "patches"];
/// Environment variables that decide the directory of the engine, see `cpp/engine/build.sh`.
const ENVIRONMENT: &[&str] = &["SILMARIL_ENGINE_FLAVOR", "XDG_CACHE_HOME", "HOME", "CXX"];

/// The directory of the engine. An error if the engine is not built.
fn engine() -> Result<PathBuf, String> {
    let output = Command::new("cpp/engine/build.sh").arg("path").output();
    let output = output.map_err(|error| format!("cpp/engine/build.sh could not be run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if path.is_dir() {
        Ok(path)
    } else {
        Err(format!("the engine is not built (no {}): run 'make setup'", path.display()))
    }
}

/// The path of a library of the C++ compiler.
fn runtime(name: &str) -> String {
    let output = Command::new("c++").arg(format!("-print-file-name={name}")).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn main() {
    for file in SOURCES.iter().chain(HEADERS) {
        println!("cargo::rerun-if-changed=cpp/{file}");
    }
    for file in ENGINE {
        println!("cargo::rerun-if-changed=cpp/engine/{file}");
    }
    for name in ENVIRONMENT {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=src/ffi.rs");

    let engine = match engine() {
        Ok(engine) => engine,
        Err(reason) => {
            println!("cargo::error={reason}");
            return;
        }
    };
    println!("cargo::rerun-if-changed={}", engine.display());
    let defines = std::fs::read_to_string(Path::new("cpp/engine/defines.txt")).unwrap_or_default();

    let mut build = cxx_build::bridge("src/ffi.rs");
    build
        .std("c++17")
        .include(engine.join("include"))
        .flag_if_supported("-Wno-deprecated-declarations")
        .flag_if_supported("-Wno-unused-parameter");
    // The bridge needs the defines of the engine's build, since they change the layout of its classes.
    for define in defines.lines() {
        let (name, value) =
            define.split_once('=').map_or((define, None), |(name, value)| (name, Some(value)));
        build.define(name, value);
    }
    if std::env::var("SILMARIL_ENGINE_FLAVOR").is_ok_and(|flavor| flavor == "asan") {
        build.flag("-fsanitize=address,undefined").flag("-fno-sanitize=vptr").flag("-g");
        // rustc links with -nodefaultlibs, so the compiler does not add its run-time libraries.
        for argument in
            ["-Wl,--whole-archive", &runtime("libasan.a"), "-Wl,--no-whole-archive", &runtime("libubsan.a")]
        {
            println!("cargo::rustc-link-arg={argument}");
        }
    }
    build.files(SOURCES.iter().map(|file| PathBuf::from("cpp").join(file)));
    build.compile("silmaril_engine");

    println!("cargo::rustc-link-search=native={}", engine.join("lib").display());
    println!("cargo::rustc-link-lib=static=torrent-rasterbar");
    println!("cargo::rustc-link-lib=ssl");
    println!("cargo::rustc-link-lib=crypto");
}
