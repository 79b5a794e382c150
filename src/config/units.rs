//! Sizes and durations with their units: a whole number and one unit, nothing between them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written `512MiB`, `200GiB`, `64KiB`, `10B`. Units are binary only, so that there is one way to read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a size: a whole number with B, KiB, MiB, GiB or TiB, such as \"512MiB\"")]
pub struct ByteSizeError;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: a whole number with ms, s, m, h or d, such as \"5m\"")]
pub struct DurationError;

/// Units from the largest to the smallest, each a multiple of the next.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DURATIONS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        parse(text, &SIZES).map(ByteSize).ok_or(ByteSizeError)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that leaves no remainder, so that it parses to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0, &SIZES, "B"))
    }
}

/// Reads `5m`, `1500ms`, `24h`.
///
/// # Errors
/// [`DurationError`] for any other form, and for what does not fit in 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    parse(text, &DURATIONS_MS).map(Duration::from_millis).ok_or(DurationError)
}

/// The text that [`parse_duration`] reads back, in the largest unit that leaves no remainder. Less than a millisecond is dropped.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS_MS, "s")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)], unit_of_zero: &str) -> String {
    let fitting = units.iter().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    fitting.map_or_else(|| format!("0{unit_of_zero}"), |(unit, factor)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("0B", 0), ("10B", 10), ("64KiB", 65_536), ("512MiB", 512 << 20), ("3TiB", 3 << 40), ("007KiB", 7_168)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "B", "5", "5k", "5KB", "10GB", "5 KiB", "-5B", "+5B", "1.5GiB", "5kib", "99999999TiB", "\u{663}KiB", "5KiBs"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError), "{text}");
        }
        assert_eq!(ByteSize(1_536).to_string(), "1536B");
        assert_eq!(ByteSize(200 << 30).to_string(), "200GiB");
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("0s", 0), ("1500ms", 1_500), ("5s", 5_000), ("5m", 300_000), ("24h", 86_400_000), ("30d", 2_592_000_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "5x", "s", "5 s", "1.5s", "-1s", "5S", "1h30m", "999999999999999999999s", "9999999999999999h"] {
            assert_eq!(parse_duration(text), Err(DurationError), "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(90_000)), "90s");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn a_shown_size_reads_back(bytes: u64, shift in 0_u32..50) {
            let size = ByteSize(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn a_shown_duration_reads_back(ms: u64, unit in proptest::sample::select(vec![1_u64, 1_000, 60_000, 3_600_000])) {
            let duration = Duration::from_millis(ms / unit * unit);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
            if let Ok(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            }
        }
    }
}
