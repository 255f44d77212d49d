use std::fs;

use super::*;
use crate::model::known_answers::{CASES, content};
use crate::model::metainfo::parse_metainfo;

static NEVER: AtomicBool = AtomicBool::new(false);

fn options(license: Option<&str>) -> DescribeOptions<'_> {
    DescribeOptions {
        license_needed: true,
        whole: true,
        hybrid: false,
        license,
        piece_length: 16384,
        description: None,
        source: None,
        known: HashMap::new(),
        follow: OutsideLinks::new(),
        progress: &|_, _| (),
        cancel: &NEVER,
    }
}

fn put(dir: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
    fs::write(dir.join(path), bytes).unwrap();
}

fn run(dir: &Path, options: &DescribeOptions<'_>) -> Result<Description, DescribeError> {
    describe(dir, &"org/model".parse().unwrap(), &Revision::default(), options)
}

/// A safetensors file of one tensor of `n` elements of two bytes.
fn tensors(dtype: &str, n: usize) -> Vec<u8> {
    let json = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[{n}],"data_offsets":[0,{}]}}}}"#, 2 * n);
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![0; 2 * n]].concat()
}

#[test]
fn a_directory_becomes_the_torrent_that_libtorrent_makes() {
    let dir = tempfile::tempdir().unwrap();
    let case = &CASES[0];
    for &(path, len, seed, _) in case.files {
        put(dir.path(), path, content(len, seed));
    }
    put(dir.path(), ".git/HEAD", "x");
    let done = AtomicU64::new(0);
    let progress = |at, total| {
        assert!(at <= total && total == 116_392);
        done.fetch_max(at, Ordering::Relaxed);
    };
    let described =
        run(dir.path(), &DescribeOptions { progress: &progress, ..options(Some("mit")) }).unwrap();
    assert_eq!(done.load(Ordering::Relaxed), 116_392);
    let manifest = &described.manifest;
    assert_eq!(manifest.torrent.info_hash.to_string(), case.info_hash);
    assert_eq!(described.metadata.iter().map(Metadata::len).sum::<u64>(), manifest.total_size);
    let parsed = parse_metainfo(&manifest.metainfo(Some(&described.piece_layers))).unwrap();
    assert_eq!(parsed.layers, described.piece_layers);
    assert_eq!(parsed.layers.len(), 1);
    assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), *manifest);
    assert_eq!(described.warnings, Vec::<String>::new());

    let again = run(dir.path(), &options(Some("other"))).unwrap();
    assert_eq!(again.manifest.torrent, manifest.torrent, "only files, name and piece length count");
}

#[test]
fn the_manifest_has_values_of_card_config_and_headers() {
    let dir = tempfile::tempdir().unwrap();
    let readme = "---\nlicense: other\nlicense_name: elvish\nlanguage: [en, sjn]\ntags: [t]\nbase_model: a/b\n---\nHello";
    put(dir.path(), "README.md", readme);
    put(
        dir.path(),
        "config.json",
        r#"{"architectures":["BertModel"],"model_type":"bert","max_position_embeddings":512}"#,
    );
    put(dir.path(), "model.safetensors", tensors("BF16", 1000));
    put(dir.path(), "onnx/other.safetensors", tensors("F16", 5000));
    let manifest = run(dir.path(), &options(None)).unwrap().manifest;
    assert_eq!(manifest.license.as_deref(), Some("other"));
    assert_eq!(manifest.card.other["license_name"], "elvish");
    assert_eq!(
        (manifest.card.languages.len(), manifest.card.base_model.len(), manifest.tags.len()),
        (2, 1, 1)
    );
    assert_eq!(manifest.architecture.as_deref(), Some("BertModel"));
    assert_eq!((manifest.parameters, manifest.dtype.as_deref()), (Some(1000), Some("BF16")));
    assert_eq!((manifest.context_length, manifest.source.unwrap().kind.as_str()), (Some(512), "local"));

    let flag = run(dir.path(), &options(Some("mit"))).unwrap();
    assert_eq!(flag.manifest.license.as_deref(), Some("mit"), "the option overrides the card");
}

#[test]
fn only_shards_of_the_index_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.safetensors", tensors("F16", 10));
    put(dir.path(), "b.safetensors", tensors("BF16", 30));
    put(dir.path(), "consolidated.safetensors", tensors("F16", 40));
    let index = |metadata: &str| {
        let text =
            format!(r#"{{"metadata":{metadata},"weight_map":{{"x":"a.safetensors","y":"b.safetensors"}}}}"#);
        put(dir.path(), "model.safetensors.index.json", text);
        run(dir.path(), &options(Some("mit"))).unwrap()
    };
    let counted = index("{\"total_size\":80}");
    assert_eq!((counted.manifest.parameters, counted.manifest.dtype.as_deref()), (Some(40), Some("BF16")));
    assert_eq!(index("{\"total_parameters\":39}").manifest.parameters, Some(39));
}

#[test]
fn doubtful_files_are_shared_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "README.md", "---\ntags: [\n---\n");
    put(dir.path(), "config.json", "{");
    let json = "{ no header";
    put(dir.path(), "model.safetensors", [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat());
    put(dir.path(), "pytorch_model.bin", b"PK\x03\x04rest");
    put(dir.path(), "weights.bin", b"\0\0\0\0 plain");
    let described = run(dir.path(), &options(Some("my licence"))).unwrap();
    for part in
        ["tags", "config.json", "model.safetensors is not", "pytorch_model.bin can run code", "my licence"]
    {
        assert!(
            described.warnings.iter().any(|w| w.contains(part)),
            "no {part:?} in {:?}",
            described.warnings
        );
    }
    assert_eq!(described.warnings.len(), 5, "{:?}", described.warnings);
    assert_eq!((described.manifest.parameters, described.manifest.files.len()), (None, 5));
}

#[test]
fn a_model_with_cut_or_missing_files_is_refused_before_hashing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cut = tensors("F16", 10);
    cut.pop();
    put(dir.path(), "a.safetensors", cut);
    put(
        dir.path(),
        "model.safetensors.index.json",
        r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#,
    );
    let progress = |_, _| panic!("hashed without need");
    let error =
        run(dir.path(), &DescribeOptions { progress: &progress, ..options(Some("mit")) }).unwrap_err();
    let text = error.to_string();
    for part in
        ["not complete", "a.safetensors is not whole", "b.safetensors is missing", "index.json names it"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // A mirror may have the same gaps as its repository.
    let mirrored = run(dir.path(), &DescribeOptions { whole: false, ..options(Some("mit")) }).unwrap();
    assert_eq!(mirrored.warnings.len(), 2, "{:?}", mirrored.warnings);
    assert_eq!(mirrored.manifest.parameters, None);
}

#[test]
fn helper_files_of_tools_do_not_change_the_torrent() {
    let hash = |remains: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for path in [".gitattributes", "config.json", "modeling_x.py", "onnx/model.onnx"] {
            put(dir.path(), path, path);
        }
        put(dir.path(), "model.safetensors", tensors("F16", 20_000));
        remains.iter().for_each(|path| put(dir.path(), path, "of a tool"));
        run(dir.path(), &options(Some("mit"))).unwrap().manifest.torrent.info_hash
    };
    let plain = hash(&[]);
    let tools: [(&str, &[&str]); 9] = [
        ("git clone", &[".git/HEAD", ".git/lfs/tmp/x", ".git/lfs/incomplete/y"]),
        (
            "hf download",
            &[".cache/huggingface/.gitignore", ".cache/huggingface/download/config.json.metadata"],
        ),
        ("hf download before 0.25", &[".huggingface/download/model.safetensors.lock"]),
        ("hfd", &[".hfd/repo_metadata.json", ".hfd/last_download_command", ".hfd/aria2c_urls.txt"]),
        ("modelscope", &[".msc", ".mv", ".mdl"]),
        ("macOS", &[".DS_Store", "onnx/.DS_Store", "._model.safetensors"]),
        ("Windows", &["Thumbs.db", "desktop.ini"]),
        ("Python", &["__pycache__/modeling_x.cpython-312.pyc", ".ipynb_checkpoints/a.ipynb"]),
        ("a network file system", &[".nfs000000000012345600000001", ".fuse_hidden0000000100000002"]),
    ];
    for (tool, remains) in tools {
        assert_eq!(hash(remains), plain, "{tool}");
    }
}

#[test]
fn executable_files_do_not_change_the_torrent() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "config.json", "{}");
    put(dir.path(), "run.sh", "#!/bin/sh");
    let described = || run(dir.path(), &options(Some("mit"))).unwrap().manifest;
    let plain = described();
    let set =
        |path: &str| fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
    let executable = |manifest: &Manifest| manifest.files.iter().map(|f| f.executable).collect::<Vec<_>>();
    set("run.sh");
    let one = described();
    assert_eq!((executable(&plain), executable(&one)), (vec![false, false], vec![false, true]));
    assert_eq!(plain.torrent, one.torrent);
    // All files are executable, as on a file system without modes.
    set("config.json");
    assert_eq!(executable(&described()), [false, false]);
}

#[test]
fn a_model_without_a_licence_is_refused_before_hashing() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "weights.bin", vec![0; 100]);
    let progress = |_, _| panic!("hashed without need");
    let error =
        run(dir.path(), &DescribeOptions { progress: &progress, ..options(None) }).unwrap_err().to_string();
    assert!(error.contains("licence") && error.contains("org/model"), "{error}");
    assert!(matches!(run(dir.path(), &options(Some(" "))), Err(DescribeError::License(_))));
}

#[test]
fn too_many_pieces_are_refused_before_hashing() {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
    let progress = |_, _| panic!("hashed without need");
    let error =
        run(dir.path(), &DescribeOptions { progress: &progress, ..options(Some("mit")) }).unwrap_err();
    assert!(error.to_string().contains("longer pieces"), "{error}");
}

#[test]
fn empty_models_and_padding_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a", "");
    put(dir.path(), "sub/b", "");
    let progress = |_, _| panic!("hashed without need");
    let options = || DescribeOptions { progress: &progress, ..options(Some("mit")) };
    let error = run(dir.path(), &options()).unwrap_err();
    assert!(error.to_string().contains("all files are empty"), "{error}");
    put(dir.path(), "_____padding_file_0_if you see this", "x");
    let error = run(dir.path(), &DescribeOptions { hybrid: true, ..options() }).unwrap_err().to_string();
    assert!(error.contains("_____padding_file_0") && error.contains("hybrid"), "{error}");
}

#[test]
fn a_v2_torrent_may_have_padding_names() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "_____padding_file_0_x", "x");
    assert_eq!(run(dir.path(), &options(Some("mit"))).unwrap().manifest.files.len(), 1);
}

#[test]
fn a_pointer_is_never_shared_as_its_file() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "README.md", "no pointer");
    let pointer = Pointer { sha256: crate::model::Sha256Digest([7; 32]), size: 5 };
    put(dir.path(), "a/x.gguf", pointer.to_string());
    let progress = |_, _| panic!("hashed without need");
    let error =
        run(dir.path(), &DescribeOptions { progress: &progress, ..options(Some("mit")) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("instead of files: a/x.gguf;") && text.contains("git lfs pull"), "{text}");
}

#[test]
fn known_hashes_are_used_while_the_stamp_is_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w");
    put(dir.path(), "w", vec![1; 40_000]);
    put(dir.path(), "other", vec![3; 10]);
    let control = Control { progress: &|_| (), cancel: &NEVER };
    let hashes = hash::hash_file(&path, 16384, control).unwrap();
    let sha256 = hashes.sha256;
    let describe_with = |hashes: &FileHashes, piece_length| {
        let known = HashMap::from([("w".to_owned(), hashes.clone())]);
        let options = DescribeOptions { known, piece_length, ..options(Some("mit")) };
        run(dir.path(), &options).unwrap().manifest
    };
    // Other bytes with the same stamp prove that the file was not read.
    let times = fs::FileTimes::new().set_modified(hashes.metadata.modified().unwrap());
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, &[2; 40_000])?;
            file.set_times(times)
        })
        .unwrap();
    let trusted = describe_with(&hashes, 16384);
    assert_eq!(trusted.files[1].sha256, Some(sha256));
    assert_eq!(trusted.files[1].pieces_root, hashes.pieces_root);
    // The layer is for another piece length, so the file is read.
    assert_ne!(describe_with(&hashes, 32768).files[1].sha256, Some(sha256));
    // A file of one piece needs only the root.
    assert_eq!(describe_with(&hashes, 65536).files[1].sha256, Some(sha256));
    put(dir.path(), "w", vec![2; 40_000]);
    assert_ne!(describe_with(&hashes, 16384).files[1].sha256, Some(sha256), "the stamp has changed");
}
