use super::*;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

fn put(dir: &Path, path: &str) {
    fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
    fs::write(dir.join(path), path).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    scan(dir, &OutsideLinks::new()).unwrap().into_iter().map(|file| file.path).collect()
}

#[test]
fn caches_and_helper_files_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let shared =
        ["1_Pooling/config.json", "1_Pooling.json", ".gitattributes", ".eval_results/x.yaml", "config.json"];
    let left_out = [
        ".git/HEAD",
        "sub/.git/HEAD",
        ".cache/huggingface/x",
        ".silmaril.json",
        ".m.bin.silmaril-partial",
        ".silmaril-tmp-x7",
        ".~lock.table.csv#",
        ".huggingface/download/m.bin.metadata",
        ".hfd/repo_metadata.json",
        ".msc",
        ".mv",
        ".mdl",
        ".DS_Store",
        "sub/._m.bin",
        ".ipynb_checkpoints/m-checkpoint.ipynb",
        "sub/__pycache__/modeling.cpython-312.pyc",
        ".nfs000000000012345600000001",
        "Thumbs.db",
    ];
    shared.iter().chain(&left_out).for_each(|path| put(dir.path(), path));
    let expected =
        [".eval_results/x.yaml", ".gitattributes", "1_Pooling/config.json", "1_Pooling.json", "config.json"];
    assert_eq!(names(dir.path()), expected);
}

fn refused_for(make: &[&str]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cache/org/model___1");
    put(&root, "model.safetensors");
    make.iter().for_each(|path| put(&root, path));
    scanned(&root).map_err(|error| error.to_string())
}

#[test]
fn unfinished_downloads_are_refused_by_name() {
    for (remains, program) in [
        ("model.safetensors.aria2", "aria2"),
        ("sub/model.gguf.part", "Firefox"),
        ("Unconfirmed 1.crdownload", "Chrome"),
        ("model.gguf.download/model.gguf", "Safari"),
        ("model.gguf.!qB", "qBittorrent"),
        ("model.safetensors.incomplete", "huggingface_hub"),
        (".cache/huggingface/download/sub/m.1a2b.incomplete", "huggingface_hub"),
        (".huggingface/download/m.1a2b.incomplete", "huggingface_hub"),
        ("._____temp/sub/model.safetensors", "ModelScope"),
        ("../../._____temp/org/model.1/model.safetensors", "ModelScope"),
        (".rsync-partial/model.safetensors", "rsync"),
        ("model.safetensors.st", "axel"),
    ] {
        let error = refused_for(&[remains]).unwrap_err();
        let name = remains.trim_start_matches("../").replace("/model.gguf.download/model.gguf", "");
        let name = name.trim_end_matches("/model.gguf");
        assert!(
            error.contains(name) && error.contains(program) && error.contains("unfinished downloads"),
            "{remains}: {error}"
        );
    }
    let both = refused_for(&["a.aria2", "b.part"]).unwrap_err();
    assert!(both.contains("a.aria2 (aria2)") && both.contains("b.part ("), "{both}");
}

#[test]
fn helper_files_of_finished_downloads_are_accepted() {
    let whole = Ok(vec!["model.safetensors".to_owned()]);
    assert_eq!(refused_for(&[".cache/huggingface/download/model.safetensors.metadata"]), whole);
    assert_eq!(refused_for(&["../../._____temp/org/other/model.safetensors"]), whole);
    assert_eq!(refused_for(&["other.st"]).map(|files| files.len()), Ok(2));
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors");
    fs::create_dir(dir.path().join("._____temp")).unwrap();
    assert_eq!(names(dir.path()), ["model.safetensors"]);
}

#[test]
fn pending_files_of_hfd_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "sub/a.bin");
    fs::create_dir(dir.path().join(".hfd")).unwrap();
    let list = "https://h/o/m/resolve/main/sub/a.bin\n dir=sub\n out=a.bin\n\n";
    fs::write(dir.path().join(".hfd/aria2c_urls.txt"), list).unwrap();
    assert_eq!(names(dir.path()), ["sub/a.bin"]);
    fs::write(dir.path().join(".hfd/aria2c_urls.txt"), list.replace("a.bin", "b.bin")).unwrap();
    let error = scanned(dir.path()).unwrap_err().to_string();
    assert!(error.contains("sub/b.bin (hfd)"), "{error}");
}

#[test]
fn unfinished_blobs_of_the_hub_cache_are_refused() {
    let (_dir, hub) = visible();
    let snapshot = hub.join("models--org--name/snapshots/1");
    put(&snapshot, "config.json");
    put(&hub, "models--org--other/blobs/def.incomplete");
    assert_eq!(names(&snapshot), ["config.json"]);
    put(&hub, "models--org--name/blobs/abc.incomplete");
    let error = scanned(&snapshot).unwrap_err().to_string();
    assert!(error.contains("models--org--name/blobs/abc.incomplete (huggingface_hub)"), "{error}");
}

fn scanned(dir: &Path) -> Result<Vec<String>, ScanError> {
    Ok(scan(dir, &OutsideLinks::new())?.into_iter().map(|file| file.path).collect())
}

/// A directory whose name does not begin with a dot, unlike the names of other temporary directories.
fn visible() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("scan-").tempdir().unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    (dir, real)
}

#[test]
fn links_of_the_hub_cache_are_followed() {
    let (_dir, hub) = visible();
    let repository = hub.join("models--org--name");
    for path in ["models--org--name/blobs/abc", "blobs/12/345", "blobs-not/x", "models--org--other/blobs/def"]
    {
        put(&hub, path);
    }
    // As in huggingface_hub 2.4: a blob that is a link to a blob that all repositories share.
    symlink("../../blobs/12/345", repository.join("blobs/345")).unwrap();
    let snapshot = repository.join("snapshots/1");
    fs::create_dir_all(snapshot.join("sub")).unwrap();
    symlink("../../blobs/abc", snapshot.join("model.bin")).unwrap();
    symlink("../../../blobs/345", snapshot.join("sub/shared.bin")).unwrap();
    let files = scan(&snapshot, &OutsideLinks::new()).unwrap();
    assert_eq!((files[0].path.as_str(), &files[0].source), ("model.bin", &repository.join("blobs/abc")));
    assert_eq!((files[1].path.as_str(), &files[1].source), ("sub/shared.bin", &hub.join("blobs/12/345")));
    symlink(&snapshot, hub.join("entry")).unwrap();
    assert_eq!(names(&hub.join("entry")), names(&snapshot));
    assert_eq!(names(&snapshot.join("sub")), ["shared.bin"]);
    for outside in ["blobs-not/x", "models--org--other/blobs/def"] {
        symlink(hub.join(outside), snapshot.join("x")).unwrap();
        let error = scanned(&snapshot).unwrap_err();
        assert!(matches!(&error, ScanError::Outside { link, .. } if link.ends_with("x")), "{error}");
        fs::remove_file(snapshot.join("x")).unwrap();
    }
    // The rule holds only for directories of the hub cache.
    let other = hub.join("other/snapshots/1");
    put(&hub, "other/blobs/abc");
    fs::create_dir_all(&other).unwrap();
    symlink("../../blobs/abc", other.join("x")).unwrap();
    assert!(matches!(scanned(&other), Err(ScanError::Outside { .. })));
}

#[test]
fn each_kind_of_link_is_followed_or_refused() {
    let (_dir, top) = visible();
    let root = top.join("model");
    for path in ["model/a/file", "model/b/file", "out/file", "out/deep/file", ".ssh/id", "out/.env", "theirs"]
    {
        put(&top, path);
    }
    symlink("a/file", root.join("inside")).unwrap();
    symlink(root.join("b"), root.join("inside-dir")).unwrap();
    let inside = ["a/file", "b/file", "inside", "inside-dir/file"];
    assert_eq!(scanned(&root).unwrap(), inside);
    assert_eq!(outside_links(&root).unwrap(), OutsideLinks::new());

    let check = |link: &str, target: &str, part: &str, approved: Option<&[&str]>| {
        let at = root.join(link);
        symlink(target, &at).unwrap();
        let error = scanned(&root).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(at.to_str().unwrap()), "no {part} in {error}");
        match (outside_links(&root), approved) {
            (Ok(links), Some(more)) => {
                let found: Vec<String> =
                    scan(&root, &links).unwrap().into_iter().map(|file| file.path).collect();
                let mut all = [&inside[..], more].concat();
                all.sort();
                assert_eq!(found, all, "{link}");
            }
            (Err(refused), None) => assert_eq!(refused.to_string(), error),
            (found, _) => panic!("{link}: {found:?}"),
        }
        fs::remove_file(at).unwrap();
    };
    check("x", "../out/file", "outside the shared directory", Some(&["x"]));
    check("a/x", "../../out/deep", "outside the shared directory", Some(&["a/x/file"]));
    symlink("../../out/file", root.join("b/y")).unwrap();
    symlink("b/y", root.join("chain")).unwrap();
    assert_eq!(outside_links(&root).unwrap().len(), 3, "b/y, inside-dir/y and chain");
    for link in ["b/y", "chain"] {
        fs::remove_file(root.join(link)).unwrap();
    }
    // Refused even if the user follows links.
    check("x", "../.ssh/id", "hidden", None);
    check("x", "../.ssh", "hidden", None);
    check("x", "../out/.env", "hidden", None);
    let follow = |part: &str| {
        symlink("../out", root.join("x")).unwrap();
        let error = outside_links(&root).unwrap_err().to_string();
        assert!(error.contains(part), "no {part} in {error}");
        let approved = OutsideLinks::from([("x".to_owned(), top.join("out"))]);
        assert_eq!(scan(&root, &approved).unwrap_err().to_string(), error);
        fs::remove_file(root.join("x")).unwrap();
    };
    follow("hidden");
    std::os::unix::fs::chown(top.join("theirs"), Some(4242), Some(4242)).unwrap();
    check("x", "../theirs", "belongs to another user", None);
    fs::remove_file(top.join("out/.env")).unwrap();
    std::os::unix::fs::chown(top.join("out/deep/file"), Some(4242), Some(4242)).unwrap();
    follow("belongs to another user");
    fs::remove_file(top.join("out/deep/file")).unwrap();
    symlink(root.join("a/file"), top.join("out/deep/back")).unwrap();
    check("x", "../out", "outside the shared directory", Some(&["x/deep/back", "x/file"]));
    check("x", "nowhere", "does not exist", None);
    check("x", "x", "around it", None);
    check("a/x", "..", "around it", None);
    // Two directories with links to each other.
    symlink("../b", root.join("a/b")).unwrap();
    symlink("../a", root.join("b/a")).unwrap();
    assert!(matches!(scanned(&root), Err(ScanError::Loop(_))));
}

#[test]
fn an_approval_is_valid_for_one_target() {
    let (_dir, top) = visible();
    for path in ["model/a", "one", "two"] {
        put(&top, path);
    }
    let root = top.join("model");
    symlink("../one", root.join("x")).unwrap();
    let approved = outside_links(&root).unwrap();
    assert_eq!(approved, OutsideLinks::from([("x".to_owned(), top.join("one"))]));
    assert_eq!(scan(&root, &approved).unwrap().len(), 2);
    fs::remove_file(root.join("x")).unwrap();
    symlink("../two", root.join("x")).unwrap();
    let error = scan(&root, &approved).unwrap_err();
    assert!(matches!(&error, ScanError::Outside { target, .. } if target.ends_with("two")), "{error}");
}

#[test]
fn exponentially_many_linked_directories_are_refused() {
    let (_dir, top) = visible();
    // Each directory has two links to the next: 2^40 paths, and no file.
    for level in 0..40 {
        fs::create_dir(top.join(level.to_string())).unwrap();
    }
    for level in 0..39 {
        for way in ["a", "b"] {
            symlink(format!("../{}", level + 1), top.join(level.to_string()).join(way)).unwrap();
        }
    }
    assert!(matches!(scanned(&top), Err(ScanError::TooMany(_))));
}

#[test]
fn errors_name_the_file_that_cannot_be_shared() {
    let check = |make: &dyn Fn(&Path), part: &str, name: &str| {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "sub/config.json");
        make(dir.path());
        let error = scan(dir.path(), &OutsideLinks::new()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(name), "no {part:?} and {name:?} in {error:?}");
    };
    check(&|dir| symlink("nowhere", dir.join("sub/gone")).unwrap(), "does not exist", "sub/gone");
    check(&|dir| symlink("..", dir.join("sub/up")).unwrap(), "around it", "sub/up");
    check(&|dir| symlink("self", dir.join("self")).unwrap(), "around it", "self");
    check(&|dir| drop(UnixListener::bind(dir.join("s")).unwrap()), "socket", "/s");
    check(&|dir| fs::write(dir.join("a\\b"), "").unwrap(), "backslash", "b");
    check(&|dir| fs::write(dir.join("a\nb"), "").unwrap(), "control", "b");
    check(&|dir| fs::write(dir.join(OsStr::from_bytes(b"a\xffb")), "").unwrap(), "not UTF-8", "a");
    let fifo = |dir: &Path| {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("p"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    check(&fifo, "named pipe", "/p");
}

#[test]
fn a_directory_without_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(scanned(dir.path()), Err(ScanError::Empty(_))));
    put(dir.path(), ".git/HEAD");
    assert!(matches!(scanned(dir.path()), Err(ScanError::Empty(_))));
    assert!(matches!(scanned(&dir.path().join(".git/HEAD")), Err(ScanError::NotADirectory(_))));
    assert!(matches!(scanned(&dir.path().join("none")), Err(ScanError::Io { .. })));
}
