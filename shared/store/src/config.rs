//! What is in force – tenants, webhooks, keys – in memory, and at once: followed over a stream, and read again before use
//! whenever something newer is known to exist (delivery.md, Redis, state: Configuration).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use fanfare_domain::{TenantId, WebhookId};
use redis::{Value, streams::StreamReadReply};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::behind::Behind;
use crate::metrics::METRICS;
use crate::redis_link::{Redis, StoreError, prefix};
use crate::stored::{Scopes, StoredKey, StoredWebhook, Tenant};

/// The mark that is set with the first tenant: a Redis without it, or with another, is not the one we knew.
pub(crate) const GENERATION: &str = "f:generation";
/// The stream of tenants whose configuration has changed.
const CHANGES: &str = "f:changes";
/// The set of tenants.
pub(crate) const TENANTS: &str = "f:tenants";
/// The operator's publish keys.
pub(crate) const OPERATOR_KEYS: &str = "f:keys";
/// How often at most the end of the changes is asked for, however many unknown keys are shown.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long what was told may take to be followed here.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);
/// How many changes are kept for followers; one that is further behind reads everything.
const CHANGES_KEPT: usize = 10_000;

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
    /// Ids of webhooks that are stored and that this version cannot read: they are not among the others, and an event may be
    /// for them.
    pub unreadable: Vec<String>,
    /// Its keys.
    pub keys: Vec<StoredKey>,
}

#[derive(Default)]
struct InForce {
    tenants: HashMap<TenantId, Arc<TenantConfig>>,
    keys: HashMap<String, Grant>,
    /// What is stored and cannot be read, by its tenant; `None`: the operator's.
    unreadable: BTreeMap<Option<TenantId>, Vec<Unreadable>>,
}

/// Something stored that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unreadable {
    /// The Redis key.
    key: String,
    /// The field, where the key is a hash.
    field: Option<String>,
    /// Why, without a word of its content.
    why: String,
}

/// A tenant as read from Redis.
struct Stored {
    /// Its configuration's version, which outlives it.
    version: Option<u64>,
    /// `None` where there is no such tenant, or where it cannot be read itself.
    config: Option<Arc<TenantConfig>>,
    unreadable: Vec<Unreadable>,
}

/// The configuration, to one process.
#[derive(Clone)]
pub struct Configuration {
    redis: Redis,
    in_force: Arc<RwLock<InForce>>,
    lost: Arc<watch::Sender<bool>>,
    up: Arc<watch::Sender<bool>>,
    unreadable: Arc<watch::Sender<usize>>,
    /// The last change that is in force here.
    followed: Arc<watch::Sender<String>>,
    /// The last change that was told, as it was when last asked for.
    told: Arc<Mutex<Option<Told>>>,
    /// Tenants of whom a newer configuration is known than Redis has.
    behind: Arc<Behind>,
}

/// The end of the changes, as of one moment.
struct Told {
    asked_at: Instant,
    last: Result<String, StoreError>,
}

impl Configuration {
    /// Loads everything, waiting for Redis as long as it takes, and follows it until `stop`. `None` once stopped.
    pub async fn load(redis: &Redis, stop: CancellationToken) -> Option<Self> {
        let configuration = Self {
            redis: redis.clone(),
            in_force: Arc::default(),
            lost: Arc::new(watch::channel(false).0),
            up: Arc::new(watch::channel(true).0),
            unreadable: Arc::new(watch::channel(0).0),
            followed: Arc::new(watch::channel("0-0".to_owned()).0),
            told: Arc::default(),
            behind: Arc::new(Behind::new(redis.gone_after())),
        };
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

    /// Whether Redis answers whoever follows the configuration.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Whether Redis came back without what we knew: nothing may be accepted or decided.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }

    /// How many stored tenants, webhooks and keys this version cannot read.
    pub fn unreadable(&self) -> watch::Receiver<usize> {
        self.unreadable.subscribe()
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
            Some(known) if known.version >= version && !self.behind.lacks(id) => Ok(Some(known)),
            Some(known) => self.fresh(id, version.max(known.version)).await,
            None => self.fresh(id, version).await,
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
            Some(known) if stored < Some(known.version) => self.fresh(id, known.version).await,
            _ => self.fresh(id, stored.unwrap_or(0)).await,
        }
    }

    async fn fresh(&self, id: &TenantId, version: u64) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        if *self.lost.borrow() {
            return Err(StoreError::Lost);
        }
        let mut stored = self.read_tenant(id).await?;
        match stored.version {
            Some(stored) if stored >= version => self.behind.has(id, stored),
            None if version == 0 => {} // nobody said that there is such a tenant
            Some(_) if self.behind.is_for_good(id, version, Instant::now()) => {
                self.behind.raise(&self.redis, id, version).await?;
                tell_of_change(&self.redis, id.as_str()).await?;
                stored = self.read_tenant(id).await?;
            }
            _ => return Err(StoreError::Lost),
        }
        let config = stored.config.clone();
        self.put(id, stored);
        if config.is_none() && self.is_unreadable(id) {
            return Err(unreadable(id));
        }
        Ok(config)
    }

    /// Whether the tenant itself is stored and cannot be read: it must not pass for one that is not there.
    fn is_unreadable(&self, id: &TenantId) -> bool {
        let in_force = self.read();
        !in_force.tenants.contains_key(id) && in_force.unreadable.contains_key(&Some(id.clone()))
    }

    /// A tenant's configuration with every change that was told before now; `Ok(None)`: there is no such tenant.
    pub async fn followed(&self, id: &TenantId) -> Result<Option<Arc<TenantConfig>>, StoreError> {
        if let Some(known) = self.tenant(id) {
            return Ok(Some(known));
        }
        self.caught_up().await?;
        if self.is_unreadable(id) { Err(unreadable(id)) } else { Ok(self.tenant(id)) }
    }

    /// What a key opens. One that is not known yet may have been made this very moment: refused only with every change in
    /// force that was told before now.
    pub async fn grant(&self, key: &str) -> Result<Option<Grant>, StoreError> {
        let hash = StoredKey::hash_of(key);
        let known = || self.read().keys.get(&hash).cloned();
        if let Some(grant) = known() {
            return Ok(Some(grant));
        }
        let Some(owner) = key_tenant(key) else { return Ok(None) };
        self.caught_up().await?;
        match (known(), owner) {
            (None, KeyOwner::Tenant(id)) if self.is_unreadable(&id) => Err(unreadable(&id)),
            (grant, _) => Ok(grant),
        }
    }

    /// Waits until every change is in force here that was told before now.
    async fn caught_up(&self) -> Result<(), StoreError> {
        if *self.lost.borrow() {
            return Err(StoreError::Lost);
        }
        let told = self.last_told().await?;
        let mut followed = self.followed.subscribe();
        let reached = followed.wait_for(|followed| stream_id(followed) >= stream_id(&told));
        match tokio::time::timeout(FOLLOWED_WITHIN, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::Away("its changes cannot be followed at present".to_owned())),
        }
    }

    /// The last change that was told when this was called, or after it. Whoever asks meanwhile shares one answer, so that
    /// any number of wrong keys costs a few reads per second.
    async fn last_told(&self) -> Result<String, StoreError> {
        let came = Instant::now();
        let mut told = self.told.lock().await;
        if let Some(told) = told.as_ref().filter(|told| told.asked_at > came) {
            return told.last.clone();
        }
        if let Some(told) = told.as_ref() {
            tokio::time::sleep_until(told.asked_at + ASK_EVERY).await;
        }
        let asked_at = Instant::now();
        let last = self.end_of_changes().await;
        *told = Some(Told { asked_at, last: last.clone() });
        last
    }

    async fn end_of_changes(&self) -> Result<String, StoreError> {
        let last: Vec<(String, Value)> =
            self.redis.run(redis::cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?;
        Ok(last.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was read in force, unless something newer is already. A tenant that cannot be read stays as it was known.
    fn put(&self, id: &TenantId, stored: Stored) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let Stored { config, unreadable, .. } = stored;
        if let Some(config) = &config {
            self.behind.has(id, config.version);
        }
        let newer = |known: &Arc<TenantConfig>| config.as_ref().is_some_and(|config| known.version > config.version);
        if in_force.tenants.get(id).is_some_and(newer) {
            return;
        }
        let itself = config.is_none() && !unreadable.is_empty();
        self.note_unreadable(&mut in_force, Some(id.clone()), unreadable);
        if itself {
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

    /// Notes where Redis has an older configuration than is known.
    async fn compare(&self, id: &TenantId) {
        if let Err(error) = self.latest(id).await {
            tracing::warn!(tenant = %id, %error, "what Redis has of a tenant cannot be compared with what is known");
        }
    }

    /// Says, once, what cannot be read, and counts it.
    fn note_unreadable(&self, in_force: &mut InForce, of: Option<TenantId>, found: Vec<Unreadable>) {
        let known = in_force.unreadable.remove(&of).unwrap_or_default();
        for Unreadable { key, field, why } in found.iter().filter(|found| !known.contains(found)) {
            let tenant = of.as_ref().map(TenantId::as_str);
            tracing::error!(
                tenant,
                key,
                field,
                why,
                "what is stored here cannot be read: left out, and its tenant's events wait; mend it in Redis, or run a version that reads it"
            );
        }
        if !found.is_empty() {
            in_force.unreadable.insert(of, found);
        }
        let count = in_force.unreadable.values().map(Vec::len).sum();
        self.unreadable.send_if_modified(|known| std::mem::replace(known, count) != count);
    }

    async fn load_operator_keys(&self) -> Result<(), StoreError> {
        let stored: HashMap<Vec<u8>, Vec<u8>> = self.redis.run(redis::cmd("HGETALL").arg(OPERATOR_KEYS)).await?;
        let (keys, unreadable) = parse_all::<StoredKey>(OPERATOR_KEYS, &stored);
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        self.note_unreadable(&mut in_force, None, unreadable);
        in_force.keys.retain(|_, grant| grant.owner != KeyOwner::Operator);
        for key in keys {
            in_force.keys.insert(key.hash, Grant { owner: KeyOwner::Operator, key_id: key.id, scopes: key.scopes });
        }
        Ok(())
    }

    async fn read_tenant(&self, id: &TenantId) -> Result<Stored, StoreError> {
        type Hash = HashMap<Vec<u8>, Vec<u8>>;
        type Read = (Option<Vec<u8>>, Option<String>, Hash, Hash);
        let prefix = prefix(id.as_str());
        let places = [":t", ":cv", ":w", ":k"].map(|key| format!("{prefix}{key}"));
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("GET").arg(&places[0]);
        pipeline.cmd("GET").arg(&places[1]);
        pipeline.cmd("HGETALL").arg(&places[2]);
        pipeline.cmd("HGETALL").arg(&places[3]);
        let (tenant, version, webhooks, keys): Read = match self.redis.run_all(&pipeline).await {
            // A key of another type.
            Err(StoreError::Odd(why)) => {
                let unreadable = vec![Unreadable { key: prefix, field: None, why }];
                return Ok(Stored { version: None, config: None, unreadable });
            }
            read => read?,
        };
        let version = version.and_then(|version| version.parse().ok());
        let (Some(tenant), Some(version)) = (tenant, version) else {
            return Ok(Stored { version, config: None, unreadable: Vec::new() });
        };
        let tenant: Tenant = match parse(&tenant) {
            Ok(tenant) => tenant,
            Err(why) => {
                let unreadable = vec![Unreadable { key: places[0].clone(), field: None, why }];
                return Ok(Stored { version: Some(version), config: None, unreadable });
            }
        };
        let (read, mut unreadable) = parse_all::<StoredWebhook>(&places[2], &webhooks);
        let unread_webhooks = unreadable.iter().filter_map(|unreadable| unreadable.field.clone()).collect();
        let (keys, unread_keys) = parse_all(&places[3], &keys);
        unreadable.extend(unread_keys);
        let webhooks = read.into_iter().map(|stored| (stored.webhook.id.clone(), Arc::new(stored))).collect();
        let config = TenantConfig { tenant, version, webhooks, unreadable: unread_webhooks, keys };
        Ok(Stored { version: Some(version), config: Some(Arc::new(config)), unreadable })
    }

    /// Reads everything; returns where to follow from, and the generation it is of.
    async fn load_all(&self) -> Result<Known, StoreError> {
        let generation: Option<String> = self.redis.run(redis::cmd("GET").arg(GENERATION)).await?;
        // The end of the stream before all is read: what changes meanwhile is read twice rather than never.
        let last = self.end_of_changes().await?;
        self.load_operator_keys().await?;
        let tenants: Vec<String> = self.redis.run(redis::cmd("SMEMBERS").arg(TENANTS)).await?;
        let tenants: Vec<TenantId> = tenants.iter().filter_map(|id| id.parse().ok()).collect();
        for known in self.tenants().iter().map(|config| &config.tenant.id).filter(|id| !tenants.contains(id)) {
            // Deleted while nobody followed.
            self.put(known, Stored { version: None, config: None, unreadable: Vec::new() });
        }
        for id in tenants {
            let stored = self.read_tenant(&id).await?;
            self.put(&id, stored);
        }
        self.followed.send_replace(last.clone());
        Ok(Known { generation, last })
    }

    async fn follow(&self, mut known: Known) {
        let mut away_since = None;
        loop {
            if let Err(error) = self.follow_once(&mut known, &mut away_since).await {
                tracing::warn!(%error, "cannot follow the configuration: trying again");
                let since = *away_since.get_or_insert_with(Instant::now);
                self.up.send_replace(false);
                METRICS.config_lag.set(since.elapsed().as_secs_f64());
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    async fn follow_once(&self, known: &mut Known, away_since: &mut Option<Instant>) -> Result<(), StoreError> {
        let mut connection = self.redis.patient().await?;
        loop {
            self.redis.look_for_replica().await?;
            let generation: Option<String> = redis::cmd("GET").arg(GENERATION).query_async(&mut connection).await?;
            if known.generation.is_none() {
                known.generation.clone_from(&generation);
            }
            let lost = generation != known.generation;
            *away_since = None;
            METRICS.lost.set(i64::from(lost));
            self.up.send_replace(!lost);
            METRICS.config_lag.set(0.0);
            if self.lost.send_replace(lost) != lost {
                tracing::error!(lost, "whether Redis has lost what we knew: delete nothing, restore it");
            }
            if lost {
                self.behind.forget();
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            for (tenant, lacked) in self.behind.all() {
                let _ = self.fresh(&tenant, lacked).await; // it is still lacking: said by whoever waits for it
            }
            let end = self.end_of_changes().await?;
            if stream_id(&end) < stream_id(&known.last) {
                tracing::warn!("the configuration's changes have gone back: comparing all of it with what is known");
                for config in self.tenants() {
                    self.compare(&config.tenant.id).await;
                }
                known.last = end;
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
                        let stored = self.read_tenant(&tenant).await?;
                        self.put(&tenant, stored);
                        self.compare(&tenant).await;
                    }
                    Err(_) => self.load_operator_keys().await?,
                }
            }
            known.last = last; // only now: what could not be read is asked for again
            self.followed.send_if_modified(|followed| {
                let moved = *followed != known.last;
                followed.clone_from(&known.last);
                moved
            });
            // Who mends what is stored by hand tells nobody.
            let unreadable: Vec<TenantId> = self.read().unreadable.keys().flatten().cloned().collect();
            for tenant in unreadable {
                let stored = self.read_tenant(&tenant).await?;
                self.put(&tenant, stored);
            }
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

/// A stored form; else why not, without a word of what is stored: it may hold a secret.
fn parse<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| {
        format!("no form that this version reads, from line {} column {} on", error.line(), error.column())
    })
}

/// The values of a hash that can be read, and those that cannot.
fn parse_all<T: for<'de> Deserialize<'de>>(key: &str, hash: &HashMap<Vec<u8>, Vec<u8>>) -> (Vec<T>, Vec<Unreadable>) {
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    for (field, text) in hash {
        match parse(text) {
            Ok(value) => read.push(value),
            Err(why) => {
                let field = Some(String::from_utf8_lossy(field).into_owned());
                unreadable.push(Unreadable { key: key.to_owned(), field, why });
            }
        }
    }
    unreadable.sort_by(|a, b| a.field.cmp(&b.field)); // in the same order each time, to be compared
    (read, unreadable)
}

fn unreadable(id: &TenantId) -> StoreError {
    StoreError::Odd(format!("the stored tenant `{id}` is of no form that this version reads"))
}

/// Tells whoever follows the configuration that this tenant's has changed; the operator's keys where it is empty.
pub(crate) async fn tell_of_change(redis: &Redis, tenant: &str) -> Result<(), StoreError> {
    let mut command = redis::cmd("XADD");
    command.arg(CHANGES).arg("MAXLEN").arg("~").arg(CHANGES_KEPT).arg("*").arg("tenant").arg(tenant);
    redis.run::<String>(&command).await.map(drop)
}
