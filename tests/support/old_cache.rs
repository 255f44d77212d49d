//! A cache in the format of older versions: data, and a map of blocks that were not proved.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: u64 = 16 << 10;

/// Path of the map file of `data` with this suffix.
fn map_path(data: &Path, suffix: &str) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes `bytes` as the data file of a content, and a map of an older version with the ranges `held`.
pub fn plant(data: &Path, bytes: &[u8], held: &[Range<u64>]) {
    let len = bytes.len() as u64;
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
    std::fs::write(data, bytes).unwrap();
    let mut bits = vec![0u8; len.div_ceil(BLOCK).div_ceil(8) as usize];
    for block in held.iter().flat_map(|range| range.start / BLOCK..range.end.div_ceil(BLOCK)) {
        bits[block as usize / 8] |= 1 << (block % 8);
    }
    let map = [b"silmmap1".as_slice(), &len.to_le_bytes(), &[0; 16], &bits].concat();
    std::fs::write(map_path(data, ".have.synced"), map).unwrap();
}

/// Turns the maps of a content that this version wrote into maps of an older version.
pub fn outdate(data: &Path) {
    for map in [".have", ".have.synced"].map(|suffix| map_path(data, suffix)) {
        let map = std::fs::File::options().write(true).open(map).unwrap();
        map.write_all_at(b"silmmap1", 0).unwrap();
    }
}

/// Changes one byte of a file.
pub fn flip(data: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(data).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}
