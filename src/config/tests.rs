use super::*;
use crate::diagnose::Source;
use crate::registry::sections;
use crate::sinks::clickhouse::ClickHouseConfig;

#[test]
fn a_mistake_is_shown_in_the_layer_it_stands_in() {
    let dir = tempfile::tempdir().unwrap();
    let layer = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let upper = layer("upper.yaml", "schema_registry: { url: http://registry:8081 }\n");
    let place = |below: &str| {
        let below = layer("below.yaml", below);
        Config::load(&[below, upper.clone()], &sections()).unwrap_err().place().unwrap_or_default()
    };
    assert!(place("worker:\n  lane: 4\n").ends_with("below.yaml:2:3"));
    assert!(place("worker:\n  lanes: 0\n").ends_with("below.yaml:2:10"));
    // A missing key may be in another layer.
    let below = layer("below.yaml", "schema_registry: { username: hw }\nworker: { lanes: 3 }\n");
    let config = Config::load(&[below, upper], &sections()).unwrap();
    assert_eq!((config.worker.lanes, config.schema_registry.unwrap().username.as_deref()), (3, Some("hw")));
}

#[test]
fn the_local_environment_fills_sections_that_are_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let local = "kafka: { bootstrap: \"127.0.0.1:9\" }\nclickhouse: { url: \"http://127.0.0.1:8\", create_tables: true }\n";
    let config = |text: &str| {
        let path = dir.path().join("environment.yaml");
        std::fs::write(&path, format!("local: {}\n{text}", dir.path().display())).unwrap();
        Config::load(&[path], &sections())
    };
    assert!(config("").unwrap().bootstrap().unwrap_err().contains("`hw local up`"));
    std::fs::write(dir.path().join("config.yaml"), local).unwrap();
    let filled = config("").unwrap();
    let store = |config: &Config| config.store::<ClickHouseConfig>().map(|store| (store.url.clone(), store.create_tables));
    assert_eq!((filled.bootstrap(), store(&filled)), (Ok("127.0.0.1:9"), Some(("http://127.0.0.1:8".to_string(), true))));
    let own = config("kafka: { bootstrap: kafka:9092 }\nclickhouse: { url: http://store:8123 }\n").unwrap();
    assert_eq!((own.bootstrap(), store(&own)), (Ok("kafka:9092"), Some(("http://store:8123".to_string(), false))));
    std::fs::write(dir.path().join("config.yaml"), "kafka: { boots: 1 }\n").unwrap();
    assert!(config("").unwrap_err().place().unwrap().ends_with("config.yaml:1:10"));
}

/// A secret that is put in the place of a mapping or list was repeated, in the message or in the line that is shown.
#[test]
fn what_is_misplaced_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("environment.yaml");
    for text in [
        "clickhouse: { url: 'https://h', tls: hunter2 }",
        "clickhouse: { url: 'https://h', tls: [hunter2] }",
        "clickhouse: { url: 'https://h', password: [hunter2] }",
        "clickhouse: { url: 'https://h', password: { env: [hunter2] } }",
        "clickhouse: { url: 'https://h', password: { env: { name: hunter2 } } }",
        "clickhouse: { url: 'https://h', user: [hunter2] }",
        "clickhouse: { url: 'https://h', tls: { key_password: hunter2 } }",
        "clickhouse: hunter2",
        "clickhouse: [hunter2]",
        "schema_registry: hunter2",
        "schema_registry: { url: { password: hunter2 } }",
        "schema_registry: { url: 'https://h', token: '${HW_TEST_MISPLACED:-hunter2}' }",
        "schema_registry: { url: 'https://h', tls: '${HW_TEST_MISPLACED:-hunter2}' }",
        // No YAML.
        "schema_registry: { url: 'https://h', token: ${HW_TEST_MISPLACED:-hunter2} }",
        "clickhouse:\n  password: hunter2: {",
        "kafka: hunter2",
        "kafka: { properties: hunter2 }",
        "kafka: { properties: [hunter2] }",
        "kafka: { properties: { sasl.password: [hunter2] } }",
        "kafka: { properties: { sasl.password: { env: [hunter2] } } }",
        "kafka: { bootstrap: 'user:hunter2@h:9092' }",
        "worker: hunter2",
    ] {
        std::fs::write(&path, text).unwrap();
        let problem = Config::load(std::slice::from_ref(&path), &sections()).expect_err(text);
        let shown = format!("{} {}", problem.render(), problem.json());
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        let source = Source::new("environment.yaml", text.to_string());
        for problem in crate::authoring::lint::check_source(
            source,
            &crate::authoring::lint::Rules::new(&no_schemas(), crate::authoring::lint::CONVENTION).unwrap(),
        ) {
            let shown = format!("{} {}", problem.render(), problem.json());
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
    // What is no secret helps.
    std::fs::write(&path, "worker: { lanes: many }").unwrap();
    assert!(Config::load(std::slice::from_ref(&path), &sections()).unwrap_err().render().contains("`many` is not a whole number"));
}

fn no_schemas() -> crate::pipeline_files::catalog::Folder {
    crate::pipeline_files::catalog::Folder::read(std::path::Path::new("no-such-folder")).unwrap()
}
