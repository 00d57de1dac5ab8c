//! PostgreSQL as the distribution packages it, with a data folder of its own.
//!
//! The server refuses to run as root, so root starts it as the user `postgres`, which the package creates. It listens on 127.0.0.1 without
//! passwords, and does not wait for the disk: the data ends with the environment.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::LocalError;
use crate::process::{Launch, tail_lines};

/// The user who owns every database.
pub const USER: &str = "hw";
/// The user that runs the server, where root starts it.
const ACCOUNT: &str = "postgres";

fn missing(install: &'static str) -> LocalError {
    LocalError::MissingTool { tool: "postgres", install }
}

/// The folder of the newest server that is installed.
fn programs() -> Result<PathBuf, LocalError> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let found = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").is_file());
    let number = |bin: &PathBuf| bin.parent().and_then(|dir| dir.file_name()?.to_str()?.parse::<u32>().ok());
    found.max_by_key(number).ok_or_else(|| missing("install the PostgreSQL server (Debian: postgresql)"))
}

/// The ids of the account, if this process is root.
fn account() -> Result<Option<(u32, u32)>, LocalError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(LocalError::io("cannot read /etc/passwd"))?;
    let line = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&ACCOUNT));
    let ids = line.and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
    ids.map(Some).ok_or_else(|| missing("create the user `postgres`, which runs the server (Debian: postgresql)"))
}

/// The program and its arguments, run as the account where this process is root.
fn command(program: &Path, args: Vec<String>) -> Result<(String, Vec<String>), LocalError> {
    let program = program.display().to_string();
    if account()?.is_none() {
        return Ok((program, args));
    }
    let leading = [format!("--reuid={ACCOUNT}"), format!("--regid={ACCOUNT}"), "--init-groups".to_owned(), "--".to_owned(), program];
    Ok(("setpriv".to_owned(), leading.into_iter().chain(args).collect()))
}

/// Makes the data folder, once, and says how to start the server.
pub fn launch(root: &Path, port: u16) -> Result<Launch, LocalError> {
    let (bin, dir) = (programs()?, root.join("postgres"));
    let data = dir.join("data");
    if !data.join("PG_VERSION").exists() {
        initialise(&bin, root, &dir, &data)?;
    }
    let settings = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", String::new()),
        ("fsync", "off".to_owned()),
        ("max_connections", "60".to_owned()),
    ];
    let args = ["-D".to_owned(), data.display().to_string()].into_iter();
    let args = args.chain(settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
    let (program, args) = command(&bin.join("postgres"), args.collect())?;
    Ok(Launch { program, args, dir, log: root.join("logs").join("postgres.log") })
}

fn initialise(bin: &Path, root: &Path, dir: &Path, data: &Path) -> Result<(), LocalError> {
    let failed = |what: &str| LocalError::io(format!("cannot {what} {}", dir.display()));
    fs::create_dir_all(dir).map_err(failed("create"))?;
    if let Some((user, group)) = account()? {
        chown(dir, Some(user), Some(group)).map_err(failed("give away"))?;
        // The account must come past the environment's folder, and see nothing of it.
        let mode = fs::metadata(root).map_err(failed("look at"))?.permissions().mode();
        fs::set_permissions(root, fs::Permissions::from_mode(mode | 0o011)).map_err(failed("open the way to"))?;
    }
    let args = ["-D", &data.display().to_string(), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
    let (program, args) = command(&bin.join("initdb"), args.map(str::to_owned).to_vec())?;
    let output = Command::new(&program).args(&args).current_dir(dir).output().map_err(failed("initialise"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(LocalError::Fetch {
        what: "a data folder".to_owned(),
        command: format!("{program} {}", args.join(" ")),
        output: tail_lines(&text, 20),
    })
}

/// Whether the server lets the user in: it answers a start message with an authentication that is complete.
pub fn ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = crate::probe::connect(address)?;
        let parameters = format!("user\0{USER}\0database\0postgres\0\0");
        let mut message = ((8 + parameters.len()) as u32).to_be_bytes().to_vec();
        message.extend(196_608u32.to_be_bytes()); // protocol 3.0
        message.extend(parameters.as_bytes());
        stream.write_all(&message)?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"R")
    };
    ask().unwrap_or(false)
}
