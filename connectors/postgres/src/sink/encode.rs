//! Values as the server reads them: array parameters, single parameters and COPY text.
//!
//! Values travel in the type's text form and are cast by the server; integers in arrays are binary.
//! One buffer per parameter or stream: no allocation per value.

use bytes::{BufMut, Bytes, BytesMut};
use cutover_core::model::value::Value;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Why a value cannot be sent in the form that was chosen for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Unchanged where a value is needed, binary, or larger than the wire can carry.
    NoText,
    /// Its text is not a number of the column's type.
    NotNumber,
}

/// How the values of a column travel in an array. Integers in binary spare the server a text and
/// a cast per value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// `text[]`, to be cast.
    Text,
    /// `int2[]`
    Int2,
    /// `int4[]`
    Int4,
    /// `int8[]`
    Int8,
}

impl Wire {
    /// The form for a type as the catalog writes it.
    pub(super) fn of(base_type: &str) -> Self {
        match base_type {
            "smallint" => Self::Int2,
            "integer" => Self::Int4,
            "bigint" => Self::Int8,
            _ => Self::Text,
        }
    }

    /// The type of the array.
    pub(super) fn array(self) -> Type {
        match self {
            Self::Text => Type::TEXT_ARRAY,
            Self::Int2 => Type::INT2_ARRAY,
            Self::Int4 => Type::INT4_ARRAY,
            Self::Int8 => Type::INT8_ARRAY,
        }
    }

    /// The name of the element type in `pg_catalog`.
    pub(super) fn element(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int2 => "int2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
        }
    }

    fn oid(self) -> u32 {
        match self {
            Self::Text => Type::TEXT.oid(),
            Self::Int2 => Type::INT2.oid(),
            Self::Int4 => Type::INT4.oid(),
            Self::Int8 => Type::INT8.oid(),
        }
    }
}

/// An array parameter, built value by value in the wire's own form.
#[derive(Debug)]
pub(super) struct Array {
    wire: Wire,
    elements: BytesMut,
    count: i32,
    nulls: bool,
}

impl Array {
    /// An empty one with room for `rows` values of a few bytes.
    pub(super) fn new(wire: Wire, rows: usize) -> Self {
        Self {
            wire,
            elements: BytesMut::with_capacity(rows.min(4096) * 12),
            count: 0,
            nulls: false,
        }
    }

    /// Appends one value.
    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), Unfit> {
        match value {
            Value::Null => {
                self.nulls = true;
                self.elements.put_i32(-1);
            }
            Value::Text(text) => match self.wire {
                Wire::Text => {
                    self.elements.reserve(text.len() + 4);
                    self.elements.put_i32(i32::try_from(text.len()).map_err(|_| Unfit::NoText)?);
                    self.elements.put_slice(text);
                }
                Wire::Int2 => self.put(&number::<i16>(text)?.to_be_bytes()),
                Wire::Int4 => self.put(&number::<i32>(text)?.to_be_bytes()),
                Wire::Int8 => self.put(&number::<i64>(text)?.to_be_bytes()),
            },
            Value::Unchanged | Value::Binary(_) => return Err(Unfit::NoText),
        }
        self.count += 1;
        Ok(())
    }

    fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.elements.put_i32(N as i32);
        self.elements.put_slice(bytes);
    }
}

/// Digits with an optional minus: nothing else is how the server writes an integer.
fn number<T: TryFrom<i64>>(text: &[u8]) -> Result<T, Unfit> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 19 {
        return Err(Unfit::NotNumber);
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Unfit::NotNumber);
        }
        // Built downwards: there is one more negative number than positive ones.
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_sub(i64::from(digit - b'0')))
            .ok_or(Unfit::NotNumber)?;
    }
    let value = if negative { Some(value) } else { value.checked_neg() };
    value.and_then(|v| T::try_from(v).ok()).ok_or(Unfit::NotNumber)
}

impl ToSql for Array {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.reserve(self.elements.len() + 20);
        out.put_i32(i32::from(self.count > 0));
        out.put_i32(i32::from(self.nulls));
        out.put_u32(self.wire.oid());
        if self.count > 0 {
            out.put_i32(self.count);
            out.put_i32(1);
            out.put_slice(&self.elements);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        [Wire::Text, Wire::Int2, Wire::Int4, Wire::Int8].iter().any(|w| w.array() == *ty)
    }

    to_sql_checked!();
}

/// A `text` parameter that points into the row.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextValue<'a>(Option<&'a [u8]>);

impl<'a> TextValue<'a> {
    /// Wraps one value.
    pub(super) fn new(value: Value<'a>) -> Result<Self, Unfit> {
        match value {
            Value::Null => Ok(Self(None)),
            Value::Text(text) => Ok(Self(Some(text))),
            Value::Unchanged | Value::Binary(_) => Err(Unfit::NoText),
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
    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), Unfit> {
        if !std::mem::take(&mut self.first) {
            self.rows.put_u8(b'\t');
        }
        match value {
            Value::Null => self.rows.put_slice(b"\\N"),
            Value::Text(text) => self.escape(text),
            Value::Unchanged | Value::Binary(_) => return Err(Unfit::NoText),
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
    use tokio_postgres::types::FromSql;

    use super::*;

    fn sent(wire: Wire, values: &[Value<'_>]) -> BytesMut {
        let mut array = Array::new(wire, values.len());
        values.iter().for_each(|v| array.push(*v).unwrap());
        let mut out = BytesMut::new();
        array.to_sql(&wire.array(), &mut out).unwrap();
        out
    }

    #[test]
    fn an_array_is_what_the_wire_wants() {
        let out = sent(Wire::Text, &[Value::Text(b"ab"), Value::Null, Value::Text(b"")]);
        let read: Vec<Option<String>> = FromSql::from_sql(&Type::TEXT_ARRAY, &out).unwrap();
        assert_eq!(read, [Some("ab".to_owned()), None, Some(String::new())]);
        let extremes = [Value::Text(b"-9223372036854775808"), Value::Text(b"9223372036854775807")];
        let out = sent(Wire::Int8, &extremes);
        let read: Vec<i64> = FromSql::from_sql(&Type::INT8_ARRAY, &out).unwrap();
        assert_eq!(read, [i64::MIN, i64::MAX]);
        let out = sent(Wire::Int2, &[Value::Text(b"-1"), Value::Null, Value::Text(b"007")]);
        let read: Vec<Option<i16>> = FromSql::from_sql(&Type::INT2_ARRAY, &out).unwrap();
        assert_eq!(read, [Some(-1), None, Some(7)]);
    }

    #[test]
    fn an_empty_array_has_no_dimension() {
        let out = sent(Wire::Text, &[]);
        assert_eq!(&out[..4], [0; 4]);
        assert_eq!(out.len(), 12);
    }

    #[test]
    fn only_what_the_type_holds_is_a_number() {
        for text in ["", "-", "1.0", " 1", "1e3", "32768", "9223372036854775808", "0x1", "+1"] {
            let pushed = Array::new(Wire::Int2, 1).push(Value::Text(text.as_bytes()));
            assert_eq!(pushed, Err(Unfit::NotNumber), "{text:?}");
        }
        let long = Array::new(Wire::Int8, 1).push(Value::Text(b"9223372036854775808"));
        assert_eq!(long, Err(Unfit::NotNumber));
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
        assert_eq!(Array::new(Wire::Text, 1).push(Value::Unchanged), Err(Unfit::NoText));
        assert_eq!(CopyText::default().push(Value::Binary(b"x")), Err(Unfit::NoText));
        assert!(TextValue::new(Value::Unchanged).is_err());
    }
}
