//! What the management API writes: tenants, keys, webhooks, acts on deliveries. Every write raises the tenant's version and
//! is told to all who follow.

use fanfare_domain::{
    DeliveryId, DisableReason, EventId, JobId, TenantId, WebhookId,
    job::{Held, JobKind, Standing, job_of_save},
    webhook::Disabled,
};
use redis::{FromRedisValue, Value};
use serde::Serialize;

use crate::{
    config::{Configuration, GENERATION, OPERATOR_KEYS, TENANTS, tell_of_change},
    jobs::{self, job_script},
    log::now_ms,
    redis_link::{Redis, Script, StoreError, prefix},
    stored::{StoredKey, StoredWebhook, Tenant},
};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// Done.
    Yes,
    /// There is no such thing.
    Missing,
    /// There is one already, or it has changed since it was read.
    Stale,
}

/// What became of an act on a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    /// Done; the delivery as it is now.
    Done {
        /// The epoch of the message that drives it.
        epoch: u32,
        /// The attempt to come.
        attempt: u32,
        /// What shapes its body.
        shape: String,
        /// When its event was accepted.
        accepted_ms: u64,
    },
    /// There is none.
    Missing,
    /// It has ended, and how.
    Final(String),
    /// An attempt is under way.
    Sending,
}

/// Writes configuration.
#[derive(Clone)]
pub struct Tenants {
    redis: Redis,
    configuration: Configuration,
    scripts: std::sync::Arc<Scripts>,
}

struct Scripts {
    put_tenant: Script,
    delete_tenant: Script,
    put_webhook: Script,
    delete_webhook: Script,
    put_key: Script,
    delete_key: Script,
    decide: Script,
}

impl Tenants {
    /// Over `redis`.
    pub fn new(redis: &Redis, configuration: &Configuration) -> Self {
        let scripts = Scripts {
            put_tenant: Script::new(include_str!("scripts/put_tenant.lua")),
            delete_tenant: job_script!("scripts/delete_tenant.lua"),
            put_webhook: job_script!("scripts/put_webhook.lua"),
            delete_webhook: job_script!("scripts/delete_webhook.lua"),
            put_key: Script::new(include_str!("scripts/put_key.lua")),
            delete_key: Script::new(include_str!("scripts/delete_key.lua")),
            decide: Script::new(include_str!("scripts/decide.lua")),
        };
        Self { redis: redis.clone(), configuration: configuration.clone(), scripts: std::sync::Arc::new(scripts) }
    }

    /// Makes a tenant; `Stale` where there is one of that id. Of a deleted one that had it, it sees nothing.
    pub async fn create(&self, tenant: &Tenant) -> Result<Saved, StoreError> {
        // A Redis that came back empty must not get a mark of its own: it would pass for the one we knew.
        if let Some(known) = self.configuration.tenants().first() {
            self.configuration.latest(&known.tenant.id).await?;
        }
        // Into the set first: a member without a record is nobody, a record outside the set would never be loaded.
        let mark = fanfare_domain::hex(&rand::random::<[u8; 16]>());
        self.redis.run::<Value>(redis::cmd("SET").arg(GENERATION).arg(mark).arg("NX")).await?;
        self.redis.run::<()>(redis::cmd("SADD").arg(TENANTS).arg(tenant.id.as_str())).await?;
        let saved = self.write(&self.scripts.put_tenant, &tenant.id, &[b"new", &json(tenant)]).await?;
        // Once more: who deletes one of the same id may have taken it out meanwhile.
        self.redis.run::<()>(redis::cmd("SADD").arg(TENANTS).arg(tenant.id.as_str())).await?;
        Ok(saved)
    }

    /// Changes a tenant.
    pub async fn change(&self, tenant: &Tenant) -> Result<Saved, StoreError> {
        self.write(&self.scripts.put_tenant, &tenant.id, &[b"known", &json(tenant)]).await
    }

    /// Deletes a tenant with its webhooks and keys; what is pending is cancelled as it comes up, what is held by a job.
    pub async fn delete(&self, tenant: &TenantId) -> Result<Saved, StoreError> {
        let (deleted, _) = self.write_with_job(&self.scripts.delete_tenant, tenant, |job| vec![job]).await?;
        self.redis.run::<()>(redis::cmd("SREM").arg(TENANTS).arg(tenant.as_str())).await?;
        // Made again meanwhile.
        if self.redis.run(redis::cmd("EXISTS").arg(format!("{}:t", prefix(tenant.as_str())))).await? {
            self.redis.run::<()>(redis::cmd("SADD").arg(TENANTS).arg(tenant.as_str())).await?;
        }
        Ok(deleted)
    }

    /// Saves a webhook. `expected`: the revision it has now; `None` makes a new one. Where this switches it on, a job
    /// delivers what it holds.
    pub async fn put_webhook(
        &self,
        tenant: &TenantId,
        stored: &StoredWebhook,
        expected: Option<u64>,
    ) -> Result<Saved, StoreError> {
        self.save_webhook(tenant, stored, expected, None).await.map(|(saved, _)| saved)
    }

    /// The same, with what is to become of the deliveries that it holds. Returns the job that this begins: whoever made it
    /// publishes it; one that is lost on the way is found in the index of jobs.
    pub async fn save_webhook(
        &self,
        tenant: &TenantId,
        stored: &StoredWebhook,
        expected: Option<u64>,
        held: Option<Held>,
    ) -> Result<(Saved, Option<JobId>), StoreError> {
        let webhook = &stored.webhook;
        let on = webhook.active && webhook.disabled.is_none();
        let (cap, rate) = (webhook.max_in_flight.unwrap_or(0), webhook.rate_limit.unwrap_or(0));
        let compact = format!("1 {} {} {cap} {rate}", webhook.revision, u8::from(on));
        let after = if on { Standing::On } else { Standing::Off };
        // Which of the two it is, the script knows: it sees what it saves over.
        let jobs = [Standing::Off, Standing::On].map(|before| job_of_save(before, after, held));
        let [off, on] = jobs.map(|kind| kind.map_or("", JobKind::as_str).as_bytes().to_vec());
        let args = |job: Vec<u8>| {
            let id = webhook.id.as_str().as_bytes().to_vec();
            let expected = expected.unwrap_or(0).to_string().into_bytes();
            vec![id, expected, json(stored), compact.into_bytes(), job, off, on]
        };
        if expected.is_none() || jobs == [None, None] {
            let args = args(Vec::new());
            let answer: Vec<String> =
                self.redis.script(&self.scripts.put_webhook, tenant.as_str(), &refs(&args)).await?;
            return Ok((self.saved(tenant, &answer).await?, None));
        }
        self.write_with_job(&self.scripts.put_webhook, tenant, args).await
    }

    /// Deletes a webhook; what is pending for it is cancelled as it comes up, what it holds by a job.
    pub async fn delete_webhook(&self, tenant: &TenantId, webhook: &WebhookId) -> Result<Saved, StoreError> {
        let args = |job| vec![webhook.as_str().as_bytes().to_vec(), job];
        self.write_with_job(&self.scripts.delete_webhook, tenant, args).await.map(|(saved, _)| saved)
    }

    /// Deletes a webhook if it is at this revision; `Stale` where it has changed.
    pub async fn delete_webhook_at(
        &self,
        tenant: &TenantId,
        webhook: &WebhookId,
        revision: u64,
    ) -> Result<Saved, StoreError> {
        let args = |job| vec![webhook.as_str().as_bytes().to_vec(), job, revision.to_string().into_bytes()];
        self.write_with_job(&self.scripts.delete_webhook, tenant, args).await.map(|(saved, _)| saved)
    }

    /// Disables a webhook, whatever else happens to it meanwhile. `false` where it is gone, or disabled already.
    pub async fn disable(
        &self,
        tenant: &TenantId,
        id: &WebhookId,
        reason: DisableReason,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        loop {
            // Not as if there were no such tenant where Redis has lost one.
            let config = self.configuration.latest(tenant).await?;
            let Some(known) = config.as_ref().and_then(|config| config.webhooks.get(id)) else { return Ok(false) };
            if known.webhook.disabled.is_some() {
                return Ok(false);
            }
            let mut stored = StoredWebhook::clone(known);
            stored.webhook.disabled = Some(Disabled { at: now_ms, reason });
            stored.webhook.revision += 1;
            match self.put_webhook(tenant, &stored, Some(known.webhook.revision)).await? {
                Saved::Yes => return Ok(true),
                Saved::Missing => return Ok(false),
                Saved::Stale => {} // somebody saved it meanwhile: once more, on top of that
            }
        }
    }

    /// Saves a tenant's key.
    pub async fn put_key(&self, tenant: &TenantId, key: &StoredKey) -> Result<Saved, StoreError> {
        self.write(&self.scripts.put_key, tenant, &[key.id.as_bytes(), &json(key)]).await
    }

    /// Deletes a tenant's key.
    pub async fn delete_key(&self, tenant: &TenantId, id: &str) -> Result<Saved, StoreError> {
        self.write(&self.scripts.delete_key, tenant, &[id.as_bytes()]).await
    }

    /// The operator's publish keys, without those that cannot be read: following the configuration names them.
    pub async fn operator_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let stored: Vec<String> = self.redis.run(redis::cmd("HVALS").arg(OPERATOR_KEYS)).await?;
        Ok(stored.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    /// Saves one of the operator's publish keys.
    pub async fn put_operator_key(&self, key: &StoredKey) -> Result<(), StoreError> {
        self.redis.run::<()>(redis::cmd("HSET").arg(OPERATOR_KEYS).arg(&key.id).arg(json(key))).await?;
        tell_of_change(&self.redis, "").await
    }

    /// Deletes one of the operator's publish keys.
    pub async fn delete_operator_key(&self, id: &str) -> Result<Saved, StoreError> {
        let deleted: u32 = self.redis.run(redis::cmd("HDEL").arg(OPERATOR_KEYS).arg(id)).await?;
        tell_of_change(&self.redis, "").await?;
        Ok(if deleted == 0 { Saved::Missing } else { Saved::Yes })
    }

    /// Cancels a delivery that has not ended.
    pub async fn cancel(&self, tenant: &TenantId, id: &DeliveryId, retention_ms: u64) -> Result<Acted, StoreError> {
        self.decide(tenant, id, "cancel", retention_ms).await
    }

    /// Makes a pending or held delivery due now: whoever asked publishes it.
    pub async fn hasten(&self, tenant: &TenantId, id: &DeliveryId) -> Result<Acted, StoreError> {
        self.decide(tenant, id, "hasten", 0).await
    }

    async fn decide(
        &self,
        tenant: &TenantId,
        id: &DeliveryId,
        act: &str,
        retention_ms: u64,
    ) -> Result<Acted, StoreError> {
        let (event, field): (EventId, String) = (id.event, id.within_event());
        let args: [&[u8]; 5] = [
            &event.to_string().into_bytes(),
            field.as_bytes(),
            id.webhook.as_str().as_bytes(),
            act.as_bytes(),
            &retention_ms.to_string().into_bytes(),
        ];
        let answer: Vec<String> = self.redis.script(&self.scripts.decide, tenant.as_str(), &args).await?;
        let odd = || StoreError::Odd(format!("{answer:?} for an act on a delivery"));
        let number = |at: usize| answer.get(at).and_then(|text| text.parse::<u64>().ok()).ok_or_else(odd);
        Ok(match answer.first().map(String::as_str) {
            Some("missing") => Acted::Missing,
            Some("final") => Acted::Final(answer.get(1).cloned().unwrap_or_default()),
            Some("leased") => Acted::Sending,
            Some("done") => Acted::Done {
                epoch: u32::try_from(number(1)?).map_err(|_| odd())?,
                attempt: u32::try_from(number(2)?).map_err(|_| odd())?,
                shape: answer.get(3).cloned().ok_or_else(odd)?,
                accepted_ms: number(4)?,
            },
            _ => return Err(odd()),
        })
    }

    async fn write(&self, script: &Script, tenant: &TenantId, args: &[&[u8]]) -> Result<Saved, StoreError> {
        let answer: Value = self.redis.script(script, tenant.as_str(), args).await?;
        let answer = String::from_redis_value(answer).map_err(|error| StoreError::Odd(error.to_string()))?;
        self.saved(tenant, &[answer]).await
    }

    /// A write that may make a job, which is given to the script's arguments. It stands in the index before it is made.
    async fn write_with_job(
        &self,
        script: &Script,
        tenant: &TenantId,
        args: impl FnOnce(Vec<u8>) -> Vec<Vec<u8>>,
    ) -> Result<(Saved, Option<JobId>), StoreError> {
        let now_ms = now_ms();
        let job = JobId::new(now_ms, rand::random());
        jobs::announce(&self.redis, tenant, &job, now_ms).await?;
        let args = args(job.as_str().as_bytes().to_vec());
        let answer: Vec<String> = self.redis.script(script, tenant.as_str(), &refs(&args)).await?;
        let made = answer.get(1).is_some_and(|made| made == "1");
        if !made {
            // Where this fails, whoever sees to the index finds that there is no such job.
            let _ = jobs::strike_off(&self.redis, tenant, &job).await;
        }
        Ok((self.saved(tenant, &answer).await?, made.then_some(job)))
    }

    /// What a script's answer says of a write, which is told to all who follow.
    async fn saved(&self, tenant: &TenantId, answer: &[String]) -> Result<Saved, StoreError> {
        match answer.first().map(String::as_str) {
            Some("missing") => return Ok(Saved::Missing),
            Some("exists" | "stale") => return Ok(Saved::Stale),
            _ => {}
        }
        self.redis.replicated(tenant.as_str()).await;
        // A crash in between costs nothing: the version travels with every event, and a claim returns the revision.
        tell_of_change(&self.redis, tenant.as_str()).await?;
        Ok(Saved::Yes)
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("a stored form has text keys and no failing part")
}

fn refs(args: &[Vec<u8>]) -> Vec<&[u8]> {
    args.iter().map(Vec::as_slice).collect()
}
