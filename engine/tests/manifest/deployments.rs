//! What a deployment would do, and what was deployed.

use headwater_engine::manifest::{Impact, preview, store};
use headwater_engine::plan::Names;

use super::{PIPELINE, cluster, deployed, feed, planned, refused, run, values};

/// A start does what was shown.
#[test]
fn a_preview_says_what_a_start_does_and_changes_nothing() {
    let broker = deployed();
    let look = |text: &str| {
        let found = preview(&broker, &planned(&broker, text)).unwrap();
        (found.impact(), found.next())
    };
    let (impact, next) = look(PIPELINE);
    assert_eq!((impact, next.version), (Impact::None, 1));
    let changed = PIPELINE.replace("topic: carts", "topic: carts2");
    let (impact, next) = look(&changed);
    assert_eq!((impact, next.version), (Impact::Compatible, 2));
    assert_eq!(next.changes, ["sink `carts`: `topic` was carts, now carts2"]);
    let smaller = PIPELINE.replace("tumbling: 10m", "tumbling: 5m");
    assert_eq!(look(&smaller).0, Impact::Backfill);
    refused(&broker, &smaller);
    assert_eq!(store::history(&broker, &Names("carts".into())).unwrap().len(), 1, "nothing was written");
    let started = run(&broker, &changed).unwrap().deployed.manifest;
    assert_eq!((started.version, &started.changes, &started.inputs), (2, &next.changes, &next.inputs));
    // Nothing is deployed yet.
    let empty = cluster(1);
    assert_eq!(preview(&empty, &planned(&empty, PIPELINE)).unwrap().impact(), Impact::Compatible);
}

/// What a worker notes later (positions, keys) is no deployment, and does not hide what one changed.
#[test]
fn every_deployment_is_listed_once_with_what_it_changed() {
    let broker = deployed();
    (0..3).for_each(|p| feed(&broker, p, "a", 2));
    run(&broker, PIPELINE).unwrap();
    run(&broker, &PIPELINE.replace("n > 0", "n > 1")).unwrap();
    run(&broker, PIPELINE).unwrap();
    let versions = store::history(&broker, &Names("carts".into())).unwrap();
    let listed: Vec<_> = versions.iter().map(|v| (v.manifest.version, v.manifest.changes.join("; "))).collect();
    let change = |was: &str, is: &str| format!("step `big`: `filter` was {was}, now {is}");
    assert_eq!(listed, [(1, String::new()), (2, change("n > 0", "n > 1")), (3, change("n > 1", "n > 0"))]);
    assert!(versions.iter().all(|version| version.at.is_some()));
    assert!(versions[0].manifest.inputs.values().all(|input| input.begun == 3), "of a version the last record counts");
    let current = store::read(&broker, &Names("carts".into())).unwrap().unwrap();
    assert_eq!(versions.last().unwrap().manifest, current.manifest);
}

/// State, rows on their way and positions go on, and the line stays in the file.
#[test]
fn a_step_that_was_renamed_keeps_its_state() {
    let broker = deployed();
    let renamed = PIPELINE.replace("per_user", "by_user");
    let was = renamed.replace("from: big\n", "from: big\n    was: per_user\n");
    let said = refused(&broker, &renamed);
    assert!(said.contains("write `was: per_user` at `by_user`"), "{said}");
    let agreed = run(&broker, &was).unwrap();
    assert!(agreed.changes.contains(&"step `per_user` is step `by_user` now, and keeps its state".to_string()), "{:?}", agreed.changes);
    assert!(!agreed.changes.iter().any(|change| change.contains("is new") || change.contains("was removed")), "{:?}", agreed.changes);
    assert!(agreed.deployed.manifest.steps["by_user"].changelog == "hw.carts.per_user.changelog");
    let again = run(&broker, &was).unwrap();
    assert!(again.changes.is_empty(), "{:?}", again.changes);
    let said = refused(&broker, &renamed);
    assert!(
        said.contains("changed-state: step `by_user` has its state in `hw.carts.per_user.changelog`")
            && said.contains("write `was: per_user`"),
        "{said}"
    );
    let said = refused(&broker, &was.replace("tumbling: 10m", "tumbling: 5m"));
    assert!(said.contains("changed-state: step `by_user` has state of an incompatible version"), "{said}");
    // Back to the first name.
    assert!(run(&broker, PIPELINE).unwrap().changes.contains(&"step `by_user` is step `per_user` now, and keeps its state".to_string()));
    run(&broker, &was).unwrap();
    (0..3).for_each(|p| feed(&broker, p, "a", 30));
    run(&broker, &was).unwrap();
    assert!(values(&broker, "carts").iter().any(|row| row.contains(r#""rows":3"#)), "{:?}", values(&broker, "carts"));
}

/// A file is read back as it was written, and nothing else is taken for one.
#[test]
fn a_manifest_can_be_kept_in_a_file() {
    let broker = deployed();
    let current = store::read(&broker, &Names("carts".into())).unwrap().unwrap().manifest;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deployed.json");
    current.save(&file).unwrap();
    assert_eq!(store::parse(&std::fs::read(&file).unwrap()).unwrap(), current);
    assert!(store::parse(b"{\"format\":9}").unwrap_err().contains("format 9"));
    assert!(store::parse(b"{}").unwrap_err().contains("hw history --save"));
}
