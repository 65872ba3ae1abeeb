//! What is in force – tenants, webhooks, keys – in memory, and at once: followed over a stream, and read again before use
//! whenever something newer is known to exist (delivery.md, Redis, state: Configuration).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use fanfare_domain::{TenantId, Webhook, WebhookId, hex};
use redis::{Value, streams::StreamReadReply};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::redis_link::{Redis, StoreError, prefix};

/// The mark that is set with the first tenant: a Redis without it, or with another, is not the one we knew.
pub(crate) const GENERATION: &str = "f:generation";
/// The stream of tenants whose configuration has changed.
pub(crate) const CHANGES: &str = "f:changes";
/// The set of tenants.
pub(crate) const TENANTS: &str = "f:tenants";
/// The operator's publish keys.
pub(crate) const OPERATOR_KEYS: &str = "f:keys";
/// How many changes are kept for followers; one that is further behind reads everything.
pub(crate) const CHANGES_KEPT: usize = 10_000;

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

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// A tenant's.
    Tenant(TenantId),
    /// The operator's, for publishing to any tenant.
    Operator,
}

/// What somebody who shows a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose key it is.
    pub owner: KeyOwner,
    /// Its id.
    pub key_id: String,
    /// What it opens.
    pub scopes: Scopes,
}

/// All that is in force for one tenant, of one moment.
#[derive(Debug)]
pub struct TenantConfig {
    /// The tenant.
    pub tenant: Tenant,
    /// Raised with every write.
    pub version: u64,
    /// Its webhooks.
    pub webhooks: BTreeMap<WebhookId, Arc<StoredWebhook>>,
    /// Its keys.
    pub keys: Vec<StoredKey>,
}

#[derive(Default)]
struct InForce {
    tenants: HashMap<TenantId, Arc<TenantConfig>>,
    keys: HashMap<String, Grant>,
}

/// The configuration, to one process.
#[derive(Clone)]
pub struct Configuration {
    redis: Redis,
    in_force: Arc<RwLock<InForce>>,
    lost: Arc<watch::Sender<bool>>,
}

impl Configuration {
    /// Loads everything, waiting for Redis as long as it takes, and follows it until `stop`. `None` once stopped.
    pub async fn load(redis: &Redis, stop: CancellationToken) -> Option<Self> {
        let configuration =
            Self { redis: redis.clone(), in_force: Arc::default(), lost: Arc::new(watch::channel(false).0) };
        let known = loop {
            match configuration.load_all().await {
                Ok(known) => break known,
                Err(error) => tracing::warn!(%error, "cannot load the configuration: trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        };
        let follower = configuration.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow(known) => {}
            }
        });
        Some(configuration)
    }

    /// Whether Redis came back without what we knew: nothing may be accepted or decided.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }

    /// A tenant's configuration, as known.
    pub fn tenant(&self, id: &TenantId) -> Option<Arc<TenantConfig>> {
        self.read().tenants.get(id).cloned()
    }

    /// All tenants, as known.
    pub fn tenants(&self) -> Vec<Arc<TenantConfig>> {
        self.read().tenants.values().cloned().collect()
    }

    /// A tenant's configuration no older than `version`; `Ok(None)`: there is no such tenant.
    pub async fn at_least(&self, id: &TenantId, version: u64) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        match self.tenant(id) {
            Some(known) if known.version >= version => Ok(Some(known)),
            _ => self.fresh(id, version).await,
        }
    }

    /// A tenant's configuration as it is now in Redis.
    pub async fn now(&self, id: &TenantId) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        self.fresh(id, 0).await
    }

    /// A tenant's configuration as it is now in Redis, read whole only where it is not what is known.
    pub async fn latest(&self, id: &TenantId) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        let known = self.tenant(id);
        let stored: Option<u64> = self.redis.run(redis::cmd("GET").arg(format!("{}:cv", prefix(id.as_str())))).await?;
        match known {
            Some(known) if stored == Some(known.version) => Ok(Some(known)),
            // A version never goes back, and outlives its tenant.
            Some(known) if stored < Some(known.version) => Err(StoreError::Lost),
            _ => self.fresh(id, stored.unwrap_or(0)).await,
        }
    }

    async fn fresh(&self, id: &TenantId, version: u64) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        let (stored_version, config) = self.read_tenant(id).await?;
        match stored_version {
            Some(stored) if stored >= version => {}
            None if version == 0 => {} // nobody said that there is such a tenant
            _ => return Err(StoreError::Lost),
        }
        self.put(id, config.clone());
        Ok(config)
    }

    /// What a key opens. One that is not known yet may have been made this very moment: read before it is refused.
    pub async fn grant(&self, key: &str) -> Result<Option<Grant>, StoreError> {
        let hash = StoredKey::hash_of(key);
        if let Some(grant) = self.read().keys.get(&hash) {
            return Ok(Some(grant.clone()));
        }
        match key_tenant(key) {
            Some(KeyOwner::Tenant(tenant)) => drop(self.now(&tenant).await?),
            Some(KeyOwner::Operator) => self.load_operator_keys().await?,
            None => return Ok(None),
        }
        Ok(self.read().keys.get(&hash).cloned())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was read in force, unless something newer is already.
    fn put(&self, id: &TenantId, config: Option<Arc<TenantConfig>>) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let newer = |known: &Arc<TenantConfig>| config.as_ref().is_some_and(|config| known.version > config.version);
        if in_force.tenants.get(id).is_some_and(newer) {
            return;
        }
        in_force.keys.retain(|_, grant| grant.owner != KeyOwner::Tenant(id.clone()));
        match config {
            None => drop(in_force.tenants.remove(id)),
            Some(config) => {
                for key in &config.keys {
                    let grant = Grant {
                        owner: KeyOwner::Tenant(id.clone()),
                        key_id: key.id.clone(),
                        scopes: key.scopes.clone(),
                    };
                    in_force.keys.insert(key.hash.clone(), grant);
                }
                in_force.tenants.insert(id.clone(), config);
            }
        }
    }

    async fn load_operator_keys(&self) -> Result<(), StoreError> {
        let stored: HashMap<String, String> = self.redis.run(redis::cmd("HGETALL").arg(OPERATOR_KEYS)).await?;
        let keys = stored.values().map(|text| parse::<StoredKey>(text)).collect::<Result<Vec<_>, _>>()?;
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.keys.retain(|_, grant| grant.owner != KeyOwner::Operator);
        for key in keys {
            in_force.keys.insert(key.hash, Grant { owner: KeyOwner::Operator, key_id: key.id, scopes: key.scopes });
        }
        Ok(())
    }

    async fn read_tenant(&self, id: &TenantId) -> Result<(Option<u64>, Option<Arc<TenantConfig>>), StoreError> {
        type Read = (Option<String>, Option<u64>, HashMap<String, String>, HashMap<String, String>);
        let prefix = prefix(id.as_str());
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("GET").arg(format!("{prefix}:t"));
        pipeline.cmd("GET").arg(format!("{prefix}:cv"));
        pipeline.cmd("HGETALL").arg(format!("{prefix}:w"));
        pipeline.cmd("HGETALL").arg(format!("{prefix}:k"));
        let (tenant, version, webhooks, keys): Read = self.redis.run_all(&pipeline).await?;
        let (Some(tenant), Some(version)) = (tenant, version) else { return Ok((version, None)) };
        let webhooks = webhooks.values().map(|text| {
            let webhook: StoredWebhook = parse(text)?;
            Ok((webhook.webhook.id.clone(), Arc::new(webhook)))
        });
        let config = TenantConfig {
            tenant: parse(&tenant)?,
            version,
            webhooks: webhooks.collect::<Result<_, StoreError>>()?,
            keys: keys.values().map(|text| parse(text)).collect::<Result<_, _>>()?,
        };
        Ok((Some(version), Some(Arc::new(config))))
    }

    /// Reads everything; returns where to follow from, and the generation it is of.
    async fn load_all(&self) -> Result<Known, StoreError> {
        let generation: Option<String> = self.redis.run(redis::cmd("GET").arg(GENERATION)).await?;
        // The end of the stream before all is read: what changes meanwhile is read twice rather than never.
        let last: Vec<(String, Value)> =
            self.redis.run(redis::cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?;
        let last = last.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id);
        self.load_operator_keys().await?;
        let tenants: Vec<String> = self.redis.run(redis::cmd("SMEMBERS").arg(TENANTS)).await?;
        let tenants: Vec<TenantId> = tenants.iter().filter_map(|id| id.parse().ok()).collect();
        for known in self.tenants().iter().map(|config| &config.tenant.id).filter(|id| !tenants.contains(id)) {
            self.put(known, None); // deleted while nobody followed
        }
        for id in tenants {
            let (_, config) = self.read_tenant(&id).await?;
            self.put(&id, config);
        }
        Ok(Known { generation, last })
    }

    async fn follow(&self, mut known: Known) {
        loop {
            if let Err(error) = self.follow_once(&mut known).await {
                tracing::warn!(%error, "cannot follow the configuration: trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    async fn follow_once(&self, known: &mut Known) -> Result<(), StoreError> {
        let mut connection = self.redis.patient().await?;
        loop {
            let generation: Option<String> = redis::cmd("GET").arg(GENERATION).query_async(&mut connection).await?;
            if known.generation.is_none() {
                known.generation.clone_from(&generation);
            }
            let lost = generation != known.generation;
            if self.lost.send_replace(lost) != lost {
                tracing::error!(lost, "whether Redis has lost what we knew: delete nothing, restore it");
            }
            if lost {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            let oldest: Vec<(String, Value)> = redis::cmd("XRANGE")
                .arg(CHANGES)
                .arg("-")
                .arg("+")
                .arg("COUNT")
                .arg(1)
                .query_async(&mut connection)
                .await?;
            if oldest
                .first()
                .is_some_and(|(oldest, _)| stream_id(oldest) > stream_id(&known.last) && known.last != "0-0")
            {
                tracing::info!("too far behind the configuration's changes: reading all of it");
                *known = self.load_all().await?;
                continue;
            }
            // Short enough that a lost Redis is noticed soon, long enough to cost nothing.
            let command = redis::cmd("XREAD")
                .arg("BLOCK")
                .arg(2_000)
                .arg("COUNT")
                .arg(1_000)
                .arg("STREAMS")
                .arg(CHANGES)
                .arg(&known.last)
                .clone();
            let reply: Option<StreamReadReply> = command.query_async(&mut connection).await?;
            let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
            let (mut changed, mut last) = (std::collections::BTreeSet::new(), known.last.clone());
            for entry in entries {
                changed.insert(entry.get::<String>("tenant").unwrap_or_default());
                last = entry.id;
            }
            for tenant in changed {
                match tenant.parse::<TenantId>() {
                    Ok(tenant) => {
                        let (_, config) = self.read_tenant(&tenant).await?;
                        self.put(&tenant, config);
                    }
                    Err(_) => self.load_operator_keys().await?,
                }
            }
            known.last = last; // only now: what could not be read is asked for again
        }
    }
}

/// Where a follower stands.
struct Known {
    generation: Option<String>,
    last: String,
}

fn stream_id(id: &str) -> (u64, u64) {
    let (ms, seq) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), seq.parse().unwrap_or(0))
}

/// Whose key this would be, by its form: `ffk_<tenant>_…` or `ffo_…`.
fn key_tenant(key: &str) -> Option<KeyOwner> {
    if key.strip_prefix("ffo_").is_some() {
        return Some(KeyOwner::Operator);
    }
    let (tenant, _) = key.strip_prefix("ffk_")?.split_once('_')?;
    tenant.parse().ok().map(KeyOwner::Tenant)
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Odd(error.to_string()))
}
