//! Secrets at rest: XChaCha20-Poly1305, bound to the webhook they belong to, the key's id in the text.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use fanfare_domain::{TenantId, WebhookId};

/// Seals and opens secrets with the operator's keys.
#[derive(Clone)]
pub struct Sealer {
    keys: Vec<(String, XChaCha20Poly1305)>,
}

/// Why a secret cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed with a key that is not among the settings.
    #[error(
        "a secret is sealed with the key `{0}`, which is not in FANFARE_SECRETS__KEYS: add it again behind the others"
    )]
    UnknownKey(String),
    /// It was changed, moved, or sealed with another key of the same id.
    #[error("a stored secret does not open: it was changed, or its key was")]
    Broken,
}

impl Sealer {
    /// Parses `<id>:<32 bytes, Base64>,…`: the first seals, all open.
    pub fn parse(keys: &str) -> Result<Self, String> {
        let mut parsed = Vec::new();
        for part in keys.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (id, key) = part.split_once(':').ok_or("must be `<id>:<32 bytes, Base64>`")?;
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err("a key's id must be of letters, digits, - and _".to_owned());
            }
            if parsed.iter().any(|(known, _)| known == id) {
                return Err(format!("the key id `{id}` stands twice"));
            }
            let key = STANDARD.decode(key).ok().and_then(|key| XChaCha20Poly1305::new_from_slice(&key).ok());
            let key = key.ok_or_else(|| {
                format!("the key `{id}` is not 32 bytes in Base64: `openssl rand -base64 32` makes one")
            })?;
            parsed.push((id.to_owned(), key));
        }
        if parsed.is_empty() { Err("names no key".to_owned()) } else { Ok(Self { keys: parsed }) }
    }

    /// `secret` as stored with this webhook: form 1, `1.<key id>.<nonce>.<sealed>`.
    pub fn seal(&self, tenant: &TenantId, webhook: &WebhookId, secret: &str) -> String {
        let (id, key) = &self.keys[0]; // parse() leaves none empty
        let nonce: [u8; 24] = rand::random();
        let owner = owner(tenant, webhook);
        let payload = Payload { msg: secret.as_bytes(), aad: owner.as_bytes() };
        let sealed =
            key.encrypt(&XNonce::from(nonce), payload).expect("a secret is far shorter than the cipher's limit");
        format!("1.{id}.{}.{}", STANDARD.encode(nonce), STANDARD.encode(sealed))
    }

    /// The secret that was stored with this webhook.
    pub fn open(&self, tenant: &TenantId, webhook: &WebhookId, stored: &str) -> Result<String, SealError> {
        let parts: Vec<&str> = stored.split('.').collect();
        let ["1", id, nonce, sealed] = parts[..] else { return Err(SealError::Broken) };
        let (_, key) =
            self.keys.iter().find(|(known, _)| known == id).ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
        let nonce: [u8; 24] =
            STANDARD.decode(nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(SealError::Broken)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| SealError::Broken)?;
        let owner = owner(tenant, webhook);
        let secret = key
            .decrypt(&XNonce::from(nonce), Payload { msg: &sealed, aad: owner.as_bytes() })
            .map_err(|_| SealError::Broken)?;
        String::from_utf8(secret).map_err(|_| SealError::Broken)
    }
}

fn owner(tenant: &TenantId, webhook: &WebhookId) -> String {
    format!("{tenant}/{webhook}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(ids: &[(&str, u8)]) -> Sealer {
        let keys: Vec<String> = ids.iter().map(|(id, byte)| format!("{id}:{}", STANDARD.encode([*byte; 32]))).collect();
        Sealer::parse(&keys.join(",")).unwrap()
    }

    #[test]
    fn a_secret_opens_for_its_webhook_alone_and_after_a_key_change() {
        let (acme, webhook): (TenantId, WebhookId) =
            ("acme".parse().unwrap(), "65f0c2a91b7e4d3388aa01ff".parse().unwrap());
        let stored = sealer(&[("a", 1)]).seal(&acme, &webhook, "whsec_x");
        assert!(stored.starts_with("1.a.") && !stored.contains("whsec_"));
        let rotated = sealer(&[("b", 2), ("a", 1)]);
        assert_eq!(rotated.open(&acme, &webhook, &stored).unwrap(), "whsec_x");
        assert!(rotated.seal(&acme, &webhook, "x").starts_with("1.b."));
        assert_eq!(rotated.open(&"other".parse().unwrap(), &webhook, &stored), Err(SealError::Broken));
        assert_eq!(sealer(&[("b", 2)]).open(&acme, &webhook, &stored), Err(SealError::UnknownKey("a".to_owned())));
        assert_eq!(sealer(&[("a", 3)]).open(&acme, &webhook, &stored), Err(SealError::Broken));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for keys in ["", "x", "a:short", "a b:AAAA", ":AAAA"] {
            assert!(Sealer::parse(keys).is_err(), "`{keys}`");
        }
    }
}
