//! Torrents made by libtorrent 2.0.8 (`create_torrent`, `v2_only | no_attributes`), for tests.

/// One torrent and its hashes.
pub struct Case {
    pub what: &'static str,
    pub name: &'static str,
    pub piece_length: u32,
    /// Path, length, seed of the content, pieces root.
    pub files: &'static [(&'static str, u64, u64, &'static str)],
    pub info_hash: &'static str,
    /// SHA-256 of the bencoded `piece layers`.
    pub layers_sha256: &'static str,
}

/// The bytes of a file of a case.
pub fn content(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|i| (i * i + i / 251 + seed) as u8).collect()
}

pub const CASES: &[Case] = &[
    Case {
        what: "nested directories, an empty file, component order",
        name: "model",
        piece_length: 16384,
        files: &[
            ("a/b", 3, 1, "78026285c2fdd16b3165808b8c3d1ddeca7bd12b27be4c80542db1881d15db4a"),
            ("a.b", 5, 2, "05344dcc47892c3eaaebb8066966292549fadbb0d80872e62ad6e82fb6e1a866"),
            ("a-b/c", 16384, 3, "b3544d26dd34610bf58e408142f4c5ab0ddf57d882f2e8b8a17d839c34a6e78f"),
            ("empty", 0, 0, ""),
            ("z/y/x.bin", 100000, 4, "43034c4e6c781b7169b7c175a0435ad08fc5d056513798b81067e22e46640d10"),
        ],
        info_hash: "7ab4219ea7d341393ea2d712f5a349d8d26e921fa6903ae47d5c20c5ae431831",
        layers_sha256: "8d672a7d9968669f29a4416936b740450917237e93c53dca8846c197f59bcdf1",
    },
    Case {
        what: "one file at the top",
        name: "single",
        piece_length: 16384,
        files: &[("only.gguf", 40000, 5, "75485c93a1401cfb7979023e0ff5aeb9f564e41ba38dc1bd157f7bc3d4e3a403")],
        info_hash: "b045df3e99869c1eaa995d4c07230bb39ce5a0ad2a53bc809fe2de0a6f3efe97",
        layers_sha256: "f3d0239c6ef95a608f6b173ceda4366f193f67b38362d3f89b8689f30e589d93",
    },
    Case {
        what: "larger pieces, sizes around their bounds",
        name: "m-7B",
        piece_length: 65536,
        files: &[
            ("one", 1, 6, "67586e98fad27da0b9968bc039a1ef34c939b9b8e523a8bef89d478608c5ecf6"),
            ("block", 16384, 7, "0932e2c161e53355bb43d8e6d84061bc52968a0e73e81e0ee94743e0b43076c3"),
            ("block1", 16385, 8, "f0659038ad94bbda0cf0535ef4159de7b49bd0b82eb373023ad795fecb670298"),
            ("piece", 65536, 9, "a5d49c7bb2441d1f5e588c5ded0e5fbfad06455156a1948f404d322eed9bedb0"),
            ("piece1", 65537, 10, "cfd9b9f5551f696050b09f65bdf3f13bb00494a0253940c9b0711e1c00d31a7b"),
            ("three", 196608, 11, "3efa1718f2ca236355ed9b8eb85ce6ce5dad66d298e17e08fdeb731ab049cd55"),
            ("many", 1000000, 12, "9b1b66be62abc82367005d47fc69c42d0d9846641afe01fd7b26c832ee3ba539"),
            (".gitattributes", 30, 13, "d5d3a81a29f18818d6d4bd790801a56adb74f6246d1ab1af1217f7dce56d6b7f"),
        ],
        info_hash: "e255f2b7b8be5672245c744a4ac26569237ec2a572dfe4b90fb2cbba798d9a61",
        layers_sha256: "7e44f1ae3945dc1f45d51e0fe1e811faa73d567c1f09e71c83b9feb64b983e3d",
    },
    Case {
        what: "names beyond ASCII",
        name: "modèle",
        piece_length: 32768,
        files: &[
            (
                "模型/weights.bin",
                70000,
                14,
                "d423066cdb654c75b8676953fc6ce701dd1ba593f4f05d2b4835cffbff108126",
            ),
            ("Ünïcode", 9, 15, "ee14eb243d25b57bbbe42f79feb0d97196f8b0f31a1b56b505336d8bb77be472"),
        ],
        info_hash: "4791749490282d333fa35ac73c91f2910ade4abecd82f2984f0437700247ba2b",
        layers_sha256: "fd3425eb213a17d3b5c664f1cd8b4850a311c8e34b082188286e35211604bde1",
    },
];
