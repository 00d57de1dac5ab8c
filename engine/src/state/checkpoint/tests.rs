//! Files that are whole, torn, damaged, of another changelog, and larger than one frame.

use super::frame::FRAME;
use super::*;

type Entry = (Vec<u8>, Option<Vec<u8>>);

fn put(key: &str, value: &str) -> Entry {
    (key.into(), Some(value.into()))
}

fn append(checkpoint: &mut Checkpoint, entries: &[Entry], next: i64, wall: Millis) -> io::Result<()> {
    checkpoint.write(entries.iter().map(|(k, v)| (k.as_slice(), v.as_deref())), next, wall)
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::new(dir, "s-0", "topic-1")
}

fn load(checkpoint: &mut Checkpoint, store: &mut Store) -> Option<Loaded> {
    loop {
        if let Load::Done(loaded) = checkpoint.load(store, 1) {
            return loaded;
        }
    }
}

fn content(dir: &Path) -> (Option<Loaded>, Vec<(Vec<u8>, Vec<u8>)>) {
    let mut store = Store::default();
    let loaded = load(&mut open(dir), &mut store);
    (loaded, store.entries().map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
}

fn fresh(dir: &Path) -> Checkpoint {
    let mut checkpoint = open(dir);
    checkpoint.build();
    checkpoint.restored(0, 0).unwrap().unwrap();
    checkpoint
}

#[test]
fn a_restart_finds_what_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = fresh(dir.path());
    append(&mut checkpoint, &[put("a", "1"), put("b", "2")], 10, 5).unwrap();
    append(&mut checkpoint, &[("a".into(), None), put("b", "3")], 12, 6).unwrap();
    let (loaded, entries) = content(dir.path());
    assert_eq!(loaded, Some(Loaded { next: 12, written: 6 }));
    assert_eq!(entries, [(b"b".to_vec(), b"3".to_vec())]);
    let mut store = Store::default();
    load(&mut checkpoint, &mut store);
    checkpoint.rewrite(&store, 12, 7).unwrap();
    append(&mut checkpoint, &[put("c", "4")], 13, 8).unwrap();
    assert_eq!(content(dir.path()).1.len(), 2);
}

#[test]
fn damage_anywhere_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = open(dir.path());
    checkpoint.build();
    checkpoint.part([(&b"a"[..], Some(&b"1"[..]))].into_iter()).unwrap();
    checkpoint.restored(10, 5).unwrap().unwrap();
    append(&mut checkpoint, &[put("b", "2")], 11, 5).unwrap();
    let path = dir.path().join("s-0.ckpt");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (loaded, entries) = content(dir.path());
        let next = loaded.map(|l| l.next);
        assert!(matches!((next, entries.len()), (None, 0) | (Some(10), 1)), "cut at {cut}: {next:?}");
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        let (loaded, entries) = content(dir.path());
        let next = loaded.map(|l| l.next);
        assert!(matches!((next, entries.len()), (None, 0) | (Some(10), 1)), "bit {bit}: {next:?}");
    }
}

/// Changes appended to a file that was lost would be taken for the whole state at the next start.
#[test]
fn a_file_that_was_lost_is_only_written_again_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = open(dir.path());
    assert!(checkpoint.needs_rewrite(0), "a new file is not complete");
    let mut store = Store::default();
    store.load(b"a", Some(b"1"));
    checkpoint.rewrite(&store, 10, 5).unwrap();
    assert!(!checkpoint.needs_rewrite(100));
    checkpoint.wipe();
    assert!(checkpoint.needs_rewrite(100));
    // Nor does a restore keep writing what has lost its beginning.
    checkpoint.part([(&b"b"[..], Some(&b"2"[..]))].into_iter()).unwrap();
    assert!(checkpoint.restored(11, 5).is_none());
    assert!(checkpoint.needs_rewrite(100) && content(dir.path()).0.is_none());
    // A folder in the way: neither form can be written, and nothing half is left.
    std::fs::create_dir(dir.path().join("s-0.new")).unwrap();
    assert!(checkpoint.rewrite(&store, 11, 6).is_err());
    assert!(checkpoint.needs_rewrite(100) && content(dir.path()).0.is_none());
}

/// State larger than a frame: it was one frame, which the reader refused above a gibibyte, so that large state was always
/// restored from its changelog.
#[test]
fn large_state_is_many_frames_and_is_loaded_in_portions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, value) = (Store::default(), vec![7; 100_000]);
    (0..100u32).for_each(|n| store.load(&n.to_be_bytes(), Some(&value)));
    let mut checkpoint = open(dir.path());
    checkpoint.rewrite(&store, 10, 5).unwrap();
    let path = dir.path().join("s-0.ckpt");
    let bytes = fs::read(&path).unwrap();
    let (mut at, mut largest, mut count) = (8 + 4 + "topic-1".len(), 0, 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        (at, largest, count) = (at + 8 + length, largest.max(length), count + 1);
    }
    assert!(largest < FRAME + 2 * value.len() && count > 5, "{count} frames, the largest of {largest} bytes");
    let (mut again, mut found, mut portions) = (open(dir.path()), Store::default(), 0);
    while again.load(&mut found, FRAME as u64) == Load::More {
        portions += 1;
    }
    assert!(portions > 5 && found.len() == 100 && found.bytes() == store.bytes());
    // Without its last frame a rewrite is nothing; behind a whole position, parts without an end are left out.
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    assert_eq!(content(dir.path()), (None, Vec::new()));
    let mut checkpoint = fresh(dir.path());
    append(&mut checkpoint, &[put("a", "1")], 3, 5).unwrap();
    checkpoint.part([(&b"a"[..], Some(&b"2"[..]))].into_iter()).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    assert_eq!(content(dir.path()).0, Some(Loaded { next: 3, written: 5 }));
    assert!(fs::metadata(&path).unwrap().len() < length, "the part was cut off");
}

#[test]
fn a_file_of_another_changelog_or_format_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    append(&mut fresh(dir.path()), &[put("a", "1")], 10, 5).unwrap();
    let mut store = Store::default();
    assert_eq!(load(&mut Checkpoint::new(dir.path(), "s-0", "topic-2"), &mut store), None);
    assert!(store.is_empty() && !dir.path().join("s-0.ckpt").exists());
    fs::write(dir.path().join("s-0.ckpt"), b"hwckpt1\nwhatever came next").unwrap();
    assert_eq!(content(dir.path()), (None, Vec::new()));
}

/// Runs this test again in a process that may write files of at most 64 KiB: further writes fail, as on a full disk.
fn on_a_full_disk(name: &str, test: impl FnOnce()) {
    const CHILD: &str = "HW_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_some() {
        return test();
    }
    let program = std::env::current_exe().unwrap();
    let script = "trap '' XFSZ; ulimit -f 128 && exec \"$0\" --exact \"$1\" --nocapture";
    let ran = std::process::Command::new("sh").args(["-c", script]).arg(program).arg(name).env(CHILD, "1").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_full_disk_keeps_no_part_of_a_file_and_is_tried_with_pauses() {
    on_a_full_disk("state::checkpoint::tests::a_full_disk_keeps_no_part_of_a_file_and_is_tried_with_pauses", || {
        let dir = tempfile::tempdir().unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let mut checkpoint = fresh(dir.path());
        let mut store = Store::default();
        store.load(b"k", Some(&[7; 200_000]));
        assert!(checkpoint.rewrite(&store, 1, 0).is_err());
        assert_eq!(files(), Vec::<std::ffi::OsString>::new());
        // What is appended, likewise.
        let mut checkpoint = fresh(dir.path());
        assert!(append(&mut checkpoint, &[("k".into(), Some(vec![7; 200_000]))], 1, 0).is_err());
        assert_eq!(files(), Vec::<std::ffi::OsString>::new());
        assert!(checkpoint.needs_rewrite(0));
        // An attempt per commit would write all state each time: of 1,000 commits within 100 s, five are tried.
        let mut tries = |commit: i64| checkpoint.committed(&store, &Store::default().apply(), Some(commit), (commit * 100, 0));
        let tried: Vec<_> = (0..1_000).filter_map(&mut tries).collect();
        assert!(tried.len() == 5 && tried.iter().all(Result::is_err), "{tried:?}");
        // A lane that ends doesn't wait for the pause, nor does one without records wait for a commit.
        assert!(checkpoint.catch_up(&store, false, (100_000, 0)).is_none());
        assert!(checkpoint.catch_up(&store, true, (100_000, 0)).unwrap().is_err());
        let small = Store::default();
        // There is room again.
        checkpoint.catch_up(&small, false, (10_000_000, 7)).unwrap().unwrap();
        assert!(!checkpoint.needs_rewrite(0) && checkpoint.catch_up(&small, true, (10_000_000, 7)).is_none());
        assert_eq!(content(dir.path()), (Some(Loaded { next: 999, written: 7 }), Vec::new()));
    });
}

#[test]
fn files_are_private_and_links_are_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let (state, victim) = (dir.path().join("state"), dir.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(fresh(&state));
    assert_eq!((mode(&state), mode(&state.join("s-0.ckpt"))), (0o700, 0o600));
    for link in ["s-0.new", "s-0.ckpt"] {
        let _ = fs::remove_file(state.join(link));
        symlink(&victim, state.join(link)).unwrap();
        let mut checkpoint = open(&state);
        if link == "s-0.ckpt" {
            assert_eq!(load(&mut checkpoint, &mut Store::default()), None);
        }
        checkpoint.rewrite(&Store::default(), 1, 0).unwrap();
        append(&mut checkpoint, &[put("a", "1")], 2, 0).unwrap();
        symlink(&victim, state.join("s-0.new")).unwrap();
        checkpoint.rewrite(&Store::default(), 3, 0).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{link}");
        assert_eq!(mode(&state.join("s-0.ckpt")), 0o600);
    }
}
