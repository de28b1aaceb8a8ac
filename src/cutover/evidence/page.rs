//! The evidence as one page.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Evidence, time_of_day};
use crate::cutover::{
    fact::{Answer, Ending, Fact, Outcome},
    plan::{Phase, Step},
};

const STYLE: &str = "
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.answer{padding:.8rem 1rem;border-radius:6px;font-weight:600;background:#eef1f4}
.good{background:#dff3e4}.bad{background:#fbe3d6}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;vertical-align:top;border-bottom:1px solid #e3e6ea}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.lane{position:relative;height:1.1rem;background:#f3f4f6;min-width:18rem}
.bar{position:absolute;top:0;bottom:0;background:#7aa5d8;min-width:2px}.bar.pause{background:#e0a458}.bar.forward{background:#78b98a}.bar.undo{background:#cf8f8f}
pre,code{font:13px/1.4 ui-monospace,monospace}pre{background:#f6f7f9;padding:.8rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.hash{color:#777;overflow-wrap:anywhere}";

/// Text that cannot be mistaken for markup, in content and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A page under construction; every text that goes in is escaped.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Markup of ours; never text from elsewhere.
    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    fn tag(&mut self, tag: &str, text: &str) {
        let name = tag.split(' ').next().unwrap_or(tag);
        // Writing to a string cannot fail.
        write!(self.0, "<{tag}>{}</{name}>", escape(text)).unwrap_or_default();
    }

    fn row(&mut self, name: &str, text: &str) {
        self.raw("<tr>");
        self.tag("th", name);
        self.tag("td", text);
        self.raw("</tr>\n");
    }

    fn json(&mut self, value: &Value) {
        self.tag("pre", &serde_json::to_string_pretty(value).unwrap_or_default());
        self.raw("\n");
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".into(), |ms| format!("{ms:.1} ms"))
}

pub(super) fn html(e: &Evidence) -> String {
    let mut page = Page::default();
    let to = e.from.other();
    let what = if e.rehearsal { "Rehearsal" } else { "Move" };
    let title = format!("{what} {} of {}: {} to {to}", e.id, e.about.run, e.from);
    page.raw(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n",
    );
    page.tag("title", &title);
    page.raw("<style>");
    page.raw(STYLE);
    page.raw("</style></head><body>\n");
    page.tag("h1", &title);
    page.tag("p", &format!("{}, by {}", e.began, e.about.program));
    let (class, answer) = answer(e);
    page.tag(&format!("p class=\"answer {class}\""), &answer);

    page.tag("h2", "Pause");
    page.raw("<table>");
    page.row("clients waited", &ms(e.pause.real_ms));
    page.row("until every switch let them go", &ms(e.pause.longest_ms));
    page.row("predicted", &ms(e.pause.predicted.as_ref().map(|p| p.ms)));
    page.row("budget", &format!("{} ms", e.pause.budget_ms));
    for over in &e.overruns {
        let text =
            format!("{} took {} ms, allowed {} ms", over.what, over.took_ms, over.allowed_ms);
        page.row("took too long", &text);
    }
    page.raw("</table>\n");
    if let Some(predicted) = &e.pause.predicted {
        page.raw("<table>");
        for part in &predicted.parts {
            page.row(
                &format!("predicted: {}", part.name),
                &format!("{:.1} ms, {}", part.ms, part.why),
            );
        }
        page.raw("</table>\n");
    }

    let facts: Vec<Fact> =
        e.chain.iter().filter_map(|entry| serde_json::from_str(&entry.line).ok()).collect();
    page.tag("h2", "Timeline");
    timeline(&mut page, &facts);

    page.tag("h2", "Positions and counts");
    page.raw("<table>");
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "not reached".into());
    page.row(&format!("{to}'s changes are captured from"), &or(&e.reverse_from));
    page.row(&format!("everything of {} is on {to} up to", e.from), &or(&e.drained_to));
    let counters = e.counters.as_ref().map(ToString::to_string);
    page.row("sequences carried over", &or(&counters));
    page.row("switches", &e.switches.join(", "));
    page.row("owner of the writes", e.owner.as_str());
    page.raw("</table>\n");
    page.tag("h2", "Certificate of equality");
    match &e.certificate {
        Some(certificate) => page.json(certificate),
        None => page.tag("p", "The move ended before the comparison behind the fence."),
    }

    page.tag("h2", "Decisions");
    page.raw("<table>");
    for fact in &facts {
        if let Some((name, text)) = decision(fact) {
            page.row(&name, &text);
        }
    }
    page.raw("</table>\n");

    page.tag("h2", "Configuration");
    page.json(&e.about.configuration);

    page.tag("h2", "Journal");
    page.tag(
        "p",
        "Every line carries the SHA-256 of the one before; printf '%s\\n%s' PREVIOUS LINE | \
         sha256sum gives its own.",
    );
    page.raw("<table>");
    for entry in &e.chain {
        page.raw("<tr><td>");
        page.tag("code", &entry.line);
        page.raw("<br>");
        page.tag("span class=\"hash\"", &entry.hash);
        page.raw("</td></tr>\n");
    }
    page.raw("</table>\n");
    page.tag("p", &format!("Seal: {}", e.seal));
    page.raw("</body></html>\n");
    page.0
}

fn answer(e: &Evidence) -> (&'static str, String) {
    match (&e.ending, &e.undecided) {
        (Some(Ending::Moved { owner }), _) => ("good", format!("{owner} owns the writes now.")),
        (Some(Ending::Rehearsed { owner }), _) => {
            ("good", format!("Everything worked and was taken back; {owner} owns the writes."))
        }
        (Some(Ending::Aborted { owner, step, why }), _) => {
            let at = step.map_or_else(String::new, |step| format!(" at {step}"));
            ("bad", format!("Taken back{at}; {owner} owns the writes as before. {why}"))
        }
        (None, Some(why)) => ("bad", format!("An operator must decide: {why}.")),
        (None, None) => ("bad", "The move has not ended.".into()),
    }
}

/// One lane per action; each process that took part has a clock of its own.
fn timeline(page: &mut Page, facts: &[Fact]) {
    let mut parts: Vec<Vec<&Fact>> = vec![vec![]];
    for fact in facts {
        if matches!(fact, Fact::Restarted { .. } | Fact::Resolved { .. }) {
            parts.push(vec![]);
        }
        if let Some(last) = parts.last_mut() {
            last.push(fact);
        }
    }
    for part in parts {
        if let Some(Fact::Restarted { by, at_ms }) = part.first() {
            let by = serde_json::to_value(by).ok();
            let by = by.as_ref().and_then(Value::as_str).unwrap_or_default();
            page.tag("p", &format!("{}: taken over by the {by} process", time_of_day(*at_ms)));
        }
        lanes(page, &part);
    }
}

struct Lane {
    name: String,
    class: &'static str,
    from_us: u64,
    to_us: u64,
}

fn lanes(page: &mut Page, facts: &[&Fact]) {
    let mut lanes: Vec<Lane> = Vec::new();
    for fact in facts {
        let (undo, step, switch, outcome, at_us) = match fact {
            Fact::Step { step, switch, outcome, at_us } => (false, *step, switch, outcome, *at_us),
            Fact::Undo { step, switch, outcome, at_us } => (true, *step, switch, outcome, *at_us),
            _ => continue,
        };
        let at = switch.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let name = format!("{}{step}{at}", if undo { "undo " } else { "" });
        if *outcome == Outcome::Started {
            lanes.push(Lane { name, class: class(undo, step), from_us: at_us, to_us: at_us });
        } else if let Some(lane) = lanes.iter_mut().rev().find(|lane| lane.name == name) {
            lane.to_us = at_us;
            match outcome {
                Outcome::Failed { .. } => lane.name.push_str(" (failed)"),
                Outcome::Ambiguous { .. } => lane.name.push_str(" (no answer)"),
                _ => {}
            }
        } else {
            lanes.push(Lane { name, class: class(undo, step), from_us: at_us, to_us: at_us });
        }
    }
    // What comes before the pause is long and interests nobody: the scale begins with the pause.
    let start = lanes.iter().find(|l| l.class != "before").map_or(0, |lane| lane.from_us);
    let end = lanes.iter().map(|lane| lane.to_us).max().unwrap_or(0).max(start + 1);
    let scale = (end - start) as f64;
    page.raw("<table>");
    for lane in &lanes {
        page.raw("<tr>");
        page.tag("td", &lane.name);
        page.tag("td class=\"n\"", &format!("{:.1}", lane.from_us as f64 / 1000.0));
        let took = lane.to_us.saturating_sub(lane.from_us) as f64;
        page.tag("td class=\"n\"", &format!("{:.1} ms", took / 1000.0));
        page.raw("<td>");
        if lane.from_us >= start {
            let left = (lane.from_us - start) as f64 / scale * 100.0;
            let width = took / scale * 100.0;
            page.raw("<div class=\"lane\">");
            page.tag(
                &format!(
                    "div class=\"bar {}\" style=\"left:{left:.2}%;width:{width:.2}%\"",
                    lane.class
                ),
                "",
            );
            page.raw("</div>");
        }
        page.raw("</td></tr>\n");
    }
    page.raw("</table>\n");
}

fn class(undo: bool, step: Step) -> &'static str {
    match (undo, step.phase()) {
        (true, _) => "undo",
        (_, Phase::Before) => "before",
        (_, Phase::Pause) => "pause",
        (_, Phase::Forward) => "forward",
    }
}

/// What was decided, refused, asked and answered.
fn decision(fact: &Fact) -> Option<(String, String)> {
    let at = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
    let named = |step: &Step, switch: &Option<String>| {
        switch.as_ref().map_or_else(|| step.to_string(), |name| format!("{step} {name}"))
    };
    match fact {
        Fact::MoveBegan { from, rehearsal, at_ms, .. } => {
            let what = if *rehearsal { "a rehearsal" } else { "a move" };
            Some((time_of_day(*at_ms), format!("{what} from {from} to {} began", from.other())))
        }
        Fact::Step { step: Step::Decide, outcome: Outcome::Done { .. }, at_us, .. } => {
            Some((at(*at_us), "decided: from here on only forward".into()))
        }
        Fact::Step { step, switch, outcome, at_us } => {
            let name = named(step, switch);
            match outcome {
                Outcome::Failed { why, .. } => Some((at(*at_us), format!("{name} failed: {why}"))),
                Outcome::Ambiguous { why } => {
                    Some((at(*at_us), format!("{name}: no answer: {why}")))
                }
                _ => None,
            }
        }
        Fact::Undo { step, switch, outcome, at_us } => {
            let name = named(step, switch);
            match outcome {
                Outcome::Done { .. } => Some((at(*at_us), format!("{name} taken back"))),
                Outcome::Failed { why, .. } => {
                    Some((at(*at_us), format!("taking back {name} failed: {why}")))
                }
                Outcome::Ambiguous { why } => {
                    Some((at(*at_us), format!("taking back {name}: no answer: {why}")))
                }
                Outcome::Started => None,
            }
        }
        Fact::Observed { switch, answer, at_us } => Some((
            at(*at_us),
            match answer {
                Answer::Silent => format!("{switch} was asked and did not answer"),
                Answer::Said { side: None, .. } => {
                    format!("{switch} was asked and cannot say where writes go")
                }
                Answer::Said { side: Some(side), paused } => {
                    let held = match paused {
                        Some(true) => "holds its clients",
                        Some(false) => "lets its clients go",
                        None => "cannot say whether it holds its clients",
                    };
                    format!("{switch} was asked: it points at {side} and {held}")
                }
            },
        )),
        Fact::Restarted { at_ms, .. } => Some((
            time_of_day(*at_ms),
            "another process took over, because the one before had ended".into(),
        )),
        Fact::Resolved { owner, at_ms } => {
            Some((time_of_day(*at_ms), format!("an operator said that {owner} owns the writes")))
        }
        Fact::Ended { ending, at_ms } => Some((
            time_of_day(*at_ms),
            match ending {
                Ending::Moved { owner } => format!("ended: {owner} owns the writes"),
                Ending::Rehearsed { owner } => format!("ended: rehearsed, {owner} owns the writes"),
                Ending::Aborted { owner, .. } => {
                    format!("ended: taken back, {owner} owns the writes")
                }
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;

    #[test]
    fn the_page_is_self_contained_and_nothing_in_it_is_markup_but_ours() {
        let html = sample().html();
        for wrong in ["<script", "<img", "http://", "https://", "src=", "href=", "url(", "<co>"] {
            assert!(!html.contains(wrong), "{wrong}");
        }
        assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
        assert!(html.contains("shop &amp; &lt;co&gt;"));
        for told in
            ["green owns the writes now", "23.5 ms", "30.0 ms", "0/2B", "&quot;rows&quot;: 42"]
        {
            assert!(html.contains(told), "{told}");
        }
    }

    #[test]
    fn every_opened_element_is_closed() {
        let html = sample().html();
        for name in ["table", "tr", "td", "th", "div", "pre", "p", "h2", "code", "span", "style"] {
            let opened = html.matches(&format!("<{name}>")).count()
                + html.matches(&format!("<{name} ")).count();
            assert_eq!(opened, html.matches(&format!("</{name}>")).count(), "{name}");
        }
    }
}
