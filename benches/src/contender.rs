//! The programs that are measured, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be done with the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the records as they are.
    Copy,
    /// Filter and project.
    W1,
    /// Windows by the key of the topic.
    W2,
    /// Windows by a column that the program does not know to be the key.
    W2R,
    /// Orders joined with their payments.
    Join,
    /// Commands to an inventory.
    Aggregate,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: String,
    pub work: Work,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    /// The copy loop with this many group members, and producers for each.
    Copy { lanes: usize, producers: usize },
    /// `hw run` with this many lanes; another build of it than the one under test, if it is given.
    Headwater { program: Option<PathBuf>, lanes: usize },
    /// A shell command that takes what it needs from its environment.
    Peer(String),
}

/// Where one run of a contender reads and writes.
#[derive(Clone, Debug)]
pub struct Run {
    /// Unique in this cluster; part of all names that the run makes.
    pub id: String,
    pub bootstrap: String,
    pub input: String,
    /// The second input, of a join.
    pub payments: String,
    pub commit_ms: u64,
    /// The `hw` program.
    pub hw: PathBuf,
    /// A folder for files of the run.
    pub dir: PathBuf,
}

impl Run {
    pub fn output(&self) -> String {
        format!("bench.out-{}", self.id)
    }

    /// Where an inventory writes what it rejects.
    pub fn rejected(&self) -> String {
        format!("bench.rejected-{}", self.id)
    }

    /// The folder for the state of a program.
    fn state(&self) -> PathBuf {
        self.dir.join(format!("state-{}", self.id))
    }
}

impl Contender {
    pub fn copy(lanes: usize, producers: usize) -> Contender {
        let name = match (lanes, producers) {
            (1, 2) => "copy".to_string(),
            (1, _) => "copy, one producer".to_string(),
            _ => format!("copy, {lanes} lanes"),
        };
        Contender { name, work: Work::Copy, how: How::Copy { lanes, producers } }
    }

    pub fn headwater(work: Work, lanes: usize) -> Contender {
        let name = match work {
            Work::Copy | Work::W1 => "hw W1",
            Work::W2 => "hw W2",
            Work::W2R => "hw W2R",
            Work::Join => "hw WJ",
            Work::Aggregate => "hw WA",
        };
        Contender { name: format!("{name}, {lanes} lanes"), work, how: How::Headwater { program: None, lanes } }
    }

    /// The same work done by another build, to compare the two in one run.
    pub fn against(work: Work, lanes: usize, program: &Path) -> Contender {
        let contender = Contender::headwater(work, lanes);
        Contender {
            name: format!("{}, against", contender.name),
            how: How::Headwater { program: Some(program.into()), lanes },
            ..contender
        }
    }

    /// A peer as given on the command line: `NAME:w1|w2|wj|wa:COMMAND`.
    pub fn peer(text: &str) -> Result<Contender, String> {
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        let (name, work, command) = match parts.as_slice() {
            [name, "w1", command] => (name, Work::W1, command),
            [name, "w2", command] => (name, Work::W2, command),
            [name, "wj", command] => (name, Work::Join, command),
            [name, "wa", command] => (name, Work::Aggregate, command),
            _ => return Err(format!("a peer is NAME:WORK:COMMAND, where WORK is w1, w2, wj or wa, not {text:?}")),
        };
        Ok(Contender { name: name.to_string(), work, how: How::Peer(command.to_string()) })
    }

    /// Kafka Streams with these stores.
    pub fn streams(work: Work, stores: &str, command: String) -> Contender {
        let name = if work == Work::Join { "WJ" } else { "WA" };
        Contender { name: format!("kstreams {name}, {stores}"), work, how: How::Peer(command) }
    }

    /// The consumer group whose positions tell its progress.
    pub fn group(&self, run: &Run) -> String {
        match (&self.how, self.work) {
            (How::Headwater { .. }, Work::W1 | Work::Copy) => format!("hw.w1-{}", run.id),
            (How::Headwater { .. }, Work::W2 | Work::W2R) => format!("hw.w2-{}", run.id),
            (How::Headwater { .. }, Work::Join) => format!("hw.wj-{}", run.id),
            (How::Headwater { .. }, Work::Aggregate) => format!("hw.wa-{}", run.id),
            _ => format!("bench-{}", run.id),
        }
    }

    /// The topics that have to be read to their end.
    pub fn inputs<'a>(&self, run: &'a Run) -> Vec<&'a str> {
        match self.work {
            Work::Join => vec![&run.input, &run.payments],
            _ => vec![&run.input],
        }
    }

    /// The topics that it writes.
    pub fn outputs(&self, run: &Run) -> Vec<String> {
        match self.work {
            Work::Aggregate => vec![run.output(), run.rejected()],
            _ => vec![run.output()],
        }
    }

    /// The topic between the two halves of the work, which has to be drained too.
    pub fn repartition(&self, run: &Run) -> Option<String> {
        (self.work == Work::W2R).then(|| format!("{}.per_product.repartition", self.group(run)))
    }

    /// The command that starts it.
    pub fn command(&self, run: &Run) -> Result<Command, String> {
        let mut command = match &self.how {
            How::Copy { lanes, producers } => {
                let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
                command.args(["copy", "--bootstrap", &run.bootstrap, "--input", &run.input, "--output", &run.output()]);
                command.args(["--group", &self.group(run), "--commit", &run.commit_ms.to_string(), "--producers", &producers.to_string()]);
                command.args(["--lanes", &lanes.to_string()]);
                command
            }
            How::Headwater { program, lanes } => {
                let mut command = Command::new(program.as_ref().unwrap_or(&run.hw));
                command.arg("run").arg(self.pipeline(run)?).arg("--config").arg(config(run, *lanes)?).arg("--plain-logs");
                command.env("HW_LOG", "warn");
                command
            }
            How::Peer(text) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("exec {text}")]);
                command
            }
        };
        let told = [
            ("BENCH_RUN", format!("-{}", run.id)),
            ("BENCH_BOOTSTRAP", run.bootstrap.clone()),
            ("BENCH_GROUP", self.group(run)),
            ("BENCH_INPUT", run.input.clone()),
            ("BENCH_PAYMENTS", run.payments.clone()),
            ("BENCH_OUTPUT", run.output()),
            ("BENCH_REJECTED", run.rejected()),
            ("BENCH_COMMIT", format!("{}ms", run.commit_ms)),
            ("BENCH_COMMIT_MS", run.commit_ms.to_string()),
            ("BENCH_STATE", run.state().display().to_string()),
        ];
        for (name, value) in told {
            // Pipelines see variables of this prefix alone.
            command.env(format!("HW_VAR_{name}"), &value).env(name, value);
        }
        Ok(command)
    }

    /// The pipeline file; for W2R one without the source's key.
    fn pipeline(&self, run: &Run) -> Result<PathBuf, String> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        match self.work {
            Work::Copy | Work::W1 => Ok(shipped.join("w1.yaml")),
            Work::W2 => Ok(shipped.join("w2.yaml")),
            Work::Join => Ok(shipped.join("wj.yaml")),
            Work::Aggregate => Ok(shipped.join("wa.yaml")),
            Work::W2R => {
                const KEY: &str = "    key: product_id\n";
                let text = std::fs::read_to_string(shipped.join("w2.yaml")).map_err(|e| e.to_string())?;
                // The source comes before the sink, which keeps its key.
                let without = text.replacen(KEY, "", 1);
                if text.matches(KEY).count() != 2 {
                    return Err("w2.yaml is expected to have two lines `key: product_id`, of the source and of the sink".into());
                }
                write(run, "w2r.yaml", &without)
            }
        }
    }
}

fn config(run: &Run, lanes: usize) -> Result<PathBuf, String> {
    let (bootstrap, state) = (&run.bootstrap, run.state());
    let text = format!("kafka:\n  bootstrap: {bootstrap}\nworker:\n  lanes: {lanes}\n  state_dir: {}\n  http: \"\"\n", state.display());
    write(run, "config.yaml", &text)
}

fn write(run: &Run, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = run.dir.join(format!("{}-{name}", run.id));
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_command_may_contain_colons() {
        let peer = Contender::peer("ks:w2:java -cp a:b Main").unwrap();
        assert!(matches!(&peer.how, How::Peer(command) if command == "java -cp a:b Main"));
        assert_eq!((peer.name.as_str(), peer.work), ("ks", Work::W2));
        assert!(Contender::peer("ks:w3:java").unwrap_err().contains("w1"));
    }
}
