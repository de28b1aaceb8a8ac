//! How long the server keeps a session whose other end is gone.

use super::super::{Answer, facts::Context, found::*};

/// Below this a server under load cuts healthy streams.
const SHORT_MS: i64 = 10_000;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.number("wal_sender_timeout").await?))
}

fn judge(milliseconds: Option<i64>) -> Vec<Found> {
    let what = match milliseconds {
        Some(0) => "wal_sender_timeout is off: after a cut network the slot stays taken until TCP \
                    gives up, which may be hours"
            .to_owned(),
        Some(ms) if ms < SHORT_MS => {
            format!(
                "wal_sender_timeout is {ms} ms: a busy machine will cut the stream again and \
                     again"
            )
        }
        _ => return Vec::new(),
    };
    vec![warning("CUT0109", what, reload_with("wal_sender_timeout", "60s"))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_off_nor_short() {
        for (ms, count) in [(Some(0), 1), (Some(2_000), 1), (Some(60_000), 0), (None, 0)] {
            assert_eq!(judge(ms).len(), count, "{ms:?}");
        }
    }
}
