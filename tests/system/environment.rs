//! The services, started once per test binary and stopped with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use headwater_devenv::{Ephemeral, Options};

/// The program under test. `HW_PROGRAM` names another build of it, such as a release, for the long forms.
pub static HW: LazyLock<String> = LazyLock::new(|| std::env::var("HW_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hw").to_string()));

/// The services. Tests take them one at a time: they share two cores, and some of them break a service.
pub fn exclusive() -> MutexGuard<'static, Ephemeral> {
    static ENVIRONMENT: OnceLock<Mutex<Ephemeral>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| Mutex::new(fresh()));
    environment.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Services of one test's own, for loads that must not mix with those of other tests: event time never goes back.
/// Hold the guard of [`exclusive`] beside them.
pub fn fresh() -> Ephemeral {
    let front = vec![HW.as_str().into(), "local".into(), "clickhouse-front".into()];
    let options = Options { registry: true, clickhouse: true, postgres: true, clickhouse_front: front, ..Options::new("") };
    Ephemeral::up(&options).unwrap_or_else(|e| panic!("the local environment does not start: {e}"))
}

/// Gives a command of `hw` the configuration of the tests, and the addresses of the services. Its state is in the folder of temporary
/// files, unless it is set afterwards.
pub fn configured(command: &mut Command, environment: &Ephemeral) {
    command.arg("--config").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ci.yaml"));
    command.env("HW_BOOTSTRAP", &environment.bootstrap).env("HW_REGISTRY", environment.registry.as_deref().unwrap_or_default());
    command.env("HW_CLICKHOUSE", environment.clickhouse.as_deref().unwrap_or_default()).env("HW_STATE_DIR", std::env::temp_dir());
    if let Some(url) = &environment.postgres {
        command.env("HW_POSTGRES", url);
    }
}

/// Waits until `done` holds; what it says otherwise is part of the failure.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + limit;
    loop {
        match done() {
            Ok(()) => return,
            Err(state) if Instant::now() > deadline => panic!("{what}: not after {limit:?}: {state}"),
            Err(_) => pause(),
        }
    }
}

/// Waits until `done` holds. It may take any time, but what `done` says otherwise must change within `patience`: how long a backlog takes
/// depends on its size and on the machine.
pub fn wait_while_it_moves(what: &str, patience: Duration, mut done: impl FnMut() -> Result<(), String>) {
    let (mut said, mut moved) = (String::new(), Instant::now());
    while let Err(state) = done() {
        if state != said {
            (said, moved) = (state, Instant::now());
        }
        assert!(moved.elapsed() < patience, "{what}: no change for {patience:?}: {said}");
        pause();
    }
}

/// Between two looks at a service that has no way to tell.
fn pause() {
    let (_sender, receiver) = std::sync::mpsc::channel::<()>();
    let _ = receiver.recv_timeout(Duration::from_millis(100));
}

/// Python with the oracle's packages, in a folder under `target` that is made once.
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracle-venv");
            let python = venv.join("bin/python3");
            let requirements = oracle_dir().join("requirements.txt");
            let wanted = std::fs::read_to_string(&requirements).expect("the oracle's requirements");
            if std::fs::read_to_string(venv.join("ready")).ok().as_ref() != Some(&wanted) {
                run(Command::new("python3").args(["-m", "venv"]).arg(&venv), "install python3 and python3-venv");
                run(
                    Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements),
                    "pip",
                );
                std::fs::write(venv.join("ready"), &wanted).expect("the venv can be marked as ready");
            }
            python
        })
        .clone()
}

pub fn oracle_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle")
}

pub fn run(command: &mut Command, hint: &str) {
    let command = command.stdin(std::process::Stdio::null());
    let status = command.status().unwrap_or_else(|e| panic!("{command:?} does not start: {e}; {hint}"));
    assert!(status.success(), "{command:?} failed");
}

/// Runs the oracle and returns what it printed; panics with it if it finds a difference.
pub fn oracle(arguments: &[&str]) -> String {
    let output = Command::new(python()).arg(oracle_dir().join("oracle.py")).args(arguments).output().expect("the oracle runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the oracle disagrees:\n{text}");
    text
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// One value from ClickHouse.
pub fn clickhouse(environment: &Ephemeral, sql: &str) -> Result<String, String> {
    let url = environment.clickhouse.clone().ok_or("no ClickHouse")?;
    http(&url, sql)
}

/// What a statement gives in PostgreSQL: a line per row, values separated by tabs.
pub fn postgres(environment: &Ephemeral, sql: &str) -> Result<String, String> {
    let url = environment.postgres.clone().ok_or("no PostgreSQL")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut config: tokio_postgres::Config = url.parse().map_err(|e: tokio_postgres::Error| e.to_string())?;
        let said = |e: tokio_postgres::Error| e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_string());
        let (client, connection) = config.user(headwater_devenv::POSTGRES_USER).connect(tokio_postgres::NoTls).await.map_err(said)?;
        tokio::spawn(connection);
        client.batch_execute("SET TimeZone = 'UTC'").await.map_err(said)?;
        let found = client.simple_query(sql).await.map_err(said)?;
        let lines = found.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default()).collect::<Vec<_>>().join("\t"))
            }
            _ => None,
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    })
}

fn http(url: &str, body: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let response = reqwest::Client::new().post(url).body(body.to_string()).send().await.map_err(|e| e.to_string())?;
        let ok = response.status().is_success();
        let text = response.text().await.map_err(|e| e.to_string())?;
        if ok { Ok(text.trim().to_string()) } else { Err(text) }
    })
}

/// A page of a worker.
pub fn page(address: &str, path: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let response = reqwest::get(format!("http://{address}{path}")).await.map_err(|e| e.to_string())?;
        let ok = response.status().is_success();
        let text = response.text().await.map_err(|e| e.to_string())?;
        if ok { Ok(text) } else { Err(text) }
    })
}
