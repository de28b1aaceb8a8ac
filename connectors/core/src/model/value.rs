//! One row's values, without a copy per column.

use bytes::{BufMut, Bytes, BytesMut};

/// One column's value as it travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// The source did not send the value because it did not change (unchanged TOAST, minimal row
    /// image). The target must leave its column alone; it is never a placeholder text.
    Unchanged,
    /// The type's text form as the source database renders it under the pinned session settings.
    Text(&'a [u8]),
    /// The type's native binary form; only for a target of the same engine.
    Binary(&'a [u8]),
}

/// Where one column's value lies inside [`Tuple`]'s buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// SQL NULL.
    Null,
    /// Not sent, not changed.
    Unchanged,
    /// Text form: offset and length in bytes.
    Text(u32, u32),
    /// Binary form: offset and length in bytes.
    Binary(u32, u32),
}

/// The values of one row, in the column order of its relation. One shared buffer, so that
/// decoding allocates per row and not per column.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    data: Bytes,
    cells: Box<[Cell]>,
}

impl Tuple {
    /// Wraps a buffer and the places of the values in it.
    ///
    /// # Panics
    ///
    /// When a cell points outside of `data`: decoders check lengths before.
    #[must_use]
    pub fn new(data: Bytes, cells: Vec<Cell>) -> Self {
        for cell in &cells {
            if let Cell::Text(at, len) | Cell::Binary(at, len) = *cell {
                assert!(at as usize + len as usize <= data.len(), "cell outside of its buffer");
            }
        }
        Self { data, cells: cells.into_boxed_slice() }
    }

    /// Number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether the row has no column at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The value of column `index`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`Tuple::len`].
    #[must_use]
    pub fn get(&self, index: usize) -> Value<'_> {
        match self.cells[index] {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Text(at, len) => Value::Text(&self.data[at as usize..(at + len) as usize]),
            Cell::Binary(at, len) => Value::Binary(&self.data[at as usize..(at + len) as usize]),
        }
    }

    /// All values in column order.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Bytes of memory held by this row, for budgets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cells
            .iter()
            .map(|c| match c {
                Cell::Text(_, len) | Cell::Binary(_, len) => *len as usize,
                _ => 0,
            })
            .sum::<usize>()
            + self.cells.len() * size_of::<Cell>()
    }

    /// This row with every `Unchanged` value taken from `before`.
    #[must_use]
    pub fn filled_from(&self, before: &Self) -> Self {
        if !self.cells.contains(&Cell::Unchanged) {
            return self.clone();
        }
        let mut builder = TupleBuilder::new();
        for (i, value) in self.values().enumerate() {
            match value {
                Value::Unchanged if i < before.len() => builder.push(before.get(i)),
                other => builder.push(other),
            }
        }
        builder.finish()
    }
}

impl std::fmt::Debug for Tuple {
    /// Column count only: row values never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tuple({} columns)", self.len())
    }
}

/// Builds a [`Tuple`] value by value.
#[derive(Debug, Default)]
pub struct TupleBuilder {
    data: BytesMut,
    cells: Vec<Cell>,
}

impl TupleBuilder {
    /// An empty row.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one value.
    ///
    /// # Panics
    ///
    /// When the row grows past 4 GiB, which no supported database can hold in one row message.
    pub fn push(&mut self, value: Value<'_>) {
        let at = u32::try_from(self.data.len()).expect("a row is below 4 GiB");
        let len = |v: &[u8]| u32::try_from(v.len()).expect("a value is below 4 GiB");
        self.cells.push(match value {
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            Value::Text(v) => {
                self.data.put_slice(v);
                Cell::Text(at, len(v))
            }
            Value::Binary(v) => {
                self.data.put_slice(v);
                Cell::Binary(at, len(v))
            }
        });
    }

    /// The finished row.
    #[must_use]
    pub fn finish(self) -> Tuple {
        Tuple { data: self.data.freeze(), cells: self.cells.into_boxed_slice() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Value<'_>]) -> Tuple {
        let mut b = TupleBuilder::new();
        values.iter().for_each(|v| b.push(*v));
        b.finish()
    }

    #[test]
    fn unchanged_is_filled_from_the_row_before_and_nothing_else_is() {
        let before = row(&[Value::Text(b"1"), Value::Text(b"big"), Value::Text(b"x")]);
        let after = row(&[Value::Text(b"1"), Value::Unchanged, Value::Null]);
        let full = after.filled_from(&before);
        assert_eq!(full.get(1), Value::Text(b"big"));
        assert_eq!(full.get(2), Value::Null);
    }

    #[test]
    fn debug_hides_values() {
        assert_eq!(format!("{:?}", row(&[Value::Text(b"secret")])), "Tuple(1 columns)");
    }
}
