//! Durations as people write them: `800ms`, `2s`, `1m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// Reads `800ms`, `2s`, `1.5s`, `1m` or `1h`.
///
/// # Errors
///
/// With the form that is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration; write for example 800ms, 2s or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

/// For `#[serde(deserialize_with = "...")]`.
///
/// # Errors
///
/// As [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(input)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("800ms"), Ok(Duration::from_millis(800)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "1 s", "1d", "1..2s", "99999999999999999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
