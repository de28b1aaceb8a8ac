//! The changes of one large transaction, read from what was kept of it.

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{
    model::event::{Event, TransactionId},
    port::{Result, source::Large},
};

use super::{
    assemble::{Relations, Trouble, event},
    inflight::{Cursor, InFlight, Kept},
    stops,
};
use crate::pgoutput::{Message, decode};

/// Reads one transaction. It describes every table before its first row, as the server sends it:
/// what others have described does not count.
pub(super) struct PgLarge {
    pub(super) kept: Arc<Kept>,
    pub(super) cursor: Cursor,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) transaction: TransactionId,
    /// Prefix of messages about definitions.
    pub(super) definitions: String,
    pub(super) relations: Relations,
    /// What is being done, for errors.
    pub(super) doing: String,
}

#[async_trait]
impl Large for PgLarge {
    async fn next(&mut self, until: u64, out: &mut Vec<(TransactionId, Event)>) -> Result<bool> {
        let mut messages = Vec::new();
        if !self.cursor.next(until, &mut messages).await? {
            return Ok(false);
        }
        let aborted = self.kept.aborted();
        for message in messages {
            let (part, message) = decode(&message, true).map_err(|e| self.trouble(e.into()))?;
            let part = part.unwrap_or(self.transaction);
            if aborted.contains(&part) {
                continue;
            }
            if let Message::Relation(relation) = message {
                let relation = self.in_flight.intern(relation);
                self.relations.insert(relation.id, relation);
                continue;
            }
            let event = event(message, &self.relations, &self.definitions);
            if let Some(event) = event.map_err(|e| self.trouble(e))? {
                out.push((part, event));
            }
        }
        Ok(true)
    }
}

impl PgLarge {
    fn trouble(&self, trouble: Trouble) -> cutover_core::port::PortError {
        let doing = format!("{} in transaction {}", self.doing, self.transaction);
        stops::not_understood(doing, trouble)
    }
}
