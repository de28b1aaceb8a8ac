//! Asks everybody, at the same time, and puts the answers together. No decisions.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use cutover_core::{
    model::{
        finding::{Finding, Scope, Severity},
        inventory::Inventory,
        run::RunId,
        schema::Table,
        selection::Selection,
        side::Side,
    },
    port::{
        self,
        examine::{Examine, Question},
        primary::Primary,
        source::Source,
        switch::{Routing, SwitchError, TrafficSwitch},
    },
};
use futures_util::future::join_all;

use super::{
    Report, beside, counters, drift, found, inventory, switches, types, way_back,
    words::{list, number},
};

/// How long one question may take. A frozen server must not freeze the answer about the others.
const PATIENCE: Duration = Duration::from_secs(120);

/// One database, seen through what preflight asks of it.
#[derive(Clone)]
pub struct Place {
    /// Its tables and inventory.
    pub source: Arc<dyn Source>,
    /// Its definitions, for changes since the run began.
    pub primary: Arc<dyn Primary>,
    /// Its own checks.
    pub examine: Arc<dyn Examine>,
}

/// Everything a preflight looks at.
#[derive(Clone)]
pub struct Inputs {
    /// The run.
    pub run: RunId,
    /// What is moved.
    pub selection: Selection,
    /// The database in use when the run began.
    pub blue: Place,
    /// Its successor.
    pub green: Place,
    /// All switches of the run.
    pub switches: Vec<Arc<dyn TrafficSwitch>>,
    /// Which side owns the clients' writes now.
    pub owner: Side,
    /// Whether the run has begun already.
    pub resuming: bool,
    /// Whether we create the schema on green (`schema: copy`, or commands after the copy).
    pub copies_schema: bool,
    /// Whether keys and indexes of green are still to be created, behind the rows.
    pub keys_come: bool,
    /// Workers of copy and comparison.
    pub workers: usize,
    /// Definitions when the run began, per side, from table to text; empty before.
    pub began: BTreeMap<Side, Arc<BTreeMap<String, String>>>,
    /// What was defined beside tables when both sides were last alike, blue's first; `None` where
    /// nobody looked.
    pub beside: [Option<beside::Objects>; 2],
}

/// Makes every check of `scope`. Never fails: what could not be checked is an error finding
/// `CUT0100`, because it is not known to be harmless.
pub async fn examine(inputs: &Inputs, scope: Scope) -> Report {
    let (blue_facts, green_facts) =
        tokio::join!(facts(&inputs.blue, inputs, scope), facts(&inputs.green, inputs, scope));
    let beside_tables = blue_facts.inventory.as_ref().cloned().unwrap_or_default();
    let question = |side| Question {
        run: inputs.run.clone(),
        side,
        scope,
        selection: inputs.selection.clone(),
        tables: blue_facts.tables.as_ref().cloned().unwrap_or_default(),
        owners: beside_tables.owners.clone(),
        owned_in: beside_tables.owned_in.clone(),
        schema_owners: beside_tables.schema_owners.clone(),
        belongings: beside_tables.belongings.clone(),
        forced: beside_tables.forced.clone(),
        owns_writes: inputs.owner == side,
        resuming: inputs.resuming,
        copies_schema: inputs.copies_schema,
        workers: inputs.workers,
    };
    let (blue, green) = (question(Side::Blue), question(Side::Green));
    let (blue_findings, green_findings, switch_findings, drift_findings, beside) = tokio::join!(
        asked("its checks", inputs.blue.examine.examine(&blue)),
        asked("its checks", inputs.green.examine.examine(&green)),
        join_all(inputs.switches.iter().map(|s| ask_switch(s.as_ref(), inputs.owner))),
        drifted(inputs),
        untravelled(inputs),
    );

    let mut silence = Silence::default();
    let mut findings = Vec::new();
    for (side, answer) in [(Side::Blue, blue_findings), (Side::Green, green_findings)] {
        findings.extend(silence.note(side, answer).unwrap_or_default());
    }
    findings.extend(switch_findings.into_iter().flatten());
    findings.extend(beside);
    for (side, answer) in drift_findings {
        findings.extend(silence.note(side, answer).unwrap_or_default());
    }
    let blue = blue_facts.noted(Side::Blue, &mut silence);
    let green = green_facts.noted(Side::Green, &mut silence);
    findings.extend(compared(inputs, scope, &blue, &green));
    findings.extend(silence.findings());
    let comes = |f: &Finding| f.place == Side::Green.to_string() && types::is_of_key(&f.code);
    findings.retain(|f| !(inputs.keys_come && comes(f)));
    Report::new(scope, findings)
}

/// What is read before the checks, because they need it.
struct Facts<E> {
    tables: Result<Vec<Table>, E>,
    inventory: Result<Inventory, E>,
}

impl Facts<Unanswered> {
    fn noted(self, side: Side, silence: &mut Silence) -> Facts<()> {
        Facts {
            tables: silence.note(side, self.tables).ok_or(()),
            inventory: silence.note(side, self.inventory).ok_or(()),
        }
    }
}

async fn facts(place: &Place, inputs: &Inputs, scope: Scope) -> Facts<Unanswered> {
    let tables = async {
        match scope {
            Scope::Start => place.source.tables(&inputs.selection).await,
            // Nobody asks for sizes any more.
            Scope::Move => place.source.definitions(&inputs.selection).await,
        }
    };
    let inventory = async {
        match scope {
            Scope::Start => place.source.inventory(&inputs.selection).await,
            // No check of a move asks for any of it.
            Scope::Move => Ok(Inventory::default()),
        }
    };
    let (tables, inventory) =
        tokio::join!(asked("its tables", tables), asked("its inventory", inventory));
    Facts { tables, inventory }
}

/// What only the engine can see.
fn compared(inputs: &Inputs, scope: Scope, blue: &Facts<()>, green: &Facts<()>) -> Vec<Finding> {
    // Before a move the schema is there, whoever made it.
    let creates = inputs.copies_schema && scope == Scope::Start;
    let mut findings = Vec::new();
    if let Ok(tables) = &blue.tables
        && tables.is_empty()
    {
        findings.push(nothing_selected(&inputs.selection));
    }
    if let (Ok(b), Ok(g)) = (&blue.tables, &green.tables) {
        findings.extend(types::compare(b, g, Side::Green, creates));
        findings.extend(way_back::compare(b, g));
    }
    if scope == Scope::Move {
        return findings;
    }
    if let (Ok(b), Ok(g)) = (&blue.inventory, &green.inventory) {
        let tables = blue.tables.as_deref().unwrap_or_default();
        findings.extend(inventory::compare(b, g, tables, creates));
        findings.extend(counters::compare(b, g, creates));
    }
    if inputs.switches.is_empty() {
        findings.push(switches::none_configured());
    }
    findings
}

fn nothing_selected(selection: &Selection) -> Finding {
    Finding {
        place: "config".into(),
        ..found(
            "CUT0177",
            Severity::Error,
            Side::Blue,
            format!("no table of blue matches `tables`: include {}", list(&selection.include)),
            "write patterns as schema.table with * for any characters, for example public.*; \
             upper and lower case count",
        )
    }
}

async fn ask_switch(switch: &dyn TrafficSwitch, owner: Side) -> Vec<Finding> {
    let observed = async {
        tokio::time::timeout(PATIENCE, switch.observe()).await.unwrap_or_else(|late| {
            Err(SwitchError::Ambiguous {
                switch: switch.name().to_owned(),
                what: "where writes go".into(),
                source: Some(Box::new(late)),
            })
        })
    };
    let own = tokio::time::timeout(PATIENCE, switch.examine());
    let (answer, own): (Result<Routing, SwitchError>, _) = tokio::join!(observed, own);
    let mut findings = switches::judge(switch.name(), owner, &answer);
    match own {
        Ok(own) => findings.extend(own),
        Err(_) => findings.push(Finding {
            place: switch.name().to_owned(),
            ..unanswered(Side::Blue, &["its checks"], "no answer in time", None)
        }),
    }
    findings
}

/// Definitions that changed, for the sides whose definitions at the beginning are known.
async fn drifted(inputs: &Inputs) -> Vec<(Side, Result<Vec<Finding>, Unanswered>)> {
    let one = async |side: Side, place: &Place, began: &BTreeMap<String, String>| {
        let now = asked("its definitions", place.primary.fingerprint(&inputs.selection)).await;
        (side, now.map(|now| drift::compare(side, began, &now)))
    };
    join_all(inputs.began.iter().map(|(side, began)| match side {
        Side::Blue => one(Side::Blue, &inputs.blue, began),
        Side::Green => one(Side::Green, &inputs.green, began),
    }))
    .await
}

/// What changed beside tables and only where clients write. That nobody knows stops nothing.
async fn untravelled(inputs: &Inputs) -> Option<Finding> {
    let [Some(blue), Some(green)] = &inputs.beside else { return None };
    let look = async |place: &Place, began: &beside::Objects| {
        let now = asked("what is beside tables", place.primary.beside(&inputs.selection)).await?;
        Ok(beside::Look { began: Arc::clone(began), now })
    };
    match tokio::join!(look(&inputs.blue, blue), look(&inputs.green, green)) {
        (Ok(blue), Ok(green)) => beside::compare(inputs.owner, &blue, &green),
        (Err(unknown), _) | (_, Err(unknown)) => {
            let Unanswered { cause, .. } = unknown;
            Some(beside::unknown(inputs.owner, &cause))
        }
    }
}

/// A question that got no answer.
struct Unanswered {
    question: &'static str,
    cause: String,
    remedy: Option<String>,
}

async fn asked<T>(
    question: &'static str,
    answer: impl Future<Output = port::Result<T>>,
) -> Result<T, Unanswered> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Unanswered {
            question,
            cause: switches::causes(&error),
            remedy: error.remedy().map(str::to_owned),
        }),
        Err(_) => Err(Unanswered {
            question,
            cause: format!("no answer within {} s", PATIENCE.as_secs()),
            remedy: None,
        }),
    }
}

/// All questions without an answer, one finding per side and cause.
#[derive(Default)]
struct Silence {
    causes: BTreeMap<(Side, String), Quiet>,
}

/// What stayed unanswered for one cause.
#[derive(Default)]
struct Quiet {
    questions: Vec<&'static str>,
    remedy: Option<String>,
}

impl Silence {
    fn note<T>(&mut self, side: Side, answer: Result<T, Unanswered>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(Unanswered { question, cause, remedy }) => {
                let quiet = self.causes.entry((side, cause)).or_default();
                quiet.questions.push(question);
                quiet.remedy = remedy;
                None
            }
        }
    }

    fn findings(self) -> impl Iterator<Item = Finding> {
        self.causes
            .into_iter()
            .map(|((side, cause), quiet)| unanswered(side, &quiet.questions, &cause, quiet.remedy))
    }
}

fn unanswered(side: Side, questions: &[&str], cause: &str, remedy: Option<String>) -> Finding {
    let remedy = remedy.unwrap_or_else(|| {
        "make it reachable, then run the check again; the page of this code lists causes".into()
    });
    let count = number(questions.len(), "question");
    found(
        "CUT0100",
        Severity::Error,
        side,
        format!("{count} without an answer ({}): {cause}", list(questions)),
        remedy,
    )
}

#[cfg(test)]
mod tests;
