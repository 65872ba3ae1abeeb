//! Signatures per Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks, spec): `v1,` and the Base64 of an
//! HMAC-SHA256 over `id.timestamp.body`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The bytes a secret signs with: what follows `whsec_` in Base64, or, for a secret of a catalog's own form, its own
/// bytes.
pub fn signing_key(secret: &str) -> Vec<u8> {
    match secret.strip_prefix("whsec_").map(|encoded| STANDARD.decode(encoded)) {
        Some(Ok(key)) => key,
        _ => secret.as_bytes().to_vec(),
    }
}

/// The secret that `key` is written as.
pub fn secret_of(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

/// The header `webhook-signature` for `body`: one signature per key, parted by spaces; both secrets sign during a
/// rotation's grace.
pub fn sign<'k>(keys: impl IntoIterator<Item = &'k [u8]>, id: &str, timestamp_secs: u64, body: &[u8]) -> String {
    let mut header = String::with_capacity(96);
    for key in keys {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp_secs.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_reference_does() {
        // The reference libraries' own test vector.
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signature =
            sign([key.as_slice()], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_of_another_form_signs_with_its_own_bytes() {
        assert_eq!(signing_key("nLjs7uu5"), b"nLjs7uu5");
        assert_eq!(signing_key(&secret_of(b"key")), b"key");
    }
}
