//! Foreign tables hold no rows here.

use super::super::{Answer, facts::Context, facts::Kind, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let names: Vec<String> = context.selected(Kind::Foreign).map(|r| r.name.to_string()).collect();
    Ok(judge(&names))
}

fn judge(names: &[String]) -> Vec<Found> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![warning(
        "CUT0129",
        format!(
            "rows of {} are not moved, they live on another server: {}",
            number(names.len(), "foreign table"),
            list(names)
        ),
        "make sure that green's server reaches the same foreign servers; create them and their \
         user mappings there before the run, unless our role owns them (what is there is left as it \
         is), or exclude these tables under `tables`",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_in_one() {
        assert!(judge(&[]).is_empty());
        assert_eq!(judge(&["a.b".into(), "a.c".into()]).len(), 1);
    }
}
