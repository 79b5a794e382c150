//! The one source of wall-clock time. Every stored expiry is judged by a `Clock`, so that a test can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_ms(ms: u64) -> Timestamp {
        Timestamp(ms)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// How long `self` lies after `earlier`; zero when the clock was set back in between.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn plus(self, time: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    pub fn minus(self, time: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Reads what [`rfc3339`](Self::rfc3339) writes, with as many decimals as there are; `None` for another text.
    pub fn of_rfc3339(text: &str) -> Option<Timestamp> {
        let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Timestamp::default().plus(since))
    }

    /// The day in UTC, as `2026-11-29`.
    pub fn day(self) -> String {
        let mut text = self.rfc3339();
        text.truncate("2026-11-29".len());
        text
    }

    /// Whole hours since 1970.
    pub fn hour(self) -> u64 {
        self.0 / 3_600_000
    }
}

impl Timestamp {
    /// In UTC, as RFC 3339 writes it: `2026-11-29T10:56:24.123Z`. What comes after the year 9999 is told as its end.
    pub fn rfc3339(self) -> String {
        let mut text = Vec::with_capacity("2026-11-29T10:56:24.123Z".len());
        write_rfc3339(&mut text, Duration::from_millis(self.0), 3);
        String::from_utf8(text).expect("digits are ASCII")
    }

    /// As HTTP's `Date` has it (RFC 9110, section 5.6.7): `Sun, 29 Nov 2026 10:56:24 GMT`.
    pub fn http_date(self) -> [u8; 29] {
        const WEEKDAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
        const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let since_1970 = Duration::from_millis(self.0).min(LAST).as_secs();
        let (Day { year, month, day, weekday }, seconds) = (Day::of((since_1970 / 86_400) as u32), (since_1970 % 86_400) as u32);
        let mut written = *b"Sun, 29 Nov 2026 10:56:24 GMT";
        written[..3].copy_from_slice(WEEKDAYS[weekday]);
        let month = month as usize * 3;
        written[8..11].copy_from_slice(&MONTHS[month - 3..month]);
        let pairs = [(5, day), (12, year / 100), (14, year % 100), (17, seconds / 3_600), (20, seconds / 60 % 60), (23, seconds % 60)];
        put_pairs(&mut written, pairs);
        written
    }
}

/// Tells the time: the system's, or in tests one that stands still until it is moved.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands at `start` until `advance` is called on it or on a clone.
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::default().plus(self.since_1970())
    }

    /// Nanoseconds since 1970-01-01 UTC, for what is told to tracing systems. They end in the year 2554.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.since_1970().as_nanos()).unwrap_or(u64::MAX)
    }

    fn since_1970(&self) -> Duration {
        match &self.0 {
            // Here alone the system is asked what follows from the time (clippy.toml bans it everywhere else).
            #[allow(clippy::disallowed_methods)]
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Manual(ms) => Duration::from_millis(ms.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock; the system's is not ours to move.
    pub fn advance(&self, time: Duration) {
        if let Source::Manual(ms) = &self.0 {
            ms.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Appends when a line of the log is written, to the microsecond: the machine's own time, since nothing follows from it.
#[allow(clippy::disallowed_methods)]
pub fn write_now(line: &mut Vec<u8>) {
    write_rfc3339(line, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), 6);
}

/// What comes after the year 9999 is written as its end.
const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);

/// A day in UTC.
struct Day {
    year: u32,
    /// From 1.
    month: u32,
    /// Of the month, from 1.
    day: u32,
    /// From 0, which is a Sunday.
    weekday: usize,
}

impl Day {
    /// From a count of days since 1970 to a date, in years that begin in March and eras of 400 years, which all have as many days (Howard
    /// Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    fn of(days_since_1970: u32) -> Day {
        let days = days_since_1970 + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, in_next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        // 1970 began with a Thursday.
        Day { year: era * 400 + year + in_next, month, day, weekday: (days_since_1970 as usize + 4) % 7 }
    }
}

/// Writes numbers from 0 to 99 into a text, each at its place.
fn put_pairs(text: &mut [u8], pairs: impl IntoIterator<Item = (usize, u32)>) {
    for (at, pair) in pairs {
        text[at..at + 2].copy_from_slice(&[b'0' + (pair / 10) as u8, b'0' + (pair % 10) as u8]);
    }
}

/// Appends a time after 1970 in UTC, with so many decimals, at most 6. (`humantime` does this through the standard library's formatter,
/// which takes a thousand instructions of each request.)
fn write_rfc3339(text: &mut Vec<u8>, since_1970: Duration, decimals: usize) {
    let time = since_1970.min(LAST);
    let seconds = (time.as_secs() % 86_400) as u32;
    let (Day { year, month, day, .. }, microseconds) = (Day::of((time.as_secs() / 86_400) as u32), time.subsec_micros());
    let mut written = *b"2026-11-29T10:56:24.123456";
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, seconds / 3_600),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
        (20, microseconds / 10_000),
        (22, microseconds / 100 % 100),
        (24, microseconds % 100),
    ];
    put_pairs(&mut written, pairs);
    let end = written.len() - 6 + decimals.min(6);
    text.extend_from_slice(&written[..end]);
    text.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_rfc_3339_has_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_949_111_120, "2026-11-29T10:45:11.120Z"),
            (1_709_210_096_007, "2024-02-29T12:34:56.007Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_ms(ms).rfc3339(), text);
            assert_eq!(Timestamp::of_rfc3339(text), Some(Timestamp::from_ms(ms)));
        }
        assert_eq!(Timestamp::from_ms(u64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!((Timestamp::from_ms(1_795_949_111_120).day().as_str(), Timestamp::from_ms(7_200_001).hour()), ("2026-11-29", 2));
        for (nanoseconds, decimals, text) in [
            (0, 6, "1970-01-01T00:00:00.000000Z"),
            (951_868_799_123_456_789, 6, "2000-02-29T23:59:59.123456Z"),
            (1_000_999, 3, "1970-01-01T00:00:00.001Z"),
        ] {
            let mut written = Vec::new();
            write_rfc3339(&mut written, Duration::from_nanos(nanoseconds), decimals);
            assert_eq!(written, text.as_bytes());
        }
        for text in ["", "2026-11-29", "2026-11-29 10:00", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(Timestamp::of_rfc3339(text), None, "{text}");
        }
    }

    /// Each day of ten thousand years.
    #[test]
    fn every_date_is_what_others_write() {
        for day in 0..2_932_897 {
            let time = Duration::from_secs(day * 86_400 + day % 86_400);
            let mut written = Vec::new();
            write_rfc3339(&mut written, time, 3);
            assert_eq!(String::from_utf8(written).unwrap(), humantime::format_rfc3339_millis(UNIX_EPOCH + time).to_string());
            let date = Timestamp::default().plus(time).http_date();
            assert_eq!(str::from_utf8(&date).unwrap(), httpdate::fmt_http_date(UNIX_EPOCH + time));
        }
    }

    #[test]
    fn a_manual_clock_moves_for_all_its_clones() {
        let clock = Clock::manual(Timestamp::from_ms(1_000));
        let other = clock.clone();
        clock.advance(Duration::from_secs(2));
        assert_eq!(other.now(), Timestamp::from_ms(3_000));
        assert_eq!(Timestamp::from_ms(1).since(other.now()), Duration::ZERO);
    }
}
