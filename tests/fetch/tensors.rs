//! Windows in `.safetensors` files end with the tensor, unless the file is read as a whole.

use std::collections::BTreeSet;

use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};

const PEER: &str = "10.0.0.9:1";
const PIECE: u64 = 64 * KIB;

/// A file of tensors with the given lengths; returns its bytes and the start of each tensor.
fn safetensors(lens: &[u64]) -> (Vec<u8>, Vec<u64>) {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    let mut starts = vec![];
    for (i, len) in lens.iter().enumerate() {
        header.insert(
            format!("t{i}"),
            serde_json::json!({"dtype": "U8", "shape": [len], "data_offsets": [at, at + len]}),
        );
        starts.push(at);
        at += len;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(&header);
    let end = bytes.len() as u64;
    bytes.extend(noise(1, at));
    (bytes, starts.into_iter().map(|s| s + end).collect())
}

async fn stream(rig: &Rig, m: &TestModel, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let len = (32 * KIB).min(to - at);
        assert_eq!(rig.serve(m, 0, at, len).await.unwrap(), m.bytes(0, at, len));
        at += len;
    }
    rig.idle().await;
}

fn pieces(from: u64, to: u64) -> BTreeSet<u32> {
    ((from / PIECE) as u32..to.div_ceil(PIECE) as u32).collect()
}

#[tokio::test(start_paused = true)]
async fn reading_one_tensor_fetches_that_tensor() {
    let rig = Rig::new();
    let (bytes, starts) = safetensors(&[MIB, MIB, MIB, MIB]);
    let m = rig.model("o/m", PIECE, &[("m.safetensors", bytes)]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.serve(&m, 0, 0, 16 * KIB).await.unwrap();
    rig.idle().await;
    assert_eq!(rig.swarm.holds(m.info_hash).unwrap(), BTreeSet::from([0]), "opening");
    stream(&rig, &m, starts[2], starts[3]).await;
    let mut expected = pieces(starts[2], starts[3]);
    expected.insert(0);
    assert_eq!(rig.swarm.holds(m.info_hash).unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn file_read_in_order_is_fetched_ahead_across_tensors() {
    let rig = Rig::new();
    let (bytes, starts) = safetensors(&[MIB, MIB, MIB, MIB, MIB, MIB]);
    let m = rig.model("o/m", PIECE, &[("m.safetensors", bytes)]);
    rig.swarm.peer(m.info_hash, PEER, None);
    stream(&rig, &m, 0, starts[1] + 64 * KIB).await;
    let held = rig.swarm.holds(m.info_hash).unwrap();
    assert!(held.is_superset(&pieces(starts[3], starts[5])), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn invalid_header_makes_a_plain_file() {
    for header in [u64::MAX, 0, 100, 3 * MIB] {
        let rig = Rig::new();
        let mut bytes = header.to_le_bytes().to_vec();
        bytes.extend(noise(7, 2 * MIB));
        let m = rig.model("o/m", PIECE, &[("m.safetensors", bytes)]);
        rig.swarm.peer(m.info_hash, PEER, None);
        stream(&rig, &m, 0, 512 * KIB).await;
        let held = rig.swarm.holds(m.info_hash).unwrap();
        assert!(held.len() > 16, "header {header}: {held:?}");
    }
}
