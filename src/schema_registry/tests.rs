//! Tests against a scripted registry.

use super::*;

#[test]
fn named_types_are_put_in_place_once() {
    let mut tree =
        json!({"type": "record", "name": "Order", "fields": [{"name": "a", "type": "Money"}, {"name": "b", "type": ["null", "Money"]}]});
    let money = json!({"type": "fixed", "name": "Money", "size": 8});
    assert!(inline(&mut tree, &mut HashMap::from([("Money".to_string(), money.clone())]), MAX_DEPTH));
    assert_eq!(tree["fields"][0]["type"], money);
    assert_eq!(tree["fields"][1]["type"][1], json!("Money"));
}

#[test]
fn subjects_are_escaped() {
    let registry = Registry::new(RegistryConfig::new("http://host/apis/v7/")).unwrap();
    let path = |subject: &str| registry.request(Method::GET, &["subjects", subject]).build().unwrap().url().path().to_owned();
    assert_eq!(path("business.orders-value"), "/apis/v7/subjects/business.orders-value");
    assert_eq!(path("a/b c%?#"), "/apis/v7/subjects/a%2Fb%20c%25%3F%23");
}

/// Status and body for the path of a request.
type Answers = Arc<Mutex<HashMap<&'static str, (u16, String)>>>;

/// A registry that says what `answers` holds (503 for the rest) and notes what it was asked.
async fn fake(answers: Answers) -> (Registry, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/apis/ccompat/v7/", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while !text.contains("\r\n\r\n") {
                let read = stream.read(&mut buffer).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
                if read == 0 {
                    break;
                }
            }
            let path = text.split(' ').nth(1).unwrap_or_default().trim_start_matches("/apis/ccompat/v7").to_owned();
            let (status, body) = answers.lock().get(path.as_str()).cloned().unwrap_or((503, "starting".into()));
            notes.lock().push(text);
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    let config = RegistryConfig { username: Some("hw".into()), password: Some("secret".into()), ..RegistryConfig::new(url) };
    (Registry::new(config).unwrap(), asked)
}

/// Asks until the answer fits.
async fn until(schemas: &Schemas, id: u32, fits: impl Fn(&Lookup) -> bool) -> Lookup {
    loop {
        let answer = schemas.lookup(id);
        if fits(&answer) {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_outage_is_waited_out_and_never_looks_like_a_missing_schema() {
    let answers = Answers::default();
    let (registry, asked) = fake(answers.clone()).await;
    let schemas = Schemas::new(registry, tokio::runtime::Handle::current());
    assert_eq!(schemas.lookup(7), Lookup::Pending);
    let trouble = until(&schemas, 7, |answer| *answer != Lookup::Pending).await;
    assert!(matches!(&trouble, Lookup::Unavailable(why) if why.contains("503")), "{trouble:?}");
    // More failures than it takes 404s.
    while asked.lock().len() < 4 {
        assert_ne!(schemas.lookup(7), Lookup::NotFound);
        tokio::task::yield_now().await;
    }
    answers.lock().insert("/schemas/ids/7", (200, json!({"schema": "\"string\""}).to_string()));
    until(&schemas, 7, |answer| *answer == Lookup::Known("\"string\"".into())).await;
    let count = asked.lock().len();
    assert_eq!(schemas.lookup(7), Lookup::Known("\"string\"".into()));
    assert_eq!(asked.lock().len(), count, "known schemas are not asked for again");
    assert!(asked.lock().iter().all(|request| request.to_lowercase().contains("authorization: basic")));
}

#[tokio::test]
async fn a_schema_is_missing_after_three_answers_that_say_so() {
    let answers = Answers::default();
    answers.lock().insert("/schemas/ids/9", (404, json!({"error_code": 40403}).to_string()));
    let (registry, asked) = fake(answers).await;
    let schemas = Schemas::new(registry, tokio::runtime::Handle::current());
    until(&schemas, 9, |answer| *answer == Lookup::NotFound).await;
    assert_eq!(asked.lock().len(), MISSES as usize);
    assert_eq!(schemas.lookup(9), Lookup::NotFound);
}

#[tokio::test]
async fn made_up_ids_do_not_fill_the_memory() {
    let (registry, _) = fake(Answers::default()).await;
    let schemas = Schemas::new(registry, tokio::runtime::Handle::current());
    for id in 0..5_000 {
        schemas.lookup(id);
    }
    assert_eq!(schemas.known.lock().len(), MAX_ASKING);
}

#[tokio::test]
async fn answers_mean_what_the_api_says() {
    let answers = Answers::default();
    let money = json!({"type": "fixed", "name": "Money", "size": 8}).to_string();
    let order = json!({"type": "record", "name": "Order", "fields": [{"name": "a", "type": "Money"}]}).to_string();
    let reference = json!([{"name": "Money", "subject": "money", "version": 2}]);
    for (path, status, body) in [
        ("/subjects/orders-value/versions/latest", 200, json!({"id": 3, "schema": order, "references": reference})),
        ("/subjects/money/versions/2", 200, json!({"id": 1, "schema": money})),
        ("/subjects/none/versions/latest", 404, json!({"error_code": 40401})),
        ("/subjects/orders-value/versions", 409, json!({"error_code": 409, "message": "incompatible"})),
        ("/subjects/locked/versions", 401, json!({})),
        ("/subjects/new/versions", 200, json!({"id": 12})),
        ("/compatibility/subjects/orders-value/versions/latest", 200, json!({"is_compatible": false})),
        ("/compatibility/subjects/none/versions/latest", 404, json!({"error_code": 40402})),
    ] {
        answers.lock().insert(path, (status, body.to_string()));
    }
    let (registry, _) = fake(answers).await;
    let latest = registry.latest("orders-value").await.unwrap().unwrap();
    assert!(latest.id == 3 && latest.schema.contains("fixed") && !latest.is_json(), "{latest:?}");
    assert!(registry.latest("none").await.unwrap().is_none());
    assert_eq!(registry.register("new", "{}").await.unwrap(), 12);
    assert!(
        matches!(registry.register("orders-value", "{}").await, Err(RegistryError::Refused { message, .. }) if message.contains("incompatible"))
    );
    assert!(
        matches!(registry.register("locked", "{}").await, Err(RegistryError::Unavailable(_))),
        "credentials are not the schema's fault"
    );
    assert!(!registry.is_compatible("orders-value", "{}").await.unwrap());
    assert!(registry.is_compatible("none", "{}").await.unwrap());
}

/// A registry whose schemas refer to others: the way back to where one came from was followed for ever.
#[tokio::test]
async fn references_end() {
    let answers = Answers::default();
    let refers = |to: &[(&str, u32)]| {
        let name = |subject: &str, version: &u32| json!({"name": format!("{subject}{version}"), "subject": subject, "version": version});
        let to: Vec<_> = to.iter().map(|(subject, version)| name(subject, version)).collect();
        json!({"id": 1, "schema": json!({"type": "record", "name": "R", "fields": []}).to_string(), "references": to}).to_string()
    };
    for (path, to) in [
        ("/schemas/ids/1", &[("a", 1)][..]),
        ("/subjects/a/versions/1", &[("b", 1)]),
        ("/subjects/b/versions/1", &[("a", 1)]),
        ("/schemas/ids/2", &[("left", 1), ("right", 1)]),
        ("/subjects/left/versions/1", &[("shared", 1)]),
        ("/subjects/right/versions/1", &[("shared", 1)]),
        ("/subjects/shared/versions/1", &[]),
        ("/schemas/ids/3", &[("deep", 1)]),
    ] {
        answers.lock().insert(path, (200, refers(to)));
    }
    for depth in 1..100 {
        let path: &'static str = format!("/subjects/deep/versions/{depth}").leak();
        answers.lock().insert(path, (200, refers(&[("deep", depth + 1)])));
    }
    let (registry, asked) = fake(answers).await;
    let refused = registry.by_id(1).await.unwrap_err().to_string();
    assert!(refused.contains("`a` version 1 refers to itself through `a` version 1, `b` version 1"), "{refused}");
    registry.by_id(2).await.unwrap();
    asked.lock().clear();
    let refused = registry.by_id(3).await.unwrap_err().to_string();
    assert!(refused.contains("more than 32 others") && asked.lock().len() < 40, "{} requests: {refused}", asked.lock().len());
    // What records get to hear is why, not that there is no such schema.
    let schemas = Schemas::new(registry, tokio::runtime::Handle::current());
    let found = until(&schemas, 1, |answer| *answer != Lookup::Pending).await;
    assert!(format!("{found:?}").contains("refers to itself through"), "{found:?}");
}

/// Each schema is as deep as one may be, and refers to the next at its end: put together they would end the process by its stack.
#[tokio::test]
async fn references_do_not_nest_without_end() {
    let answers = Answers::default();
    for n in 0..30 {
        let (deep, next) = ("{\"type\":\"array\",\"items\":".repeat(120), n + 1);
        let text = format!("{deep}\"N{next}\"{}", "}".repeat(120));
        let body = json!({"id": 1, "schema": text, "references": [{"name": format!("N{next}"), "subject": "n", "version": next}]});
        let path = if n == 0 { "/schemas/ids/1".to_string() } else { format!("/subjects/n/versions/{n}") };
        answers.lock().insert(path.leak(), (200, body.to_string()));
    }
    let last = json!({"id": 1, "schema": "\"int\""});
    answers.lock().insert("/subjects/n/versions/30", (200, last.to_string()));
    let (registry, _) = fake(answers).await;
    let refused = registry.by_id(1).await.unwrap_err().to_string();
    assert!(refused.contains("nested deeper than 120 levels"), "{refused}");
}
