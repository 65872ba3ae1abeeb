//! An event in Redis: claimed once per id and window, its matches decided once (delivery.md, Redis, state).

use fanfare_domain::{Event, EventId, Span, TenantId, WebhookId};
use sha2::{Digest, Sha256};

use crate::{
    batched::{Args, Batched, Shape, number, text},
    blob,
    redis_link::{Redis, Script, StoreError},
};

/// How long the first owner of an event may take from claim to confirm.
const ACCEPT_LEASE_MS: u64 = 10_000;

/// What became of an event's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// To be published under this id. Also where a first owner died before its publish was confirmed.
    Publish {
        /// The event's id with us.
        event: EventId,
        /// The tenant's configuration version now.
        config: u64,
    },
    /// Accepted before.
    Duplicate(EventId),
    /// Somebody is publishing it right now.
    Busy,
    /// The same id was accepted with another content.
    Conflict,
}

/// An event whose matches are to be recorded.
#[derive(Debug)]
pub struct Matching<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Which.
    pub event: EventId,
    /// When it was accepted, in unix milliseconds.
    pub accepted_ms: u64,
    /// Its type.
    pub kind: &'a str,
    /// The event as JSON, to be stored again where Redis has lost it.
    pub json: &'a str,
    /// The webhooks that match, each with the shape of its body.
    pub matches: &'a [(WebhookId, String)],
}

/// Events, to the services that accept and match them.
#[derive(Clone)]
pub struct Events {
    accept: Batched,
    accepted: Batched,
    release: Batched,
    matched: Batched,
}

impl Events {
    /// Over `redis`: events are taken once per `window`, and kept for `retention` after their last delivery has ended.
    pub fn new(redis: &Redis, window: Span, retention: Span) -> Self {
        let shape = |name, body, common, leading, answers, lazy| {
            let script = Script::named(name, body);
            Shape { script, common, changing: None, leading, answers, lazy }
        };
        let accept = vec![ACCEPT_LEASE_MS.to_string(), window.as_millis().to_string()];
        let matched = vec![retention.as_millis().to_string()];
        let [accept, matched, accepted, release] = Batched::start(
            redis.clone(),
            [
                shape("accept", include_str!("scripts/accept.lua"), accept, 1, 2, false),
                shape("matched", include_str!("scripts/matched.lua"), matched, 0, 2, false),
                shape("accepted", include_str!("scripts/accepted.lua"), Vec::new(), 0, 0, true),
                shape("other", include_str!("scripts/release.lua"), Vec::new(), 0, 0, false),
            ],
        );
        Self { accept, accepted, release, matched }
    }

    /// Claims an event for publishing, under the id `candidate` if it is new.
    pub async fn accept(&self, tenant: &TenantId, event: &Event, candidate: EventId) -> Result<Acceptance, StoreError> {
        let args = Args::new()
            .with(dedup_key(&event.source, &event.id).as_bytes())
            .shown(candidate)
            .with(event.content_hash.as_bytes())
            .with(event.kind.as_bytes())
            .with(&blob::pack(event.json.get().as_bytes()));
        let answer = self.accept.call(tenant, args).await?;
        let config = number(answer.first())?;
        let its = || text(answer.get(2))?.parse::<EventId>().map_err(|error| StoreError::Odd(error.to_string()));
        match text(answer.get(1))?.as_str() {
            "new" | "taken over" => Ok(Acceptance::Publish { event: its()?, config }),
            "duplicate" => Ok(Acceptance::Duplicate(its()?)),
            "busy" => Ok(Acceptance::Busy),
            "conflict" => Ok(Acceptance::Conflict),
            other => Err(StoreError::Odd(format!("`{other}` for an acceptance"))),
        }
    }

    /// Notes that an event's publish is confirmed. Lazy: should it fail, the claim's lease ends and a re-use of the id is
    /// published again, under the same ULID.
    pub fn accepted(&self, tenant: &TenantId, event: &Event, id: EventId) {
        let key = dedup_key(&event.source, &event.id);
        let args = Args::new().with(key.as_bytes()).shown(id).with(event.content_hash.as_bytes());
        self.accepted.tell(tenant, args);
    }

    /// Gives a claim back whose publish failed, so that the publisher's next try need not wait. Lazy, too.
    pub fn release(&self, tenant: &TenantId, event: &Event, id: EventId) {
        let args = Args::new().with(dedup_key(&event.source, &event.id).as_bytes()).shown(id);
        self.release.tell(tenant, args);
    }

    /// Records an event's matches, and returns those in force: what was decided first stands.
    pub async fn matched(&self, event: &Matching<'_>) -> Result<Vec<(WebhookId, String)>, StoreError> {
        let matches: Vec<String> = event.matches.iter().map(|(webhook, shape)| format!("{webhook}={shape}")).collect();
        let matches = matches.join(" ");
        // The body is there, unless Redis has lost its last seconds: sent only when asked for.
        let mut stored = Vec::new();
        for _ in 0..2 {
            let args = Args::new()
                .shown(event.event)
                .shown(event.accepted_ms)
                .with(event.kind.as_bytes())
                .with(&stored)
                .with(matches.as_bytes());
            let answer = self.matched.call(event.tenant, args).await?;
            match text(answer.first())?.as_str() {
                "decided" => return Ok(event.matches.to_vec()),
                "known" => return parse_matches(&text(answer.get(1))?),
                _ => stored = blob::pack(event.json.as_bytes()),
            }
        }
        Err(StoreError::Odd("an event's record that can be neither found nor made".to_owned()))
    }
}

fn dedup_key(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(source);
    hash.update([0]);
    hash.update(id);
    fanfare_domain::hex(&hash.finalize()[..16])
}

pub(crate) fn parse_matches(text: &str) -> Result<Vec<(WebhookId, String)>, StoreError> {
    let odd = || StoreError::Odd(format!("`{text}` for a match list"));
    let pair = |part: &str| {
        let (webhook, shape) = part.split_once('=').ok_or_else(odd)?;
        Ok((webhook.parse().map_err(|_| odd())?, shape.to_owned()))
    };
    text.split(' ').filter(|part| !part.is_empty()).map(pair).collect()
}
