//! Invalid values of an environment file, beyond its structure; found before anything is connected.

use std::time::Duration;

use operator_core::Diagnostic;

use super::{Config, ServiceConfig, Setting, can_name_a_worker};
use crate::observe::http::EXPOSED;
use crate::web;

/// What can't be. A text with a variable in it is judged where the variable is known.
pub fn check(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    kafka_settings(config, &mut found);
    config.services().iter().for_each(|settings| service(settings, &mut found));
    if config.schema_registry.as_ref().is_some_and(|registry| registry.token.is_some() && registry.username.is_some()) {
        found.push(wrong("`token` and `username` exclude each other").at(["schema_registry", "token"]).key());
    }
    let worker = &config.worker;
    match worker.lanes {
        0 => found.push(wrong("`lanes` must be at least 1").at(["worker", "lanes"]).help("use about one per core")),
        1..=256 => {}
        lanes => found.push(wrong(format!("{lanes} lanes are {lanes} threads")).at(["worker", "lanes"]).help("use about one per core")),
    }
    if worker.epoch_rows == 0 {
        found.push(wrong("`epoch_rows` must be at least 1").at(["worker", "epoch_rows"]));
    }
    if worker.epoch_bytes < 1_000 {
        found.push(wrong("`epoch_bytes` must be at least 1000").at(["worker", "epoch_bytes"]));
    }
    if let Some(id) = config.worker.id.as_deref().filter(|id| is_known(id) && !can_name_a_worker(id)) {
        let problem = wrong(format!("`{id}` can't be the name of a worker")).at(["worker", "id"]);
        found.push(
            problem.help("letters, digits, `.`, `_` and `-`, at most 100 and a letter or digit first: it names files and transactions"),
        );
    }
    let http = config.worker.http.as_deref().unwrap_or_default();
    if is_known(http) && !http.is_empty() && !is_host_and_port(http) {
        found.push(wrong(format!("`{http}` is not a listen address")).at(["worker", "http"]).help("such as `127.0.0.1:9644`"));
    } else if is_known(http) && !http.is_empty() && !is_loopback(http) {
        let exposed = Diagnostic::warning("exposed-pages", EXPOSED).at(["worker", "http"]);
        found.push(exposed.help("`127.0.0.1:9644` where the monitoring is on the same machine, or in the same pod"));
    }
    found
}

/// An address and how it is verified. The files are looked at where a worker starts.
fn service(settings: &ServiceConfig<'_>, found: &mut Vec<Diagnostic>) {
    let section = settings.section;
    if !is_known(settings.url) {
        return;
    }
    match &settings.reached {
        Err(why) => {
            let problem = wrong(format!("the address can't be used: {why}")).at([section, "url"]);
            found.push(problem.help(settings.example));
        }
        Ok((_, false)) if settings.tls.is_some_and(|tls| !tls.is_default()) => {
            let problem = wrong("`tls` needs an address that starts with `https://`").at([section, "tls"]).key();
            found.push(problem.help("write `https://` in `url`, or remove `tls`"));
        }
        Ok(_) => {}
    }
    let Some(tls) = settings.tls else { return };
    if let Some(Err(why)) = tls.server_name.as_deref().filter(|name| is_known(name)).map(web::is_name) {
        found.push(wrong(why).at([section, "tls", "server_name"]));
    }
    let (has_certificate, has_key) = (tls.certificate.is_some(), tls.key.is_some());
    for (present, key, other) in [
        (has_certificate && !has_key, "certificate", "key"),
        (has_key && !has_certificate, "key", "certificate"),
        (tls.key_password.is_some() && !has_key, "key_password", "key"),
    ] {
        if present {
            found.push(wrong(format!("`{key}` needs `{other}`")).at([section, "tls", key]).key());
        }
    }
}

/// What works and should not be in use: a connection that others can read or take over, a secret that others can read.
pub fn risks(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let risk = |message: String, help: &str| Diagnostic::warning("unsafe-setting", message).help(help);
    let property = |name: &str| match config.kafka.properties.get(name) {
        Some(Setting::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let brokers: Vec<&str> = config.kafka.bootstrap.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
    let leaves = brokers.iter().any(|broker| !is_loopback(broker));
    let protocol = property("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
    if leaves && matches!(protocol.as_str(), "plaintext" | "sasl_plaintext") && brokers.iter().all(|broker| is_known(broker)) {
        let what = if protocol == "plaintext" { "records" } else { "records and the password" };
        let set = config.kafka.properties.contains_key("security.protocol");
        let at: &[&str] = if set { &["kafka", "properties", "security.protocol"] } else { &["kafka", "bootstrap"] };
        found.push(
            risk(format!("{what} go to the brokers without encryption"), "set `security.protocol: SASL_SSL` or `SSL`")
                .at(at.iter().copied()),
        );
    }
    let off = [("enable.ssl.certificate.verification", "false"), ("ssl.endpoint.identification.algorithm", "none")];
    for (name, value) in off.into_iter().filter(|(name, value)| property(name).is_some_and(|set| set.eq_ignore_ascii_case(value))) {
        let message = format!("`{name}: {value}` lets anybody between worker and broker pretend to be the broker");
        found.push(risk(message, "leave it out, and name the authority that signed the brokers' certificates in `ssl.ca.location`").at([
            "kafka",
            "properties",
            name,
        ]));
    }
    for settings in config.services().iter().filter(|settings| is_known(settings.url) && !settings.carries.is_empty()) {
        let ServiceConfig { section, title, carries, encrypt, .. } = settings;
        if matches!(&settings.reached, Ok((host, false)) if !is_loopback_host(host)) {
            found.push(risk(format!("{carries} go to {title} without encryption"), encrypt).at([*section, "url"]));
        }
    }
    for (place, secret) in config.secrets() {
        if let Some(mode) = secret.readable_by_others() {
            let message = format!("others can read {secret:?} (mode {mode:o})");
            found.push(risk(message, "`chmod 600`; in Kubernetes `defaultMode: 0400` of the volume").at(place));
        }
    }
    found
}

/// `host:port` of this machine.
fn is_loopback(address: &str) -> bool {
    is_loopback_host(address.rsplit_once(':').map_or(address, |(host, _)| host))
}

fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn wrong(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("invalid-value", message)
}

fn is_known(text: &str) -> bool {
    !text.contains("${")
}

/// `host:port`, whether or not the host can be resolved here.
fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
}

fn kafka_settings(config: &Config, found: &mut Vec<Diagnostic>) {
    let brokers = &config.kafka.bootstrap;
    if is_known(brokers) && !brokers.is_empty() {
        for broker in brokers.split(',').map(str::trim).filter(|broker| !is_host_and_port(broker)) {
            // What precedes an `@` may be a password.
            let shown = if broker.contains('@') { "***" } else { broker };
            let problem = wrong(format!("`{shown}` is not a broker address")).at(["kafka", "bootstrap"]);
            found.push(problem.help("write `host:port`, separated by commas, without `http://`: `kafka-1:9092,kafka-2:9092`"));
        }
    }
    let timeout = Duration::from_millis(config.kafka.transaction_timeout.millis().unsigned_abs());
    if let Err(why) = headwater_kafka::check_transaction_timeout(timeout) {
        found.push(wrong(why).at(["kafka", "transaction_timeout"]));
    }
    if config.kafka.transaction_timeout.millis() > 900_000 {
        let problem = wrong("brokers allow transactions of at most 15m").at(["kafka", "transaction_timeout"]);
        found.push(problem.help("`20s` is the default; it is also how long partitions of a killed worker may wait"));
    }
    if !(1_000..=1_800_000).contains(&config.kafka.session_timeout.millis()) {
        let problem = wrong("`session_timeout` must be from 1s to 30m").at(["kafka", "session_timeout"]);
        found.push(problem.help("brokers also limit it: to 6s to 30m by default"));
    }
    for (name, setting) in &config.kafka.properties {
        let at = ["kafka", "properties", name];
        let text = if let Setting::Text(text) = setting { Some(text.as_str()).filter(|text| is_known(text)) } else { None };
        if let Err(why) = headwater_kafka::check_property(name, text) {
            found.push(wrong(why).at(at).key());
        }
    }
}
