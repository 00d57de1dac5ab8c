//! What has to be fetched once, and where it is kept.
//!
//! The cache folder is `HEADWATER_CACHE`, or `~/.cache/headwater`. Each artifact is fetched by its ordinary client
//! (`mvn`, `npm`) into a staging folder beside its final place and renamed when it is complete, under a file lock:
//! an interrupted fetch leaves nothing half done, and two processes do not fetch twice. The clients verify the
//! checksums of what they download.
//!
//! For the two Java services a class data archive (JDK AppCDS, JEP 350) is recorded once from a throwaway run. It
//! more than halves their start. It depends on the exact JVM, so the JVM's version is part of its name; without it
//! everything works, only slower.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::tail_lines;
use crate::{CHDB_VERSION, KAFKA_VERSION, LocalError, REGISTRY_VERSION};

/// Receives one line about what is being done.
pub type Progress<'a> = dyn Fn(&str) + 'a;

const JAVA: LocalError = LocalError::MissingTool {
    tool: "java",
    install: "install a Java runtime, version 17 or newer, and put it on the PATH (Debian: apt install openjdk-17-jre-headless)",
};
const MAVEN: LocalError = LocalError::MissingTool {
    tool: "mvn",
    install: "install Apache Maven, which fetches Kafka and the schema registry (Debian: apt install maven)",
};
const NPM: LocalError = LocalError::MissingTool {
    tool: "npm",
    install: "install Node.js with npm, which fetches the ClickHouse engine library (Debian: apt install npm)",
};
const TAR: LocalError = LocalError::MissingTool { tool: "tar", install: "install GNU tar" };

/// The folder where fetched artifacts are kept: `HEADWATER_CACHE`, or `~/.cache/headwater`.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = env::var_os("HEADWATER_CACHE").filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir);
    }
    env::home_dir().unwrap_or_else(env::temp_dir).join(".cache").join("headwater")
}

/// Whether a Java runtime of version 17 or newer is on the PATH.
pub fn java_available() -> bool {
    java_version().is_some_and(|(major, _)| major >= 17)
}

/// Major version and a tag naming the exact build, from `java -version`.
fn java_version() -> Option<(u32, String)> {
    let output = Command::new("java").arg("-version").output().ok().filter(|output| output.status.success())?;
    parse_java_version(&String::from_utf8_lossy(&output.stderr))
}

fn parse_java_version(text: &str) -> Option<(u32, String)> {
    // openjdk version "17.0.15" 2025-04-15 / Java 8 and older call themselves 1.8.0_...
    let version = text.lines().find(|line| line.contains(" version \""))?.split('"').nth(1)?;
    let mut numbers = version.split(['.', '-', '+', '_']).map(str::parse::<u32>);
    let major = match numbers.next()?.ok()? {
        1 => numbers.next()?.ok()?,
        major => major,
    };
    let build = text.split("(build ").nth(1).and_then(|rest| rest.split([')', ',']).next()).unwrap_or(version);
    let keep = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    Some((major, build.chars().filter(keep).collect()))
}

/// A Java program in the cache.
pub struct JavaProgram {
    /// The folder it was unpacked to.
    pub home: PathBuf,
    /// Its class data archive, whether or not it exists yet.
    pub archive: PathBuf,
}

impl JavaProgram {
    fn new(home: PathBuf) -> Result<JavaProgram, LocalError> {
        let (major, build) = java_version().ok_or(JAVA)?;
        if major < 17 {
            return Err(JAVA);
        }
        let archive = home.join(format!("classes-{build}.jsa"));
        Ok(JavaProgram { home, archive })
    }

    /// Records the archive with `record` (which is given the file to write) unless it exists.
    ///
    /// A failure only costs speed, so it is reported and not returned.
    pub fn ensure_archive(&self, progress: &Progress<'_>, record: impl FnOnce(&Path) -> Result<(), LocalError>) {
        if self.archive.exists() {
            return;
        }
        let outcome = locked(&self.home, || {
            if self.archive.exists() {
                return Ok(());
            }
            let part = self.archive.with_extension("part");
            let _ = fs::remove_file(&part);
            record(&part)?;
            fs::rename(&part, &self.archive).map_err(LocalError::io("no class data archive was written"))
        });
        if let Err(failure) = outcome {
            progress(&format!("starting without a class data archive: {failure}"));
        }
    }
}

/// Runs `work` while holding the lock file of an artifact.
fn locked<T>(home: &Path, work: impl FnOnce() -> Result<T, LocalError>) -> Result<T, LocalError> {
    let what = || format!("cannot lock {}", home.display());
    if let Some(parent) = home.parent() {
        fs::create_dir_all(parent).map_err(LocalError::io(what()))?;
    }
    let lock = File::create(home.with_added_extension("lock")).map_err(LocalError::io(what()))?;
    lock.lock().map_err(LocalError::io(what()))?;
    work() // the lock is released when the file is closed
}

/// Makes sure `home` exists, filling a staging folder with `fill` and renaming it.
fn ensure(home: &Path, fill: impl FnOnce(&Path) -> Result<(), LocalError>) -> Result<(), LocalError> {
    if home.exists() {
        return Ok(());
    }
    locked(home, || {
        if home.exists() {
            return Ok(());
        }
        let staging = home.with_added_extension("part");
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir_all(&staging).map_err(LocalError::io(format!("cannot create {}", staging.display())))?;
        fill(&staging)?;
        fs::rename(&staging, home).map_err(LocalError::io(format!("cannot create {}", home.display())))
    })
}

/// Runs a fetching program and turns its failure into an error that shows what it said.
fn run(what: &str, missing: LocalError, command: &mut Command) -> Result<(), LocalError> {
    let shown = format!("{command:?}").replace('"', "");
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing),
        other => other.map_err(LocalError::io(format!("cannot run {shown}")))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(LocalError::Fetch { what: what.to_owned(), command: shown, output: tail_lines(&text, 20) })
}

/// The jars of Apache Kafka, in `lib`.
pub fn kafka(progress: &Progress<'_>) -> Result<JavaProgram, LocalError> {
    let program = JavaProgram::new(cache_dir().join(format!("kafka-{KAFKA_VERSION}")))?;
    ensure(&program.home, |staging| {
        progress(&format!("fetching Apache Kafka {KAFKA_VERSION} with Maven"));
        let pom = staging.join("pom.xml");
        fs::write(&pom, kafka_pom()).map_err(LocalError::io("cannot write the list of Kafka's artifacts"))?;
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", staging.join("lib").display())).arg("-DincludeScope=runtime");
        run("Apache Kafka", MAVEN, &mut maven)
    })?;
    Ok(program)
}

fn kafka_pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!("<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>")
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>headwater.local</groupId><artifactId>kafka</artifactId><version>1</version>\
         <packaging>pom</packaging><dependencies>{}{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.3"),
        dependency("org.apache.logging.log4j", "log4j-core", "2.25.3"),
    )
}

/// The Apicurio registry, unpacked.
pub fn registry(progress: &Progress<'_>) -> Result<JavaProgram, LocalError> {
    let program = JavaProgram::new(cache_dir().join(format!("apicurio-registry-{REGISTRY_VERSION}")))?;
    ensure(&program.home, |staging| {
        progress(&format!("fetching Apicurio registry {REGISTRY_VERSION} with Maven"));
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "dependency:copy"]);
        maven.arg(format!("-Dartifact=io.apicurio:apicurio-registry-app:{REGISTRY_VERSION}:tar.gz:all"));
        maven.arg(format!("-DoutputDirectory={}", staging.display())).current_dir(staging);
        run("the Apicurio registry", MAVEN, &mut maven)?;
        unpack(staging, &format!("apicurio-registry-app-{REGISTRY_VERSION}-all.tar.gz"), &[])
    })?;
    Ok(program)
}

/// The ClickHouse engine library.
pub fn chdb(progress: &Progress<'_>) -> Result<PathBuf, LocalError> {
    let home = cache_dir().join(format!("libchdb-{CHDB_VERSION}"));
    ensure(&home, |staging| {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            return Err(LocalError::Engine("the libchdb package used here is for Linux on x86-64 only".to_owned()));
        }
        progress(&format!("fetching libchdb {CHDB_VERSION} with npm (178 MB)"));
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent"]).arg(format!("@chdb/lib-linux-x64-gnu@{CHDB_VERSION}")).current_dir(staging);
        run("libchdb", NPM, &mut npm)?;
        unpack(staging, &format!("chdb-lib-linux-x64-gnu-{CHDB_VERSION}.tgz"), &["package/libchdb.so"])?;
        fs::rename(staging.join("package/libchdb.so"), staging.join("libchdb.so"))
            .map_err(LocalError::io("the libchdb package has no libchdb.so"))
    })?;
    Ok(home.join("libchdb.so"))
}

/// Unpacks (parts of) an archive in `dir` and removes it.
fn unpack(dir: &Path, archive: &str, only: &[&str]) -> Result<(), LocalError> {
    run(archive, TAR, Command::new("tar").args(["--no-same-owner", "-xzf", archive]).args(only).current_dir(dir))?;
    fs::remove_file(dir.join(archive)).map_err(LocalError::io(format!("cannot remove {archive}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_are_read() {
        let debian = "openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6-Debian-1deb12u1)\n";
        assert_eq!(parse_java_version(debian), Some((17, "17.0.15+6-Debian-1deb12u1".to_owned())));
        assert_eq!(parse_java_version("java version \"1.8.0_392\"\n").map(|(major, _)| major), Some(8));
        assert_eq!(parse_java_version("openjdk version \"21\" 2023-09-19").map(|(major, _)| major), Some(21));
        assert_eq!(parse_java_version("command not found"), None);
    }

    #[test]
    fn a_failed_fill_leaves_nothing_behind_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("artifact-1.0");
        let failed = ensure(&home, |staging| {
            fs::write(staging.join("half"), "x").unwrap();
            Err(LocalError::Engine("interrupted".to_owned()))
        });
        assert!(failed.is_err() && !home.exists());
        ensure(&home, |staging| {
            fs::write(staging.join("whole"), "x").unwrap();
            Ok(())
        })
        .unwrap();
        assert!(home.join("whole").exists() && !home.join("half").exists());
        ensure(&home, |_| panic!("it exists already")).unwrap();
    }

    #[test]
    fn a_failing_client_is_quoted_and_a_missing_one_named() {
        let failed = run("a thing", TAR, Command::new("sh").args(["-c", "echo no such package; exit 3"]));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("a thing") && text.contains("no such package"), "{text}");
        let missing = run("a thing", NPM, &mut Command::new("no-such-program-here")).unwrap_err().to_string();
        assert!(missing.starts_with("npm is missing: install Node.js"), "{missing}");
    }
}
