//! Inventory with random commands: what the step answers is what a plain model answers, however commands are cut into batches and
//! wherever work is interrupted; stock is conserved and never oversold, and the state is the fold of the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int64Type, Schema, SchemaRef};
use operator_aggregate::{Aggregate, Replay};
use operator_core::batch::system_fields;
use operator_core::{
    Batch, Context, Input, InputInfo, Ledger, MemoryState, Mode, Operator, Origin, Path, PlanCx, Planned, Port, Table, Timers,
};
use proptest::prelude::*;

const SPEC: &str = r#"{
    "key": "data.sku",
    "state": { "on_hand": "long = 0", "reserved": "long = 0" },
    "entries": { "reservation": { "key": "order_id", "of": "data.order_id", "columns": { "quantity": "long" } } },
    "on": {
        "receive": [
            { "when": "data.quantity > 0", "emit": "received", "with": { "quantity": "data.quantity" } },
            { "reject": "not_positive" }
        ],
        "reserve": [
            { "when": "reservation.quantity IS NOT NULL", "reply": "reserved", "with": { "order_id": "data.order_id", "quantity": "reservation.quantity" } },
            { "when": "state.on_hand - state.reserved >= data.quantity", "emit": "reserved", "with": { "order_id": "data.order_id", "quantity": "data.quantity" } },
            { "reject": "out_of_stock" }
        ],
        "ship": [
            { "when": "reservation.quantity IS NULL", "reject": "unknown_order" },
            { "emit": [
                { "type": "released", "with": { "order_id": "data.order_id", "quantity": "reservation.quantity" } },
                { "type": "shipped", "with": { "order_id": "data.order_id", "quantity": "reservation.quantity" } }
            ] }
        ],
        "release": [
            { "when": "reservation.quantity IS NULL", "reject": "unknown_order" },
            { "emit": "released", "with": { "order_id": "data.order_id", "quantity": "reservation.quantity" } }
        ],
        "adjust": { "emit": "adjusted", "with": { "quantity": "data.quantity" } }
    },
    "apply": {
        "received": { "on_hand": "state.on_hand + data.quantity" },
        "adjusted": { "on_hand": "state.on_hand + data.quantity" },
        "reserved": { "reserved": "state.reserved + data.quantity", "reservation": { "quantity": "data.quantity" } },
        "shipped": { "on_hand": "state.on_hand - data.quantity" },
        "released": { "reserved": "state.reserved - data.quantity", "reservation": "delete" }
    },
    "invariants": { "not_oversold": "state.on_hand - state.reserved >= 0" }
}"#;

/// A command: its id, its type, the SKU, the order, a quantity.
type Command = (u8, &'static str, u8, u8, i64);

/// An answer to a command: type of the event or rejection, SKU, order, quantity, reason, version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    port: u16,
    kind: String,
    sku: String,
    order: Option<String>,
    quantity: Option<i64>,
    reason: Option<String>,
    version: i64,
}

fn data_fields() -> Fields {
    vec![
        Field::new("sku", DataType::Utf8, false),
        Field::new("order_id", DataType::Utf8, false),
        Field::new("quantity", DataType::Int64, false),
    ]
    .into()
}

fn columns() -> SchemaRef {
    let user = vec![
        Field::new("eventId", DataType::Utf8, false),
        Field::new("eventType", DataType::Utf8, false),
        Field::new("data", DataType::Struct(data_fields()), false),
    ];
    Arc::new(Schema::new(user.into_iter().chain(system_fields()).collect::<Vec<_>>()))
}

fn batch(commands: &[Command], first: i64) -> Batch {
    let texts = |of: &dyn Fn(&Command) -> String| Arc::new(StringArray::from_iter_values(commands.iter().map(of))) as ArrayRef;
    let quantities: ArrayRef = Arc::new(Int64Array::from_iter_values(commands.iter().map(|command| command.4)));
    let data = StructArray::new(data_fields(), vec![texts(&|c| format!("s{}", c.2)), texts(&|c| format!("o{}", c.3)), quantities], None);
    let offsets = || first..first + commands.len() as i64;
    let all: Vec<ArrayRef> = vec![
        texts(&|c| format!("c{}", c.0)),
        texts(&|c| c.1.to_string()),
        Arc::new(data),
        Arc::new(TimestampMillisecondArray::from_iter_values(offsets().map(|at| at * 1_000)).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![0; commands.len()])),
        Arc::new(Int64Array::from_iter_values(offsets())),
        Arc::new(BooleanArray::from(vec![false; commands.len()])),
    ];
    let origin = Origin { topic: "t".into(), partition: 0, from: first - 1, to: first + commands.len() as i64 - 1 };
    Batch::new(RecordBatch::try_new(columns(), all).unwrap(), origin)
}

/// A SKU in the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stock {
    on_hand: i64,
    reserved: i64,
    version: i64,
    reservations: BTreeMap<u8, i64>,
    /// Commands that were seen, and what they led to.
    seen: BTreeMap<u8, Vec<Said>>,
    received: i64,
    shipped: i64,
}

impl Stock {
    fn said(&self, port: u16, kind: &str, command: &Command, order: bool, quantity: Option<i64>) -> Said {
        Said {
            port,
            kind: kind.into(),
            sku: format!("s{}", command.2),
            order: order.then(|| format!("o{}", command.3)),
            quantity,
            reason: None,
            version: self.version,
        }
    }

    fn rejected(&self, command: &Command, reason: &str) -> Vec<Said> {
        vec![Said { reason: Some(reason.into()), ..self.said(1, &format!("{}.rejected", command.1), command, false, None) }]
    }

    fn decide(&mut self, command: &Command) -> Vec<Said> {
        if let Some(said) = self.seen.get(&command.0) {
            return said.iter().map(|said| Said { port: 2, ..said.clone() }).collect();
        }
        let (_, kind, _, order, quantity) = *command;
        let reserved = self.reservations.get(&order).copied();
        let next = |stock: &mut Stock, kind: &str, order: bool, quantity: i64| {
            stock.version += 1;
            stock.said(0, kind, command, order, Some(quantity))
        };
        let said = match (kind, reserved) {
            ("receive", _) if quantity > 0 => {
                self.on_hand += quantity;
                self.received += quantity;
                vec![next(self, "received", false, quantity)]
            }
            ("receive", _) => self.rejected(command, "not_positive"),
            ("reserve", Some(held)) => vec![self.said(2, "reserved", command, true, Some(held))],
            ("reserve", None) if self.on_hand - self.reserved >= quantity => {
                self.reserved += quantity;
                self.reservations.insert(order, quantity);
                vec![next(self, "reserved", true, quantity)]
            }
            ("reserve", None) => self.rejected(command, "out_of_stock"),
            ("ship" | "release", None) => self.rejected(command, "unknown_order"),
            ("ship", Some(held)) => {
                self.reservations.remove(&order);
                self.on_hand -= held;
                self.reserved -= held;
                self.shipped += held;
                vec![next(self, "released", true, held), next(self, "shipped", true, held)]
            }
            ("release", Some(held)) => {
                self.reservations.remove(&order);
                self.reserved -= held;
                vec![next(self, "released", true, held)]
            }
            ("adjust", _) if self.on_hand + quantity - self.reserved >= 0 => {
                self.on_hand += quantity;
                self.received += quantity;
                vec![next(self, "adjusted", false, quantity)]
            }
            _ => self.rejected(command, "not_oversold"),
        };
        self.seen.insert(command.0, said.clone());
        said
    }
}

fn input() -> InputInfo {
    InputInfo { schema: columns(), key: Some(vec![Path::column("data").child("sku")]), mode: Mode::Append }
}

/// What a replay of the events by this specification finds.
fn replayed(spec: &str, driver: &Driver, events: &[RecordBatch]) -> operator_aggregate::Found {
    let aggregate: Aggregate = serde_json::from_str(spec).unwrap();
    let mut replay = Replay::new(&aggregate, &PlanCx::new(&input(), &BTreeMap::new()), driver.state.clone(), None).unwrap();
    events.iter().for_each(|rows| replay.push(rows).unwrap());
    replay.finish().unwrap()
}

struct Driver {
    planned: Planned,
    operator: Box<dyn Operator>,
    state: MemoryState,
    timers: Timers,
    said: Vec<Said>,
    ids: Vec<String>,
    /// Batches of the main port.
    events: Vec<RecordBatch>,
    /// SKU, version, on hand, reserved.
    states: BTreeMap<(String, i64, i64, i64), i64>,
}

fn texts(column: &ArrayRef, row: usize) -> Option<String> {
    let texts = column.as_string::<i32>();
    texts.is_valid(row).then(|| texts.value(row).to_string())
}

fn numbers(column: &ArrayRef, row: usize) -> Option<i64> {
    let numbers = column.as_primitive::<Int64Type>();
    numbers.is_valid(row).then(|| numbers.value(row))
}

impl Driver {
    fn new() -> Driver {
        let aggregate: Aggregate = serde_json::from_str(SPEC).unwrap();
        let input = input();
        let planned =
            operator_core::plan(&aggregate, &PlanCx::new(&input, &BTreeMap::new())).map_err(|found| format!("{found:?}")).unwrap();
        assert!(planned.warnings.is_empty());
        let operator = (planned.build)();
        let (state, timers) = (MemoryState::default(), Timers::default());
        Driver { planned, operator, state, timers, said: Vec::new(), ids: Vec::new(), events: Vec::new(), states: BTreeMap::new() }
    }

    fn restart(&mut self) {
        self.operator = (self.planned.build)();
    }

    fn push(&mut self, batch: &Batch) {
        let (mut emitted, mut rejected, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
        let tables: BTreeMap<String, Table> = BTreeMap::new();
        {
            let cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut self.state, &tables);
            self.operator.on_batch(Input::ONLY, batch, &mut cx.with_timers(Some(&mut self.timers), 0)).unwrap();
        }
        assert_eq!((ledger.accounted(), rejected.len()), (batch.num_rows() as i64, 0));
        let mut all = Vec::new();
        for rows in &emitted {
            let (port, rows) = (rows.port, &rows.rows);
            let column = |name: &str| rows.column_by_name(name).unwrap();
            if port == Port::OUT {
                self.events.push(rows.clone());
            }
            if port == Port(4) {
                let signs = column("_change").as_primitive::<Int8Type>();
                for row in 0..rows.num_rows() {
                    let number = |name: &str| numbers(column(name), row).unwrap();
                    let state = (texts(column("sku"), row).unwrap(), number("version"), number("on_hand"), number("reserved"));
                    *self.states.entry(state).or_default() += i64::from(signs.value(row));
                }
                continue;
            }
            let (data, metadata) = (column("data").as_struct(), column("metadata").as_struct());
            let of = |name: &str, row: usize| data.column_by_name(name).and_then(|column| texts(column, row));
            for row in 0..rows.num_rows() {
                let said = Said {
                    port: port.0,
                    kind: texts(column("eventType"), row).unwrap(),
                    sku: of("sku", row).unwrap(),
                    order: of("order_id", row),
                    quantity: data.column_by_name("quantity").and_then(|column| numbers(column, row)),
                    reason: of("reason", row),
                    version: numbers(metadata.column_by_name("sequence").unwrap(), row).unwrap(),
                };
                let id = texts(column("eventId"), row).unwrap();
                all.push((numbers(column("_offset"), row).unwrap(), said, id));
            }
        }
        all.sort_by_key(|(offset, ..)| *offset);
        for (_, said, id) in all {
            if said.port == 0 {
                self.ids.push(id);
            }
            self.said.push(said);
        }
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let kind = prop_oneof![3 => Just("receive"), 6 => Just("reserve"), 2 => Just("ship"), 2 => Just("release"), 2 => Just("adjust")];
    prop::collection::vec((0..60u8, kind, 0..3u8, 0..6u8, -3..8i64), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_a_plain_model(commands in commands(), cuts in prop::collection::vec((1..20usize, any::<bool>()), 1..20)) {
        let commands: Vec<Command> = commands.into_iter().map(|c| if c.1 == "reserve" { (c.0, c.1, c.2, c.3, c.4.abs()) } else { c }).collect();
        let mut model: BTreeMap<u8, Stock> = BTreeMap::new();
        let expected: Vec<Said> = commands.iter().flat_map(|command| model.entry(command.2).or_default().decide(command)).collect();
        let mut driver = Driver::new();
        let mut whole = Driver::new();
        whole.push(&batch(&commands, 0));
        let (mut from, mut cuts) = (0, cuts.iter().cycle());
        while from < commands.len() {
            let (length, restart) = *cuts.next().unwrap();
            let to = (from + length).min(commands.len());
            driver.push(&batch(&commands[from..to], from as i64));
            from = to;
            if restart {
                driver.restart();
            }
        }
        let violations = |said: &[Said]| said.iter().filter(|said| said.port == 3).count();
        let broken = expected.iter().filter(|said| said.port == 1 && said.reason.as_deref() == Some("not_oversold")).count();
        for run in [&driver, &whole] {
            prop_assert_eq!(violations(&run.said), broken);
            let answers: Vec<Said> = run.said.iter().filter(|said| said.port != 3).cloned().collect();
            prop_assert_eq!(&answers, &expected);
            let unique: BTreeSet<&String> = run.ids.iter().collect();
            prop_assert_eq!(unique.len(), run.ids.len());
            let there: BTreeMap<_, _> = run.states.iter().filter(|(_, count)| **count != 0).collect();
            let states = model.iter().filter(|(_, stock)| stock.version > 0);
            let states: Vec<_> = states.map(|(sku, stock)| (format!("s{sku}"), stock.version, stock.on_hand, stock.reserved)).collect();
            prop_assert_eq!(there, states.iter().map(|state| (state, &1)).collect());
        }
        for (of, events) in [(&driver, &driver.events), (&driver, &whole.events)] {
            let found = replayed(SPEC, of, events);
            let aggregates = model.values().filter(|stock| stock.version > 0).count() as u64;
            prop_assert_eq!((found.events, found.aggregates), (driver.ids.len() as u64, aggregates));
            prop_assert!(found.cut.is_empty() && found.differences.is_empty(), "{:?}", found);
        }
        prop_assert_eq!(&driver.ids, &whole.ids);
        prop_assert_eq!(&driver.state.entries, &whole.state.entries);
        for stock in model.values() {
            prop_assert!(stock.on_hand >= stock.reserved);
            prop_assert_eq!(stock.received, stock.on_hand + stock.shipped);
            prop_assert_eq!(stock.reserved, stock.reservations.values().sum::<i64>());
        }
    }
}

#[test]
fn a_replay_finds_what_differs_and_what_is_missing() {
    let mut driver = Driver::new();
    driver.push(&batch(&[(0, "receive", 0, 0, 5), (1, "reserve", 0, 1, 2)], 0));
    driver.push(&batch(&[(2, "receive", 0, 0, 1), (3, "receive", 1, 0, 1)], 2));
    let events = &driver.events.clone();
    let found = replayed(&SPEC.replace("state.reserved + data.quantity", "state.reserved + 2"), &driver, events);
    assert_eq!((found.events, found.differences), (4, Vec::new()), "the same for these events");
    let found = replayed(&SPEC.replace("state.reserved + data.quantity", "state.reserved + 3"), &driver, events);
    assert_eq!(
        found.differences,
        ["s0: the state: by its events {version: 3, on_hand: 6, reserved: 3}, in state {version: 3, on_hand: 6, reserved: 2}"]
    );
    let found =
        replayed(&SPEC.replace("{ \"quantity\": \"data.quantity\" } }", "{ \"quantity\": \"data.quantity + 1\" } }"), &driver, events);
    assert_eq!(found.differences, ["s0: `reservation` o1: by its events {quantity: 3}, in state {quantity: 2}"]);
    let found = replayed(SPEC, &driver, &events[1..]);
    assert_eq!((found.events, found.cut), (1, vec!["s0".to_string()]));
    let found = replayed(SPEC, &driver, &events[..1]);
    assert_eq!(found.cut, ["s1"]);
    assert!(found.differences[0].starts_with("s0: the state: by its events {version: 2,"), "{found:?}");
}
