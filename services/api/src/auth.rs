//! Who asks, and whether they may. The operator shows the admin token, a tenant one of its keys; either comes in either
//! header. A scope opens what it says; what one needs to see in order to manage, a `manage` key may read, too: webhooks,
//! event types and triggers.

use std::{marker::PhantomData, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use fanfare_catalog::Catalog;
use fanfare_domain::TenantId;
use fanfare_runtime::Problem;
use fanfare_store::{KeyOwner, Scope, StoreError, StoredKey, TenantConfig};

use crate::{app::Api, problem};

/// The operator, by the admin token.
pub(crate) struct Operator;

/// A tenant, by one of its keys, with its configuration as it is in Redis now.
pub(crate) struct Caller<N> {
    pub(crate) config: Arc<TenantConfig>,
    pub(crate) catalog: Arc<Catalog>,
    needed: PhantomData<N>,
}

impl<N> Caller<N> {
    pub(crate) fn tenant(&self) -> &TenantId {
        &self.config.tenant.id
    }
}

/// What a route needs of a key: one of these scopes.
pub(crate) trait Need: Send + Sync + 'static {
    const SCOPES: &'static [Scope];
}

/// Reading what happened.
pub(crate) struct Read;
/// Writing webhooks, acting on deliveries.
pub(crate) struct Manage;
/// Reading what one manages.
pub(crate) struct ReadOrManage;

impl Need for Read {
    const SCOPES: &'static [Scope] = &[Scope::Read];
}
impl Need for Manage {
    const SCOPES: &'static [Scope] = &[Scope::Manage];
}
impl Need for ReadOrManage {
    const SCOPES: &'static [Scope] = &[Scope::Read, Scope::Manage];
}

impl FromRequestParts<Arc<Api>> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let shown = shown(&parts.headers)?;
        if !is_same(shown, &api.admin_token) {
            return Err(match api.configuration.grant(shown).await.map_err(problem::store)? {
                Some(_) => forbidden("this takes the operator's admin token, not a key"),
                None => Problem::unauthorized("this is not the operator's admin token"),
            });
        }
        nothing_is_lost(api)?;
        Ok(Self)
    }
}

impl<N: Need> FromRequestParts<Arc<Api>> for Caller<N> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let shown = shown(&parts.headers)?;
        if is_same(shown, &api.admin_token) {
            return Err(Problem::unauthorized(
                "this takes a tenant's key: the admin token makes one at `POST /v1/tenants/{id}/keys`",
            ));
        }
        nothing_is_lost(api)?;
        let unknown = || Problem::unauthorized("no such key");
        let grant = api.configuration.grant(shown).await.map_err(problem::store)?.ok_or_else(unknown)?;
        let KeyOwner::Tenant(tenant) = &grant.owner else {
            return Err(forbidden("this takes a tenant's key: the operator's keys are for publishing"));
        };
        // What is in memory may be behind: a key that was just deleted opens nothing.
        let config = api.configuration.latest(tenant).await.map_err(problem::store)?.ok_or_else(unknown)?;
        let key = config.keys.iter().find(|key| key.id == grant.key_id).ok_or_else(unknown)?;
        if !N::SCOPES.iter().any(|scope| key.scopes.contains(scope)) {
            return Err(forbidden(format!("this key lacks the scope {}", named(N::SCOPES))));
        }
        let Some(catalog) = api.catalogs.get(&config.tenant.catalog).cloned() else {
            tracing::error!(catalog = config.tenant.catalog, tenant = %tenant, "a tenant's catalog is not among those loaded");
            return Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the catalog `{}` is not loaded: the operator has to bring it back", config.tenant.catalog),
            ));
        };
        Ok(Self { config, catalog, needed: PhantomData })
    }
}

/// The token or key that a request shows.
fn shown(headers: &HeaderMap) -> Result<&str, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = text(header::AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text("x-api-authorization")).filter(|key| !key.is_empty()).ok_or_else(|| {
        Problem::unauthorized("no key: send `Authorization: Bearer <key>` or `X-Api-Authorization: <key>`")
    })
}

/// Compares without telling by its time how much was right: both are hashed, and all of the hashes is looked at.
fn is_same(shown: &str, token: &str) -> bool {
    let (shown, token) = (StoredKey::hash_of(shown), StoredKey::hash_of(token));
    let differing = shown.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differing) == 0
}

/// Where Redis came back without what we knew, nothing is told or written: it would be taken for the truth.
fn nothing_is_lost(api: &Api) -> Result<(), Problem> {
    if *api.lost.borrow() { Err(problem::store(StoreError::Lost)) } else { Ok(()) }
}

fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}

fn named(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| crate::keys::scope_name(*scope)).collect();
    format!("`{}`", names.join("` or `"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    #[test]
    fn a_key_comes_in_either_header() {
        for (headers, expected) in [
            (&[("authorization", "Bearer abc")][..], Some("abc")),
            (&[("authorization", "bearer  abc ")], Some("abc")),
            (&[("x-api-authorization", "abc")], Some("abc")),
            (&[("authorization", "Basic eA=="), ("x-api-authorization", "abc")], Some("abc")),
            (&[("authorization", "Bearer abc"), ("x-api-authorization", "other")], Some("abc")),
            (&[("authorization", "abc")], None),
            (&[("authorization", "Bearer ")], None),
            (&[("x-api-authorization", "")], None),
            (&[], None),
        ] {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(shown(&headers).ok(), expected, "{headers:?}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same("secret", "secret"));
        for shown in ["", "secre", "secret ", "Secret", "secretsecret"] {
            assert!(!is_same(shown, "secret"), "`{shown}`");
        }
    }

    #[test]
    fn a_refusal_names_what_is_needed() {
        assert_eq!(named(ReadOrManage::SCOPES), "`read` or `manage`");
        assert_eq!(named(Manage::SCOPES), "`manage`");
    }
}
