//! Tenants, webhooks and keys as stored, each with its form's version.

use fanfare_domain::{TenantId, Webhook, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A tenant as stored, form 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// The stored form.
    pub v: u32,
    /// Its id.
    pub id: TenantId,
    /// What the operator calls it.
    pub name: Option<String>,
    /// The catalog of its events.
    pub catalog: String,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds.
    pub updated_at: u64,
}

/// A webhook as stored, form 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWebhook {
    /// The stored form.
    pub v: u32,
    /// All but its secrets.
    pub webhook: Webhook,
    /// Its secret, sealed.
    pub secret: String,
    /// The secret before it, which signs too for a while.
    pub previous: Option<StoredSecret>,
}

/// A secret on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// Sealed.
    pub secret: String,
    /// Until when it signs, in unix milliseconds.
    pub until: u64,
}

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publishing events.
    Publish,
    /// Writing webhooks and acting on deliveries.
    Manage,
    /// Reading.
    Read,
}

/// The scopes of a key.
pub type Scopes = Vec<Scope>;

/// A key as stored, form 1: its hash, never itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredKey {
    /// The stored form.
    pub v: u32,
    /// Its id.
    pub id: String,
    /// What it is for.
    pub name: Option<String>,
    /// The SHA-256 of the key, in hex.
    pub hash: String,
    /// What it opens.
    pub scopes: Scopes,
    /// Unix milliseconds.
    pub created_at: u64,
}

impl StoredKey {
    /// What a key is stored and found by.
    pub fn hash_of(key: &str) -> String {
        hex(&Sha256::digest(key.as_bytes()))
    }
}
