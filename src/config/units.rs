//! Durations (`250ms`, `1s`, `24h`) and sizes (`16MiB`) as people write them. Pure.

use std::time::Duration;

/// Milliseconds per unit, largest first, as [`format_duration`] needs them.
const TIME: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes per unit, largest first.
const SIZE: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a whole number with a unit: `ms`, `s`, `m`, `h`, `d`. `None` for anything else; a bare
/// number has no meaning that everybody would guess.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIME).map(Duration::from_millis)
}

/// Reads a whole number with a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE)
}

/// The shortest form that [`parse_duration`] reads back; below a millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIME, "0s")
}

/// The shortest form that [`parse_size`] reads back.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE, "0B")
}

/// A size for people: three digits, such as `1.43 GiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn human_size(bytes: u64) -> String {
    let Some((unit, factor)) = SIZE.iter().find(|(_, f)| bytes >= *f) else {
        return "0 B".to_owned();
    };
    if *factor == 1 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / *factor as f64;
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// A duration for people: `12 ms`, `3.4 s`, `2 min 5 s`, `3 h 20 min`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let s = duration.as_secs();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        60_000..3_600_000 => format!("{} min {} s", s / 60, s % 60),
        3_600_000..172_800_000 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn format(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.to_owned();
    }
    units
        .iter()
        .find(|(_, factor)| value.is_multiple_of(*factor))
        .map_or_else(|| value.to_string(), |(unit, factor)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("1s", Some(1_000)),
            ("250ms", Some(250)),
            ("24h", Some(86_400_000)),
            ("5 m", Some(300_000)),
            ("2d", Some(172_800_000)),
            ("0s", Some(0)),
            ("1", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 parsec", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text), want.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("16MiB", Some(16 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("512B", Some(512)),
            ("16MB", None),
            ("16", None),
        ] {
            assert_eq!(parse_size(text), want, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["1s", "250ms", "24h", "90s", "0s", "36h"] {
            let d = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&format_duration(d)), Some(d), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(86_400)), "1d");
        assert_eq!(format_size(16 << 20), "16MiB");
        assert_eq!(format_size(1_000), "1000B");
    }

    #[test]
    fn for_people() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(1_536), "1.50 KiB");
        assert_eq!(human_size(157_286_400), "150 MiB");
        for (ms, want) in [
            (12, "12 ms"),
            (3_400, "3.4 s"),
            (125_000, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (200_000_000, "2 d 7 h"),
        ] {
            assert_eq!(human_duration(Duration::from_millis(ms)), want);
        }
    }
}
