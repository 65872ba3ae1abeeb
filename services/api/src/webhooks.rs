//! Webhooks: list, read, write, enable, rotate.

use std::{str::FromStr, sync::Arc};

use axum::{
    Json as Answer,
    extract::{FromRequestParts, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use fanfare_catalog::Catalog;
use fanfare_domain::{FieldError, Webhook, WebhookId, job::Held, webhook::Rules};
use fanfare_runtime::{Problem, now_ms};
use fanfare_store::{Saved, StoredSecret, StoredWebhook, TenantConfig};
use serde_json::{Map, Value};

use crate::{
    app::{Api, nothing_here},
    auth::{Caller, Manage, Need, ReadOrManage},
    etag::{IfMatch, etag},
    list::WebhookQuery,
    problem::{self, invalid},
    request::{At, Fields, Json, MaybeJson},
    save::{self, Test},
    secret,
    webhook_view::view,
};

/// What every tenant's list of webhooks is called, whatever else its catalog calls it.
pub(crate) const COLLECTION: &str = "webhooks";
/// The stored form of a webhook that is written here.
const FORM: u32 = 1;
/// How long the secret before also signs.
const GRACE_SECS: u64 = 86_400;
const MAX_GRACE_SECS: u64 = 604_800;

/// A tenant in its list of webhooks, under the name that it was asked by: the contract's own or its catalog's.
pub(crate) struct Webhooks<N> {
    pub(crate) caller: Caller<N>,
    collection: String,
}

impl<N: Need> FromRequestParts<Arc<Api>> for Webhooks<N> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let caller = Caller::<N>::from_request_parts(parts, api).await?;
        let collection = parts.uri.path().split('/').nth(2).unwrap_or_default().to_owned();
        let is_its = collection == COLLECTION || collection == caller.catalog.collection();
        if is_its { Ok(Self { caller, collection }) } else { Err(nothing_here()) }
    }
}

/// The webhook of this id among a tenant's.
pub(crate) fn find<'c>(config: &'c TenantConfig, id: &str) -> Result<&'c Arc<StoredWebhook>, Problem> {
    if unreadable(config, id).is_some() {
        return Err(Problem::unavailable(
            "this webhook is stored in a form that this version does not read: run the version that saved it, or delete it",
        ));
    }
    WebhookId::from_str(id).ok().and_then(|id| config.webhooks.get(&id)).ok_or_else(nothing_here)
}

/// A webhook that is stored and cannot be read. It keeps all events of its tenant waiting, and can be deleted.
fn unreadable(config: &TenantConfig, id: &str) -> Option<WebhookId> {
    config.unreadable.iter().find(|unreadable| *unreadable == id)?.parse().ok()
}

/// A webhook as answered, with its revision as `ETag`.
fn answer<N>(api: &Api, caller: &Caller<N>, stored: &StoredWebhook) -> Response {
    let body = Answer(shown(api, caller, stored));
    ([(header::ETAG, etag(stored.webhook.revision))], body).into_response()
}

fn shown<N>(api: &Api, caller: &Caller<N>, stored: &StoredWebhook) -> Map<String, Value> {
    let secret = open(api, caller, stored);
    view(&stored.webhook, secret.as_deref(), caller.catalog.shown_fields())
}

/// A webhook's secret; `None`, and a line in the log, where it does not open: the rest can be shown all the same.
fn open<N>(api: &Api, caller: &Caller<N>, stored: &StoredWebhook) -> Option<String> {
    let opened = api.sealer.open(caller.tenant(), &stored.webhook.id, &stored.secret);
    opened.inspect_err(|error| tracing::error!(webhook = %stored.webhook.id, %error, "a secret does not open")).ok()
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Webhooks { caller, collection }: Webhooks<ReadOrManage>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = WebhookQuery::parse(query.as_deref(), caller.catalog.shown_fields())?;
    let mut found: Vec<&StoredWebhook> =
        caller.config.webhooks.values().map(Arc::as_ref).filter(|stored| query.wants(&stored.webhook)).collect();
    found.sort_by(|a, b| query.order(&a.webhook, &b.webhook));
    let metadata = serde_json::json!(query.window.metadata(&collection, found.len()));
    let part: Vec<Value> = query.window.part(found).map(|stored| shown(&api, &caller, stored).into()).collect();
    let body = Map::from_iter([("_metadata".to_owned(), metadata), (collection, part.into())]);
    Ok(Answer(body).into_response())
}

pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<ReadOrManage>,
    At(id): At<String>,
) -> Result<Response, Problem> {
    Ok(answer(&api, &caller, find(&caller.config, &id)?))
}

/// What is wrong with a webhook's body, by the catalog's and the operator's rules.
fn judged(
    api: &Api,
    catalog: &Catalog,
    judge: impl FnOnce(&Rules<'_>) -> Result<Webhook, Vec<FieldError>>,
) -> Result<Webhook, Problem> {
    let rules = Rules {
        settable: catalog.settable_fields(),
        knows_trigger: &|name| catalog.knows_trigger(name),
        has_payload: &|form| catalog.has_payload(form),
        secret_header: catalog.secret_header(),
        targets: &api.targets,
    };
    let webhook = judge(&rules).map_err(invalid)?;
    catalog.check(&webhook).map_err(invalid)?;
    Ok(webhook)
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Webhooks { caller, collection }: Webhooks<Manage>,
    Json(body): Json,
) -> Result<Response, Problem> {
    let now = now_ms();
    let id = secret::webhook_id(now);
    let body = body.into_map();
    let webhook = judged(&api, &caller.catalog, |rules| Webhook::create(id.clone(), &body, now, rules))?;
    let secret = secret::webhook_secret(caller.catalog.secret_form());
    let secret = api.sealer.seal(caller.tenant(), &webhook.id, &secret);
    let stored = StoredWebhook { v: FORM, webhook, secret, previous: None };
    let stored = save::create(&api, &caller, stored).await?;
    let location = HeaderValue::from_str(&format!("/v1/{collection}/{}", stored.webhook.id));
    let mut response = (StatusCode::CREATED, answer(&api, &caller, &stored)).into_response();
    response.headers_mut().extend(location.ok().map(|location| (header::LOCATION, location)));
    Ok(response)
}

pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Problem> {
    let body = body.into_map();
    let saved = save::save(&api, &caller, &id, IfMatch::of(&headers), Test::OnSave, None, |known| {
        let webhook = judged(&api, &caller.catalog, |rules| known.webhook.changed(&body, now_ms(), rules))?;
        Ok(StoredWebhook { webhook, ..known.clone() })
    });
    Ok(answer(&api, &caller, &saved.await?))
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let if_match = IfMatch::of(&headers);
    let deleted = match (if_match, unreadable(&caller.config, &id)) {
        (IfMatch::Any, Some(unreadable)) => api.tenants.delete_webhook(caller.tenant(), &unreadable).await,
        (if_match, _) => {
            let known = &find(&caller.config, &id)?.webhook;
            if_match.allows(known.revision)?;
            match if_match {
                IfMatch::Any => api.tenants.delete_webhook(caller.tenant(), &known.id).await,
                IfMatch::OneOf(_) => api.tenants.delete_webhook_at(caller.tenant(), &known.id, known.revision).await,
            }
        }
    };
    match deleted.map_err(problem::store)? {
        Saved::Yes => Ok(StatusCode::NO_CONTENT),
        Saved::Missing => Err(nothing_here()),
        Saved::Stale => Err(Problem::new(StatusCode::PRECONDITION_FAILED, "it was changed at this very moment")),
    }
}

/// What becomes of the deliveries held while a webhook was disabled.
fn held(mut body: Fields) -> Result<Held, Problem> {
    let held = body.optional("held", |value| match value.as_str() {
        Some("deliver") => Ok(Held::Deliver),
        Some("cancel") => Ok(Held::Cancel),
        Some("keep") => Ok(Held::Keep),
        _ => Err("must be `deliver`, `cancel` or `keep`".to_owned()),
    });
    body.finish().map(|()| held.unwrap_or(Held::Deliver))
}

pub(crate) async fn enable(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    headers: HeaderMap,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let held = Some(held(body)?);
    let change = |known: &StoredWebhook| Ok(enabled(known, now_ms()));
    let saved = save::save(&api, &caller, &id, IfMatch::of(&headers), Test::OnSave, held, change);
    Ok(answer(&api, &caller, &saved.await?))
}

/// A webhook that gets deliveries again; the same where it does already.
fn enabled(known: &StoredWebhook, now_ms: u64) -> StoredWebhook {
    let mut stored = known.clone();
    if stored.webhook.disabled.take().is_some() {
        stored.webhook.revision += 1;
        stored.webhook.updated_at = now_ms.max(stored.webhook.created_at);
    }
    stored
}

fn grace(mut body: Fields) -> Result<u64, Problem> {
    let grace = body.optional("graceSeconds", |value| {
        let secs = value.as_u64().filter(|secs| *secs <= MAX_GRACE_SECS);
        secs.ok_or_else(|| format!("must be a whole number from 0 to {MAX_GRACE_SECS}"))
    });
    body.finish().map(|()| grace.unwrap_or(GRACE_SECS))
}

pub(crate) async fn rotate(
    State(api): State<Arc<Api>>,
    Webhooks { caller, .. }: Webhooks<Manage>,
    At(id): At<String>,
    headers: HeaderMap,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let grace_secs = grace(body)?;
    let secret = secret::webhook_secret(caller.catalog.secret_form());
    let saved = save::save(&api, &caller, &id, IfMatch::of(&headers), Test::Never, None, |known| {
        let sealed = api.sealer.seal(caller.tenant(), &known.webhook.id, &secret);
        Ok(rotated(known, sealed, grace_secs, now_ms()))
    });
    Ok(answer(&api, &caller, &saved.await?))
}

/// A webhook with a new secret; the one before signs too until the grace ends.
fn rotated(known: &StoredWebhook, sealed: String, grace_secs: u64, now_ms: u64) -> StoredWebhook {
    let until = now_ms + grace_secs * 1_000;
    let previous = (grace_secs > 0).then(|| StoredSecret { secret: known.secret.clone(), until });
    let mut webhook = known.webhook.clone();
    webhook.revision += 1;
    webhook.updated_at = now_ms.max(webhook.created_at);
    StoredWebhook { v: FORM, webhook, secret: sealed, previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_domain::{
        DisableReason, TargetRules,
        webhook::{Disabled, WRITABLE},
    };
    use serde_json::json;

    fn stored() -> StoredWebhook {
        let (settable, targets) = (WRITABLE.map(str::to_owned), TargetRules::default());
        let rules = Rules {
            settable: &settable,
            knows_trigger: &|_| true,
            has_payload: &|_| true,
            secret_header: None,
            targets: &targets,
        };
        let body = json!({ "target": "https://example.com/", "triggers": ["t"] });
        let id = "5ceec43ce1b5b412ba9d0e73".parse().unwrap();
        let webhook = Webhook::create(id, body.as_object().unwrap(), 1_000, &rules).unwrap();
        StoredWebhook { v: 1, webhook, secret: "old".into(), previous: None }
    }

    fn fields(value: &Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn both_secrets_sign_until_the_grace_ends() {
        let once = rotated(&stored(), "new".into(), 60, 5_000);
        assert_eq!((once.secret.as_str(), once.webhook.revision, once.webhook.updated_at), ("new", 2, 5_000));
        assert_eq!(once.previous, Some(StoredSecret { secret: "old".into(), until: 65_000 }));
        let twice = rotated(&once, "newer".into(), 0, 6_000);
        assert_eq!(twice.previous, None, "without a grace the one before is worthless at once");
    }

    #[test]
    fn enabling_changes_only_what_is_disabled() {
        let mut known = stored();
        assert_eq!(enabled(&known, 5_000), known);
        known.webhook.disabled = Some(Disabled { at: 2_000, reason: DisableReason::Gone });
        let now = enabled(&known, 5_000);
        assert_eq!((now.webhook.disabled, now.webhook.revision), (None, 2));
    }

    #[test]
    fn what_an_action_is_told_is_judged() {
        assert_eq!(held(fields(&json!({}))).unwrap(), Held::Deliver);
        assert_eq!(held(fields(&json!({ "held": "keep" }))).unwrap(), Held::Keep);
        assert_eq!(grace(fields(&json!({}))).unwrap(), 86_400);
        assert_eq!(grace(fields(&json!({ "graceSeconds": 0 }))).unwrap(), 0);
        for wrong in [json!({ "held": "drop" }), json!({ "held": true }), json!({ "x": 1 })] {
            assert!(held(fields(&wrong)).is_err(), "{wrong}");
        }
        for wrong in [json!(-1), json!(604_801), json!("1h"), json!(1.5)] {
            assert!(grace(fields(&json!({ "graceSeconds": wrong }))).is_err());
        }
    }
}
