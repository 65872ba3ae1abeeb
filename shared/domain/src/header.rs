//! The headers that Fanfare itself sets (contract.md, Requests to receivers). Most can be told from a delivery's record, and the
//! log keeps only those that cannot.

/// The delivery; a replay sends the original's (Standard Webhooks).
pub const WEBHOOK_ID: &str = "webhook-id";
/// When the attempt was made, in unix seconds (Standard Webhooks).
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// One signature per valid secret (Standard Webhooks).
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
/// The attempt, from 1.
pub const ATTEMPT: &str = "fanfare-attempt";
/// When the first attempt was made, in unix seconds.
pub const FIRST_ATTEMPT: &str = "fanfare-first-attempt";
/// `true` where this attempt may have been made before.
pub const REDELIVERY: &str = "fanfare-redelivery";
/// What replays it.
pub const REPLAY: &str = "fanfare-replay";

/// Those of an attempt that can be told from its record.
pub fn told(id: &str, at_ms: u64, attempt: u32, first_attempt_ms: Option<u64>) -> Vec<(&'static str, String)> {
    let mut told = vec![
        (WEBHOOK_ID, id.to_owned()),
        (WEBHOOK_TIMESTAMP, (at_ms / 1_000).to_string()),
        (ATTEMPT, attempt.to_string()),
    ];
    told.extend(first_attempt_ms.map(|first_ms| (FIRST_ATTEMPT, (first_ms / 1_000).to_string())));
    told
}
