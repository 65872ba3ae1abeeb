//! A tenant's webhooks by event type: built from its configuration when that changes, asked for every event.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use fanfare_catalog::{Catalog, Catalogs, TriggerRule};
use fanfare_domain::{Pattern, TenantId, WebhookId};
use fanfare_store::{CatalogTexts, Configuration, StoreError, StoredWebhook, TenantConfig};
use serde_json::Value;

/// A webhook that may want an event.
#[derive(Debug, Clone)]
struct Candidate {
    webhook: WebhookId,
    /// What shapes its bodies: pinned here, so that a delivery's body never changes.
    shape: String,
    /// At least one must match, where there are any.
    triggers: Vec<Pattern>,
    /// Must match, where there is one.
    filter: Option<Arc<Pattern>>,
}

/// A tenant's webhooks by event type.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_type: HashMap<String, Vec<Candidate>>,
    /// Those whose triggers may match any type.
    any_type: Vec<Candidate>,
}

impl Index {
    pub(crate) fn new<'a>(webhooks: impl Iterator<Item = &'a StoredWebhook>, catalog: &Catalog) -> Self {
        let mut index = Self::default();
        for stored in webhooks {
            index.add(stored, catalog);
        }
        index
    }

    fn add(&mut self, stored: &StoredWebhook, catalog: &Catalog) {
        let webhook = &stored.webhook;
        // It compiled when it was saved; should it not now, the webhook gets too much rather than nothing.
        let filter = webhook.filter.as_ref().and_then(|filter| Pattern::parse(filter).ok()).map(Arc::new);
        let mut exact: Vec<&str> = Vec::new();
        let (mut by_type, mut any_type): (HashMap<&str, Vec<Pattern>>, Vec<Pattern>) = (HashMap::new(), Vec::new());
        for trigger in &webhook.triggers {
            match catalog.trigger_rule(trigger) {
                Some(TriggerRule::EventType(kind)) => exact.push(kind),
                Some(TriggerRule::Pattern { pattern, types: Some(types) }) => {
                    types.iter().for_each(|kind| by_type.entry(kind).or_default().push(pattern.clone()));
                }
                Some(TriggerRule::Pattern { pattern, types: None }) => any_type.push(pattern.clone()),
                None => {} // the catalog has dropped it
            }
        }
        let candidate = |triggers: Vec<Pattern>| Candidate {
            webhook: webhook.id.clone(),
            shape: format!("{}:{}", catalog.digest(), webhook.payload.as_str()),
            triggers,
            filter: filter.clone(),
        };
        for kind in &exact {
            self.by_type.entry((*kind).to_owned()).or_default().push(candidate(Vec::new()));
        }
        for (kind, patterns) in by_type {
            if !exact.contains(&kind) {
                self.by_type.entry(kind.to_owned()).or_default().push(candidate(patterns));
            }
        }
        if !any_type.is_empty() {
            self.any_type.push(candidate(any_type));
        }
    }

    /// The webhooks that want this event, each once. `parsed` is asked only where a pattern has to look inside.
    pub(crate) fn matches(&self, kind: &str, parsed: &mut dyn FnMut() -> Arc<Value>) -> Vec<(WebhookId, String)> {
        let mut matches: Vec<(WebhookId, String)> = Vec::new();
        let mut event: Option<Arc<Value>> = None;
        // What stands for any type does not stand for Fanfare's own: those are asked for by name.
        let any_type = self.any_type.iter().filter(|_| !fanfare_domain::event::is_reserved(kind));
        for candidate in self.by_type.get(kind).into_iter().flatten().chain(any_type) {
            if matches.iter().any(|(webhook, _)| *webhook == candidate.webhook) {
                continue;
            }
            if candidate.wants(|| event.get_or_insert_with(&mut *parsed).clone()) {
                matches.push((candidate.webhook.clone(), candidate.shape.clone()));
            }
        }
        matches
    }
}

impl Candidate {
    fn wants(&self, mut event: impl FnMut() -> Arc<Value>) -> bool {
        (self.triggers.is_empty() || self.triggers.iter().any(|trigger| trigger.matches(&event())))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(&event()))
    }
}

/// An index, and the configuration that it was made of.
type Made = (Arc<TenantConfig>, Arc<Index>);

/// All tenants' indexes, each made when first asked for and again when its configuration has changed.
pub(crate) struct Indexes {
    configuration: Configuration,
    catalogs: Catalogs,
    texts: CatalogTexts,
    made: RwLock<HashMap<TenantId, Made>>,
}

/// Why an event cannot be matched now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the tenant's catalog `{0}` is not loaded here: put its file into FANFARE_CATALOGS__PATH of every service, and \
         start them again"
    )]
    NoCatalog(String),
    #[error("the stored webhooks {0:?} cannot be read: mend them in Redis, or run a version that reads them")]
    Unreadable(Vec<String>),
}

impl IndexError {
    /// Whether it is one tenant's alone: then its events must not keep others waiting.
    pub(crate) fn is_the_tenants(&self) -> bool {
        !matches!(self, Self::Store(StoreError::Away(_)))
    }
}

impl Indexes {
    pub(crate) fn new(configuration: Configuration, catalogs: Catalogs, texts: CatalogTexts) -> Self {
        Self { configuration, catalogs, texts, made: RwLock::default() }
    }

    /// Whether Redis has lost what we knew, of all tenants.
    pub(crate) fn all_is_lost(&self) -> bool {
        *self.configuration.lost().borrow()
    }

    /// The index of a tenant's webhooks, no older than configuration `version`; an empty one where the tenant was deleted.
    pub(crate) async fn of(&self, tenant: &TenantId, version: u64) -> Result<Arc<Index>, IndexError> {
        let Some(config) = self.configuration.at_least(tenant, version).await? else {
            self.made.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
            return Ok(Arc::default());
        };
        if !config.unreadable.is_empty() {
            return Err(IndexError::Unreadable(config.unreadable.clone()));
        }
        if let Some((of, index)) = self.made.read().unwrap_or_else(PoisonError::into_inner).get(tenant)
            && Arc::ptr_eq(of, &config)
        {
            return Ok(index.clone());
        }
        let name = &config.tenant.catalog;
        let catalog = self.catalogs.get(name).ok_or_else(|| IndexError::NoCatalog(name.clone()))?;
        // The index pins its digest to deliveries, which may outlive its file.
        self.texts.keep(catalog.digest(), catalog.text()).await?;
        let index = Arc::new(Index::new(config.webhooks.values().map(AsRef::as_ref), catalog));
        self.made.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone(), (config, index.clone()));
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Which of a tenant's webhooks, each with one of these triggers, want an event of this type.
    fn wanted_by(catalog: &str, triggers: &[&'static str], kind: &str) -> Vec<&'static str> {
        let catalogs = Catalogs::builtin();
        let id = |at: usize| format!("{at:024}");
        let stored: Vec<StoredWebhook> = triggers
            .iter()
            .enumerate()
            .map(|(at, trigger)| {
                let webhook = json!({
                    "id": id(at), "target": "https://example.com/", "method": "POST", "headers": [], "triggers": [trigger],
                    "payload": "full", "active": true, "revision": 1, "createdAt": 1, "updatedAt": 1,
                });
                let webhook = serde_json::from_value(webhook).unwrap();
                StoredWebhook { v: 1, webhook, secret: String::new(), previous: None }
            })
            .collect();
        let index = Index::new(stored.iter(), catalogs.get(catalog).unwrap());
        let matches = index.matches(kind, &mut || Arc::new(json!({ "type": kind })));
        let wants = |at: &usize| matches.iter().any(|(webhook, _)| webhook.as_str() == id(*at));
        (0..triggers.len()).filter(wants).map(|at| triggers[at]).collect()
    }

    #[test]
    fn fanfares_own_events_reach_those_that_name_them_and_no_pattern() {
        let own = "fanfare.webhook.disabled";
        for (catalog, triggers) in
            [("standard", ["*", own, "order.paid"]), ("ebbot", ["chat.message", own, "chat.update"])]
        {
            assert_eq!(wanted_by(catalog, &triggers, own), [own], "{catalog}");
        }
        assert_eq!(wanted_by("standard", &["*", own, "order.paid"], "order.paid"), ["*", "order.paid"]);
    }
}
