//! Bytes → one message.

use bytes::Bytes;
use cutover_core::model::{
    event::{Relation, RelationColumn},
    schema::TableName,
    value::{Cell, Tuple},
};

use super::message::{DecodeError, Message, Old};

/// Decodes one message. `streamed` says that it lies between `StreamStart` and `StreamStop`,
/// where messages about rows carry the number of their (sub)transaction; it is returned beside
/// the message. Rows share the buffer of `message`.
///
/// # Errors
///
/// [`DecodeError`] for whatever is not a whole and known message.
pub(crate) fn decode(
    message: &Bytes,
    streamed: bool,
) -> Result<(Option<u32>, Message), DecodeError> {
    let mut r = Reader { data: message, at: 0, tag: '?' };
    r.tag = char::from(r.u8()?);
    let carries_xid = matches!(r.tag, 'R' | 'Y' | 'I' | 'U' | 'D' | 'T' | 'M');
    let xid = if streamed && carries_xid { Some(r.u32()?) } else { None };
    let decoded = match r.tag {
        'I' => {
            let relation = r.u32()?;
            r.marker(b'N')?;
            let new = r.tuple()?;
            if new.values().any(|v| v == cutover_core::model::value::Value::Unchanged) {
                return Err(r.error("an inserted row without one of its values"));
            }
            Message::Insert { relation, new }
        }
        'U' => {
            let relation = r.u32()?;
            let old = match r.peek()? {
                b'N' => None,
                _ => Some(r.old()?),
            };
            r.marker(b'N')?;
            Message::Update { relation, old, new: r.tuple()? }
        }
        'D' => Message::Delete { relation: r.u32()?, old: r.old()? },
        'B' => {
            r.u64()?;
            let committed_at = r.i64()?;
            Message::Begin { xid: r.u32()?, committed_at }
        }
        'C' => {
            r.flags()?;
            r.u64()?;
            let end_lsn = r.u64()?;
            r.i64()?;
            Message::Commit { end_lsn }
        }
        'O' => {
            r.u64()?;
            Message::Origin { name: r.string()? }
        }
        'R' => Message::Relation(r.relation()?),
        'Y' => {
            r.u32()?;
            r.string()?;
            r.string()?;
            Message::Type
        }
        'T' => r.truncate()?,
        'M' => {
            let transactional = match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(r.error("unknown flags")),
            };
            r.u64()?;
            let prefix = r.string()?;
            let length = r.u32()? as usize;
            let at = r.at;
            r.take(length)?;
            Message::Logical { transactional, prefix, content: message.slice(at..at + length) }
        }
        'S' => {
            let xid = r.u32()?;
            Message::StreamStart { xid, first: r.u8()? == 1 }
        }
        'E' => Message::StreamStop,
        'c' => {
            let xid = r.u32()?;
            r.flags()?;
            r.u64()?;
            let end_lsn = r.u64()?;
            Message::StreamCommit { xid, end_lsn, committed_at: r.i64()? }
        }
        'A' => {
            let (xid, subxid) = (r.u32()?, r.u32()?);
            // Only with `streaming 'parallel'`: position and time of the abort.
            if r.left() == 16 {
                r.take(16)?;
            }
            Message::StreamAbort { xid, subxid }
        }
        'b' | 'P' | 'K' | 'r' | 'p' => {
            // Not read further: the stream stops here.
            return Ok((None, Message::Prepared { tag: r.tag }));
        }
        _ => return Err(r.error("unknown kind of message")),
    };
    if r.left() != 0 {
        return Err(r.error("bytes are left over"));
    }
    Ok((xid, decoded))
}

/// Reads big-endian fields with every length checked.
struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
    tag: char,
}

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { tag: self.tag, at: self.at, what }
    }

    fn left(&self) -> usize {
        self.data.len() - self.at
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let bytes = self
            .data
            .get(self.at..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| self.error("the message is too short"))?;
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        let mut out = [0; N];
        out.copy_from_slice(bytes);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.data.get(self.at).copied().ok_or_else(|| self.error("the message is too short"))
    }

    fn marker(&mut self, wanted: u8) -> Result<(), DecodeError> {
        if self.peek()? != wanted {
            return Err(self.error("another kind of row was expected"));
        }
        self.at += 1;
        Ok(())
    }

    /// Commit flags: none are defined.
    fn flags(&mut self) -> Result<(), DecodeError> {
        match self.u8()? {
            0 => Ok(()),
            _ => Err(self.error("unknown flags")),
        }
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let end =
            rest.iter().position(|b| *b == 0).ok_or_else(|| self.error("a name does not end"))?;
        let text =
            std::str::from_utf8(&rest[..end]).map_err(|_| self.error("a name is not UTF-8"))?;
        self.at += end + 1;
        Ok(text.to_owned())
    }

    fn old(&mut self) -> Result<Old, DecodeError> {
        match self.u8()? {
            b'K' => self.tuple().map(Old::Key),
            b'O' => self.tuple().map(Old::Full),
            _ => Err(self.error("another kind of row was expected")),
        }
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let count = usize::from(self.u16()?);
        // One byte at least per column: a wrong count cannot make us allocate much.
        if count > self.left() {
            return Err(self.error("more columns than bytes"));
        }
        let mut cells = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = self.u8()?;
            cells.push(match kind {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' | b'b' => {
                    let length = self.u32()?;
                    let at = u32::try_from(self.at)
                        .map_err(|_| self.error("the message is too long"))?;
                    self.take(length as usize)?;
                    if kind == b't' { Cell::Text(at, length) } else { Cell::Binary(at, length) }
                }
                _ => return Err(self.error("unknown kind of value")),
            });
        }
        Ok(Tuple::new(self.data.clone(), cells))
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let id = self.u32()?;
        let schema = self.string()?;
        let name = self.string()?;
        // An empty schema is how the plugin writes pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        let full_identity = match self.u8()? {
            b'f' => true,
            b'd' | b'n' | b'i' => false,
            _ => return Err(self.error("unknown replica identity")),
        };
        let count = usize::from(self.u16()?);
        if count > self.left() {
            return Err(self.error("more columns than bytes"));
        }
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            let flags = self.u8()?;
            if flags > 1 {
                return Err(self.error("unknown flags"));
            }
            columns.push(RelationColumn {
                key: flags == 1,
                name: self.string()?,
                type_id: self.u32()?,
                type_modifier: self.i32()?,
            });
        }
        Ok(Relation { id, name: TableName { schema, name }, columns, full_identity })
    }

    fn truncate(&mut self) -> Result<Message, DecodeError> {
        let count = self.u32()? as usize;
        let flags = self.u8()?;
        if flags > 3 {
            return Err(self.error("unknown flags"));
        }
        if count > self.left() / 4 {
            return Err(self.error("more tables than bytes"));
        }
        let mut relations = Vec::with_capacity(count);
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate {
            relations,
            cascade: flags & 1 != 0,
            restart_identity: flags & 2 != 0,
        })
    }
}
