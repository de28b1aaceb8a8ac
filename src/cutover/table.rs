//! The machine by tables: facts on the left, what comes next on the right.

use cutover_core::model::side::Side;

use super::{
    fact::{Answer, Ending, Fact, Outcome, Process},
    machine::{Next, State, Verb, next},
    plan::Step,
};

/// `began`, `rehearsal`; `+pause.a` started, `=fence` done, `!fence` failed, `?point.b` unanswered;
/// the same after `undo:`; `restart`; `a>green`, `a>green held`, `a>unknown`, `a>silent`;
/// `says green`; `ended`.
fn facts(text: &str) -> Vec<Fact> {
    text.split(';').map(str::trim).filter(|w| !w.is_empty()).flat_map(words).collect()
}

fn words(word: &str) -> Vec<Fact> {
    let began = |rehearsal| Fact::MoveBegan {
        id: "1".into(),
        from: Side::Blue,
        rehearsal,
        budget_ms: 1000,
        switches: vec!["a".into(), "b".into()],
        at_ms: 0,
    };
    let side = |text: &str| match text {
        "blue" => Some(Side::Blue),
        "green" => Some(Side::Green),
        _ => None,
    };
    match word {
        "began" => return vec![began(false)],
        "rehearsal" => return vec![began(true)],
        "restart" => return vec![Fact::Restarted { by: Process::Run, at_ms: 0 }],
        "ended" => {
            let ending = Ending::Moved { owner: Side::Green };
            return vec![Fact::Ended { ending, at_ms: 0 }];
        }
        "prepared" => return facts("=recheck; =arm_reverse; =guard"),
        "paused" => return facts("prepared; =pause.a; =pause.b"),
        "ready" => return facts("paused; =fence; =drain; =verify; =counters"),
        _ => {}
    }
    if let Some(owner) = word.strip_prefix("says ") {
        return vec![Fact::Resolved { owner: side(owner).unwrap(), at_ms: 0 }];
    }
    if let Some((switch, answer)) = word.split_once('>') {
        let answer = match answer.split_whitespace().collect::<Vec<_>>()[..] {
            ["silent"] => Answer::Silent,
            [at, "held"] => Answer::Said { side: side(at), paused: Some(true) },
            [at, "perhaps"] => Answer::Said { side: side(at), paused: None },
            [at] => Answer::Said { side: side(at), paused: Some(false) },
            _ => panic!("{word}"),
        };
        return vec![Fact::Observed { switch: switch.into(), answer, at_us: 0 }];
    }
    let (undo, word) = word.strip_prefix("undo:").map_or((false, word), |rest| (true, rest));
    let (mark, name) = word.split_at(1);
    let (name, switch) = name.split_once('.').map_or((name, None), |(n, s)| (n, Some(s)));
    let step = Step::ALL.into_iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("{word}"));
    let outcome = match mark {
        "+" => Outcome::Started,
        "=" => Outcome::Done { details: Default::default() },
        "!" => Outcome::Failed { why: "no".into(), code: None, remedy: None },
        "?" => Outcome::Ambiguous { why: "no answer".into() },
        _ => panic!("{word}"),
    };
    let switch = switch.map(str::to_owned);
    vec![if undo {
        Fact::Undo { step, switch, outcome, at_us: 0 }
    } else {
        Fact::Step { step, switch, outcome, at_us: 0 }
    }]
}

fn told(next: &Next) -> String {
    match next {
        Next::Idle => "idle".into(),
        Next::Finished(Ending::Moved { owner }) => format!("moved to {owner}"),
        Next::Finished(Ending::Rehearsed { owner }) => format!("rehearsed on {owner}"),
        Next::Finished(Ending::Aborted { owner, step, .. }) => {
            format!("aborted on {owner} at {}", step.map_or("restart", Step::name))
        }
        Next::NeedsOperator { switches, .. } => format!("operator {}", switches.join(" ")),
        Next::Act(acts) => {
            let one = |act: &super::machine::Act| {
                let verb = match act.verb {
                    Verb::Do => "do",
                    Verb::Undo => "undo",
                    Verb::Observe => "ask about",
                };
                let switch = act.switch.map(|i| [".a", ".b"][i]).unwrap_or_default();
                let attempt =
                    if act.attempt > 0 { format!(" again {}", act.attempt) } else { String::new() };
                format!("{verb} {}{switch}{attempt}", act.step)
            };
            acts.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

#[test]
fn what_comes_next() {
    for (given, want) in [
        ("", "idle"),
        ("began", "do recheck"),
        ("began; +recheck; !recheck", "aborted on blue at recheck"),
        ("began; restart", "aborted on blue at restart"),
        ("began; =recheck; !arm_reverse", "undo arm_reverse"),
        ("began; =recheck; !arm_reverse; undo:=arm_reverse", "aborted on blue at arm_reverse"),
        ("began; prepared", "do pause.a, do pause.b"),
        ("began; paused", "do fence"),
        ("began; ready", "do decide"),
        // A switch that refused to pause holds nobody; the other one is let go.
        ("began; prepared; =pause.a; !pause.b", "undo pause.a"),
        ("began; prepared; =pause.a; !pause.b; undo:=pause.a", "undo guard"),
        ("began; prepared; =pause.a; ?pause.b", "undo pause.a, undo pause.b"),
        ("began; prepared; =pause.a; +pause.b; restart", "undo pause.a, undo pause.b"),
        // The fence opens first, so that nobody is refused; a failed fence may be half there.
        ("began; paused; !fence", "undo fence"),
        ("began; paused; +fence; restart", "undo fence"),
        ("began; paused; !fence; undo:!fence", "undo fence again 1"),
        ("began; paused; !fence; undo:=fence", "undo pause.a, undo pause.b"),
        (
            "began; paused; =fence; !drain; undo:=fence; undo:=pause.a; undo:!pause.b",
            "undo pause.b again 1",
        ),
        // What is in doubt is asked about, while the others go on.
        (
            "began; paused; !fence; undo:=fence; undo:!pause.a; undo:?pause.b",
            "undo pause.a again 1, ask about pause.b",
        ),
        ("began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>blue", "undo guard"),
        (
            "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>blue held",
            "undo pause.b again 1",
        ),
        (
            "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>blue perhaps",
            "undo pause.b again 1",
        ),
        (
            "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>unknown",
            "undo pause.b again 1",
        ),
        (
            "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>unknown; \
          undo:?pause.b; b>unknown; undo:?pause.b; b>unknown",
            "operator b",
        ),
        (
            "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>unknown; \
          undo:?pause.b; b>unknown; undo:?pause.b; b>unknown; says blue",
            "undo guard",
        ),
        (
            "began; paused; =fence; restart; undo:=fence; undo:+pause.a; undo:=pause.b; restart",
            "ask about pause.a",
        ),
        ("began; ready; restart", "undo fence"),
        // Decided: only forward.
        ("began; ready; =decide", "do unfence"),
        ("began; ready; =decide; restart", "do unfence"),
        ("began; ready; =decide; +unfence; !unfence", "do unfence again 1"),
        ("began; ready; =decide; +unfence; restart", "do unfence again 1"),
        ("began; ready; =decide; =unfence", "do point.a, do point.b"),
        ("began; ready; =decide; =unfence; =point.a; !point.b", "do point.b again 1"),
        ("began; ready; =decide; =unfence; =point.a; ?point.b", "ask about point.b"),
        (
            "began; ready; =decide; =unfence; +point.a; +point.b; restart",
            "ask about point.a, ask about point.b",
        ),
        (
            "began; ready; =decide; =unfence; ?point.a; !point.b",
            "ask about point.a, do point.b again 1",
        ),
        (
            "began; ready; =decide; =unfence; =point.a; ?point.b; b>silent",
            "ask about point.b again 1",
        ),
        ("began; ready; =decide; =unfence; =point.a; ?point.b; b>green", "do stream_reverse"),
        ("began; ready; =decide; =unfence; =point.a; ?point.b; b>green held", "do point.b again 1"),
        ("began; ready; =decide; =unfence; =point.a; ?point.b; b>blue", "do point.b again 1"),
        ("began; ready; =decide; =unfence; =point.a; ?point.b; b>unknown", "operator b"),
        ("began; ready; =decide; =unfence; !point.a; ?point.b; b>unknown", "do point.a again 1"),
        (
            "began; ready; =decide; =unfence; =point.a; ?point.b; b>unknown; restart",
            "ask about point.b",
        ),
        (
            "began; ready; =decide; =unfence; =point.a; ?point.b; b>unknown; says green",
            "do stream_reverse",
        ),
        (
            "began; ready; =decide; =unfence; =point.a; ?point.b; b>unknown; says blue",
            "do point.b again 1",
        ),
        (
            "began; ready; =decide; =unfence; =point.a; =point.b; !stream_reverse",
            "do stream_reverse again 1",
        ),
        ("began; ready; =decide; =unfence; =point.a; =point.b; =stream_reverse", "moved to green"),
        (
            "began; ready; =decide; =unfence; =point.a; =point.b; =stream_reverse; ended; restart",
            "moved to green",
        ),
        // A rehearsal is taken back on purpose.
        ("rehearsal; ready", "undo fence"),
        ("rehearsal; ready; undo:+fence; undo:=fence", "undo pause.a, undo pause.b"),
        (
            "rehearsal; ready; undo:=fence; undo:=pause.a; undo:=pause.b; undo:=guard; \
          undo:=arm_reverse",
            "rehearsed on blue",
        ),
        (
            "rehearsal; paused; !fence; undo:=fence; undo:=pause.a; undo:=pause.b; undo:=guard; \
          undo:=arm_reverse",
            "aborted on blue at fence",
        ),
        // Every move begins anew.
        (
            "began; ready; =decide; =unfence; =point.a; =point.b; =stream_reverse; ended; began",
            "do recheck",
        ),
    ] {
        assert_eq!(told(&next(&facts(given))), want, "{given}");
    }
}

#[test]
fn when_the_traffic_is_free() {
    for (given, want) in [
        ("", true),
        ("began; prepared", true),
        ("began; prepared; +pause.a", false),
        ("began; prepared; !pause.a; !pause.b", true),
        ("began; paused; +fence; restart; undo:=fence; undo:=pause.a", false),
        ("began; paused; +fence; restart; undo:=fence; undo:=pause.a; undo:=pause.b", true),
        ("began; paused; +fence; restart; undo:+fence; undo:=pause.a; undo:=pause.b", false),
        ("began; ready; =decide; =unfence; =point.a", false),
        ("began; ready; =decide; =unfence; =point.a; =point.b", true),
        ("began; paused; ended", true),
    ] {
        assert_eq!(State::of(&facts(given)).traffic_is_free(), want, "{given}");
    }
}

#[test]
fn who_owns_the_writes() {
    for (given, want) in [
        ("", Side::Blue),
        ("says green", Side::Green),
        ("began; ready", Side::Blue),
        ("began; ready; =decide", Side::Green),
        ("began; ready; =decide; =unfence; ended", Side::Green),
        ("began; prepared; restart", Side::Blue),
    ] {
        assert_eq!(State::of(&facts(given)).owner(), want, "{given}");
    }
}

#[test]
fn an_operators_word_is_taken_only_where_it_helps() {
    let doubt = "began; ready; =decide; =unfence; =point.a; ?point.b; b>unknown";
    let back = "began; paused; !fence; undo:=fence; undo:=pause.a; undo:?pause.b; b>unknown; \
                undo:?pause.b; b>unknown; undo:?pause.b; b>unknown";
    for (given, owner, want) in [
        (doubt, Side::Green, true),
        (doubt, Side::Blue, true),
        (back, Side::Blue, true),
        (back, Side::Green, false),
        ("began; paused", Side::Blue, false),
        ("", Side::Green, true),
    ] {
        assert_eq!(State::of(&facts(given)).may_resolve(owner).is_ok(), want, "{given} {owner}");
    }
}
