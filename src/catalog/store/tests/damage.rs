//! A damaged file is moved aside; only records with valid signatures are returned.

use redb::Database;

use super::*;

fn file(dir: &Path) -> PathBuf {
    dir.join("records.redb")
}

fn filled(dir: &Path) -> Vec<SharedRecord> {
    let records: Vec<_> = (0..200).map(|n| sign(&KEYS[0], &format!("x/m{n}"), n, NOW)).collect();
    let store = CatalogStore::open(dir, NOW).unwrap();
    store.insert(&records, NOW, &none_kept).unwrap();
    records
}

#[test]
fn damaged_store_opens_and_holds_no_false_record() {
    let dir = tempfile::tempdir().unwrap();
    let records = filled(dir.path());
    let sound = fs::read(file(dir.path())).unwrap();
    let aside = dir.path().join("records.redb.damaged");
    let mut move_aside = 0;
    let mut damages: Vec<Vec<u8>> = (0..60)
        .map(|n| {
            let mut bytes = sound.clone();
            let at = n * bytes.len() / 60 + n;
            bytes[at..(at + 64).min(sound.len())].fill(0xA5);
            bytes
        })
        .collect();
    damages.push(b"no database".to_vec());
    damages.push(vec![0; 5000]);
    damages.push(sound[..sound.len() / 2].to_vec());
    damages.push(sound[..100].to_vec());
    damages.push([&sound[..sound.len() / 2], &vec![0; sound.len() / 2]].concat());
    for bytes in damages {
        fs::write(file(dir.path()), &bytes).unwrap();
        let _ = fs::remove_file(&aside);
        let store = CatalogStore::open(dir.path(), NOW).unwrap();
        if aside.exists() {
            move_aside += 1;
            assert_eq!(store.len(), 0);
        }
        // The remaining records are valid, and the store works.
        for record in store.after(&KEYS[0].public(), -1, MAX_PAGE) {
            assert_eq!(SignedRecord::from_bytes(&record.to_bytes()).as_ref(), Ok(&*record));
            assert_eq!(record, records[record.record().sequence as usize]);
        }
        store.insert(&[sign(&KEYS[1], "x/y", 1, NOW)], NOW, &none_kept).unwrap();
        assert_eq!(store.of_name(&"x/y".parse().unwrap()).len(), 1);
    }
    assert!(move_aside > 10, "only {move_aside} damages were noticed");
}

#[test]
fn unreadable_row_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let records = filled(dir.path());
    {
        let database = Database::create(file(dir.path())).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut rows = disk::rows(&transaction).unwrap();
        rows.insert(&[7; 60], b"nonsense".as_slice()).unwrap();
        // A record under the key of another.
        rows.insert(&disk::key_of(records[5].record()), records[6].to_bytes().as_slice()).unwrap();
        drop(rows);
        transaction.commit().unwrap();
    }
    let store = CatalogStore::open(dir.path(), NOW).unwrap();
    assert_eq!(store.len(), 199);
    assert_eq!(store.after(&KEYS[0].public(), -1, MAX_PAGE).len(), 199);
    assert_eq!(store.insert(&records, NOW, &none_kept).unwrap()[5], StoreOutcome::Stored);
}

#[test]
fn unusable_but_undamaged_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let first = CatalogStore::open(dir.path(), NOW).unwrap();
    let error = CatalogStore::open(dir.path(), NOW).err().expect("it is in use").to_string();
    assert!(error.contains("records.redb"), "{error}");
    assert!(!dir.path().join("records.redb.damaged").exists());
    drop(first);
    fs::remove_file(file(dir.path())).unwrap();
    fs::create_dir(file(dir.path())).unwrap();
    assert!(CatalogStore::open(dir.path(), NOW).is_err());
}
