//! The local checkpoint: a cache of the changelog on disk, so that a restart reads only what it missed (rule R2).
//!
//! ```text
//! file   hwckpt2\n · length and id of the changelog topic · frames
//! frame  length · CRC-32 · changelog position, or PART · wall clock · entries
//! ```
//!
//! One append-only file per step and partition. What a commit changed is one frame or several, none much larger than
//! [`frame::FRAME`]: all but the last are a `PART` of what the last one's position stands for, and count only if that one is whole.
//! A checksum makes a torn or damaged tail harmless: entries of parts without an end were committed behind the last whole
//! position, so the changelog is read over them again. A file that can't be trusted (a bad frame at the start, another format,
//! another changelog, older than tombstones live, ahead of the changelog) is deleted and restored from the changelog.
//! Files are not synced: after a power cut the tail is torn, and the changelog has it.

mod frame;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use operator_core::Millis;

use self::frame::{PART, frame, frames};
use crate::state::{Applied, Store};

pub use self::frame::Loaded;

const MAGIC: &[u8; 8] = b"hwckpt2\n";
/// A file is rewritten when it is larger than this and four times its content.
const REWRITE_BYTES: u64 = 32 << 20;
/// Pauses after a file could not be written: doubled from the first to the second. Each attempt writes all state.
const PAUSE: (Millis, Millis) = (5_000, 300_000);

/// How much of a file can be relied on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It lacks something: it is only written again as a whole.
    Nothing,
    /// All that is in the store was written, and the position comes at the end of the restore.
    Building,
    /// Everything up to its last position, so that changes may be appended.
    Everything,
}

/// The checkpoint file of one step in one partition.
pub struct Checkpoint {
    path: PathBuf,
    /// What the file begins with.
    head: Vec<u8>,
    file: Option<File>,
    size: u64,
    held: Held,
    loading: Option<Loading>,
    /// The last pause after a failure, and the monotonic time of its end.
    pause: Option<(Millis, Millis)>,
    /// The changelog position of the state, while the file doesn't have it.
    owed: Option<i64>,
}

/// A file that is being read.
struct Loading {
    reader: BufReader<File>,
    length: u64,
    read: u64,
    /// The end of the last whole position, and that position.
    whole: (u64, Option<Loaded>),
    body: Vec<u8>,
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// There is more: call again.
    More,
    /// The entries are in the store; `None` if there was nothing usable, and the store is empty.
    Done(Option<Loaded>),
}

impl Checkpoint {
    /// The checkpoint of `name` in `dir`, for the changelog topic with this id; nothing is read yet.
    pub fn new(dir: &Path, name: &str, changelog: &str) -> Checkpoint {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&(changelog.len() as u32).to_be_bytes());
        head.extend_from_slice(changelog.as_bytes());
        Checkpoint {
            path: dir.join(format!("{name}.ckpt")),
            head,
            file: None,
            size: 0,
            held: Held::Nothing,
            loading: None,
            pause: None,
            owed: None,
        }
    }

    /// Loads about `budget` bytes into `store`, from the beginning at the first call. To be called until it is done.
    pub fn load(&mut self, store: &mut Store, budget: u64) -> Load {
        let loaded = match self.load_some(store, budget) {
            Ok(Load::More) => return Load::More,
            Ok(Load::Done(loaded)) => loaded,
            Err(_) => None,
        };
        self.loading = None;
        match loaded {
            Some(_) => self.held = Held::Everything,
            None => {
                *store = Store::default();
                self.wipe();
            }
        }
        Load::Done(loaded)
    }

    fn load_some(&mut self, store: &mut Store, budget: u64) -> io::Result<Load> {
        let mut loading = match self.loading.take() {
            Some(loading) => loading,
            None => match self.open()? {
                Some(loading) => loading,
                None => return Ok(Load::Done(None)),
            },
        };
        let pause = loading.read + budget;
        while loading.read < pause {
            let left = loading.length - loading.read;
            let Some(position) = frame(&mut loading.reader, left, &mut loading.body, store)? else {
                let (end, loaded) = loading.whole;
                if loaded.is_some() && end < loading.length {
                    OpenOptions::new().write(true).open(&self.path)?.set_len(end)?;
                }
                self.size = end;
                return Ok(Load::Done(loaded));
            };
            loading.read += 8 + loading.body.len() as u64;
            if let Some(loaded) = position {
                loading.whole = (loading.read, Some(loaded));
            }
        }
        self.loading = Some(loading);
        Ok(Load::More)
    }

    /// Opens the file if it is of this format and of this changelog.
    fn open(&self) -> io::Result<Option<Loading>> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_file() => {}
            // Not a file of ours.
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
        let file = File::open(&self.path)?;
        let (length, start) = (file.metadata()?.len(), self.head.len() as u64);
        let mut reader = BufReader::new(file);
        let mut head = vec![0; self.head.len()];
        if reader.read_exact(&mut head).is_err() || head != self.head {
            return Ok(None);
        }
        Ok(Some(Loading { reader, length, read: start, whole: (start, None), body: Vec::new() }))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes what a commit has changed, which is in `store` already, and the changelog position after them, or nothing while
    /// it pauses after a failure. Without the position the file would claim too much. Times: monotonic, wall clock.
    pub fn committed(
        &mut self,
        store: &Store,
        applied: &Applied,
        next: Option<i64>,
        (now, wall): (Millis, Millis),
    ) -> Option<io::Result<()>> {
        self.owed = next;
        let Some(next) = next else {
            self.wipe();
            return None;
        };
        if self.needs_rewrite(store.bytes()) {
            return self.catch_up(store, false, (now, wall));
        }
        let written = self.write(applied.entries(), next, wall);
        Some(self.wrote(written, now))
    }

    /// Writes the whole state if the file lacks some of it. After a failure it waits for the end of a pause, unless this is the `last`
    /// opportunity. Times: monotonic, wall clock.
    pub fn catch_up(&mut self, store: &Store, last: bool, (now, wall): (Millis, Millis)) -> Option<io::Result<()>> {
        let next = self.owed.filter(|_| last || self.pause.is_none_or(|(_, end)| now >= end))?;
        let written = self.rewrite(store, next, wall);
        Some(self.wrote(written, now))
    }

    fn wrote(&mut self, written: io::Result<()>, now: Millis) -> io::Result<()> {
        let longer = |(last, _): (Millis, Millis)| (last * 2).min(PAUSE.1);
        self.pause = written.is_err().then(|| self.pause.map_or(PAUSE.0, longer)).map(|pause| (pause, now + pause));
        if written.is_ok() {
            self.owed = None;
        }
        written
    }

    /// Begins a file that a restore from the beginning of the changelog fills.
    pub fn build(&mut self) {
        self.wipe();
        self.held = Held::Building;
    }

    /// Appends what a restore has read. It counts once [`Checkpoint::restored`] gives the position.
    pub fn part<'a>(&mut self, entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> io::Result<()> {
        if self.held == Held::Nothing {
            return Ok(());
        }
        self.write(entries, PART, 0)
    }

    /// The restore has reached the end of the changelog, which is `next`. `None`: the file could not be written before, and is to be
    /// written as a whole.
    pub fn restored(&mut self, next: i64, wall: Millis) -> Option<io::Result<()>> {
        self.owed = Some(next);
        if self.held == Held::Nothing {
            return None;
        }
        let written = self.write(std::iter::empty(), next, wall);
        if written.is_ok() {
            (self.held, self.owed) = (Held::Everything, None);
        }
        Some(written)
    }

    /// Appends entries, and the changelog position after them or [`PART`].
    fn write<'a>(&mut self, entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>, next: i64, wall: Millis) -> io::Result<()> {
        let result = self.try_write(entries, next, wall);
        if result.is_err() {
            self.wipe();
        }
        result
    }

    fn try_write<'a>(&mut self, entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>, next: i64, wall: Millis) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(match self.size {
                0 => {
                    let mut file = self.create(&self.path)?;
                    file.write_all(&self.head)?;
                    self.size = self.head.len() as u64;
                    file
                }
                _ => OpenOptions::new().append(true).open(&self.path)?,
            });
        }
        if let Some(file) = &mut self.file {
            self.size += frames(entries, next, wall, file)?;
        }
        Ok(())
    }

    /// Whether the file must be written as a whole: it holds much more than the state does, or not all of it.
    fn needs_rewrite(&self, content: usize) -> bool {
        self.held != Held::Everything || (self.size > REWRITE_BYTES && self.size > 4 * content as u64)
    }

    /// A new file that nobody else may read, in place of whatever has this name: a link is not followed.
    fn create(&self, path: &Path) -> io::Result<File> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)
    }

    /// Replaces the file by the whole state: written beside it, then renamed over it.
    fn rewrite(&mut self, store: &Store, next: i64, wall: Millis) -> io::Result<()> {
        let result = self.replace(store, next, wall);
        match result {
            Ok(()) => self.held = Held::Everything,
            Err(_) => {
                // The old file would lack what is not appended to it now.
                self.wipe();
                let _ = fs::remove_file(self.fresh());
            }
        }
        result
    }

    fn replace(&mut self, store: &Store, next: i64, wall: Millis) -> io::Result<()> {
        let fresh = self.fresh();
        let mut file = BufWriter::new(self.create(&fresh)?);
        file.write_all(&self.head)?;
        let written = frames(store.entries().map(|(k, v)| (k, Some(v))), next, wall, &mut file)?;
        file.flush()?;
        fs::rename(&fresh, &self.path)?;
        self.file = None;
        self.size = self.head.len() as u64 + written;
        Ok(())
    }

    /// The file beside it, until it is whole.
    fn fresh(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// Deletes the file: it can't be trusted.
    fn wipe(&mut self) {
        self.file = None;
        self.loading = None;
        self.size = 0;
        self.held = Held::Nothing;
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
