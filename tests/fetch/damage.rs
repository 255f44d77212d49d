//! Verified bytes that are wrong on the disk.
#![allow(clippy::single_range_in_vec_init)]

use std::os::unix::fs::FileExt;

use silmaril::model::PieceIndex;
use silmaril::torrent::Event;

use crate::support::rig::{MIB, Rig, noise};
use crate::support::swarm::Call;

#[tokio::test(start_paused = true)]
async fn damaged_pieces_are_withdrawn_and_fetched_again() {
    let rig = Rig::new();
    let files = [("w.bin", noise(1, 4 * MIB))];
    let model = rig.model("o/m", MIB, &files);
    rig.swarm.peer(model.info_hash, "10.0.0.9:1", None);
    assert_eq!(rig.serve(&model, 0, 0, 4 * MIB).await.unwrap(), model.bytes(0, 0, 4 * MIB));
    rig.idle().await;
    let content = &model.revision.contents[0];
    let file = std::fs::File::options().write(true).open(content.path()).unwrap();
    file.write_all_at(&[0; 100], 2 * MIB).unwrap();
    assert!(rig.fetch.withdraw_damaged(&model.info_hash, PieceIndex(2)));
    assert!(!rig.fetch.withdraw_damaged(&model.info_hash, PieceIndex(2)), "the damage is already recorded");
    assert!(rig.swarm.calls().contains(&Call::Withdraw(model.info_hash, vec![2])));
    assert_eq!(content.missing_ranges(0..4 * MIB), [2 * MIB..3 * MIB]);
    assert_eq!(rig.status(&model).damaged_bytes, MIB);
    assert_eq!(rig.serve(&model, 0, 0, 4 * MIB).await.unwrap(), model.bytes(0, 0, 4 * MIB));
    // The engine finds damage when it uploads.
    rig.swarm.send_event(|id| Event::PieceDamaged(id, PieceIndex(0)), model.info_hash);
    rig.idle().await;
    assert_eq!(content.missing_ranges(0..4 * MIB), [0..MIB]);
    assert_eq!(rig.status(&model).damaged_bytes, 2 * MIB);
}
