//! Mails in Redis: which are worth queueing, and that one goes out per webhook, kind and hour, over all schedulers.

use std::{sync::Arc, time::Duration};

use fanfare_domain::{
    TenantId, WebhookId,
    notice::{MAIL_EVERY, NoticeKind},
};

use crate::redis_link::{Redis, Script, StoreError};

/// How long one who sends a mail may take.
const SENDING: Duration = Duration::from_secs(30);
/// For how long a queued mail keeps others from being queued: they are few then, also while the mail server is away.
const QUEUED: Duration = MAIL_EVERY;

/// What one who wants to send a mail finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailClaim {
    /// It is ours to send.
    Go,
    /// One was sent within the hour.
    Sent,
    /// Another is sending one.
    Sending,
}

/// What became of a mail that was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailEnd {
    /// The mail server has it: no other of its webhook and kind within the hour.
    Sent,
    /// It is to be tried again.
    Waits,
    /// It is given up.
    GivenUp,
}

/// Notices, to those who give them.
#[derive(Clone)]
pub struct Notices {
    redis: Redis,
    scripts: Arc<Scripts>,
}

struct Scripts {
    wanted: Script,
    queued: Script,
    claim: Script,
    settled: Script,
}

impl Notices {
    /// Over `redis`.
    pub fn new(redis: &Redis) -> Self {
        let scripts = Scripts {
            wanted: Script::new(include_str!("scripts/notice_wanted.lua")),
            queued: Script::new(include_str!("scripts/notice_queued.lua")),
            claim: Script::new(include_str!("scripts/mail_claim.lua")),
            settled: Script::new(include_str!("scripts/mail_settled.lua")),
        };
        Self { redis: redis.clone(), scripts: Arc::new(scripts) }
    }

    /// Whether a mail is worth queueing: none is queued, none was sent within the hour, and it tells something new.
    pub async fn wanted(&self, tenant: &TenantId, webhook: &WebhookId, kind: NoticeKind) -> Result<bool, StoreError> {
        let args = [webhook.as_str(), kind.as_str()].map(str::as_bytes);
        Ok(self.redis.script::<u32>(&self.scripts.wanted, tenant.as_str(), &args).await? == 1)
    }

    /// Notes that a mail is in its queue.
    pub async fn queued(&self, tenant: &TenantId, webhook: &WebhookId, kind: NoticeKind) -> Result<(), StoreError> {
        let counts = QUEUED.as_millis().to_string();
        let args = [webhook.as_str(), kind.as_str(), &counts].map(str::as_bytes);
        self.redis.script::<u32>(&self.scripts.queued, tenant.as_str(), &args).await.map(drop)
    }

    /// Claims the sending of a mail.
    pub async fn claim(
        &self,
        tenant: &TenantId,
        webhook: &WebhookId,
        kind: NoticeKind,
        token: &str,
    ) -> Result<MailClaim, StoreError> {
        let sending = SENDING.as_millis().to_string();
        let args = [webhook.as_str(), kind.as_str(), token, &sending].map(str::as_bytes);
        let answer: String = self.redis.script(&self.scripts.claim, tenant.as_str(), &args).await?;
        match answer.as_str() {
            "go" => Ok(MailClaim::Go),
            "sent" => Ok(MailClaim::Sent),
            "sending" => Ok(MailClaim::Sending),
            other => Err(StoreError::Odd(format!("`{other}` for the claim of a mail"))),
        }
    }

    /// Notes what became of a claimed mail.
    pub async fn settled(
        &self,
        tenant: &TenantId,
        webhook: &WebhookId,
        kind: NoticeKind,
        token: &str,
        end: MailEnd,
    ) -> Result<(), StoreError> {
        let (mark, counts) = match end {
            MailEnd::Sent => ("m", MAIL_EVERY),
            MailEnd::Waits => ("q", QUEUED),
            MailEnd::GivenUp => ("-", Duration::ZERO),
        };
        let counts = counts.as_millis().to_string();
        let args = [webhook.as_str(), kind.as_str(), token, mark, &counts].map(str::as_bytes);
        self.redis.script::<u32>(&self.scripts.settled, tenant.as_str(), &args).await.map(drop)
    }
}
