//! The few fields of a certificate that we need ourselves: for channel binding and for
//! certificates that name their host in the subject only. Not a certificate parser: whatever
//! is not understood is `None`.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const EXTENSIONS: u8 = 0xa3;
const VERSION: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Splits the first element off: its tag, its content, the rest.
fn element(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (digits, rest) = rest.split_at(count);
        (digits.iter().fold(0usize, |n, d| (n << 8) | usize::from(*d)), rest)
    };
    (rest.len() >= length).then(|| (tag, &rest[..length], &rest[length..]))
}

fn expect(data: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(data)?;
    (tag == wanted).then_some((content, rest))
}

/// The `tls-server-end-point` binding of RFC 5929: the certificate hashed as it was signed.
/// `None` when its signature names no hash (Ed25519, RSA-PSS): then there is no binding.
pub(super) fn end_point_binding(certificate: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = expect(certificate, SEQUENCE)?;
    let (_, rest) = expect(body, SEQUENCE)?;
    let (algorithm, _) = expect(rest, SEQUENCE)?;
    let (oid, _) = expect(algorithm, OID)?;
    let hash = match oid {
        // RSA: 1.2.840.113549.1.1.x; MD5 and SHA-1 are raised to SHA-256 by the RFC.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04 | 0x05 | 0x0b] => 256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c] => 384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d] => 512,
        // ECDSA: 1.2.840.10045.4.1 with SHA-1, 1.2.840.10045.4.3.x with SHA-2.
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] => 256,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => 256,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => 384,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04] => 512,
        _ => return None,
    };
    Some(match hash {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// Whether a certificate without alternative names has `host` as its common name.
pub(super) fn common_name_matches(certificate: &[u8], host: &str) -> bool {
    common_name(certificate).is_some_and(|name| host_matches(&name, host))
}

/// The common name, when there are no alternative names.
fn common_name(certificate: &[u8]) -> Option<String> {
    let (body, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(body, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    // serial, signature, issuer, validity
    for _ in 0..4 {
        (_, _, rest) = element(rest)?;
    }
    let (mut subject, mut rest) = expect(rest, SEQUENCE)?;
    let mut name = None;
    while !subject.is_empty() {
        let (set, after) = expect(subject, SET)?;
        let (pair, _) = expect(set, SEQUENCE)?;
        let (oid, value) = expect(pair, OID)?;
        if oid == COMMON_NAME {
            let (_, text, _) = element(value)?;
            name = Some(String::from_utf8(text.to_vec()).ok()?);
        }
        subject = after;
    }
    while !rest.is_empty() {
        let (tag, content, after) = element(rest)?;
        if tag == EXTENSIONS {
            let (mut list, _) = expect(content, SEQUENCE)?;
            while !list.is_empty() {
                let (extension, next) = expect(list, SEQUENCE)?;
                let (oid, _) = expect(extension, OID)?;
                if oid == SUBJECT_ALT_NAME {
                    return None;
                }
                list = next;
            }
        }
        rest = after;
    }
    name
}

/// Compares without case; a leading `*.` stands for exactly one label.
fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && rest.eq_ignore_ascii_case(domain) && rest.contains('.')
        }),
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label() {
        for (pattern, host, want) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.com", "example.com", false),
            ("", "", false),
            ("db", "db2", false),
        ] {
            assert_eq!(host_matches(pattern, host), want, "{pattern} {host}");
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        for data in [&[][..], &[0x30], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x82, 0xff, 0xff, 0]] {
            assert_eq!(end_point_binding(data), None);
            assert_eq!(common_name(data), None);
        }
    }
}
