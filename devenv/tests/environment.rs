//! The local environment itself, with real services. Needs java 17 or newer, mvn and npm.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use headwater_devenv::{Direction, Environment, Ephemeral, Lose, Options, Protocol, Proxy, Service, Stop};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn options() -> Options {
    let mut options = Options::new("");
    options.clickhouse_front = vec![env!("CARGO_BIN_EXE_clickhouse-front").into()];
    options
}

/// Asks a broker for its API versions (key 18, version 0) and returns the error code of the answer.
fn api_versions(address: &str) -> std::io::Result<i16> {
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff])?;
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    assert_eq!(head[4..8], [0, 0, 0, 7], "the correlation id comes back");
    Ok(i16::from_be_bytes([head[8], head[9]]))
}

/// Posts to ClickHouse with the statement in the URL; the answer's text, or its status, error code and text.
async fn post(url: &str, parameters: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Result<String, (u16, String, String)> {
    let mut address = reqwest::Url::parse(url).unwrap();
    address.query_pairs_mut().extend_pairs(parameters);
    let response = reqwest::Client::new().post(address).body(body).send().await.unwrap();
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (code, summary) = (header("x-clickhouse-exception-code"), header("x-clickhouse-summary"));
    let id = header("x-clickhouse-query-id").unwrap_or_default();
    let text = response.text().await.unwrap();
    if status == 200 {
        assert!(summary.is_some_and(|summary| summary.contains("written_rows")));
        let asked = parameters.iter().find(|(name, _)| *name == "query_id");
        assert!(asked.map_or(!id.is_empty(), |(_, asked)| *asked == id), "{id}");
        return Ok(text);
    }
    Err((status, code.unwrap_or_default(), text))
}

async fn ask(url: &str, sql: &str) -> Result<String, (u16, String, String)> {
    post(url, &[], sql.to_owned()).await.map(|text| text.trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_up_survives_faults_and_leaves_nothing() -> Outcome {
    let mut environment = Ephemeral::up(&Options { proxied: true, ..options() })?;
    let pids: Vec<u32> = environment.status().iter().filter_map(|status| status.pid).collect();
    assert_eq!(pids.len(), 3);
    assert!(environment.status().iter().all(|status| status.alive && status.resident_kib.is_some()));

    // Bringing it up again changes nothing, and whoever reads the file finds the same services.
    let again = Environment::up(&Options { dir: environment.dir.clone(), proxied: true, ..options() }, &mut |_| {})?;
    assert_eq!(again.status().iter().filter_map(|status| status.pid).collect::<Vec<_>>(), pids);
    assert_eq!(Environment::load(&environment.dir)?.map(|loaded| loaded.bootstrap), Some(environment.bootstrap.clone()));
    let configuration = std::fs::read_to_string(environment.dir.join("config.yaml"))?;
    assert!(configuration.contains(&format!("kafka: {{ bootstrap: \"{}\" }}\n", environment.bootstrap)), "{configuration}");
    let three = Environment::up(&Options { dir: environment.dir.clone(), brokers: 3, ..options() }, &mut |_| {});
    assert!(three.unwrap_err().to_string().contains("1 brokers"), "another shape is refused, not half started");

    // Kafka answers, directly and through a proxy on its second listener; also after a crash.
    let route = environment.proxied[0];
    let proxy = Proxy::start(route.listen, route.upstream, Protocol::Kafka)?;
    proxy.lose_kafka(&[18], Lose::Response, 1);
    assert!(api_versions(&environment.proxied_bootstrap().unwrap()).is_err());
    assert_eq!(api_versions(&environment.proxied_bootstrap().unwrap())?, 0);
    environment.restart(Service::Kafka(1), Stop::Kill)?;
    assert_eq!(api_versions(&environment.bootstrap)?, 0);

    // The registry gives a schema one id, also after a crash, and keeps compatibility.
    let registry = environment.registry.clone().unwrap();
    let register = async |schema: &str| -> Result<(u16, serde_json::Value), reqwest::Error> {
        let body = serde_json::json!({ "schema": schema }).to_string();
        let request = reqwest::Client::new().post(format!("{registry}/subjects/orders-value/versions"));
        let response = request.header("content-type", "application/json").body(body).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let schema = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;
    let (status, first) = register(schema).await?;
    assert!(status == 200 && first["id"].is_i64(), "{first}");
    assert_eq!(register(schema).await?.1["id"], first["id"]);
    environment.restart(Service::Registry, Stop::Kill)?;
    assert_eq!(register(schema).await?.1["id"], first["id"]);
    let subjects: Vec<String> = reqwest::get(format!("{registry}/subjects")).await?.json().await?;
    assert_eq!(subjects, ["orders-value"]);
    let incompatible = r#"{"type":"record","name":"Order","fields":[{"name":"other","type":"string"}]}"#;
    assert_eq!(register(incompatible).await?.0, 409, "global compatibility is BACKWARD");

    clickhouse_crashes(&mut environment).await?;

    let (dir, pids) = (environment.dir.clone(), environment.status());
    drop(environment);
    for status in pids {
        assert!(!Path::new(&format!("/proc/{}", status.pid.unwrap())).exists(), "{} still runs", status.service);
    }
    assert!(!dir.exists());
    Ok(())
}

/// Deduplication by token, and what a crash and an aborted body leave behind.
async fn clickhouse_crashes(environment: &mut Ephemeral) -> Outcome {
    let url = environment.clickhouse.clone().unwrap();
    let create = "CREATE TABLE t (id UInt64, note String) ENGINE = MergeTree ORDER BY id \
                  SETTINGS non_replicated_deduplication_window = 1000";
    ask(&url, create).await.unwrap();
    let insert = [("query", "INSERT INTO t FORMAT JSONEachRow"), ("insert_deduplication_token", "one")];
    let rows = "{\"id\":1,\"note\":\"a\"}\n\n\n{\"id\":2,\"note\":\"b\\n\\nc\"}\n";
    for _ in 0..2 {
        post(&url, &insert, rows).await.unwrap();
        assert_eq!(ask(&url, "SELECT count(), max(length(note)) FROM t").await.unwrap(), "2\t4", "blank lines are data");
    }

    environment.restart(Service::ClickHouse, Stop::Kill)?;
    assert_eq!(ask(&url, "SELECT count() FROM t").await.unwrap(), "2");
    post(&url, &insert, rows).await.unwrap();
    assert_eq!(ask(&url, "SELECT count() FROM t").await.unwrap(), "2", "the token is remembered across a crash");

    // A body that is cut off commits nothing, and the same token still works afterwards.
    let upstream = url.trim_start_matches("http://").parse()?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], 0)), upstream, Protocol::Http)?;
    let many: String = (0..20_000).map(|id| format!("{{\"id\":{id},\"note\":\"x\"}}\n")).collect();
    let mut address = reqwest::Url::parse(&format!("http://{}", proxy.address()))?;
    address.query_pairs_mut().extend_pairs([insert[0], ("insert_deduplication_token", "two")]);
    proxy.cut_after(Direction::ToServer, 100_000);
    let request = || reqwest::Client::new().post(address.clone()).body(many.clone()).send();
    assert!(request().await.is_err());
    assert_eq!(ask(&url, "SELECT count() FROM t").await.unwrap(), "2");
    // A lost answer: the rows are there, the client cannot know, and repeating is harmless.
    proxy.lose_http("insert_deduplication_token=two", Lose::Response, 1);
    assert!(request().await.is_err());
    assert_eq!(request().await?.status().as_u16(), 200);
    assert_eq!(ask(&url, "SELECT count() FROM t").await.unwrap(), "20002");
    Ok(())
}

#[derive(clickhouse::Row, serde::Serialize, serde::Deserialize, PartialEq, Debug)]
struct Sample {
    id: u64,
    note: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_front_serves_the_official_client_and_plain_requests() -> Outcome {
    let environment = Ephemeral::up(&Options { registry: false, ..options() })?;
    let url = environment.clickhouse.clone().unwrap();
    let client = clickhouse::Client::default().with_url(&url).with_database("d");
    clickhouse::Client::default().with_url(&url).query("CREATE DATABASE d").execute().await?;
    let create = "CREATE TABLE s (id UInt64, note String) ENGINE = MergeTree ORDER BY id \
                  SETTINGS non_replicated_deduplication_window = 1000";
    client.query(create).execute().await?;
    for compression in [clickhouse::Compression::Lz4, clickhouse::Compression::None] {
        let client = client.clone().with_compression(compression).with_setting("insert_deduplication_token", "a");
        let mut insert = client.insert::<Sample>("s").await?;
        for id in 0..50_000 {
            insert.write(&Sample { id, note: format!("n{id}\n\n") }).await?;
        }
        insert.end().await?;
        assert_eq!(client.query("SELECT count() FROM s").fetch_one::<u64>().await?, 50_000);
    }
    // An insert that is given up commits nothing.
    let mut insert = client.insert::<Sample>("s").await?;
    insert.write(&Sample { id: 1, note: "given up".to_owned() }).await?;
    drop(insert);
    let found = client.query("SELECT ?fields FROM s WHERE id = {id: UInt64}").param("id", 7).fetch_one::<Sample>().await?;
    assert_eq!(found, Sample { id: 7, note: "n7\n\n".to_owned() });
    assert_eq!(client.query("SELECT id FROM s ORDER BY id LIMIT ?").bind(20_000).fetch_all::<u64>().await?.len(), 20_000);
    let missing = client.query("SELECT 1 FROM nowhere").fetch_one::<u8>().await.unwrap_err().to_string();
    assert!(missing.contains("Code: 60.") && missing.contains("UNKNOWN_TABLE"), "{missing}");

    // Plain HTTP: values with a blank line, a statement that continues in the body, formats, and refusals.
    let d = [("database", "d")];
    post(&url, &d, "INSERT INTO s (id, note) VALUES (100001, 'a\n\nb'), (100002, 'c');").await.unwrap();
    post(&url, &[d[0], ("query", "INSERT INTO s VALUES")], "(100003, 'd')").await.unwrap();
    let body = "INSERT INTO s FORMAT CSV\n100004,\"x\n\ny\"\n100005,z\n";
    post(&url, &d, body).await.unwrap();
    let select = [d[0], ("query", "SELECT id, note FROM s WHERE id > 100000 ORDER BY id"), ("default_format", "JSONEachRow")];
    let text = post(&url, &select, "").await.unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains(r#"{"id":100001,"note":"a\n\nb"}"#) && text.contains(r#"{"id":100004,"note":"x\n\ny"}"#), "{text}");
    let refused = async |parameters: &[(&str, &str)], body: &'static str| {
        let (status, code, _) = post(&url, parameters, body).await.unwrap_err();
        (status, code.parse::<u32>().unwrap())
    };
    assert_eq!(refused(&[("no_such_setting", "1")], "SELECT 1").await, (404, 115));
    assert_eq!(refused(&[], "SELEKT 1").await, (400, 62));
    assert_eq!(refused(&[], "SELECT 1; SELECT 2").await, (400, 62));
    assert_eq!(refused(&[("session_id", "x")], "SELECT 1").await, (501, 48));
    assert_eq!(refused(&[("query", "INSERT INTO d.s FORMAT JSONEachRow")], "{\"id\":\"no\"}").await.0, 400);
    let get = reqwest::get(format!("{url}/?query=CREATE+DATABASE+e")).await?;
    assert_eq!(get.headers()["x-clickhouse-exception-code"], "164", "GET must not change anything");
    assert_eq!(reqwest::get(format!("{url}/ping")).await?.text().await?, "Ok.\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_go_on_without_one() -> Outcome {
    let mut environment = Ephemeral::up(&Options { brokers: 3, registry: false, clickhouse: false, ..options() })?;
    let bootstrap = environment.bootstrap.clone();
    let addresses: Vec<&str> = bootstrap.split(',').collect();
    assert_eq!(addresses.len(), 3);
    environment.stop(Service::Kafka(2), Stop::Kill)?;
    assert!(api_versions(addresses[1]).is_err());
    assert_eq!((api_versions(addresses[0])?, api_versions(addresses[2])?), (0, 0));
    environment.start(Service::Kafka(2))?;
    assert_eq!(api_versions(addresses[1])?, 0);
    assert!(environment.restart(Service::Registry, Stop::Kill).is_err(), "what was not asked for is not there");
    Ok(())
}
