//! The collector with databases made of canned answers.

use async_trait::async_trait;
use cutover_core::{
    model::{counter::Counter, position::Position, schema::TableName},
    port::{
        PortError, Result,
        copy::Snapshot,
        primary::{Fence, OpenTransaction},
        source::{Capture, ChangeStream},
    },
};

use super::*;
use crate::preflight::{fit::tests::column, types::tests::table};

/// Answers what preflight asks; refuses the rest, and everything when `dead`.
#[derive(Clone, Default)]
struct Canned {
    dead: bool,
    tables: Vec<Table>,
    inventory: Inventory,
    findings: Vec<Finding>,
    fingerprint: BTreeMap<String, String>,
    beside: Option<BTreeMap<String, String>>,
}

impl Canned {
    fn answer<T>(&self, answer: &T) -> Result<T>
    where
        T: Clone,
    {
        if self.dead { Err(refused()) } else { Ok(answer.clone()) }
    }
}

fn refused() -> PortError {
    PortError::definite("CUT0011", "connecting", "wrong password", "give the right one")
}

#[async_trait]
impl Examine for Canned {
    async fn examine(&self, question: &Question) -> Result<Vec<Finding>> {
        let mut findings = self.answer(&self.findings)?;
        for finding in &mut findings {
            finding.place = question.side.to_string();
            finding.what = format!(
                "{} tables, owns {}, resuming {}",
                question.tables.len(),
                question.owns_writes,
                question.resuming
            );
        }
        Ok(findings)
    }
}

#[async_trait]
impl Source for Canned {
    async fn tables(&self, _: &Selection) -> Result<Vec<Table>> {
        self.answer(&self.tables)
    }
    async fn inventory(&self, _: &Selection) -> Result<Inventory> {
        self.answer(&self.inventory)
    }
    async fn capture(&self, _: &RunId, _: &[Table], _: bool) -> Result<Capture> {
        Err(refused())
    }
    async fn resume(&self, _: &RunId, _: &[Table]) -> Result<Option<Capture>> {
        Err(refused())
    }
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Err(refused())
    }
    async fn snapshot_at_position(&self) -> Result<(Position, Box<dyn Snapshot>)> {
        Err(refused())
    }
    async fn rebase(&self, _: &Position) -> Result<Position> {
        Err(refused())
    }
    async fn contains(&self, _: &Position) -> Result<bool> {
        Err(refused())
    }
    async fn stream(&self, _: &RunId, _: Option<&Position>) -> Result<Box<dyn ChangeStream>> {
        Err(refused())
    }
    async fn head(&self) -> Result<Position> {
        Err(refused())
    }
    async fn emit(&self, _: &str, _: &str) -> Result<Position> {
        Err(refused())
    }
    async fn begun_have_ended(&self, _: Duration) -> Result<bool> {
        unreachable!("preflight reads no rows")
    }

    async fn describe(&self, _: &[TableName]) -> Result<Vec<u8>> {
        Err(refused())
    }

    async fn retained(&self, _: &RunId) -> Result<Option<u64>> {
        Err(refused())
    }
    async fn release(&self, _: &RunId) -> Result<()> {
        Err(refused())
    }
}

#[async_trait]
impl Primary for Canned {
    async fn lay_fence(&self, _: &RunId, _: &[Table]) -> Result<()> {
        Err(refused())
    }
    async fn wake_fence(&self, _: &RunId) -> Result<()> {
        Err(refused())
    }
    async fn install_fence(&self, _: &RunId, _: &[Table]) -> Result<()> {
        Err(refused())
    }
    async fn close_to_clients(&self, _: &RunId, _: Duration) -> Result<()> {
        Err(refused())
    }
    async fn open_to_clients(&self, _: &RunId) -> Result<()> {
        Err(refused())
    }
    async fn fence(&self, _: &RunId) -> Result<Fence> {
        Err(refused())
    }
    async fn remove_fence(&self, _: &RunId) -> Result<()> {
        Err(refused())
    }
    async fn open_transactions(&self, _: &RunId) -> Result<Vec<OpenTransaction>> {
        Err(refused())
    }
    async fn counters(&self, _: &Selection) -> Result<Vec<Counter>> {
        Err(refused())
    }
    async fn advance(&self, _: &[Counter]) -> Result<()> {
        Err(refused())
    }
    async fn fingerprint(&self, _: &Selection) -> Result<BTreeMap<String, String>> {
        self.answer(&self.fingerprint)
    }
    async fn beside(&self, _: &Selection) -> Result<BTreeMap<String, String>> {
        self.beside.clone().ok_or_else(refused)
    }
    async fn round_trip(&self) -> Result<Duration> {
        Err(refused())
    }
    async fn warm_up(&self) -> Result<()> {
        Err(refused())
    }
}

/// Points somewhere and adds one finding of its own.
struct Pointing(Side);

#[async_trait]
impl TrafficSwitch for Pointing {
    fn name(&self) -> &str {
        "pooler[0]"
    }
    fn describe(&self, _: Side) -> String {
        String::new()
    }
    async fn observe(&self) -> std::result::Result<Routing, SwitchError> {
        Ok(Routing { side: Some(self.0), paused: Some(false) })
    }
    async fn pause(&self, _: Duration) -> std::result::Result<(), SwitchError> {
        Ok(())
    }
    async fn point_at(&self, _: Side) -> std::result::Result<(), SwitchError> {
        Ok(())
    }
    async fn examine(&self) -> Vec<Finding> {
        vec![finding("pooler[0]", "CUT0712")]
    }
}

fn finding(place: &str, code: &str) -> Finding {
    Finding {
        code: code.into(),
        severity: Severity::Info,
        place: place.into(),
        what: String::new(),
        remedy: String::new(),
    }
}

fn place(canned: &Canned) -> Place {
    let shared = Arc::new(canned.clone());
    Place { source: shared.clone(), primary: shared.clone(), examine: shared }
}

fn inputs(blue: &Canned, green: &Canned, switch: Side) -> Inputs {
    Inputs {
        run: RunId::new("shop").unwrap(),
        selection: Selection::default(),
        blue: place(blue),
        green: place(green),
        switches: vec![Arc::new(Pointing(switch))],
        owner: Side::Blue,
        resuming: false,
        copies_schema: true,
        keys_come: false,
        workers: 4,
        began: BTreeMap::new(),
        beside: [None, None],
    }
}

fn told(report: &Report) -> Vec<String> {
    report.findings.iter().map(|f| format!("{} {}", f.place, f.code)).collect()
}

#[tokio::test]
async fn everybody_is_asked_and_everything_is_told() {
    let blue = Canned {
        tables: vec![table(vec![column("c", "text")])],
        findings: vec![finding("", "CUT0143")],
        ..Canned::default()
    };
    let green = Canned { tables: vec![table(vec![])], ..blue.clone() };
    let report = examine(&inputs(&blue, &green, Side::Green), Scope::Start).await;
    assert_eq!(
        told(&report),
        [
            "green CUT0152",
            "pooler[0] CUT0174",
            "blue CUT0143",
            "green CUT0143",
            "pooler[0] CUT0712"
        ]
    );
    let words: Vec<&str> = report.findings.iter().map(|f| f.what.as_str()).collect();
    assert_eq!(words[2], "1 tables, owns true, resuming false");
    assert_eq!(words[3], "1 tables, owns false, resuming false");
    assert!(report.blocks());
}

#[tokio::test]
async fn a_dead_database_is_one_error_and_the_other_is_still_checked() {
    let blue = Canned { dead: true, ..Canned::default() };
    let green = Canned { findings: vec![finding("", "CUT0143")], ..Canned::default() };
    let report = examine(&inputs(&blue, &green, Side::Blue), Scope::Start).await;
    assert_eq!(told(&report), ["blue CUT0100", "green CUT0143", "pooler[0] CUT0712"]);
    let silence = &report.findings[0];
    assert_eq!(
        silence.what,
        "3 questions without an answer (its checks, its tables, its inventory): \
         CUT0011: connecting: wrong password"
    );
    assert_eq!(silence.remedy, "give the right one");
}

#[tokio::test]
async fn a_move_looks_at_definitions_and_not_at_the_inventory() {
    let blue = Canned { tables: vec![table(vec![])], ..Canned::default() };
    let green = Canned {
        inventory: Inventory { engine: "other".into(), ..Inventory::default() },
        ..blue.clone()
    };
    let mut inputs = inputs(&blue, &green, Side::Blue);
    inputs.resuming = true;
    inputs.began =
        [(Side::Green, Arc::new([("app.t".to_owned(), "then".to_owned())].into()))].into();
    let report = examine(&inputs, Scope::Move).await;
    assert_eq!(told(&report), ["green CUT0176", "pooler[0] CUT0712"]);
    inputs.began.clear();
    assert!(!examine(&inputs, Scope::Move).await.blocks());
}

#[tokio::test]
async fn an_empty_selection_is_an_error() {
    let nothing = Canned::default();
    let report = examine(&inputs(&nothing, &nothing, Side::Blue), Scope::Start).await;
    assert_eq!(told(&report), ["config CUT0177", "pooler[0] CUT0712"]);
}

#[tokio::test]
async fn what_does_not_travel_is_a_warning_and_so_is_no_answer() {
    let has = |text: &str| BTreeMap::from([("function app.f()".to_owned(), text.to_owned())]);
    let side = |beside| Canned { tables: vec![table(vec![])], beside, ..Canned::default() };
    let look = async |began: [Option<&str>; 2], blue: Option<&str>, owner: Side| {
        let (blue, green) = (side(blue.map(has)), side(Some(has("1"))));
        let mut inputs = inputs(&blue, &green, owner);
        inputs.owner = owner;
        inputs.beside = began.map(|text| text.map(|text| Arc::new(has(text))));
        let report = examine(&inputs, Scope::Move).await;
        assert!(!report.blocks());
        told(&report)
    };
    let (warned, quiet) = (["blue CUT0184", "pooler[0] CUT0712"], ["pooler[0] CUT0712"]);
    let known = [Some("1"), Some("1")];
    assert_eq!(look(known, Some("1"), Side::Blue).await, quiet);
    assert_eq!(look(known, Some("2"), Side::Blue).await, warned);
    assert_eq!(look(known, None, Side::Blue).await, warned);
    assert_eq!(look(known, Some("2"), Side::Green).await, quiet, "nobody writes to blue");
    // Journals of earlier versions.
    assert_eq!(look([None, Some("1")], Some("2"), Side::Blue).await, quiet);
    assert_eq!(look([None, None], None, Side::Blue).await, quiet);
}
