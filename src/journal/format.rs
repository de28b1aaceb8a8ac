//! The bytes of a journal: pure, no I/O.
//!
//! ```text
//! cutover-journal 1 moves/1 5f0e6a3c          magic, format, kind of facts, CRC-32 of these
//! 0a1b2c3d [{"fact":"move_began",…},…]        CRC-32 of the line before and this array, array
//! 00 00 00 …                                  reserved
//! ```
//!
//! One line is one append, so that several facts are there together or not at all. Each checksum
//! covers the one before, so that a lost, doubled or moved line shows. JSON has no raw newline
//! and no zero byte, therefore an interrupted write is a beginning of a line followed by nothing
//! but zeros; everything else that is wrong is damage.

use std::ops::Range;

/// First word of every journal.
const MAGIC: &str = "cutover-journal";
/// Version of the format in this file.
const FORMAT: u32 = 1;
/// Checksum in hexadecimal and one space.
const PREFIX: usize = 9;

/// What the bytes of a journal say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Where the array of each whole line lies.
    pub(super) lines: Vec<Range<usize>>,
    /// Where the next line belongs; 0 when not even the header is whole.
    pub(super) end: usize,
    /// Checksum of the last whole line.
    pub(super) chain: u32,
    /// Whether something half-written follows `end`.
    pub(super) torn: bool,
    /// Whether the last whole line lacks nothing but its newline.
    pub(super) unterminated: bool,
}

/// Why bytes are not a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The header is of another format.
    Version(String),
    /// No journal, or of another kind; the first bytes as text.
    Foreign(String),
    /// Something was changed after it was written.
    Damage { line: usize, offset: usize, what: &'static str, whole: usize },
}

/// The header line of a journal of facts of `kind`.
pub(super) fn header(kind: &str) -> Vec<u8> {
    let text = format!("{MAGIC} {FORMAT} {kind}");
    let sum = crc32fast::hash(text.as_bytes());
    format!("{text} {sum:08x}\n").into_bytes()
}

/// One line: the array with its checksum. Returns the new chain value too.
pub(super) fn line(chain: u32, array: &[u8]) -> (Vec<u8>, u32) {
    let sum = checksum(chain, array);
    let mut out = format!("{sum:08x} ").into_bytes();
    out.extend_from_slice(array);
    out.push(b'\n');
    (out, sum)
}

/// Reads the bytes of a journal of facts of `kind`.
pub(super) fn parse(bytes: &[u8], kind: &str) -> Result<Parsed, Wrong> {
    let expected = header(kind);
    let nothing = Parsed { lines: vec![], end: 0, chain: 0, torn: false, unterminated: false };
    let Some(first_end) = bytes.iter().position(|b| *b == b'\n') else {
        let written = trim_zeros(bytes);
        return if expected.starts_with(written) {
            Ok(Parsed { torn: !written.is_empty(), ..nothing })
        } else {
            Err(Wrong::Foreign(excerpt(bytes)))
        };
    };
    let first = &bytes[..=first_end];
    if first != expected {
        return Err(wrong_header(first, &expected));
    }
    let mut parsed = Parsed { end: first.len(), chain: crc32fast::hash(&expected), ..nothing };
    loop {
        let rest = &bytes[parsed.end..];
        let damage = |what| Wrong::Damage {
            line: parsed.lines.len() + 2,
            offset: parsed.end,
            what,
            whole: parsed.lines.len(),
        };
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            let written = trim_zeros(rest);
            if written.contains(&0) {
                return Err(damage("zeros are followed by something"));
            }
            if let Some(sum) = whole(parsed.chain, written) {
                parsed.lines.push(parsed.end + PREFIX..parsed.end + written.len());
                parsed.end += written.len();
                parsed.chain = sum;
                parsed.unterminated = true;
            } else if written
                .split_last()
                .is_some_and(|(_, line)| whole(parsed.chain, line).is_some())
            {
                return Err(damage("its end was changed after it was written"));
            } else {
                parsed.torn = !written.is_empty();
            }
            return Ok(parsed);
        };
        match whole(parsed.chain, &rest[..length]) {
            Some(sum) => {
                parsed.lines.push(parsed.end + PREFIX..parsed.end + length);
                parsed.end += length + 1;
                parsed.chain = sum;
            }
            None => return Err(damage("its checksum does not match")),
        }
    }
}

fn checksum(chain: u32, array: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(array);
    hasher.finalize()
}

/// The checksum of a line without its newline, when it matches.
fn whole(chain: u32, line: &[u8]) -> Option<u32> {
    let sum = checksum(chain, line.get(PREFIX..)?);
    (line[..PREFIX] == *format!("{sum:08x} ").as_bytes()).then_some(sum)
}

fn trim_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    &bytes[..end]
}

fn wrong_header(first: &[u8], expected: &[u8]) -> Wrong {
    let text = String::from_utf8_lossy(first);
    let mut words = text.split_whitespace();
    if words.next() != Some(MAGIC) {
        return Wrong::Foreign(excerpt(first));
    }
    // A header whose own checksum holds was written like this, by another version or for other
    // facts; one whose checksum fails was changed.
    let sound = text.trim_end().rsplit_once(' ').is_some_and(|(body, sum)| {
        u32::from_str_radix(sum, 16).is_ok_and(|s| s == crc32fast::hash(body.as_bytes()))
    });
    if !sound {
        return Wrong::Damage { line: 1, offset: 0, what: "the header was changed", whole: 0 };
    }
    let wanted = String::from_utf8_lossy(expected);
    let kind = |line: &str| line.split_whitespace().nth(2).map(str::to_owned).unwrap_or_default();
    let name = |kind: &str| kind.split('/').next().map(str::to_owned).unwrap_or_default();
    let format = words.next().unwrap_or_default().to_owned();
    if format != FORMAT.to_string() || name(&kind(&text)) == name(&kind(&wanted)) {
        Wrong::Version(format!("{format} {}", kind(&text)))
    } else {
        Wrong::Foreign(excerpt(first))
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).trim_end().to_owned()
}

/// `1 moves/1`: what this version writes, for messages.
pub(super) fn known(kind: &str) -> String {
    format!("{FORMAT} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(lines: &[&str]) -> Vec<u8> {
        let mut bytes = header("moves/1");
        let mut chain = crc32fast::hash(&bytes);
        for text in lines {
            let (line, next) = line(chain, text.as_bytes());
            bytes.extend_from_slice(&line);
            chain = next;
        }
        bytes
    }

    fn texts(bytes: &[u8]) -> Result<Vec<String>, Wrong> {
        let parsed = parse(bytes, "moves/1")?;
        Ok(parsed
            .lines
            .into_iter()
            .map(|r| String::from_utf8(bytes[r].to_vec()).unwrap())
            .collect())
    }

    const LINES: [&str; 3] = [r#"["began"]"#, r#"["paused","fenced"]"#, r#"["decided"]"#];

    #[test]
    fn every_flipped_bit_is_found_or_harmless() {
        for reserved in [0, 64] {
            let mut whole = sample(&LINES);
            let written = whole.len();
            whole.resize(written + reserved, 0);
            for at in 0..whole.len() {
                for to in (0..8).map(|bit| whole[at] ^ (1 << bit)).chain([0, b'\n', b'x']) {
                    let mut bytes = whole.clone();
                    if bytes[at] == to {
                        continue;
                    }
                    bytes[at] = to;
                    match texts(&bytes) {
                        // Only in the reserved bytes, or where a newline became a zero, which
                        // loses nothing.
                        Ok(read) => {
                            assert_eq!(read, LINES, "byte {at} to {to}");
                            assert!(at >= written || (at == written - 1 && to == 0), "byte {at}");
                        }
                        Err(Wrong::Damage { whole: known, offset, .. }) => {
                            assert!(known <= LINES.len() && offset <= written, "byte {at}");
                        }
                        Err(_) => assert!(at < header("moves/1").len(), "byte {at} to {to}"),
                    }
                }
            }
        }
    }

    #[test]
    fn cut_anywhere_it_knows_the_whole_lines_before() {
        let whole = sample(&LINES);
        let mut ends = vec![header("moves/1").len()];
        for n in 1..=LINES.len() {
            ends.push(sample(&LINES[..n]).len());
        }
        for cut in 0..=whole.len() {
            for reserved in [0, 100] {
                let mut bytes = whole[..cut].to_vec();
                bytes.resize(cut + reserved, 0);
                let read = texts(&bytes).unwrap_or_else(|e| panic!("cut at {cut}: {e:?}"));
                // A line without its newline is whole.
                let want = ends[1..].iter().filter(|end| cut + 1 >= **end).count();
                assert_eq!(read, LINES[..want], "cut at {cut}");
                let parsed = parse(&bytes, "moves/1").unwrap();
                let at_end = cut == 0 || ends.iter().any(|e| cut == *e || cut + 1 == *e);
                let header_cut = cut < ends[0];
                assert_eq!(
                    parsed.torn,
                    if header_cut { cut > 0 } else { !at_end },
                    "cut at {cut} reserved {reserved}"
                );
            }
        }
    }

    #[test]
    fn lost_doubled_and_exchanged_lines_are_damage() {
        let head = header("moves/1").len();
        let whole = sample(&LINES);
        let two = sample(&LINES[..2]).len();
        let one = sample(&LINES[..1]).len();
        let lost = [&whole[..one], &whole[two..]].concat();
        let doubled = [&whole[..one], &whole[head..]].concat();
        let exchanged = [&whole[..one], &whole[two..], &whole[one..two]].concat();
        for (name, bytes) in [("lost", lost), ("doubled", doubled), ("exchanged", exchanged)] {
            assert!(
                matches!(texts(&bytes), Err(Wrong::Damage { line: 3, whole: 1, .. })),
                "{name}: {:?}",
                texts(&bytes)
            );
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        for (bytes, want) in [
            (header("moves/2"), "version"),
            (header("runs/1"), "foreign"),
            (b"cutover-journal 9 moves/1 00000000\n".to_vec(), "damage"),
            (b"hello\n".to_vec(), "foreign"),
            (b"hello".to_vec(), "foreign"),
            (vec![0; 10], "empty"),
            (vec![], "empty"),
        ] {
            let got = match parse(&bytes, "moves/1") {
                Ok(p) if p.end == 0 && !p.torn => "empty",
                Ok(_) => "read",
                Err(Wrong::Version(_)) => "version",
                Err(Wrong::Foreign(_)) => "foreign",
                Err(Wrong::Damage { .. }) => "damage",
            };
            assert_eq!(got, want, "{}", String::from_utf8_lossy(&bytes));
        }
        let newer = "cutover-journal 9 moves/1";
        let newer = format!("{newer} {:08x}\n", crc32fast::hash(newer.as_bytes()));
        assert_eq!(parse(newer.as_bytes(), "moves/1"), Err(Wrong::Version("9 moves/1".into())));
    }

    /// What fuzzing starts from, and what it found (`fuzz/`).
    #[test]
    fn the_corpus_is_read_or_refused_and_can_be_written_on() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/journal");
        let (mut read, mut refused) = (0, 0);
        for entry in std::fs::read_dir(folder).expect("the corpus") {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let Ok(parsed) = parse(&bytes, "moves/1") else {
                refused += 1;
                continue;
            };
            read += 1;
            if parsed.end == 0 {
                continue;
            }
            let mut next = bytes[..parsed.end].to_vec();
            if parsed.unterminated {
                next.push(b'\n');
            }
            next.extend(line(parsed.chain, b"[]").0);
            assert_eq!(parse(&next, "moves/1").unwrap().lines.len(), parsed.lines.len() + 1);
        }
        assert!(read > 3 && refused > 3, "{read} read, {refused} refused");
    }
}
