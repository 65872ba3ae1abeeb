//! Keys and secrets, made of the system's randomness.

use fanfare_catalog::SecretForm;
use fanfare_domain::{TenantId, WebhookId, hex, signature};
use rand::{
    Rng,
    distr::{Alphanumeric, SampleString},
};

/// 62 letters and digits to the 43rd: more than 256 bits.
const KEY_LENGTH: usize = 43;

/// A tenant's key: it names its tenant, so that one that is not known yet can be looked for.
pub(crate) fn tenant_key(tenant: &TenantId) -> String {
    format!("ffk_{tenant}_{}", letters_and_digits(KEY_LENGTH))
}

/// The operator's key, for publishing.
pub(crate) fn operator_key() -> String {
    format!("ffo_{}", letters_and_digits(KEY_LENGTH))
}

/// A key's id: no part of the key.
pub(crate) fn key_id() -> String {
    hex(&rand::random::<[u8; 8]>())
}

/// A webhook's secret in its catalog's form.
pub(crate) fn webhook_secret(form: SecretForm) -> String {
    match form {
        SecretForm::Whsec { bytes } => {
            let mut key = vec![0; bytes];
            rand::rng().fill_bytes(&mut key);
            signature::secret_of(&key)
        }
        SecretForm::LettersAndDigits { length } => letters_and_digits(length),
    }
}

/// A webhook's id: seconds and chance, as an ObjectId has them.
pub(crate) fn webhook_id(now_ms: u64) -> WebhookId {
    let mut id: [u8; 12] = rand::random();
    id[..4].copy_from_slice(&((now_ms / 1_000) as u32).to_be_bytes());
    WebhookId::from_bytes(id)
}

fn letters_and_digits(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_of_its_form_and_no_two_are_alike() {
        let tenant: TenantId = "acme-1".parse().unwrap();
        let key = tenant_key(&tenant);
        let (_, rest) = key.split_at("ffk_acme-1_".len());
        assert!(key.starts_with("ffk_acme-1_") && rest.len() == KEY_LENGTH && !rest.contains('_'), "{key}");
        assert_ne!(key, tenant_key(&tenant));
        assert!(operator_key().starts_with("ffo_"));

        let secret = webhook_secret(SecretForm::Whsec { bytes: 32 });
        assert_eq!(signature::signing_key(&secret).len(), 32);
        let secret = webhook_secret(SecretForm::LettersAndDigits { length: 48 });
        assert!(secret.len() == 48 && secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));

        assert!(webhook_id(1_559_151_676_000).as_str().starts_with("5ceec43c"));
        assert_ne!(webhook_id(0), webhook_id(0));
    }
}
