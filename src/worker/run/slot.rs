//! The slot of a worker: its name, and its part of the state folder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use headwater_engine::pipeline::can_name_a_pipeline;
use sha2::Digest;

use crate::config::can_name_a_worker;

/// Ends the name of the file with the address of a worker's pages.
const PAGES: &str = ".http";

/// A worker's slot: the first free one of the state folder, held by a file lock that dies with the process, so that a
/// restart takes the same slot again and settles what it left open.
pub struct Slot {
    pub name: String,
    pub dir: PathBuf,
    _lock: Option<File>,
}

impl Slot {
    /// Takes `id`, or the first free slot of `state_dir`.
    pub fn take(state_dir: &Path, pipeline: &str, id: Option<&str>) -> Result<Slot, String> {
        let base = state_folder(state_dir, pipeline)?;
        if let Some(id) = id.filter(|id| !can_name_a_worker(id)) {
            return Err(format!(
                "`{id}` can't be the name of a worker (worker.id): letters, digits, `.`, `_` and `-`, a letter or digit first"
            ));
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
        let names: Vec<String> = match id {
            Some(id) => vec![id.to_string()],
            None => {
                // Workers with other state folders on the same host must not share transactional ids.
                let folder = base.canonicalize().map_err(|e| e.to_string())?;
                let mark = sha2::Sha256::digest(folder.as_os_str().as_encoded_bytes());
                let mark: String = mark.iter().take(3).map(|b| format!("{b:02x}")).collect();
                (0..64).map(|n| format!("{host}-{mark}-{n}")).collect()
            }
        };
        for name in names {
            let lock = base.join(format!("{name}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&lock)
                .map_err(|e| format!("{}: {e}", lock.display()))?;
            if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Slot { dir: base.join(&name), name, _lock: Some(file) });
            }
        }
        Err(format!("running processes hold every worker slot of {}", base.display()))
    }
}

impl Slot {
    /// Writes where the pages of this worker are beside its folder, where [`addresses`] finds it.
    pub fn show(&self, address: SocketAddr) -> Result<(), String> {
        let mut file = self.dir.clone().into_os_string();
        file.push(PAGES);
        std::fs::write(&file, address.to_string()).map_err(|e| format!("{}: {e}", Path::new(&file).display()))
    }
}

/// Where the pages of the workers are, or were, that had a pipeline's folder on this machine.
pub fn addresses(base: &Path) -> Vec<SocketAddr> {
    let files = std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let pages = files.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(PAGES)));
    pages.filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok()).collect()
}

/// The workers of this machine that run, by the slots that they hold in a pipeline's folder.
pub fn held(base: &Path) -> Vec<String> {
    let files = std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let name = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".lock")?.to_string();
        let lock = File::open(&path).ok()?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err().then_some(name)
    };
    let mut names: Vec<String> = files.filter_map(name).collect();
    names.sort_unstable();
    names
}

/// Why a state folder that is a link is refused.
pub fn is_a_link(folder: &Path) -> String {
    format!("the state folder {} is a link: name the folder itself in `worker.state_dir`", folder.display())
}

/// What may have happened in a folder that others can write. One of another owner can't be closed, and is an error.
pub const EXPOSED: &str =
    "other users can write the state folder and may have changed its checkpoints: if in question, delete its files. The start closes it";

/// Whether other users can change what is in a folder.
pub fn writable_by_others(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|found| found.permissions().mode() & 0o022 != 0)
}

/// The folder of a pipeline's workers, readable by their user alone. A folder left by an earlier version is restricted to mode 0700.
///
/// # Errors
/// It can't be made or closed, or it is a link.
pub fn state_folder(state_dir: &Path, pipeline: &str) -> Result<PathBuf, String> {
    if !can_name_a_pipeline(pipeline) {
        return Err(format!("`{pipeline}` can't be the name of a pipeline"));
    }
    let base = state_dir.join(pipeline);
    let fail = |e: std::io::Error| format!("the state folder {} can't be used: {e}", base.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&base).map_err(fail)?;
    if !std::fs::symlink_metadata(&base).map_err(fail)?.is_dir() {
        return Err(is_a_link(&base));
    }
    if writable_by_others(&base) {
        tracing::warn!(folder = %base.display(), "{EXPOSED}");
    }
    std::fs::set_permissions(&base, Permissions::from_mode(0o700)).map_err(fail)?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_slot_stays_in_its_folder_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for id in ["../../../x", "..", "/x", "a/b", "", "-x", ".hidden", "x\u{0}", &"x".repeat(101)] {
            assert!(Slot::take(&state, "orders", Some(id)).is_err(), "{id}");
        }
        assert!(Slot::take(&state, "../orders", None).is_err());
        // Open to others, as a version before this one left it.
        std::fs::create_dir_all(state.join("orders")).unwrap();
        std::fs::set_permissions(state.join("orders"), Permissions::from_mode(0o755)).unwrap();
        let slot = Slot::take(&state, "orders", Some("worker-1.eu_west")).unwrap();
        assert_eq!(slot.dir, state.join("orders/worker-1.eu_west"));
        assert_eq!(held(&state.join("orders")), ["worker-1.eu_west"]);
        assert_eq!((mode(&state.join("orders")), mode(&state.join("orders/worker-1.eu_west.lock"))), (0o700, 0o600));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, state.join("linked")).unwrap();
        assert!(Slot::take(&state, "linked", None).is_err_and(|e| e.contains("is a link")));
    }
}
