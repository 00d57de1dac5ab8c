//! The demo as someone runs it, on real services and where there is no Java: it ends by itself, and says with its exit
//! code whether the totals of both sides agree, every order has ended once, and the stock is conserved.

use std::process::Command;

use crate::environment::{HW, exclusive};

const ENDED: &str = "every order has ended once, and every piece of the stock is accounted for";

fn demo(arguments: &[&str]) -> String {
    let _turn = exclusive();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(&*HW);
    command.arg("demo").args(["--seconds", "10", "--rate", "300", "--dir"]).arg(dir.path().join("demo")).args(arguments);
    let output = command.output().expect("hw starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!dir.path().join("demo/environment").exists(), "the demo cleans up:\n{text}");
    text
}

#[test]
fn totals_agree_on_real_services() {
    let text = demo(&[]);
    assert!(text.contains("the totals agree") && text.contains(ENDED), "{text}");
}

#[test]
fn totals_agree_without_java() {
    let text = demo(&["--embedded"]);
    assert!(text.contains("the totals agree") && text.contains("in-memory broker") && text.contains(ENDED), "{text}");
}
