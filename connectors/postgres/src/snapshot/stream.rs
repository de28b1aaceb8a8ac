//! One range of a table as a COPY stream.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::BytesMut;
use cutover_core::{
    model::schema::Table,
    port::{
        Result,
        copy::{CopyChunk, CopyStream, Range},
    },
};
use futures_util::StreamExt;
use tokio_postgres::CopyOutStream;

use super::View;
use crate::{connect::port_error, shelf::Warm, sql};

/// The server sends one message per row; the writer is woken once per this many bytes.
const CHUNK: usize = 128 << 10;

/// The statement that reads one range of the carried columns.
pub(super) fn copy_statement(table: &Table, range: &Range, options: &str) -> String {
    let name = sql::table(&table.name);
    let columns: Vec<String> = table.carried().map(|c| sql::ident(&c.name)).collect();
    let columns = columns.join(", ");
    if range.condition.is_empty() && !columns.is_empty() {
        return format!("COPY {name} ({columns}) TO STDOUT ({options})");
    }
    let condition = if range.condition.is_empty() { "true" } else { &range.condition };
    format!("COPY (SELECT {columns} FROM ONLY {name} WHERE {condition}) TO STDOUT ({options})")
}

/// An open COPY. The session goes back when the stream is read to its end.
pub(super) struct PgCopyStream {
    rows: Pin<Box<CopyOutStream>>,
    warm: Option<Warm>,
    view: Arc<View>,
    doing: String,
    /// What was received and not yet handed out: kept here so that `next` may be cancelled.
    buffer: BytesMut,
}

impl PgCopyStream {
    pub(super) fn new(rows: CopyOutStream, warm: Warm, view: Arc<View>, doing: String) -> Self {
        let buffer = BytesMut::with_capacity(2 * CHUNK);
        Self { rows: Box::pin(rows), warm: Some(warm), view, doing, buffer }
    }
}

#[async_trait]
impl CopyStream for PgCopyStream {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        while self.buffer.len() < CHUNK && self.warm.is_some() {
            match self.rows.next().await {
                Some(Ok(row)) if row.len() >= CHUNK && self.buffer.is_empty() => {
                    return Ok(Some(CopyChunk::Raw(row)));
                }
                Some(Ok(row)) => self.buffer.extend_from_slice(&row),
                Some(Err(e)) => {
                    self.warm = None;
                    return Err(port_error(self.doing.as_str(), e));
                }
                None => {
                    if let Some(warm) = self.warm.take() {
                        self.view.rest(warm).await;
                    }
                }
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(2 * CHUNK);
        Ok(Some(CopyChunk::Raw(chunk)))
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Generated, Identity, RowIdentity, TableName};

    use super::*;

    #[test]
    fn statements() {
        let column = |name: &str, generated| Column {
            name: name.into(),
            base_type: "text".into(),
            declared_type: "text".into(),
            nullable: true,
            generated,
            identity: Identity::No,
            collation: None,
        };
        let mut table = Table {
            name: TableName::new("S", "t"),
            columns: vec![column("a", Generated::No), column("g", Generated::Stored)].into(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        };
        let whole = Range { condition: String::new(), bytes: 0 };
        let part = Range { condition: "ctid < '(1,0)'::tid".into(), bytes: 0 };
        assert_eq!(
            copy_statement(&table, &whole, "FORMAT binary"),
            "COPY \"S\".\"t\" (\"a\") TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            copy_statement(&table, &part, "FORMAT text"),
            "COPY (SELECT \"a\" FROM ONLY \"S\".\"t\" WHERE ctid < '(1,0)'::tid) \
             TO STDOUT (FORMAT text)"
        );
        table.columns.clear();
        assert_eq!(
            copy_statement(&table, &whole, "FORMAT text"),
            "COPY (SELECT  FROM ONLY \"S\".\"t\" WHERE true) TO STDOUT (FORMAT text)"
        );
    }
}
