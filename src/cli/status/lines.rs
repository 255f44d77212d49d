//! The text of `status`: facts about the daemon, then a table of its transfers.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::format::{clean, count, percent, size};
use crate::cli::list::{code, pinned};
use crate::cli::table::{self, Column, number, text};
use crate::fetch::TransferStatus;
use crate::fetch::hub::HubStatus;
use crate::node::control::Status;
use crate::node::directory_faults::StorageProblem;
use crate::node::disputes::ModelNote;
use crate::node::limited::LimitedProcess;
use crate::node::space::LackOfSpace;
use crate::store::RefutedManifest;

/// Number of unresolved paths that are printed, the latest ones.
const MAX_UNRESOLVED: usize = 10;

/// Ordered by importance: on a narrow terminal the last columns are printed on separate lines.
const COLUMNS: [Column; 12] = [
    text("MODEL"),
    number("SIZE"),
    number("HERE"),
    number("DOWN"),
    number("UP"),
    number("PEERS (FULL)"),
    number("READS WAITING"),
    number("FROM PEERS"),
    number("FROM WEB"),
    number("SENT"),
    text("TRUST"),
    text("RUNS CODE"),
];

/// The lines for a terminal of `width` columns. Without a width no line is wrapped. Words are never broken.
pub(super) fn of(status: &Status, width: Option<usize>) -> Vec<String> {
    let mut lines = StatusLines { width, lines: Vec::new() };
    lines.node(status);
    if let Some(lack) = &status.space {
        lines.space(lack);
    }
    lines.names(status);
    lines.refuted(status);
    for StorageProblem { model, path, reason, help } in &status.problems {
        lines.fact("problem", &format!("{model}: {}: {reason}", path.display()));
        lines.fact("", &format!("help: {help}"));
    }
    for model in &status.hub {
        lines.hub(model);
    }
    for transfer in &status.transfers {
        lines.waits(transfer);
    }
    for transfer in &status.transfers {
        if let Some(error) = &transfer.last_error {
            lines.fact("last error", &format!("{}: {error}", transfer.model));
        }
    }
    let StatusLines { mut lines, .. } = lines;
    if status.transfers.is_empty() {
        lines.push("no transfers".to_owned());
        return lines;
    }
    lines.push(String::new());
    let row = |transfer: &TransferStatus| {
        row(transfer, status.notes.iter().find(|note| note.model == transfer.model))
    };
    lines.extend(table::render(&COLUMNS, &status.transfers.iter().map(row).collect::<Vec<_>>(), width));
    lines
}

struct StatusLines {
    width: Option<usize>,
    lines: Vec<String>,
}

impl StatusLines {
    fn fact(&mut self, heading: &str, text: &str) {
        self.lines.extend(table::fact(heading, &clean(text), self.width));
    }

    fn node(&mut self, status: &Status) {
        let first = format!(
            "daemon (process {}, silmaril {}, up {})",
            status.pid,
            clean(&status.version),
            time(status.uptime),
        );
        self.lines.extend(table::wrapped("", &first, self.width));
        self.fact("base directory", &status.base_dir.display().to_string());
        for mount in &status.mounts {
            let held = if mount.held { " (until the command that mounted it ends)" } else { "" };
            self.fact("mounted on", &format!("{}{held}", mount.path.display()));
        }
        if let Some(endpoint) = &status.endpoint {
            let sending = match endpoint.sending {
                0 => String::new(),
                files => format!(", sending {}", count(files as u64, "file")),
            };
            self.fact("endpoint", &format!("{}{sending}", endpoint.url));
        }
        if let Some(problem) = &status.endpoint_problem {
            self.fact("endpoint", &format!("not served: {problem}"));
        }
        if let Some(address) = &status.metrics {
            self.fact("metrics", &format!("http://{address}/metrics"));
        }
        if let Some(problem) = &status.metrics_problem {
            self.fact("metrics", &format!("not served: {problem}"));
        }
        let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
        self.fact("listening on", &listening.join(", "));
        if let Some(catalog) = &status.catalog {
            let dht =
                if status.dht { count(catalog.dht_nodes.into(), "DHT node") } else { "no DHT".to_owned() };
            let (records, peers) =
                (count(catalog.records as u64, "record"), count(catalog.peers as u64, "peer"));
            self.fact("catalog", &format!("{records}, {peers}, {dht}"));
        }
        for job in &status.jobs {
            let done = match job.total {
                0 => String::new(),
                total => format!(", {} of {}", percent(job.done, total), size(total)),
            };
            self.fact("for a command", &format!("{} (since {}{done})", job.activity, time(job.seconds)));
        }
    }

    /// The lack of space on the disk of the cache.
    fn space(&mut self, lack: &LackOfSpace) {
        let LackOfSpace { files, free, min_free } = lack;
        self.fact(
            "no space",
            &format!(
                "{} read through memory: {} free on the disk of the cache, {} stay free (cache.min_free)",
                count(*files as u64, "file"),
                size(*free),
                size(*min_free)
            ),
        );
    }

    /// The names that the mount cannot show, and the names that several publishers dispute.
    fn names(&mut self, status: &Status) {
        for process in &status.limited {
            let LimitedProcess { pid, command, lookups, seconds } = process;
            let lookups = count(*lookups, "unknown name");
            self.fact(
                "not looked up",
                &format!(
                    "{lookups} of {command} (process {pid}), beyond mount.max_lookups ({} ago)",
                    time(*seconds)
                ),
            );
        }
        let hidden = status.unresolved.len().saturating_sub(MAX_UNRESOLVED);
        if hidden > 0 {
            let hidden = count(hidden as u64, "earlier path");
            self.fact("not shown", &format!("{hidden}; `silmaril status --json` names all"));
        }
        for name in &status.unresolved[hidden..] {
            self.fact("not shown", &format!("{}: {} ({} ago)", name.model, name.reason, time(name.seconds)));
            self.paths(&name.paths);
        }
        for name in &status.disputed {
            let publishers: Vec<String> = name.publishers.iter().map(ToString::to_string).collect();
            self.fact("disputed", &format!("{}: published by {}", name.model, publishers.join(", ")));
            if let Some(kept) = &name.kept {
                self.fact("", &format!("the mount shows {kept}, read before, until it is unmounted"));
            }
            self.paths(&name.paths);
        }
    }

    /// The latest manifests that were refused because they contradict the hub.
    fn refuted(&mut self, status: &Status) {
        let hidden = status.refuted.len().saturating_sub(MAX_UNRESOLVED);
        for refuted in &status.refuted[hidden..] {
            let by = refuted.fingerprint.as_deref().unwrap_or("no publisher");
            let RefutedManifest { model, difference, .. } = refuted;
            self.fact("refused", &format!("{model}: the manifest of {by} contradicts the hub: {difference}"));
        }
    }

    /// The paths by which the model of one publisher can be read.
    fn paths(&mut self, paths: &[PathBuf]) {
        for path in paths {
            self.fact("", &format!("read {}", path.display()));
        }
    }

    /// A model that is read from the hub.
    fn hub(&mut self, model: &HubStatus) {
        let newer = if model.newer { "; the hub has a newer commit" } else { "" };
        let waits = match model.waiting_reads {
            0 => String::new(),
            reads => format!("; waiting: {}", count(reads as u64, "read")),
        };
        let here = percent(model.cached_bytes, model.total_size);
        let (total, received) = (size(model.total_size), size(model.downloaded));
        self.fact(
            "from the hub",
            &format!("{}: {here} of {total} here, {received} received{waits}{newer}", model.model),
        );
        if let Some(trouble) = &model.trouble {
            self.fact("", trouble);
        }
    }

    /// The stalled reads of a transfer.
    fn waits(&mut self, transfer: &TransferStatus) {
        for read in &transfer.stalled {
            let reads = count(read.waiting_reads as u64, "read");
            let verb = if read.waiting_reads == 1 { "waits" } else { "wait" };
            let what = format!("{}/{}", transfer.model, read.file);
            self.fact("stalled", &format!("{what}: {reads} {verb} (since {})", time(read.seconds)));
            self.fact("", &read.reason);
        }
    }
}

fn row(transfer: &TransferStatus, note: Option<&ModelNote>) -> Vec<String> {
    vec![
        clean(&transfer.model),
        size(transfer.total_size),
        percent(transfer.cached_bytes, transfer.total_size),
        format!("{}/s", size(transfer.download_rate + transfer.web_rate)),
        format!("{}/s", size(transfer.upload_rate)),
        format!("{} ({})", transfer.peers, transfer.seeds),
        or_none(transfer.waiting_reads, |reads| reads.to_string()),
        size(transfer.downloaded),
        or_none(transfer.downloaded_web, size),
        size(transfer.uploaded),
        note.map_or("-", |note| pinned(note.pinned)).to_owned(),
        note.map_or_else(|| "-".to_owned(), |note| code(&note.runs_code)),
    ]
}

/// The text of a figure, or `-` for zero, so that a narrow terminal needs fewer lines per model.
fn or_none<T: Default + PartialEq>(figure: T, text: impl FnOnce(T) -> String) -> String {
    if figure == T::default() { "-".to_owned() } else { text(figure) }
}

/// Formats a duration: `2m 5s`.
fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests;
