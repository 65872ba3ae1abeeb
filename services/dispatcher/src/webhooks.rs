//! What is in force for a webhook, ready to send: secrets opened, headers parsed, the policy put together. Made once per
//! change of its tenant's configuration.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use fanfare_catalog::{Catalog, Catalogs};
use fanfare_domain::{DeliveryPolicy, TenantId, WebhookId, signature::signing_key};
use fanfare_store::{Configuration, SealError, Sealer, StoreError, StoredWebhook, TenantConfig};
use reqwest::{
    Method, Url,
    header::{HeaderName, HeaderValue},
};

/// A webhook as of one moment.
pub(crate) struct InForce {
    /// The target as its tenant wrote it.
    pub(crate) target: String,
    pub(crate) url: Url,
    pub(crate) method: Method,
    /// The tenant's own headers, and the catalog's secret one.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) policy: DeliveryPolicy,
    /// Signing keys, each until when, in unix milliseconds.
    keys: Vec<(Vec<u8>, u64)>,
    /// What its tenant's events are rendered by today.
    pub(crate) catalog: Arc<Catalog>,
    config: Arc<TenantConfig>,
}

impl InForce {
    /// The keys that sign at this moment: both during a rotation's grace.
    pub(crate) fn signing_keys(&self, now_ms: u64) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().filter(move |(_, until)| *until > now_ms).map(|(key, _)| key.as_slice())
    }
}

/// Why a webhook is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("the webhook is gone")]
    Gone,
    #[error("the stored webhook cannot be read: mend it in Redis, or run a version that reads it")]
    Unreadable,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the tenant's catalog `{0}` is not loaded here")]
    NoCatalog(String),
    #[error("a stored header is none")]
    Header,
    #[error("a webhook that is not saved yet is of a form that this version does not read")]
    UnknownForm,
}

/// All webhooks that were asked for.
pub(crate) struct Webhooks {
    configuration: Configuration,
    catalogs: Catalogs,
    sealer: Sealer,
    ready: RwLock<HashMap<WebhookId, Arc<InForce>>>,
}

impl Webhooks {
    pub(crate) fn new(configuration: Configuration, catalogs: Catalogs, sealer: Sealer) -> Self {
        Self { configuration, catalogs, sealer, ready: RwLock::default() }
    }

    /// A webhook's own cap, as far as known here; the claim knows better.
    pub(crate) fn cap(&self, tenant: &TenantId, webhook: &WebhookId) -> Option<u32> {
        self.configuration.tenant(tenant)?.webhooks.get(webhook)?.webhook.max_in_flight
    }

    /// A webhook, no older than `revision`.
    pub(crate) async fn at_least(
        &self,
        tenant: &TenantId,
        id: &WebhookId,
        revision: u64,
    ) -> Result<Arc<InForce>, NotReady> {
        let mut config = self.configuration.tenant(tenant);
        let known = |config: &Option<Arc<TenantConfig>>| {
            config.as_ref().and_then(|config| config.webhooks.get(id)).map(|stored| stored.webhook.revision)
        };
        if known(&config).is_none_or(|known| known < revision) {
            config = self.configuration.now(tenant).await?;
        }
        let config = config.ok_or(NotReady::Gone)?;
        if config.unreadable.iter().any(|unreadable| unreadable == id.as_str()) {
            return Err(NotReady::Unreadable);
        }
        if let Some(ready) = self.ready.read().unwrap_or_else(PoisonError::into_inner).get(id)
            && Arc::ptr_eq(&ready.config, &config)
        {
            return Ok(ready.clone());
        }
        let stored = config.webhooks.get(id).ok_or(NotReady::Gone)?;
        let ready = Arc::new(self.prepare(&config, stored)?);
        self.ready.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), ready.clone());
        Ok(ready)
    }

    /// A webhook as it would be if it were saved: what it would send, and where.
    pub(crate) async fn unsaved(&self, tenant: &TenantId, stored: &StoredWebhook) -> Result<InForce, NotReady> {
        let config = self.configuration.latest(tenant).await?.ok_or(NotReady::Gone)?;
        self.prepare(&config, stored)
    }

    /// What opens and seals secrets.
    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    fn prepare(&self, config: &Arc<TenantConfig>, stored: &StoredWebhook) -> Result<InForce, NotReady> {
        let (webhook, tenant) = (&stored.webhook, &config.tenant.id);
        let name = &config.tenant.catalog;
        let catalog = self.catalogs.get(name).ok_or_else(|| NotReady::NoCatalog(name.clone()))?.clone();
        let secret = self.sealer.open(tenant, &webhook.id, &stored.secret)?;
        let mut keys = vec![(signing_key(&secret), u64::MAX)];
        if let Some(previous) = &stored.previous {
            keys.push((signing_key(&self.sealer.open(tenant, &webhook.id, &previous.secret)?), previous.until));
        }
        let mut headers = Vec::with_capacity(webhook.headers.len() + 1);
        let own = webhook.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(catalog.secret_header().map(|name| (name, secret.as_str()))) {
            headers.push(header(name, value).ok_or(NotReady::Header)?);
        }
        Ok(InForce {
            target: webhook.target.as_str().to_owned(),
            url: webhook.target.url().clone(),
            method: Method::from_bytes(webhook.method.as_str().as_bytes()).map_err(|_| NotReady::Header)?,
            headers,
            policy: webhook.policy(catalog.policy()),
            keys,
            catalog,
            config: config.clone(),
        })
    }
}

pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
}
