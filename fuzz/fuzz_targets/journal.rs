//! Any bytes as a journal: read or refused; what was read can be written on and read
//! again, and a journal that is cut off anywhere has the lines before that.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/journal/format.rs"]
#[allow(dead_code, reason = "the format as it is")]
mod format;

const KIND: &str = "moves/1";

fuzz_target!(|data: &[u8]| {
    if let Ok(parsed) = format::parse(data, KIND)
        && parsed.end > 0
    {
        let mut bytes = data[..parsed.end].to_vec();
        if parsed.unterminated {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&format::line(parsed.chain, br#"[{"fact":"x"}]"#).0);
        let again = format::parse(&bytes, KIND).expect("a journal that was written on");
        assert_eq!(again.lines.len(), parsed.lines.len() + 1);
    }
    cut_anywhere(data);
});

/// A journal of these lines, cut off at some byte: the lines before it are there, and no other.
fn cut_anywhere(data: &[u8]) {
    let Some((at, rest)) = data.split_first_chunk::<2>() else { return };
    let header = format::header(KIND);
    let (mut whole, mut ends) = (header.clone(), Vec::new());
    let mut chain = crc32fast::hash(&header);
    for array in rest.split(|b| *b == b'\n' || *b == 0) {
        let (line, next) = format::line(chain, array);
        whole.extend_from_slice(&line);
        ends.push(whole.len());
        chain = next;
    }
    let cut = usize::from(u16::from_le_bytes(*at)) % (whole.len() + 1);
    let parsed = format::parse(&whole[..cut], KIND).expect("a cut is no damage");
    // A line is whole without its newline as well.
    let there = ends.iter().filter(|end| **end - 1 <= cut).count();
    assert_eq!(parsed.lines.len(), there, "cut at {cut}");
}
