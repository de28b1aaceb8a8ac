use bytes::{BufMut, Bytes, BytesMut};
use cutover_core::model::{
    event::{Relation, RelationColumn},
    schema::TableName,
    value::{Tuple, TupleBuilder, Value},
};
use proptest::prelude::*;

use super::{
    decode,
    message::{Message, Old},
};

/// Writes messages as the protocol's documentation describes them.
#[derive(Default)]
struct W(BytesMut);

impl W {
    fn new(tag: char) -> Self {
        Self::default().u8(tag as u8)
    }
    fn u8(mut self, v: u8) -> Self {
        self.0.put_u8(v);
        self
    }
    fn u16(mut self, v: u16) -> Self {
        self.0.put_u16(v);
        self
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.put_u32(v);
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.put_u64(v);
        self
    }
    fn s(mut self, v: &str) -> Self {
        self.0.put_slice(v.as_bytes());
        self.0.put_u8(0);
        self
    }
    fn raw(mut self, v: &[u8]) -> Self {
        self.0.put_slice(v);
        self
    }
    fn row(mut self, kind: char, values: &[Value<'_>]) -> Self {
        self = self.u8(kind as u8).u16(values.len() as u16);
        for v in values {
            self = match v {
                Value::Null => self.u8(b'n'),
                Value::Unchanged => self.u8(b'u'),
                Value::Text(t) => self.u8(b't').u32(t.len() as u32).raw(t),
                Value::Binary(t) => self.u8(b'b').u32(t.len() as u32).raw(t),
            };
        }
        self
    }
    fn end(self) -> Bytes {
        self.0.freeze()
    }
}

fn tuple(values: &[Value<'_>]) -> Tuple {
    let mut b = TupleBuilder::new();
    values.iter().for_each(|v| b.push(*v));
    b.finish()
}

/// Tuples that share different buffers are equal when their values are.
fn same(a: &Message, b: &Message) -> bool {
    fn rows(m: &Message) -> Vec<&Tuple> {
        match m {
            Message::Insert { new, .. } => vec![new],
            Message::Update { old, new, .. } => old
                .iter()
                .map(|o| match o {
                    Old::Key(t) | Old::Full(t) => t,
                })
                .chain([new])
                .collect(),
            Message::Delete { old: Old::Key(t) | Old::Full(t), .. } => vec![t],
            _ => vec![],
        }
    }
    let (x, y) = (rows(a), rows(b));
    if x.is_empty() && y.is_empty() {
        return a == b;
    }
    let head = |m: &Message| match m {
        Message::Insert { relation, .. } => ('I', *relation, None),
        Message::Update { relation, old, .. } => {
            ('U', *relation, old.as_ref().map(|o| matches!(o, Old::Full(_))))
        }
        Message::Delete { relation, old } => ('D', *relation, Some(matches!(old, Old::Full(_)))),
        _ => ('?', 0, None),
    };
    head(a) == head(b)
        && x.len() == y.len()
        && x.iter().zip(&y).all(|(p, q)| p.values().eq(q.values()))
}

const LSN: u64 = 0x16_B374_D848;
const WHEN: i64 = 815_000_000_000_001;

/// Every message with its expected meaning, outside and inside of a streamed block.
fn golden() -> Vec<(Bytes, bool, Option<u32>, Message)> {
    use Value::{Binary, Null, Text, Unchanged};
    let relation = || Relation {
        id: 16_384,
        name: TableName::new("Sch", "t.x"),
        columns: vec![
            RelationColumn { name: "id".into(), key: true, type_id: 23, type_modifier: -1 },
            RelationColumn { name: "Big".into(), key: false, type_id: 1043, type_modifier: 14 },
        ],
        full_identity: false,
    };
    let columns =
        |w: W| w.u16(2).u8(1).s("id").u32(23).u32(u32::MAX).u8(0).s("Big").u32(1043).u32(14);
    vec![
        (
            W::new('B').u64(LSN).u64(WHEN as u64).u32(777).end(),
            false,
            None,
            Message::Begin { xid: 777, committed_at: WHEN },
        ),
        (
            W::new('C').u8(0).u64(LSN).u64(LSN + 48).u64(WHEN as u64).end(),
            false,
            None,
            Message::Commit { end_lsn: LSN + 48 },
        ),
        (
            W::new('O').u64(LSN).s("cutover_shop").end(),
            false,
            None,
            Message::Origin { name: "cutover_shop".into() },
        ),
        (
            columns(W::new('R').u32(16_384).s("Sch").s("t.x").u8(b'd')).end(),
            false,
            None,
            Message::Relation(relation()),
        ),
        (
            columns(W::new('R').u32(9).u32(16_384).s("Sch").s("t.x").u8(b'f')).end(),
            true,
            Some(9),
            Message::Relation(Relation { full_identity: true, ..relation() }),
        ),
        (W::new('Y').u32(1).s("public").s("mood").end(), false, None, Message::Type),
        (
            W::new('I').u32(16_384).row('N', &[Text(b"1"), Null]).end(),
            false,
            None,
            Message::Insert { relation: 16_384, new: tuple(&[Text(b"1"), Null]) },
        ),
        (
            W::new('I').u32(5).u32(16_384).row('N', &[Binary(b"\0\0\0\x01"), Text(b"")]).end(),
            true,
            Some(5),
            Message::Insert { relation: 16_384, new: tuple(&[Binary(b"\0\0\0\x01"), Text(b"")]) },
        ),
        (
            W::new('U').u32(16_384).row('N', &[Text(b"1"), Unchanged]).end(),
            false,
            None,
            Message::Update { relation: 16_384, old: None, new: tuple(&[Text(b"1"), Unchanged]) },
        ),
        (
            W::new('U').u32(16_384).row('K', &[Text(b"1"), Null]).row('N', &[Text(b"2")]).end(),
            false,
            None,
            Message::Update {
                relation: 16_384,
                old: Some(Old::Key(tuple(&[Text(b"1"), Null]))),
                new: tuple(&[Text(b"2")]),
            },
        ),
        (
            W::new('U').u32(16_384).row('O', &[Text(b"1")]).row('N', &[Text(b"2")]).end(),
            false,
            None,
            Message::Update {
                relation: 16_384,
                old: Some(Old::Full(tuple(&[Text(b"1")]))),
                new: tuple(&[Text(b"2")]),
            },
        ),
        (
            W::new('D').u32(16_384).row('K', &[Text(b"1"), Null]).end(),
            false,
            None,
            Message::Delete { relation: 16_384, old: Old::Key(tuple(&[Text(b"1"), Null])) },
        ),
        (
            W::new('D').u32(7).u32(16_384).row('O', &[Text(b"1"), Null]).end(),
            true,
            Some(7),
            Message::Delete { relation: 16_384, old: Old::Full(tuple(&[Text(b"1"), Null])) },
        ),
        (
            W::new('T').u32(2).u8(3).u32(1).u32(2).end(),
            false,
            None,
            Message::Truncate { relations: vec![1, 2], cascade: true, restart_identity: true },
        ),
        (
            W::new('T').u32(8).u32(1).u8(2).u32(1).end(),
            true,
            Some(8),
            Message::Truncate { relations: vec![1], cascade: false, restart_identity: true },
        ),
        (
            W::new('M').u8(1).u64(LSN).s("cutover").u32(3).raw(b"m\x001").end(),
            false,
            None,
            Message::Logical {
                transactional: true,
                prefix: "cutover".into(),
                content: Bytes::from_static(b"m\x001"),
            },
        ),
        (
            W::new('M').u32(4).u8(0).u64(LSN).s("").u32(0).end(),
            true,
            Some(4),
            Message::Logical { transactional: false, prefix: "".into(), content: Bytes::new() },
        ),
        (W::new('S').u32(6).u8(1).end(), false, None, Message::StreamStart { xid: 6, first: true }),
        (
            W::new('S').u32(6).u8(0).end(),
            false,
            None,
            Message::StreamStart { xid: 6, first: false },
        ),
        (W::new('E').end(), true, None, Message::StreamStop),
        (
            W::new('c').u32(6).u8(0).u64(LSN).u64(LSN + 48).u64(WHEN as u64).end(),
            false,
            None,
            Message::StreamCommit { xid: 6, end_lsn: LSN + 48, committed_at: WHEN },
        ),
        (W::new('A').u32(6).u32(8).end(), false, None, Message::StreamAbort { xid: 6, subxid: 8 }),
        (
            W::new('A').u32(6).u32(6).u64(LSN).u64(WHEN as u64).end(),
            false,
            None,
            Message::StreamAbort { xid: 6, subxid: 6 },
        ),
        (
            W::new('P').u8(0).u64(LSN).u64(LSN).u64(WHEN as u64).u32(6).s("gid").end(),
            false,
            None,
            Message::Prepared { tag: 'P' },
        ),
        (
            W::new('b').u64(LSN).u64(LSN).u64(WHEN as u64).u32(6).s("gid").end(),
            false,
            None,
            Message::Prepared { tag: 'b' },
        ),
    ]
}

#[test]
fn every_message() {
    for (bytes, streamed, xid, want) in golden() {
        let (got_xid, got) = decode(&bytes, streamed).unwrap_or_else(|e| panic!("{want:?}: {e}"));
        assert_eq!(got_xid, xid, "{want:?}");
        assert!(same(&got, &want), "{got:?} is not {want:?}");
    }
    for tag in ['K', 'r', 'p'] {
        assert_eq!(decode(&W::new(tag).end(), false), Ok((None, Message::Prepared { tag })));
    }
}

#[test]
fn a_message_cut_anywhere_or_too_long_is_an_error() {
    for (bytes, streamed, _, want) in golden() {
        if matches!(want, Message::Prepared { .. }) {
            continue;
        }
        for length in 0..bytes.len() {
            // The longer form of an abort begins with the shorter one.
            if bytes[0] == b'A' && length == 9 {
                continue;
            }
            assert!(decode(&bytes.slice(..length), streamed).is_err(), "{want:?} at {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode(&Bytes::from(longer), streamed).is_err(), "{want:?} and one byte");
    }
}

#[test]
fn the_unknown_is_named_with_its_place() {
    let e = decode(&W::new('Z').end(), false).unwrap_err();
    assert_eq!((e.tag, e.at), ('Z', 1));
    let e = decode(&W::new('I').u32(1).u8(b'N').u16(1).u8(b'x').end(), false).unwrap_err();
    assert_eq!((e.tag, e.what), ('I', "unknown kind of value"));
    let e = decode(&W::new('I').u32(1).row('N', &[Value::Unchanged]).end(), false).unwrap_err();
    assert_eq!(e.what, "an inserted row without one of its values");
}

#[test]
fn lengths_that_lie_do_not_allocate() {
    for bytes in [
        W::new('I').u32(1).u8(b'N').u16(u16::MAX).u8(b'n').end(),
        W::new('I').u32(1).u8(b'N').u16(1).u8(b't').u32(u32::MAX).end(),
        W::new('T').u32(u32::MAX).u8(0).u32(1).end(),
        W::new('M').u8(1).u64(1).s("").u32(u32::MAX).end(),
    ] {
        assert!(decode(&bytes, false).is_err());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        tag in prop::sample::select(b"BCORYIUDTMSEcAbPKrpZ".to_vec()),
        mut body in prop::collection::vec(any::<u8>(), 0..200),
        streamed: bool,
    ) {
        body.insert(0, tag);
        let _whatever = decode(&Bytes::from(body), streamed);
    }

    #[test]
    fn mutated_messages_never_panic(
        which in 0..25usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        streamed: bool,
    ) {
        let all = golden();
        let mut bytes = all[which % all.len()].0.to_vec();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let _whatever = decode(&Bytes::from(bytes), streamed);
    }
}

/// What fuzzing starts from, and what it found (`fuzz/`), with every beginning of it.
#[test]
fn the_corpus_is_decoded_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/pgoutput");
    let (mut decoded, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let message = std::fs::read(entry.unwrap().path()).unwrap();
        for end in 0..=message.len() {
            for streamed in [false, true] {
                match decode(&Bytes::copy_from_slice(&message[..end]), streamed) {
                    Ok(_) => decoded += 1,
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(decoded > 20 && refused > 20, "{decoded} decoded, {refused} refused");
}
