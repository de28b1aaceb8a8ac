//! Rights on tables that even the owner's may lack: owners can revoke from themselves.

use std::collections::BTreeMap;

use super::super::{Answer, facts::Context, facts::Relation, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.relations.iter(), &context.me()))
}

fn judge<'a>(relations: impl Iterator<Item = &'a Relation>, me: &str) -> Vec<Found> {
    // Without the owner's rights nothing works; that is another finding.
    let mut by_lack: BTreeMap<String, Vec<&Relation>> = BTreeMap::new();
    for relation in relations.filter(|r| r.touched && r.owned && !r.lacking.is_empty()) {
        by_lack.entry(relation.lacking.join(", ")).or_default().push(relation);
    }
    if by_lack.is_empty() {
        return Vec::new();
    }
    let grant = |(lack, tables): (&String, &Vec<&Relation>)| {
        let names: Vec<String> = tables.iter().map(|r| sql::table(&r.name)).collect();
        format!("GRANT {lack} ON {} TO {me};", names.join(", "))
    };
    let what = |(lack, tables): (&String, &Vec<&Relation>)| {
        format!("{lack} on {}", list(tables.iter().map(|r| &r.name)))
    };
    vec![error(
        "CUT0118",
        format!("our role {me} lacks {}", list(by_lack.iter().map(what))),
        lines(by_lack.iter().map(grant)),
    )]
}

#[cfg(test)]
mod tests {
    use super::{super::super::facts::tests::relation, *};

    #[test]
    fn tables_with_the_same_lack_share_a_grant() {
        let lack = |name: &str, lacking: &[&str]| Relation {
            lacking: lacking.iter().map(|p| (*p).to_owned()).collect(),
            ..relation(name)
        };
        let foreign = Relation { owned: false, ..lack("x", &["SELECT"]) };
        let all = [
            lack("a", &["INSERT"]),
            lack("b", &["INSERT"]),
            lack("c", &["SELECT", "DELETE"]),
            relation("fine"),
            foreign,
        ];
        let [found] = &judge(all.iter(), "\"c\"")[..] else { panic!() };
        assert_eq!(
            found.remedy,
            "GRANT INSERT ON \"app\".\"a\", \"app\".\"b\" TO \"c\";\n\
             GRANT SELECT, DELETE ON \"app\".\"c\" TO \"c\";"
        );
        assert!(judge([relation("fine")].iter(), "\"c\"").is_empty());
    }
}
