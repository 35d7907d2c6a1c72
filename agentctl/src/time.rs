// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Moments and durations, read and printed. Always UTC: the audit log is, and nodes differ.

use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, civil};

/// A moment as given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

impl Moment {
    /// As a protobuf timestamp; a moment too far in the past is the earliest one there is.
    pub(crate) fn resolve(self, now: Timestamp) -> prost_types::Timestamp {
        let at = match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        };
        prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        // `civil::Date` also reads the date of a date and time, whose zone we would have to guess.
        if text.len() == "2026-01-31".len()
            && let Ok(date) = text.parse::<civil::Date>()
            && let Ok(zoned) = date.to_zoned(jiff::tz::TimeZone::UTC)
        {
            return Ok(Self::At(zoned.timestamp()));
        }
        match text.parse::<SignedDuration>().ok().or_else(|| days(text)) {
            Some(ago) if !ago.is_negative() => Ok(Self::Ago(ago)),
            _ => Err("expected RFC 3339 with a zone (2026-01-31T12:00:00Z), a date, or how long ago (15m, 2h, 1d)"
                .to_owned()),
        }
    }
}

/// A day is always 24 hours in UTC, but the library is right not to assume so.
fn days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.parse().ok()?;
    days.checked_mul(24).filter(|hours| hours.unsigned_abs() < 1 << 40).map(SignedDuration::from_hours)
}

/// `500ms`, `30s`, `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    match duration {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration with its unit, for example 500ms, 30s, 2m".to_owned()),
    }
}

/// Now, UTC.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// `None` for an absent or impossible timestamp.
pub(crate) fn from_proto(timestamp: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    timestamp.and_then(|timestamp| Timestamp::new(timestamp.seconds, timestamp.nanos).ok())
}

/// To the second, for tables; empty when absent.
pub(crate) fn stamp(timestamp: Option<&prost_types::Timestamp>) -> String {
    from_proto(timestamp).map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default()
}

/// To the millisecond, for live streams.
pub(crate) fn stamp_millis(timestamp: Option<&prost_types::Timestamp>) -> String {
    from_proto(timestamp).map(|at| at.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string()).unwrap_or_default()
}

/// The distance to a moment, coarse: `4m12s`, `3h05m`, `2d04h`; empty when it is not in the future.
pub(crate) fn left(until: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    from_proto(until).map(|until| coarse(until.as_second().saturating_sub(now.as_second()))).unwrap_or_default()
}

/// How long something has lasted.
pub(crate) fn since(from: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    from_proto(from).map(|from| coarse(now.as_second().saturating_sub(from.as_second()))).unwrap_or_default()
}

fn coarse(seconds: i64) -> String {
    match seconds {
        ..=0 => String::new(),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        Moment::At(text.parse().unwrap())
    }

    #[test]
    fn moments_are_read_in_three_forms() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", Some(at("2026-01-31T12:00:00Z"))),
            ("2026-01-31T12:00:00+02:00", Some(at("2026-01-31T10:00:00Z"))),
            ("2026-01-31", Some(at("2026-01-31T00:00:00Z"))),
            ("15m", Some(Moment::Ago(SignedDuration::from_mins(15)))),
            ("1d", Some(Moment::Ago(SignedDuration::from_hours(24)))),
            ("2026-01-31T12:00:00", None),
            ("-5m", None),
            ("-1d", None),
            ("9223372036854775807d", None),
            ("15", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Moment>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_moment_before_all_time_is_the_earliest() {
        let far = "99999999999h".parse::<Moment>().map(|moment| moment.resolve(Timestamp::UNIX_EPOCH).seconds);
        assert_eq!(far, Ok(Timestamp::MIN.as_second()));
    }

    #[test]
    fn timeouts_need_a_unit_and_are_never_zero() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("30s", Some(Duration::from_secs(30))),
            ("2m", Some(Duration::from_mins(2))),
            ("30", None),
            ("0s", None),
            ("-1s", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn distances_are_coarse_and_never_negative() {
        for (seconds, expected) in
            [(-5, ""), (0, ""), (59, "59s"), (252, "4m12s"), (3_600, "1h00m"), (11_100, "3h05m"), (187_200, "2d04h")]
        {
            assert_eq!(coarse(seconds), expected);
        }
    }

    #[test]
    fn an_impossible_timestamp_prints_nothing() {
        assert_eq!(stamp(Some(&prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), "");
        assert_eq!(stamp(None), "");
        assert_eq!(stamp(Some(&prost_types::Timestamp { seconds: 0, nanos: 0 })), "1970-01-01 00:00:00Z");
    }
}
