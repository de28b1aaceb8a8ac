//! A stream for tests that look at events one after the other.

use cutover_core::{
    model::event::Event,
    port::{Result, source::ChangeStream},
};

/// The next events of a stream, with the rows of large transactions in their place and without
/// words about those in progress.
///
/// # Errors
///
/// What the stream says.
///
/// # Panics
///
/// When the stream does not know the rows of a transaction that it announced.
pub async fn next_inline(stream: &mut dyn ChangeStream, out: &mut Vec<Event>) -> Result<()> {
    let mut events = Vec::new();
    stream.next(&mut events).await?;
    for event in events {
        match event {
            Event::Large { transaction } => {
                let mut large = stream.large(transaction).expect("its rows");
                let mut rows = Vec::new();
                while large.next(u64::MAX, &mut rows).await? {}
                out.extend(rows.into_iter().map(|(_, event)| event));
            }
            Event::InProgress { .. } | Event::RolledBack { .. } => {}
            event => out.push(event),
        }
    }
    Ok(())
}
