//! Whether the publication carries what a move relies on, now: the stream looks only from time to
//! time.

use cutover_core::port::PortError;

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // The way back is looked at where it is armed; before a run has begun there is none.
    if !context.question.owns_writes || !context.question.resuming {
        return Ok(Vec::new());
    }
    match context.database.check_publication(context.session, context.run()).await {
        Err(PortError::Definite { code, what, remedy, .. }) => Ok(vec![error(code, what, remedy)]),
        other => Ok(other.map(|()| Vec::new())?),
    }
}
