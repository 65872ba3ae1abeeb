//! Durations and instants as people write them: `"15s"`, `"7d"`, RFC 3339.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A length of time, written `"15s"`, `"5min"`, `"2h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as `15s`, `5min`, `2h` or `7d`")]
pub struct SpanError;

impl Span {
    /// The span of so many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// In whole milliseconds; bounded far above any setting.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| SpanError)
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;
    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime parts spans by blanks and knows years; one unit that divides the span reads back and reads well.
        let millis = self.as_millis();
        for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")] {
            if millis > 0 && millis.is_multiple_of(unit) {
                return write!(f, "{}{name}", millis / unit);
            }
        }
        if millis == 0 { f.write_str("0s") } else { write!(f, "{millis}ms") }
    }
}

/// An instant in unix milliseconds as RFC 3339 text with milliseconds, in UTC.
pub fn rfc3339(at_ms: u64) -> String {
    let millis = i64::try_from(at_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => at_ms.to_string(), // beyond the year 9999: no instant that a clock gave
    }
}

/// The instant, in unix milliseconds, that an RFC 3339 text names; `None` where it names none since 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_back_as_written() {
        for (text, written) in
            [("15s", "15s"), ("7d", "7d"), ("90s", "90s"), ("120s", "2min"), ("250ms", "250ms"), ("0s", "0s")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), written);
            assert_eq!(written.parse::<Span>().unwrap(), span);
        }
        for text in ["", "15", "-1s", "soon"] {
            assert!(text.parse::<Span>().is_err(), "`{text}`");
        }
    }

    #[test]
    fn an_instant_keeps_its_milliseconds() {
        assert_eq!(rfc3339(1_575_976_413_042), "2019-12-10T11:13:33.042Z");
        assert_eq!(parse_rfc3339("2019-12-10T12:13:33.042+01:00"), Some(1_575_976_413_042));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
