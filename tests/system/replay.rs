//! `hw replay`: the state of an aggregate is what its events say, and where it is not, or events are missing, that is said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::json;

use crate::environment::{HW, configured, exclusive, wait_until};
use crate::log::{create, produce, read};
use crate::worker::Worker;

const STOCK: &str = r#"
apiVersion: headwater/v1
name: stock
sources:
  commands:
    topic: stock.commands
    event: envelope
    schema: { sku: string, order_id: string?, quantity: long }
    key: data.sku
steps:
  stock:
    from: commands
    aggregate:
      key: data.sku
      state: { on_hand: long = 0, reserved: long = 0 }
      entries:
        reservation: { key: order_id, of: data.order_id, columns: { quantity: long } }
      on:
        receive: { emit: received, with: { quantity: data.quantity } }
        reserve:
          - { when: state.on_hand - state.reserved >= data.quantity, emit: reserved, with: { order_id: data.order_id, quantity: data.quantity } }
          - { reject: out_of_stock }
        release: { emit: released, with: { order_id: data.order_id, quantity: reservation.quantity } }
      apply:
        received: { on_hand: state.on_hand + data.quantity }
        reserved: { reserved: state.reserved + data.quantity, reservation: { quantity: data.quantity } }
        released: { reserved: state.reserved - data.quantity, reservation: delete }
sinks:
  events: { from: stock, topic: stock.events, event: envelope, key: data.sku, create: { partitions: 2 } }
  rejected: { from: stock.rejected, topic: stock.rejected, event: envelope, create: { partitions: 1 } }
"#;

fn command(environment: &Ephemeral, id: u32, kind: &str, sku: &str, order: &str, quantity: i64) {
    let value = json!({
        "eventId": format!("c{id}"), "eventType": kind, "timestamp": "2026-01-01T00:00:00Z",
        "data": { "sku": sku, "order_id": order, "quantity": quantity },
    });
    produce(environment, "stock.commands", &[(0, Some(sku), Some(value.to_string().as_bytes()))]);
}

fn deployed(environment: &Ephemeral, file: &Path, dir: &Path, rows: f64) {
    let worker = Worker::start(environment, file, dir, 0, None);
    wait_until("commands", Duration::from_secs(60), || {
        let found = worker.metric("headwater_step_rows_in_total", &["step=\"stock\""])?;
        if found >= rows { Ok(()) } else { Err(format!("{found} rows\n{}", worker.log_tail())) }
    });
    assert!(worker.stop().success());
}

/// The exit code, and what was said.
fn replay(environment: &Ephemeral, file: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(&*HW);
    configured(command.arg("replay").arg(file).args(arguments), environment);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_state_of_an_aggregate_is_what_its_events_say() {
    let environment = exclusive();
    create(&environment, "stock.commands", 1);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    for (id, (kind, sku, order, quantity)) in
        [("receive", "a", "", 5), ("receive", "b", "", 2), ("reserve", "a", "o1", 3), ("reserve", "a", "o2", 3), ("reserve", "b", "o1", 1)]
            .into_iter()
            .enumerate()
    {
        command(&environment, id as u32, kind, sku, order, quantity);
    }
    command(&environment, 5, "release", "a", "o1", 0);
    let file = write("stock.yaml", STOCK);
    deployed(&environment, &file, dir.path(), 6.0);
    assert_eq!((read(&environment, "stock.events").len(), read(&environment, "stock.rejected").len()), (5, 1));
    let (code, said) = replay(&environment, &file, &["--check"]);
    assert!(code == Some(0) && said.contains("2 aggregates") && said.contains("5 events"), "{code:?} {said}");
    let (code, said) = replay(&environment, &file, &["--key", "a"]);
    let last = said.lines().last().unwrap_or_default();
    assert!(
        code == Some(0) && said.lines().count() == 3 && last.contains("released") && last.contains("{on_hand: 5, reserved: 0}"),
        "{said}"
    );
    // Events mean something else now, and the state is what they meant.
    let other = write("other.yaml", &STOCK.replace("state.on_hand + data.quantity", "state.on_hand + 2 * data.quantity"));
    let (code, said) = replay(&environment, &other, &["--check"]);
    assert!(code == Some(1) && said.contains("a: the state: by its events") && said.contains("on_hand: 10"), "{code:?} {said}");
    // The topic of the events has no longer their beginning.
    let moved = write("moved.yaml", &STOCK.replace("topic: stock.events", "topic: stock.newer"));
    command(&environment, 6, "receive", "a", "", 1);
    deployed(&environment, &moved, dir.path(), 1.0);
    let (code, said) = replay(&environment, &moved, &["--check"]);
    assert!(code == Some(1) && said.contains("does not have the first events of 2 aggregates"), "{code:?} {said}");
}
