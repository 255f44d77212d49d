//! Whole outputs of commands, compared with the recorded ones.
//!
//! A transcript has every command with its standard output, standard error and exit code. The recorded ones are the files
//! `snapshots/*.snap` next to the tests; `INSTA_UPDATE=always` records them again. What differs from run to run is replaced
//! by a word in brackets.

use std::path::Path;

use super::process::Finished;

/// Regular expressions for what differs from run to run, with their replacements, in this order.
const CHANGING: &[(&str, &str)] = &[
    (r"\b1220[0-9a-f]{64}\b", "[MULTIHASH]"),
    (r"\b[0-9a-f]{64}\b", "[HASH]"),
    (r"\b[0-9a-f]{40}\b", "[HASH]"),
    (r"\b[0-9a-z]{4}(-[0-9a-z]{4}){3}\b", "[FINGERPRINT]"),
    (r"\b20\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?", "[TIME]"),
    (r"process \d+", "process [PID]"),
    (r#""(pid|uptime|peers)": \d+"#, r#""$1": [NUMBER]"#),
    (r#""namespaces": "[^"]*""#, r#""namespaces": "[NAMESPACES]""#),
    (r"\bup \d[\dhms ]*", "up [DURATION]"),
    (r"\d+ peers?, no DHT", "[PEERS], no DHT"),
    (r"silmaril \d+\.\d+\.\d+", "silmaril [VERSION]"),
    (r#""version": "\d+\.\d+\.\d+""#, r#""version": "[VERSION]""#),
    // The width of a column that has the path of a temporary directory.
    (r"(\[HOME\][^ \n]*)  +", "$1  "),
    (r"PATH +REASON", "PATH  REASON"),
];

/// Commands and their outputs.
#[derive(Default)]
pub struct Transcript {
    text: String,
    /// Paths that differ from run to run, with their replacements.
    paths: Vec<(String, &'static str)>,
    /// Whether nothing differs from run to run.
    exact: bool,
}

impl Transcript {
    /// A transcript of outputs that are the same in every run.
    pub fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    /// Has a path replaced by a name in what was added and is added.
    pub fn hide(&mut self, path: &Path, name: &'static str) {
        self.paths.push((path.display().to_string(), name));
    }

    /// Adds a command that has ended.
    pub fn add(&mut self, args: &[&str], end: &Finished) {
        self.text.push_str(&format!("$ silmaril {}\n{}", args.join(" "), end.stdout));
        if !end.stderr.is_empty() {
            self.text.push_str(&format!("[stderr]\n{}", end.stderr));
        }
        match end.status.code() {
            Some(0) => {}
            code => self.text.push_str(&format!("[exit code {}]\n", code.unwrap_or(-1))),
        }
        self.text.push('\n');
    }

    /// Compares the transcript with the recorded one of this name, in the directory of the test files.
    #[track_caller]
    pub fn compare(mut self, directory: &str, name: &str) {
        for (path, shown) in &self.paths {
            self.text = self.text.replace(path.as_str(), shown);
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory).join("snapshots"),
        );
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for (changing, shown) in if self.exact { &[] } else { CHANGING } {
            settings.add_filter(changing, *shown);
        }
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}
