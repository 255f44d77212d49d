use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use super::*;

/// The number of a user who has no other role in the tests.
const OTHER: u32 = 4242;

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(OTHER), Some(OTHER)).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A real directory, with `victim/file` in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir(real.join("victim")).unwrap();
    fs::write(real.join("victim/file"), b"precious").unwrap();
    (dir, real)
}

#[track_caller]
fn assert_refused<T>(done: io::Result<T>, part: &str) {
    let error = done.err().expect("it was done");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn no_operation_follows_a_link() {
    let (_dir, real) = place();
    fs::write(real.join("own"), b"own").unwrap();
    symlink("victim/file", real.join("last")).unwrap();
    symlink("victim", real.join("dir")).unwrap();
    let (last, below) = (real.join("last"), real.join("dir/file"));
    for path in [&last, &below] {
        assert_refused(read(path), "symbolic link");
        assert_refused(write(path), "symbolic link");
        assert_refused(open(path, OFlags::RDWR | OFlags::CREATE, 0o644), "symbolic link");
        assert_refused(read_capped(path, 100), "symbolic link");
    }
    assert!(metadata(&last).unwrap().is_symlink());
    assert_refused(metadata(&below), "symbolic link");
    assert_refused(create_dir_all(&real.join("dir/new")), "symbolic link");
    assert_refused(create_dir_all(&last), "symbolic link");
    assert_refused(read_dir(&real.join("dir")), "symbolic link");
    assert_refused(sync_dir(&real.join("dir")), "symbolic link");
    for change in [rename, rename_new] {
        assert_refused(change(&real.join("own"), &below), "symbolic link");
        assert_refused(change(&below, &real.join("stolen")), "symbolic link");
    }
    assert_refused(remove_if_there(&below), "symbolic link");
    assert_refused(remove_dir_all(&below), "symbolic link");
    assert_refused(write_atomic(&below, b"x", 0o644), "symbolic link");
    assert_refused(hard_link(&read(&real.join("own")).unwrap(), &real.join("own"), &below), "symbolic link");
    // An operation that replaces or removes a name replaces or removes the link.
    write_atomic(&last, b"mine", 0o644).unwrap();
    assert_eq!(fs::read(&last).unwrap(), b"mine");
    remove_dir_all(&real.join("dir")).unwrap();
    assert!(!exists(&real.join("dir")));
    assert_eq!(fs::read(real.join("victim/file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(real.join("victim")).unwrap().count(), 1);
}

#[test]
fn kernel_without_openat2_follows_no_link() {
    let (_dir, real) = place();
    symlink("victim/file", real.join("last")).unwrap();
    symlink("victim", real.join("dir")).unwrap();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &str| walk(CWD, &real.join(path), flags, Mode::empty()).map(drop);
    assert_eq!(open("victim/file"), Ok(()));
    assert_eq!(open("last"), Err(Errno::LOOP));
    assert_eq!(open("dir/file"), Err(Errno::LOOP));
    assert_eq!(open("dir/none"), Err(Errno::LOOP));
    assert_eq!(open("victim/none"), Err(Errno::NOENT));
    assert_eq!(open("victim/file/x"), Err(Errno::NOTDIR));
    let directory = flags | OFlags::PATH | OFlags::DIRECTORY;
    assert_eq!(walk(CWD, &real.join("dir"), directory, Mode::empty()).map(drop), Err(Errno::LOOP));
    let dir = open_below(CWD, &real, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let below = |path: &str| walk(dir.as_fd(), Path::new(path), flags, Mode::empty()).map(drop);
    assert_eq!((below("victim/file"), below("dir/file")), (Ok(()), Err(Errno::LOOP)));
}

#[test]
fn staging_directory_of_other_users_is_refused() {
    let (_dir, real) = place();
    let staging = real.join(format!(".m{PARTIAL_SUFFIX}"));
    let file = staging.join("sub/file");
    let inode = create_staging(&staging, None).unwrap();
    assert_eq!(fs::metadata(&staging).unwrap().mode() & 0o777, 0o700);
    create_dir_all(&staging.join("sub")).unwrap();
    create_new(&file).unwrap();
    fs::write(real.join("own"), b"own").unwrap();
    let all_refuse = |part: &str| {
        assert_refused(create_staging(&staging, None), part);
        assert_refused(create_dir_all(&staging), part);
        assert_refused(create_dir_all(&staging.join("more")), part);
        assert_refused(read(&file), part);
        assert_refused(write(&file), part);
        assert_refused(create_new(&staging.join("new")), part);
        assert_refused(rename(&file, &real.join("out")), part);
        assert_refused(rename(&real.join("own"), &staging.join("in")), part);
        assert_refused(write_atomic(&staging.join("in"), b"x", 0o600), part);
        assert_refused(remove_if_there(&staging.join("sub")), part);
    };
    set_mode(&staging, 0o770);
    all_refuse("can be written to by other users");
    set_mode(&staging, 0o700);
    chown(&staging, Some(OTHER), Some(OTHER)).unwrap();
    all_refuse("was made by another user");
    chown(&staging, Some(0), Some(0)).unwrap();
    read(&file).unwrap();

    // Another directory at its path is refused; a directory that is made again is accepted.
    assert_eq!(create_staging(&staging, Some(inode)).unwrap(), inode);
    fs::rename(&staging, real.join("away")).unwrap();
    fs::create_dir(&staging).unwrap();
    set_mode(&staging, 0o700);
    assert_refused(create_staging(&staging, Some(inode)), "not the directory");
    fs::remove_dir(&staging).unwrap();
    assert_ne!(create_staging(&staging, Some(inode)).unwrap(), inode);
    fs::remove_dir_all(&staging).unwrap();
    symlink(real.join("victim"), &staging).unwrap();
    assert_refused(create_staging(&staging, None), "symbolic link");
}

#[test]
fn links_are_followed_only_above_the_named_directory() {
    let (_dir, real) = place();
    let shared = real.join("shared");
    fs::create_dir_all(shared.join("inner")).unwrap();
    set_mode(&shared, 0o1777);
    symlink(&shared, real.join("prefix")).unwrap();
    give_away(&real.join("prefix"));
    symlink(real.join("victim"), shared.join("planted")).unwrap();
    give_away(&shared.join("planted"));
    symlink("inner", shared.join("own")).unwrap();
    symlink("inner", real.join("root's")).unwrap();
    let find = |named: &str, below: &str| real_path(&real.join(named), Path::new(below));

    assert_eq!(find("prefix/new", "").unwrap(), shared.join("new"));
    assert_eq!(find("prefix/own", "").unwrap(), shared.join("inner"));
    assert_eq!(find("shared", "own/org/name").unwrap(), shared.join("inner/org/name"));
    assert_eq!(find("shared/none/../inner", "").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_refused(find("shared/planted", ""), "planted");
    assert_refused(find("prefix/planted", "org"), "planted");
    assert_refused(find("shared", "planted/name"), "planted");
    // A link of another user is followed in a directory to which that user cannot write: a trusted user has put it there.
    set_mode(&shared, 0o755);
    assert_eq!(find("shared/planted", "x").unwrap(), real.join("victim/x"));
    symlink("loop", shared.join("loop")).unwrap();
    assert!(find("shared/loop", "").is_err());
}

#[test]
fn pipe_and_directory_are_refused_without_waiting() {
    let (_dir, real) = place();
    let pipe = real.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_refused(read(&pipe), "not a regular file");
    assert_refused(read(&real.join("victim")), "not a regular file");
    assert_refused(read(Path::new("relative")), "not an absolute path");
}

#[test]
fn new_file_does_not_replace_an_existing_one() {
    let (_dir, real) = place();
    fs::write(real.join("ready"), b"new").unwrap();
    let error = rename_new(&real.join("ready"), &real.join("victim/file")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(create_new(&real.join("victim/file")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    write_atomic(&real.join("a/b/c"), b"1", 0o600).unwrap();
    write_volatile(&real.join("a/b/c"), b"2", 0o600).unwrap();
    assert_eq!(fs::read(real.join("a/b/c")).unwrap(), b"2");
    assert_eq!(fs::metadata(real.join("a/b/c")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(real.join("a/b")).unwrap().count(), 1, "a temporary file is left");
    remove_empty_parents(&real.join("a/b/none"), &real);
    assert!(exists(&real.join("a/b/c")));
    remove_dir_all(&real.join("a")).unwrap();
    assert!(!exists(&real.join("a")));
}
