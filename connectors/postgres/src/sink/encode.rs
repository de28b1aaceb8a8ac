//! Values as the server reads them: array parameters, single parameters and COPY text.
//!
//! Everything travels in the type's text form and is cast by the server. One buffer per parameter
//! or stream: no allocation per value.

use bytes::{BufMut, Bytes, BytesMut};
use cutover_core::model::value::Value;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A value that cannot be sent in text form: unchanged where a value is needed, or binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotText;

/// A `text[]` parameter, built value by value in the wire's own form.
#[derive(Debug, Default)]
pub(super) struct TextArray {
    elements: BytesMut,
    count: i32,
    nulls: bool,
}

impl TextArray {
    /// Appends one value.
    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), NotText> {
        match value {
            Value::Null => {
                self.nulls = true;
                self.elements.put_i32(-1);
            }
            Value::Text(text) => self.push_text(text)?,
            Value::Unchanged | Value::Binary(_) => return Err(NotText),
        }
        self.count += 1;
        Ok(())
    }

    fn push_text(&mut self, text: &[u8]) -> Result<(), NotText> {
        self.elements.reserve(text.len() + 4);
        self.elements.put_i32(i32::try_from(text.len()).map_err(|_| NotText)?);
        self.elements.put_slice(text);
        Ok(())
    }
}

impl ToSql for TextArray {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.reserve(self.elements.len() + 20);
        out.put_i32(i32::from(self.count > 0));
        out.put_i32(i32::from(self.nulls));
        out.put_u32(Type::TEXT.oid());
        if self.count > 0 {
            out.put_i32(self.count);
            out.put_i32(1);
            out.put_slice(&self.elements);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

/// A `text` parameter that points into the row.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextValue<'a>(Option<&'a [u8]>);

impl<'a> TextValue<'a> {
    /// Wraps one value.
    pub(super) fn new(value: Value<'a>) -> Result<Self, NotText> {
        match value {
            Value::Null => Ok(Self(None)),
            Value::Text(text) => Ok(Self(Some(text))),
            Value::Unchanged | Value::Binary(_) => Err(NotText),
        }
    }
}

impl ToSql for TextValue<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.put_slice(text);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }

    to_sql_checked!();
}

/// Rows in the text form of COPY.
#[derive(Debug, Default)]
pub(super) struct CopyText {
    rows: BytesMut,
    first: bool,
}

impl CopyText {
    /// Begins a row.
    pub(super) fn begin(&mut self) {
        self.first = true;
    }

    /// Appends one value to the row.
    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), NotText> {
        if !std::mem::take(&mut self.first) {
            self.rows.put_u8(b'\t');
        }
        match value {
            Value::Null => self.rows.put_slice(b"\\N"),
            Value::Text(text) => self.escape(text),
            Value::Unchanged | Value::Binary(_) => return Err(NotText),
        }
        Ok(())
    }

    /// Ends the row.
    pub(super) fn end(&mut self) {
        self.rows.put_u8(b'\n');
    }

    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// What was written so far; leaves nothing behind.
    pub(super) fn take(&mut self) -> Bytes {
        self.rows.split().freeze()
    }

    fn escape(&mut self, text: &[u8]) {
        self.rows.reserve(text.len() + 1);
        let mut rest = text;
        while let Some(at) = rest.iter().position(|b| matches!(b, b'\\' | b'\n' | b'\r' | b'\t')) {
            self.rows.put_slice(&rest[..at]);
            self.rows.put_u8(b'\\');
            self.rows.put_u8(match rest[at] {
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                other => other,
            });
            rest = &rest[at + 1..];
        }
        self.rows.put_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_what_the_wire_wants() {
        let mut array = TextArray::default();
        array.push(Value::Text(b"ab")).unwrap();
        array.push(Value::Null).unwrap();
        array.push(Value::Text(b"")).unwrap();
        let mut out = BytesMut::new();
        array.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        let read: Vec<Option<String>> =
            tokio_postgres::types::FromSql::from_sql(&Type::TEXT_ARRAY, &out).unwrap();
        assert_eq!(read, [Some("ab".to_owned()), None, Some(String::new())]);
    }

    #[test]
    fn an_empty_array_has_no_dimension() {
        let mut out = BytesMut::new();
        TextArray::default().to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        assert_eq!(&out[..4], [0; 4]);
        assert_eq!(out.len(), 12);
    }

    #[test]
    fn copy_text_is_escaped_and_null_is_not_a_text() {
        let mut copy = CopyText::default();
        copy.begin();
        copy.push(Value::Text(b"a\tb\nc\\d\re")).unwrap();
        copy.push(Value::Null).unwrap();
        copy.push(Value::Text(b"\\N")).unwrap();
        copy.push(Value::Text(b"")).unwrap();
        copy.end();
        assert_eq!(&copy.take()[..], b"a\\tb\\nc\\\\d\\re\t\\N\t\\\\N\t\n");
    }

    #[test]
    fn what_has_no_text_is_refused() {
        assert_eq!(TextArray::default().push(Value::Unchanged), Err(NotText));
        assert_eq!(CopyText::default().push(Value::Binary(b"x")), Err(NotText));
        assert!(TextValue::new(Value::Unchanged).is_err());
    }
}
