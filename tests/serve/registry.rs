//! The requests of `ollama pull`: the manifest of a tag, then each blob by its digest, in parts.

use sha2::{Digest as _, Sha256};

use crate::serve::rig::{Rig, bytes, json};

/// Writes GGUF files with the library of llama.cpp.
const WRITE: &str = "import sys, gguf, numpy as np\n\
    for path, seed in zip(sys.argv[1::2], sys.argv[2::2]):\n    \
    w = gguf.GGUFWriter(path, 'llama'); w.add_context_length(64)\n    \
    w.add_tensor('blk.0.weight', np.full((500, 500), float(seed), dtype=np.float32))\n    \
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()";

#[test]
fn tags_are_pulled_like_from_a_registry() {
    let mut rig = Rig::new();
    let dir = rig.publisher.home().join("m");
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    rig.script("venv", WRITE, &[&path("m-Q4_K_M.gguf"), "1", &path("m-Q8_0.gguf"), "2"]).ok();
    std::fs::write(dir.join("template"), "{{ .Prompt }}").unwrap();
    std::fs::write(dir.join("LICENSE"), "MIT").unwrap();
    rig.share(&dir, "acme/m", &[]);
    rig.serve();

    let answers = rig.requests(
        "[('GET', '/v2/', {}), ('GET', '/v2/acme/m/manifests/latest', {'Accept': 'application/vnd.docker.distribution.manifest.v2+json'}),\
          ('GET', '/v2/acme/m/manifests/Q8_0', {}), ('GET', '/v2/acme/m/manifests/Q2_K', {}), ('GET', '/v2/acme/none/manifests/latest', {})]",
    );
    let statuses: Vec<u64> = answers.iter().map(|a| a["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200, 404, 404]);
    assert!(json(&answers[3])["error"].as_str().unwrap().contains("Q4_K_M, Q8_0"), "{}", answers[3]);
    for (answer, file) in [(&answers[1], "m-Q4_K_M.gguf"), (&answers[2], "m-Q8_0.gguf")] {
        let manifest = json(answer);
        assert_eq!(manifest["schemaVersion"], 2);
        let layers = manifest["layers"].as_array().unwrap();
        let kinds: Vec<&str> =
            layers.iter().map(|l| l["mediaType"].as_str().unwrap().rsplit('.').next().unwrap()).collect();
        assert_eq!(kinds, ["model", "template", "license"]);
        for (layer, file) in layers.iter().zip([file, "template", "LICENSE"]) {
            let expected = std::fs::read(dir.join(file)).unwrap();
            let digest = layer["digest"].as_str().unwrap();
            assert_eq!(digest, format!("sha256:{}", hex::encode(Sha256::digest(&expected))), "{file}");
            assert_eq!(layer["size"], expected.len());
            // The size by HEAD, then parts.
            let half = expected.len() / 2;
            let parts = rig.requests(&format!(
                "[('HEAD', '/v2/acme/m/blobs/{digest}', {{}}), ('GET', '/v2/acme/m/blobs/{digest}', {{'Range': 'bytes=0-{}'}}),\
                  ('GET', '/v2/acme/m/blobs/{digest}', {{'Range': 'bytes={half}-{}'}})]",
                half - 1,
                expected.len() - 1
            ));
            assert_eq!(parts[0]["headers"]["content-length"], expected.len().to_string());
            assert_eq!([&parts[1]["status"], &parts[2]["status"]], [206, 206]);
            assert_eq!([bytes(&parts[1]), bytes(&parts[2])].concat(), expected);
        }
        let digest = manifest["config"]["digest"].as_str().unwrap();
        let config = &rig.requests(&format!("[('GET', '/v2/acme/m/blobs/{digest}', {{}})]"))[0];
        assert_eq!(format!("sha256:{}", hex::encode(Sha256::digest(bytes(config)))), digest);
        let config = json(config);
        assert_eq!((&config["model_family"], &config["model_format"]), (&"llama".into(), &"gguf".into()));
        assert_eq!(config["rootfs"]["diff_ids"][0], layers[0]["digest"]);
    }
    let absent = format!("/v2/acme/m/blobs/sha256:{}", "0".repeat(64));
    assert_eq!(rig.requests(&format!("[('GET', '{absent}', {{}})]"))[0]["status"], 404);
}
