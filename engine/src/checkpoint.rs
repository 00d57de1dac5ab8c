//! The local checkpoint: a cache of the changelog on disk, so that a restart reads only what it missed (rule R2).
//!
//! One append-only file per step and partition. A frame is written after its commit was acknowledged, and carries the
//! changelog position that it brings the state up to; a checksum makes a torn or damaged tail harmless. Whatever is in
//! doubt (bad frame, another format, older than tombstones live, ahead of the changelog) is wiped and restored.
//! Files are not synced: after a power cut the tail is torn, and the changelog has it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use operator_core::Millis;

use crate::state::Store;

const MAGIC: &[u8; 8] = b"hwckpt1\n";
/// Largest frame that is believed.
const MAX_FRAME: u32 = 1 << 30;
/// A file is rewritten when it is larger than this and four times its content.
const REWRITE_BYTES: u64 = 32 << 20;

/// The checkpoint file of one step in one partition.
pub struct Checkpoint {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// The file holds everything up to its last position, so that changes may be appended. A file that was lost or could
    /// not be written is only made anew as a whole.
    complete: bool,
}

/// What was found on disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The changelog offset to read on from.
    pub next: i64,
    /// Wall clock when the last frame was written.
    pub written: Millis,
}

impl Checkpoint {
    /// The checkpoint of `name` in `dir`; nothing is read yet.
    pub fn new(dir: &Path, name: &str) -> Checkpoint {
        Checkpoint { path: dir.join(format!("{name}.ckpt")), file: None, size: 0, complete: false }
    }

    /// Loads the entries into `store`. `None` if there is nothing usable; the store is then empty.
    pub fn load(&mut self, store: &mut Store) -> Option<Loaded> {
        match self.try_load(store) {
            Ok(Some(loaded)) => {
                self.complete = true;
                Some(loaded)
            }
            Ok(None) | Err(_) => {
                *store = Store::default();
                self.wipe();
                None
            }
        }
    }

    fn try_load(&mut self, store: &mut Store) -> io::Result<Option<Loaded>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let length = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        let mut magic = [0; 8];
        if reader.read_exact(&mut magic).is_err() || &magic != MAGIC {
            return Ok(None);
        }
        let (mut good, mut loaded, mut body) = (8u64, None, Vec::new());
        while let Some((next, written)) = frame(&mut reader, length - good, &mut body, store)? {
            good += 8 + body.len() as u64;
            loaded = Some(Loaded { next, written });
        }
        drop(reader);
        if good < length {
            OpenOptions::new().write(true).open(&self.path)?.set_len(good)?;
        }
        self.size = good;
        Ok(loaded)
    }

    /// Appends what a commit changed, and the changelog position after it. Only for a file that is complete
    /// ([`Checkpoint::needs_rewrite`]).
    pub fn append(&mut self, entries: &[(Vec<u8>, Option<Vec<u8>>)], next: i64, wall: Millis) -> io::Result<()> {
        let frame = encode(entries.iter().map(|(k, v)| (k.as_slice(), v.as_deref())), next, wall);
        let result = self.write(&frame);
        if result.is_err() {
            self.wipe();
        }
        result
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            if let Some(dir) = self.path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            if file.metadata()?.len() == 0 {
                file.write_all(MAGIC)?;
                self.size = 8;
            }
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(frame)?;
        }
        self.size += frame.len() as u64;
        Ok(())
    }

    /// Whether the file must be written as a whole: it holds much more than the state does, or not all of it.
    pub fn needs_rewrite(&self, content: usize) -> bool {
        !self.complete || (self.size > REWRITE_BYTES && self.size > 4 * content as u64)
    }

    /// Replaces the file by the whole state: written beside it, then renamed over it.
    pub fn rewrite(&mut self, store: &Store, next: i64, wall: Millis) -> io::Result<()> {
        let result = self.replace(store, next, wall);
        match result {
            Ok(()) => self.complete = true,
            // What is left of the old file would lack what is not appended to it now.
            Err(_) => self.wipe(),
        }
        result
    }

    fn replace(&mut self, store: &Store, next: i64, wall: Millis) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(MAGIC)?;
        let frame = encode(store.entries().map(|(k, v)| (k, Some(v))), next, wall);
        file.write_all(&frame)?;
        fs::rename(&fresh, &self.path)?;
        self.file = None;
        self.size = 8 + frame.len() as u64;
        Ok(())
    }

    /// Forgets the file: it is in doubt.
    pub fn wipe(&mut self) {
        self.file = None;
        self.size = 0;
        self.complete = false;
        let _ = fs::remove_file(&self.path);
    }
}

fn encode<'a>(entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>, next: i64, wall: Millis) -> Vec<u8> {
    let mut frame = vec![0; 8];
    frame.extend_from_slice(&next.to_be_bytes());
    frame.extend_from_slice(&wall.to_be_bytes());
    for (key, value) in entries {
        frame.extend_from_slice(&(key.len() as u32).to_be_bytes());
        frame.extend_from_slice(key);
        match value {
            None => frame.extend_from_slice(&u32::MAX.to_be_bytes()),
            Some(value) => {
                frame.extend_from_slice(&(value.len() as u32).to_be_bytes());
                frame.extend_from_slice(value);
            }
        }
    }
    let body = frame.get(8..).unwrap_or_default();
    let (length, checksum) = ((body.len() as u32).to_be_bytes(), crc32fast::hash(body).to_be_bytes());
    for (at, byte) in frame.iter_mut().zip(length.into_iter().chain(checksum)) {
        *at = byte;
    }
    frame
}

/// Reads one frame into `store`; `None` at the end or at the first damage.
fn frame(reader: &mut impl Read, left: u64, body: &mut Vec<u8>, store: &mut Store) -> io::Result<Option<(i64, Millis)>> {
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    if left < 8 {
        return Ok(None);
    }
    reader.read_exact(&mut length)?;
    reader.read_exact(&mut checksum)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME || u64::from(length) > left - 8 || length < 16 {
        return Ok(None);
    }
    body.resize(length as usize, 0);
    reader.read_exact(body)?;
    if crc32fast::hash(body).to_be_bytes() != checksum {
        return Ok(None);
    }
    let mut rest = body.as_slice();
    let mut number = || -> Option<i64> {
        let (bytes, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(i64::from_be_bytes(*bytes))
    };
    let (Some(next), Some(written)) = (number(), number()) else { return Ok(None) };
    while !rest.is_empty() {
        let Some((key, after)) = sized(rest).and_then(|(k, r)| k.map(|k| (k, r))) else { return Ok(None) };
        let Some((value, after)) = sized(after) else { return Ok(None) };
        store.load(key, value);
        rest = after;
    }
    Ok(Some((next, written)))
}

type Sized<'a> = (Option<&'a [u8]>, &'a [u8]);

fn sized(bytes: &[u8]) -> Option<Sized<'_>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match u32::from_be_bytes(*length) {
        u32::MAX => Some((None, rest)),
        n => rest.split_at_checked(n as usize).map(|(v, r)| (Some(v), r)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = (Vec<u8>, Option<Vec<u8>>);

    fn put(key: &str, value: &str) -> Entry {
        (key.into(), Some(value.into()))
    }

    fn content(dir: &Path) -> (Option<Loaded>, Vec<(Vec<u8>, Vec<u8>)>) {
        let mut store = Store::default();
        let loaded = Checkpoint::new(dir, "s-0").load(&mut store);
        (loaded, store.entries().map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
    }

    #[test]
    fn a_restart_finds_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(dir.path(), "s-0");
        checkpoint.append(&[put("a", "1"), put("b", "2")], 10, 5).unwrap();
        checkpoint.append(&[("a".into(), None), put("b", "3")], 12, 6).unwrap();
        let (loaded, entries) = content(dir.path());
        assert_eq!(loaded, Some(Loaded { next: 12, written: 6 }));
        assert_eq!(entries, [(b"b".to_vec(), b"3".to_vec())]);
        let mut store = Store::default();
        checkpoint.load(&mut store);
        checkpoint.rewrite(&store, 12, 7).unwrap();
        checkpoint.append(&[put("c", "4")], 13, 8).unwrap();
        assert_eq!(content(dir.path()).1.len(), 2);
    }

    #[test]
    fn damage_anywhere_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(dir.path(), "s-0");
        checkpoint.append(&[put("a", "1")], 10, 5).unwrap();
        checkpoint.append(&[put("b", "2")], 11, 5).unwrap();
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
    fn a_file_that_was_lost_is_only_made_anew_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(dir.path(), "s-0");
        assert!(checkpoint.needs_rewrite(0), "a new file is not complete");
        let mut store = Store::default();
        store.load(b"a", Some(b"1"));
        checkpoint.rewrite(&store, 10, 5).unwrap();
        assert!(!checkpoint.needs_rewrite(100));
        checkpoint.wipe();
        assert!(checkpoint.needs_rewrite(100));
        // A folder in the way: neither form can be written, and nothing half is left.
        std::fs::create_dir(dir.path().join("s-0.new")).unwrap();
        assert!(checkpoint.rewrite(&store, 11, 6).is_err());
        assert!(checkpoint.needs_rewrite(100) && Checkpoint::new(dir.path(), "s-0").load(&mut Store::default()).is_none());
    }
}
