//! The ids of Fanfare's things: each parsed once, and right ever after; derived where a step may be done twice.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Why a text is no id; lower case, to be shown beside the field it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(&'static str);

/// The implementations every textual id shares: in through `FromStr` alone, out as text.
macro_rules! textual_id {
    ($name:ident) => {
        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    };
}

/// A tenant's id: 1 to 63 of `a-z`, `0-9` and `-` (contract.md, Management API).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(std::sync::Arc<str>);
textual_id!(TenantId);

impl FromStr for TenantId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.into())) } else { Err(IdError("must be 1 to 63 of a-z, 0-9 and -")) }
    }
}

/// A webhook's id: 24 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookId(std::sync::Arc<str>);
textual_id!(WebhookId);

impl WebhookId {
    /// The id made of 12 bytes of chance.
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(hex(&bytes).into())
    }
}

impl FromStr for WebhookId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = text.len() == 24 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if fits { Ok(Self(text.into())) } else { Err(IdError("must be 24 lower-case hex digits")) }
    }
}

/// Fanfare's own id of an event: a ULID, given at its first claim; a re-use of the event's own id after the
/// deduplication window gets a new one (delivery.md, Ids).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Ulid);

impl EventId {
    /// The id of an event first claimed at `at_ms` (unix milliseconds), told apart by 80 bits of `chance`.
    pub fn new(at_ms: u64, chance: u128) -> Self {
        Self(Ulid::from_parts(at_ms, chance))
    }

    /// When the event was first claimed, in unix milliseconds.
    pub fn at_ms(&self) -> u64 {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        // Crockford's alphabet has other spellings of the same number; only the one we write is an id.
        match Ulid::from_string(text) {
            Ok(ulid) if ulid.to_string() == text => Ok(Self(ulid)),
            _ => Err(IdError("must be a ULID")),
        }
    }
}

impl Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A job's id: letters and digits, for it becomes part of the ids of what the job makes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(std::sync::Arc<str>);
textual_id!(JobId);

impl JobId {
    /// The id of a job made at `at_ms` (unix milliseconds), told apart by 80 bits of `chance`.
    pub fn new(at_ms: u64, chance: u128) -> Self {
        Self(Ulid::from_parts(at_ms, chance).to_string().into())
    }
}

impl FromStr for JobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits { Ok(Self(text.into())) } else { Err(IdError("must be 1 to 32 letters and digits")) }
    }
}

/// A delivery: one event for one webhook, `<ulid>_<webhook id>`, and for a replay `<ulid>_<webhook id>_r<job>`.
///
/// Derived, not drawn: doing a step twice makes the same ids. It holds no dot, which separates what Standard Webhooks
/// signs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// The event delivered.
    pub event: EventId,
    /// The webhook it is for.
    pub webhook: WebhookId,
    /// The replay job that made this delivery, where one did.
    pub replay: Option<String>,
}

impl DeliveryId {
    /// The first delivery of `event` to `webhook`.
    pub fn first(event: EventId, webhook: WebhookId) -> Self {
        Self { event, webhook, replay: None }
    }

    /// What receivers see as `webhook-id`: a replay sends the original's.
    pub fn webhook_id_header(&self) -> String {
        format!("{}_{}", self.event, self.webhook)
    }

    /// The delivery's name within its event: the webhook, and the replay where there is one.
    pub fn within_event(&self) -> String {
        match &self.replay {
            None => self.webhook.to_string(),
            Some(job) => format!("{}_r{job}", self.webhook),
        }
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.event, self.webhook)?;
        match &self.replay {
            None => Ok(()),
            Some(job) => write!(f, "_r{job}"),
        }
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = IdError("must be `<ulid>_<webhook id>`");
        let mut parts = text.splitn(3, '_');
        let (Some(event), Some(webhook)) = (parts.next(), parts.next()) else { return Err(wrong) };
        let replay = match parts.next().map(|part| part.strip_prefix('r')) {
            None => None,
            Some(Some(job)) if !job.is_empty() && job.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Some(job.to_owned())
            }
            Some(_) => return Err(wrong),
        };
        match (event.parse(), webhook.parse()) {
            (Ok(event), Ok(webhook)) => Ok(Self { event, webhook, replay }),
            _ => Err(wrong),
        }
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeliveryId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |four_bits: u8| char::from(b"0123456789abcdef"[usize::from(four_bits)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_right_or_refused() {
        for (text, fits) in [("acme-1", true), ("", false), ("Acme", false), ("a_b", false), (&"a".repeat(64), false)] {
            assert_eq!(text.parse::<TenantId>().is_ok(), fits, "tenant `{text}`");
        }
        for (text, fits) in [("5ceec43ce1b5b412ba9d0e73", true), ("5CEEC43CE1B5B412BA9D0E73", false), ("5cee", false)] {
            assert_eq!(text.parse::<WebhookId>().is_ok(), fits, "webhook `{text}`");
        }
    }

    #[test]
    fn a_delivery_id_reads_back_as_written() {
        let event = EventId::new(1_700_000_000_000, 7);
        let webhook: WebhookId = "5ceec43ce1b5b412ba9d0e73".parse().unwrap();
        for replay in [None, Some("01K3".to_owned())] {
            let id = DeliveryId { event, webhook: webhook.clone(), replay };
            assert_eq!(id.to_string().parse::<DeliveryId>().unwrap(), id);
            assert!(!id.to_string().contains('.'));
        }
        assert!("x_5ceec43ce1b5b412ba9d0e73".parse::<DeliveryId>().is_err());
        assert!(format!("{event}_{webhook}_q1").parse::<DeliveryId>().is_err());
    }
}
