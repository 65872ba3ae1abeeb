//! Standard Webhooks signatures, made and checked without Fanfare's own code, as a receiver would
//! (github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`).
use crate::receiver::Recorded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a timestamp may be from the arrival.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Why a request does not count as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSignature {
    /// The request lacks this header.
    Missing(&'static str),
    /// The secret says `whsec_`, but the rest is no base64.
    Secret,
    /// `webhook-timestamp` is no number of seconds.
    Timestamp,
    /// `webhook-timestamp` is more than five minutes from the arrival.
    Stale,
    /// No `v1` signature fits.
    Wrong,
}

impl std::fmt::Display for BadSignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(header) => write!(f, "no header `{header}`"),
            Self::Secret => write!(f, "the secret is no base64 after `whsec_`"),
            Self::Timestamp => write!(f, "`webhook-timestamp` is no number of seconds"),
            Self::Stale => write!(f, "`webhook-timestamp` is not now"),
            Self::Wrong => write!(f, "no signature fits the secret"),
        }
    }
}

impl std::error::Error for BadSignature {}

/// Checks a request against a webhook's secret: `whsec_` and base64, or any other text, whose bytes are then the key.
pub fn verify(secret: &str, request: &Recorded) -> Result<(), BadSignature> {
    let header = |name| request.header(name).ok_or(BadSignature::Missing(name));
    let (id, timestamp, signatures) =
        (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let sent = UNIX_EPOCH + Duration::from_secs(timestamp.parse().map_err(|_| BadSignature::Timestamp)?);
    if apart(sent, request.at) > TOLERANCE {
        return Err(BadSignature::Stale);
    }
    let mac = mac(secret, id, timestamp, &request.body).ok_or(BadSignature::Secret)?;
    let fits = |encoded: &str| STANDARD.decode(encoded).is_ok_and(|bytes| mac.clone().verify_slice(&bytes).is_ok());
    let mut of_version_1 = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
    if of_version_1.any(fits) { Ok(()) } else { Err(BadSignature::Wrong) }
}

/// The header `webhook-signature` for a request; `None` where the secret is no base64 after `whsec_`.
pub fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
    Some(format!("v1,{}", STANDARD.encode(mac(secret, id, timestamp, body)?.finalize().into_bytes())))
}

fn mac(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let key = match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).ok()?,
        None => secret.as_bytes().to_vec(),
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Some(mac)
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::tests::recorded;

    /// The example of the specification's reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &str = r#"{"test": 2432232314}"#;
    const AT: u64 = 1_614_265_330;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_specifications_example_verifies_and_what_differs_does_not() {
        assert_eq!(sign(SECRET, ID, &AT.to_string(), BODY.as_bytes()).as_deref(), Some(SIGNATURE));
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let rotated = format!("v1,AAAA {SIGNATURE}");
        for (secret, signature, body, arrived, expected) in [
            (SECRET, SIGNATURE, BODY, AT, Ok(())),
            (SECRET, rotated.as_str(), BODY, AT + 299, Ok(())),
            (SECRET, SIGNATURE, BODY, AT + 301, Err(BadSignature::Stale)),
            (SECRET, SIGNATURE, r#"{"test":2432232314}"#, AT, Err(BadSignature::Wrong)),
            (SECRET, "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", BODY, AT, Err(BadSignature::Wrong)),
            (other, SIGNATURE, BODY, AT, Err(BadSignature::Wrong)),
            ("whsec_!", SIGNATURE, BODY, AT, Err(BadSignature::Secret)),
        ] {
            let headers =
                [("webhook-id", ID), ("webhook-timestamp", &AT.to_string()), ("webhook-signature", signature)];
            let request = recorded(&headers, body, UNIX_EPOCH + Duration::from_secs(arrived));
            assert_eq!(verify(secret, &request), expected, "{signature} at {arrived}");
        }
    }
}
