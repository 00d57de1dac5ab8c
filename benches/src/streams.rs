//! Kafka Streams beside WJ and WA: the programs in `peers/kstreams`, built with Maven when they are needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use clap::ValueEnum;

use crate::contender::{Contender, Work};

/// Where Kafka Streams keeps its state; the argument that its programs take.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Stores {
    Rocksdb,
    Memory,
}

/// The programs, and what they do.
const PROGRAMS: [(Work, &str); 2] = [(Work::Join, "OrderPayments"), (Work::Aggregate, "Reservations")];

/// The contenders with these stores. Builds their programs if they are missing or older than their source.
pub fn contenders(stores: &[Stores]) -> Result<Vec<Contender>, String> {
    if stores.is_empty() {
        return Ok(Vec::new());
    }
    let jar = built(&Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/kstreams"))?;
    let made = |stores: &Stores| {
        let stores = format!("{stores:?}").to_lowercase();
        PROGRAMS.map(|(work, class)| {
            // Of the collectors of Java 17 the one that took the least CPU time here.
            let command = format!("java -Xmx1g -XX:+UseParallelGC -cp '{}' {class} {stores}", jar.display());
            Contender::streams(work, &stores, command)
        })
    };
    Ok(stores.iter().flat_map(made).collect())
}

fn built(folder: &Path) -> Result<PathBuf, String> {
    let changed = |path: &str| folder.join(path).metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let of_program = |(_, class): &(Work, &str)| changed(&format!("src/main/java/{class}.java"));
    let sources = PROGRAMS.iter().map(of_program).fold(changed("pom.xml"), SystemTime::max);
    let jar = "target/kstreams.jar";
    if changed(jar) <= sources {
        let pom = folder.join("pom.xml");
        let made = Command::new("mvn").args(["-q", "-B", "-f"]).arg(&pom).arg("package").output();
        let made = made.map_err(|e| format!("mvn does not start ({e}): install Maven and a JDK of version 17 or later"))?;
        if !made.status.success() {
            return Err(format!("mvn -f {} package failed:\n{}", pom.display(), String::from_utf8_lossy(&made.stdout)));
        }
    }
    Ok(folder.join(jar))
}

#[cfg(test)]
mod tests {
    #[test]
    fn kafka_streams_has_the_version_of_the_broker() {
        let pom = include_str!("../peers/kstreams/pom.xml");
        let (_, after) = pom.split_once("<artifactId>kafka-streams</artifactId>").unwrap();
        assert_eq!(after.trim_start().split('\n').next(), Some(format!("<version>{}</version>", headwater_devenv::KAFKA_VERSION).as_str()));
    }
}
