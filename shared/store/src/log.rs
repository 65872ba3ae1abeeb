//! What happened, for people: deliveries with their attempts, events with their deliveries. Behind one trait, so that
//! where and how it is kept can change.
//!
//! Until it is compacted into blocks, the log is read from the hot records themselves, which expire a retention after
//! their last delivery has ended.

use std::{collections::HashMap, future::Future};

use fanfare_domain::{DeliveryId, EventId, Span, TenantId, WebhookId};
use serde::{Deserialize, Serialize};

use crate::{
    blob,
    events::parse_matches,
    redis_link::{Redis, StoreError, prefix},
};

/// Events looked at for one page at most; the page is short then, and its cursor goes on.
const EVENTS_PER_PAGE: usize = 1_000;
/// Entries of the log read in one go; each holds the events of one call.
const ENTRIES_PER_READ: usize = 20;

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An attempt is under way or to come.
    Pending,
    /// Kept back.
    Held,
    /// Done.
    Delivered,
    /// Given up.
    Failed,
    /// Not wanted any more.
    Cancelled,
}

/// A delivery, as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryView {
    /// Which.
    pub id: DeliveryId,
    /// Its event's type.
    pub event_type: String,
    /// How it stands.
    pub state: State,
    /// Attempts made and recorded.
    pub attempts: u32,
    /// When its event was accepted, in unix milliseconds.
    pub created_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// When its next attempt is due.
    pub due_ms: Option<u64>,
    /// An attempt is under way.
    pub sending: bool,
    /// Why it ended or is held, a word.
    pub reason: Option<String>,
    /// What shapes its body: catalog digest and payload form.
    pub shape: String,
    /// When its first attempt was claimed.
    pub first_attempt_ms: Option<u64>,
}

/// A delivery with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryDetail {
    /// The delivery.
    pub view: DeliveryView,
    /// Its attempts by their numbers, in order; one that Redis has lost is missing.
    pub attempts: Vec<(u32, AttemptEntry)>,
    /// Its event as JSON, from which its body is rendered; empty where it is gone.
    pub event: Vec<u8>,
}

/// An attempt as logged. Bodies of requests are rendered again; secrets are masked before they come here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEntry {
    /// The stored form.
    #[serde(rename = "v")]
    pub form: EntryForm,
    /// When it began, in unix milliseconds.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What went wrong, for people; absent where an answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The request's method.
    pub method: String,
    /// The request's URL.
    pub url: String,
    /// The request's headers, masked: all of them, or those that cannot be told otherwise.
    pub headers: Vec<(String, String)>,
    /// The answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The answer's headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_headers: Vec<(String, String)>,
    /// The answer's body, its first 16 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer_body: String,
}

/// Which headers of its request an attempt's entry names; stored as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum EntryForm {
    /// 1: all.
    Whole,
    /// 2: those that the event's shape and the delivery's record do not tell ([`fanfare_domain::header::told`]).
    Short,
}

impl TryFrom<u32> for EntryForm {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        match number {
            1 => Ok(Self::Whole),
            2 => Ok(Self::Short),
            other => Err(format!("form {other} of an attempt's entry is not known to this version")),
        }
    }
}

impl From<EntryForm> for u32 {
    fn from(form: EntryForm) -> Self {
        match form {
            EntryForm::Whole => 1,
            EntryForm::Short => 2,
        }
    }
}

/// An event, as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// Its id with us.
    pub id: EventId,
    /// Its type.
    pub kind: String,
    /// When it was accepted, in unix milliseconds.
    pub accepted_ms: u64,
    /// The event itself, as JSON; empty where it is gone.
    pub json: Vec<u8>,
    /// Its matches are decided.
    pub fanned_out: bool,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryView>,
}

/// Which deliveries a list holds.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Of this webhook.
    pub webhook: Option<WebhookId>,
    /// Of this event.
    pub event: Option<EventId>,
    /// Of this event type.
    pub event_type: Option<String>,
    /// That stand so.
    pub state: Option<State>,
    /// Of events accepted no earlier, in unix milliseconds.
    pub from_ms: Option<u64>,
    /// Of events accepted before.
    pub to_ms: Option<u64>,
}

/// A part of a list, and where the rest begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// For the next page; `None` at the end.
    pub next: Option<String>,
}

/// Reads what happened.
pub trait Log: Send + Sync {
    /// A tenant's deliveries, newest first; may be short while there is a next page.
    fn deliveries(
        &self,
        tenant: &TenantId,
        filter: &DeliveryFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Page<DeliveryView>, StoreError>> + Send;
    /// A delivery with its attempts, and its event's bytes.
    fn delivery(
        &self,
        tenant: &TenantId,
        id: &DeliveryId,
    ) -> impl Future<Output = Result<Option<DeliveryDetail>, StoreError>> + Send;
    /// A tenant's events, newest first.
    fn events(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Page<EventView>, StoreError>> + Send;
    /// An event with its deliveries.
    fn event(
        &self,
        tenant: &TenantId,
        id: EventId,
    ) -> impl Future<Output = Result<Option<EventView>, StoreError>> + Send;
}

/// An event's place in the log: its entry, and how many of the entry's events are newer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    entry: String,
    index: usize,
}

impl Place {
    /// The place after this one, further back in time.
    fn next(self) -> Self {
        Self { index: self.index + 1, ..self }
    }

    /// For the client to come back with: `skip` of this event's deliveries are behind it.
    fn cursor(&self, skip: usize) -> String {
        format!("{}.{}.{skip}", self.entry, self.index)
    }

    fn parse(cursor: &str) -> Option<(Self, usize)> {
        let mut parts = cursor.splitn(3, '.');
        let (entry, index, skip) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (ms, seq) = entry.split_once('-')?;
        let numbers = [ms, seq].iter().all(|part| part.parse::<u64>().is_ok());
        numbers.then(|| (Self { entry: entry.to_owned(), index }, skip))
    }
}

/// A part of the log, and whether there is more behind it.
struct Stretch {
    events: Vec<(Place, Option<EventView>)>,
    more: bool,
}

/// The log read from the hot records.
#[derive(Clone)]
pub struct HotLog {
    redis: Redis,
    retention_ms: u64,
}

impl HotLog {
    /// Over `redis`, telling of deliveries that ended within `retention`.
    pub fn new(redis: &Redis, retention: Span) -> Self {
        Self { redis: redis.clone(), retention_ms: retention.as_millis() }
    }

    /// A stretch of the tenant's log, newest first, from `from` on: each event with its place.
    async fn stretch(&self, tenant: &TenantId, from: Option<&Place>) -> Result<Stretch, StoreError> {
        type Entry = (String, Vec<(String, String)>);
        let prefix = prefix(tenant.as_str());
        let mut command = redis::cmd("XREVRANGE");
        let end = from.map_or("+", |place| &place.entry);
        command.arg(format!("{prefix}:log")).arg(end).arg("-").arg("COUNT").arg(ENTRIES_PER_READ);
        let entries: Vec<Entry> = self.redis.run(&command).await?;
        let more = entries.len() == ENTRIES_PER_READ;
        let (mut places, mut pipeline) = (Vec::new(), redis::pipe());
        for (entry, fields) in entries {
            // An entry holds the events of one call, oldest first.
            for (index, (_, id)) in fields.iter().rev().enumerate() {
                let behind = from.is_some_and(|from| from.entry == entry && index < from.index);
                let id: EventId =
                    id.parse().map_err(|_| StoreError::Odd(format!("log entry {entry} names no event")))?;
                if !behind {
                    pipeline.cmd("HGETALL").arg(format!("{prefix}:e:{id}"));
                    places.push((Place { entry: entry.clone(), index }, id));
                }
            }
        }
        pipeline.cmd("GET").arg(format!("{prefix}:born"));
        let mut found: Vec<redis::Value> = self.redis.run_all(&pipeline).await?;
        let odd = |error: redis::ParsingError| StoreError::Odd(error.to_string());
        let born = redis::from_redis_value(found.pop().unwrap_or(redis::Value::Nil)).map_err(odd)?;
        let hashes =
            found.into_iter().map(|hash| redis::from_redis_value(hash).map(|hash| own(hash, born)).map_err(odd));
        let views = places.into_iter().zip(hashes).map(|((place, id), hash)| Ok((place, self.view(id, &hash?)?)));
        Ok(Stretch { events: views.collect::<Result<_, StoreError>>()?, more })
    }

    fn view(&self, id: EventId, hash: &HashMap<String, Vec<u8>>) -> Result<Option<EventView>, StoreError> {
        if hash.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| hash.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let kind = text("t").unwrap_or_default();
        let matched = text("m");
        let mut deliveries = Vec::new();
        for (webhook, _) in
            parse_matches(matched.as_deref().unwrap_or_default())?.into_iter().chain(beside(text("x").as_deref()))
        {
            let field = webhook.to_string();
            if let Some(view) =
                text(&field).map(|record| parse_record(&DeliveryId::first(id, webhook), &kind, &record)).transpose()?
            {
                let kept = view.ended_ms.is_none_or(|ended| ended + self.retention_ms > now_ms());
                if kept && !deliveries.iter().any(|other: &DeliveryView| other.id == view.id) {
                    deliveries.push(view);
                }
            }
        }
        let json = hash.get("b").map(|stored| blob::unpack(stored)).transpose()?.unwrap_or_default();
        let accepted_ms = text("s").and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Ok(Some(EventView { id, kind, accepted_ms, json, fanned_out: matched.is_some(), deliveries }))
    }

    async fn hash(&self, tenant: &TenantId, id: EventId) -> Result<HashMap<String, Vec<u8>>, StoreError> {
        let (prefix, mut pipeline) = (prefix(tenant.as_str()), redis::pipe());
        pipeline.cmd("HGETALL").arg(format!("{prefix}:e:{id}"));
        pipeline.cmd("GET").arg(format!("{prefix}:born"));
        let (hash, born) = self.redis.run_all(&pipeline).await?;
        Ok(own(hash, born))
    }
}

impl Log for HotLog {
    async fn deliveries(
        &self,
        tenant: &TenantId,
        filter: &DeliveryFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<DeliveryView>, StoreError> {
        if let Some(event) = filter.event {
            let items = self.event(tenant, event).await?.map(|event| event.deliveries).unwrap_or_default();
            return Ok(Page { items: items.into_iter().filter(|view| fits(view, filter)).collect(), next: None });
        }
        let (mut from, mut skip) = match cursor {
            None => (None, 0),
            Some(cursor) => Place::parse(cursor).map_or((None, 0), |(place, skip)| (Some(place), skip)),
        };
        let (mut items, mut seen) = (Vec::new(), 0);
        loop {
            let stretch = self.stretch(tenant, from.as_ref()).await?;
            for (place, event) in stretch.events {
                let deliveries = event.map(|event| event.deliveries).unwrap_or_default();
                for (index, view) in deliveries.iter().enumerate().skip(std::mem::take(&mut skip)) {
                    if items.len() == limit {
                        return Ok(Page { items, next: Some(place.cursor(index)) });
                    }
                    if fits(view, filter) {
                        items.push(view.clone());
                    }
                }
                from = Some(place.next());
                seen += 1;
            }
            if !stretch.more {
                return Ok(Page { items, next: None });
            }
            if seen >= EVENTS_PER_PAGE || items.len() == limit {
                return Ok(Page { items, next: from.map(|place| place.cursor(0)) });
            }
        }
    }

    async fn delivery(&self, tenant: &TenantId, id: &DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        let hash = self.hash(tenant, id.event).await?;
        let field = id.within_event();
        let Some(record) = hash.get(&field) else { return Ok(None) };
        let kind = hash.get("t").map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
        let view = parse_record(id, &kind, &String::from_utf8_lossy(record))?;
        if view.ended_ms.is_some_and(|ended| ended + self.retention_ms <= now_ms()) {
            return Ok(None);
        }
        let mut attempts = Vec::new();
        for number in 1..=view.attempts {
            if let Some(entry) = hash.get(&format!("{field}.{number}")) {
                let entry = serde_json::from_slice(entry).map_err(|error| StoreError::Odd(error.to_string()))?;
                attempts.push((number, entry));
            }
        }
        let event = hash.get("b").map(|stored| blob::unpack(stored)).transpose()?.unwrap_or_default();
        Ok(Some(DeliveryDetail { view, attempts, event }))
    }

    async fn events(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<EventView>, StoreError> {
        let mut from = cursor.and_then(Place::parse).map(|(place, _)| place);
        let mut items = Vec::new();
        loop {
            let stretch = self.stretch(tenant, from.as_ref()).await?;
            for (place, event) in stretch.events {
                if items.len() == limit {
                    return Ok(Page { items, next: Some(place.cursor(0)) });
                }
                from = Some(place.next());
                items.extend(event);
            }
            if !stretch.more {
                return Ok(Page { items, next: None });
            }
        }
    }

    async fn event(&self, tenant: &TenantId, id: EventId) -> Result<Option<EventView>, StoreError> {
        self.view(id, &self.hash(tenant, id).await?)
    }
}

/// What is stored of an event, unless it was accepted before the tenant was made: then it was that of a deleted tenant of the
/// same id.
fn own(event: HashMap<String, Vec<u8>>, born_ms: Option<u64>) -> HashMap<String, Vec<u8>> {
    let accepted_ms = || std::str::from_utf8(event.get("s")?).ok()?.parse::<u64>().ok();
    match born_ms {
        Some(born_ms) if accepted_ms().is_none_or(|accepted_ms| accepted_ms < born_ms) => HashMap::new(),
        _ => event,
    }
}

/// Deliveries that were brought back by their messages alone.
fn beside(text: Option<&str>) -> Vec<(WebhookId, String)> {
    let first = |part: &str| Some((part.split(['=', '_']).next()?.parse().ok()?, part.split_once('=')?.1.to_owned()));
    text.unwrap_or_default().split(' ').filter_map(first).collect()
}

/// Reads a delivery's record, form 1 (scripts/prelude.lua).
fn parse_record(id: &DeliveryId, kind: &str, record: &str) -> Result<DeliveryView, StoreError> {
    let odd = || StoreError::Odd(format!("`{record}` for a delivery's record"));
    let parts: Vec<&str> = record.split(' ').collect();
    let ["1", state, _epoch, attempt, claims, lease, _token, due, _published, created, first, ended, shape, reason] =
        parts[..]
    else {
        return Err(odd());
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| odd());
    let some = |text: &str| number(text).map(|ms| (ms > 0).then_some(ms));
    let state = match state {
        "p" => State::Pending,
        "h" => State::Held,
        "d" => State::Delivered,
        "f" => State::Failed,
        "c" => State::Cancelled,
        _ => return Err(odd()),
    };
    let attempt = u32::try_from(number(attempt)?).map_err(|_| odd())?;
    Ok(DeliveryView {
        id: id.clone(),
        event_type: kind.to_owned(),
        state,
        // The record names the attempt to come; a success is recorded under its own number.
        attempts: if state == State::Delivered { attempt } else { attempt.saturating_sub(1) },
        created_ms: number(created)?,
        ended_ms: some(ended)?,
        due_ms: if state == State::Pending { some(due)? } else { None },
        sending: number(lease)? > now_ms() && number(claims)? > 0,
        reason: (reason != "-").then(|| reason.to_owned()),
        shape: shape.to_owned(),
        first_attempt_ms: some(first)?,
    })
}

fn fits(view: &DeliveryView, filter: &DeliveryFilter) -> bool {
    filter.webhook.as_ref().is_none_or(|webhook| *webhook == view.id.webhook)
        && filter.event_type.as_ref().is_none_or(|kind| *kind == view.event_type)
        && filter.state.is_none_or(|state| state == view.state)
        && filter.from_ms.is_none_or(|from| view.created_ms >= from)
        && filter.to_ms.is_none_or(|to| view.created_ms < to)
}

pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrys_form_is_stored_as_a_number_and_one_of_a_later_version_is_refused() {
        assert_eq!([1, 2].map(EntryForm::try_from), [Ok(EntryForm::Whole), Ok(EntryForm::Short)]);
        assert_eq!([EntryForm::Whole, EntryForm::Short].map(u32::from), [1, 2]);
        assert!(EntryForm::try_from(3).is_err());
    }
}
