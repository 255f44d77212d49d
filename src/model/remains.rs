//! Names of files that other programs leave in a directory: helper files, which are not part of the model, and unfinished
//! downloads.
//!
//! Helper files are left out, because the same model downloaded by different programs must give the same torrent. The name
//! of an unfinished download is an error, because it must never be published as complete.

use super::text::percent_decode;

/// The kind of file that a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// A file or directory that is not part of the model.
    Helper,
    /// A directory in which a program stores files until they are complete. If it is empty, it is a [`Self::Helper`].
    Holds(Unfinished),
    /// An unfinished download.
    Unfinished(Unfinished),
}

/// The name of the program that writes the unfinished file, or a description of the file.
pub type Unfinished = &'static str;

/// Helper files and directories by their whole name.
const HELPERS: [&str; 22] = [
    // huggingface_hub before 0.25, hfd, ModelScope.
    ".huggingface",
    ".hfd",
    ".msc",
    ".mv",
    ".mdl",
    // Python and Jupyter.
    "__pycache__",
    ".ipynb_checkpoints",
    // macOS.
    ".DS_Store",
    ".AppleDouble",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".Trashes",
    ".fseventsd",
    // Windows, Synology, and the top of an ext file system.
    "Thumbs.db",
    "desktop.ini",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "lost+found",
    // Syncthing.
    ".stfolder",
    ".stignore",
    ".stversions",
];

/// Directories in which programs store files until they are complete.
const HOLDERS: [(&str, Unfinished); 3] =
    [("._____temp", "ModelScope"), (".rsync-partial", "rsync"), (".~tmp~", "rsync")];

/// Suffixes of unfinished files, in lower case.
const ENDINGS: [(&str, Unfinished); 23] = [
    (".aria2", "aria2"),
    (".aria2__temp", "aria2"),
    (".incomplete", "huggingface_hub"),
    (".downloadinprogress", "llama.cpp"),
    (".crdownload", "Chrome"),
    (".opdownload", "Opera"),
    (".part", "Firefox or JDownloader"),
    (".partial", "a browser or rclone"),
    (".download", "Safari"),
    (".tmp", "a temporary file"),
    (".!qb", "qBittorrent"),
    (".!ut", "µTorrent"),
    (".!bt", "a BitTorrent client"),
    (".bc!", "BitComet"),
    (".az!", "Vuze"),
    (".xltd", "Xunlei"),
    (".td.cfg", "Xunlei"),
    (".fdmdownload", "Free Download Manager"),
    (".downloading", "a download manager"),
    (".filepart", "WinSCP"),
    (".lftp-pget-status", "lftp"),
    (".gstmp", "gsutil"),
    (".ytdl", "yt-dlp"),
];

/// Classifies the name of a file or directory; none if it can be part of a model.
pub fn of(name: &str, is_dir: bool) -> Option<Remains> {
    if HELPERS.contains(&name) || is_helper(name) {
        return Some(Remains::Helper);
    }
    if let Some(&(_, program)) = HOLDERS.iter().find(|(holder, _)| *holder == name) {
        return Some(Remains::Holds(program));
    }
    // Safari makes a directory for an unfinished file. Other programs make only a file.
    if is_dir {
        return name.ends_with(".download").then_some(Remains::Unfinished("Safari"));
    }
    unfinished(name).map(Remains::Unfinished)
}

fn is_helper(name: &str) -> bool {
    let begins = |start: &str| name.starts_with(start);
    // A file that was deleted while it was open, on NFS and on FUSE.
    let deleted = [".nfs", ".fuse_hidden"].iter().find_map(|start| name.strip_prefix(start));
    deleted.is_some_and(|rest| rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
        // LibreOffice, and the trash of desktops.
        || begins(".~lock.") || begins(".Trash-")
        // Temporary files of silmaril that are left over after a kill.
        || begins(crate::fsutil::TEMP_PREFIX)
        // Resource forks of macOS.
        || (begins("._") && name != "._____temp")
        // Pieces of files that the user of a BitTorrent client did not choose.
        || (begins(".") && name.ends_with(".parts"))
}

fn unfinished(name: &str) -> Option<Unfinished> {
    let lower = name.to_ascii_lowercase();
    if let Some(&(_, program)) = ENDINGS.iter().find(|(ending, _)| lower.ends_with(ending)) {
        return Some(program);
    }
    if name.starts_with("sha256-") && (name.ends_with("-partial") || name.contains("-partial-")) {
        return Some("Ollama");
    }
    if name.starts_with(".azDownload-") {
        return Some("AzCopy");
    }
    let (base, suffix) = name.rsplit_once('.')?;
    let random = |len, of: fn(u8) -> bool| {
        suffix.len() == len
            && suffix.bytes().all(of)
            && suffix.bytes().any(|b| b.is_ascii_uppercase())
            && !suffix.bytes().all(|b| b.is_ascii_uppercase())
    };
    match base.strip_prefix('.') {
        // `.model.safetensors.Qx3bTd`
        Some(base) if base.contains('.') && random(6, |b| b.is_ascii_alphanumeric()) => Some("rsync"),
        // `model.safetensors.6eF5cEd5`
        None if base.contains('.') && random(8, |b| b.is_ascii_hexdigit()) => Some("the AWS client"),
        _ => None,
    }
}

/// The file to which an `axel` state file belongs: `X` for `X.st`. The name is a state file only if both files exist,
/// because `.st` is also a suffix of safetensors files.
pub fn axel_target(name: &str) -> Option<&str> {
    name.strip_suffix(".st").filter(|target| !target.is_empty())
}

/// Download lists of hfd. The first is for aria2, which removes completed entries, the second for wget.
pub const LISTS_OF_HFD: [&str; 2] = [".hfd/aria2c_urls.txt", ".hfd/wget_urls.txt"];

/// The files of such a list, as paths in the model's directory. An entry is a URL. In the list for aria2, indented lines
/// with directory and file name follow it.
pub fn listed_by_hfd(list: &str) -> Vec<String> {
    let (mut files, mut dir): (Vec<Option<String>>, &str) = (Vec::new(), "");
    for line in list.lines() {
        let option = line.trim_start();
        if option.len() == line.len() {
            // .../resolve/<revision>/<path>
            let path = line.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/'));
            files.extend((!line.is_empty()).then(|| path.and_then(|(_, path)| percent_decode(path))));
            dir = "";
        } else if let Some(given) = option.strip_prefix("dir=") {
            dir = given.trim_start_matches("./").trim_matches('.');
        } else if let (Some(name), Some(last)) = (option.strip_prefix("out="), files.last_mut()) {
            *last = Some(if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") });
        }
    }
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_downloads_are_recognised() {
        for (name, program) in [
            ("model.safetensors.aria2", "aria2"),
            ("model.safetensors.incomplete", "huggingface_hub"),
            ("Unconfirmed 123.crdownload", "Chrome"),
            ("model.gguf.part", "Firefox"),
            ("model.gguf.opdownload", "Opera"),
            ("0ca5ab71-8f2b-44c5-a5d2-ea1dbbf2d90f.tmp", "temporary"),
            ("model.gguf.!qB", "qBittorrent"),
            ("model.gguf.downloadInProgress", "llama.cpp"),
            ("sha256-abc-partial", "Ollama"),
            ("sha256-abc-partial-3", "Ollama"),
            (".model.safetensors.Qx3bTd", "rsync"),
            ("model.safetensors.6eF5cEd5", "AWS"),
        ] {
            match of(name, false) {
                Some(Remains::Unfinished(found)) => assert!(found.contains(program), "{name}: {found}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(of("model.gguf.download", true), Some(Remains::Unfinished("Safari")));
    }

    #[test]
    fn files_of_models_are_not_remains() {
        for name in [
            "model.safetensors",
            "model.st",
            "part",
            "model.gguf-00001-of-00002.gguf",
            "model.gguf.part1of2",
            ".gitattributes",
            ".gitignore",
            ".config.json.backup",
            ".eval_results",
            "weights.deadbeef",
            "model.ckpt-12345678.index",
            "tmp.json",
        ] {
            assert_eq!(of(name, false), None, "{name}");
        }
        for name in ["data.part", "x.tmp", "checkpoint.incomplete"] {
            assert_eq!(of(name, true), None, "the directory {name}");
        }
    }

    #[test]
    fn lists_of_hfd_are_read() {
        let aria2 = "https://h/o/m/resolve/main/a%20b\n dir=.\n out=a b\n gid=1\n\nhttps://cdn/xyz\n dir=sub/x\n out=c\n\n";
        assert_eq!(listed_by_hfd(aria2), ["a b", "sub/x/c"]);
        let wget = "https://h/o/m/resolve/main/a%20b\nhttps://h/o/m/resolve/refs%2Fpr%2F1/sub/c\n";
        assert_eq!(listed_by_hfd(wget), ["a b", "sub/c"]);
        assert!(listed_by_hfd(" out=a\n\n").is_empty());
    }
}
