use super::*;
use crate::cli::samples::models;

#[test]
fn list_fits_eighty_columns() {
    let expected = "\
MODEL                                       SIZE  HERE  SHARED      TRUST
acme/very-long-model-name-of-the-kind-that-the-hub-has-0.5b-instruct@v1.0.2
                                        87.4 MiB    9%  not shared  pinned
    publisher eb6p-x112-rg3z-pv89  licence apache-2.0
    reason its licence is not known to permit passing it on
datasets/acme/mine                      1.00 KiB  100%  not shared  -
    path /home/ada/.silmaril/models/datasets/acme/mine
acme/from-the-hub                       87.4 MiB    9%  not shared  -
    publisher the hub  licence apache-2.0
    reason read from the hub, which has a newer commit
sentence-transformers/all-MiniLM-L6-v2  87.4 MiB    9%  yes         pinned
    publisher dora (eb6p-x112-rg3z-pv89)  licence apache-2.0
    runs code pickle, auto_map
    path /home/ada/.silmaril/models/sentence-transformers/all-MiniLM-L6-v2";
    assert_eq!(lines(&models(), Some(80)).join("\n"), expected);
}

#[test]
fn list_fits_two_hundred_columns() {
    let expected = "\
MODEL                                                                            SIZE  HERE  SHARED      TRUST   PUBLISHER                   LICENCE     RUNS CODE
acme/very-long-model-name-of-the-kind-that-the-hub-has-0.5b-instruct@v1.0.2  87.4 MiB    9%  not shared  pinned  eb6p-x112-rg3z-pv89         apache-2.0  -
    reason its licence is not known to permit passing it on
datasets/acme/mine                                                           1.00 KiB  100%  not shared  -       -                           -           -
    path /home/ada/.silmaril/models/datasets/acme/mine
acme/from-the-hub                                                            87.4 MiB    9%  not shared  -       the hub                     apache-2.0  -
    reason read from the hub, which has a newer commit
sentence-transformers/all-MiniLM-L6-v2                                       87.4 MiB    9%  yes         pinned  dora (eb6p-x112-rg3z-pv89)  apache-2.0  pickle, auto_map
    path /home/ada/.silmaril/models/sentence-transformers/all-MiniLM-L6-v2";
    assert_eq!(lines(&models(), Some(200)).join("\n"), expected);
}
