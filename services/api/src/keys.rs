//! Keys: a tenant's, made by the operator, and the operator's own for publishing to any tenant. Shown once, stored hashed.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fanfare_domain::span;
use fanfare_runtime::{Problem, now_ms};
use fanfare_store::{Saved, Scope, StoredKey};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::{Api, nothing_here},
    auth::Operator,
    problem,
    request::{At, Fields, MaybeJson, text},
    secret,
    tenants::find,
};

/// The stored form of a key that is written here.
const FORM: u32 = 1;
const MAX_NAME_CHARS: usize = 200;
const SCOPES: [Scope; 3] = [Scope::Publish, Scope::Manage, Scope::Read];

/// A scope's name in the contract.
pub(crate) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Publish => "publish",
        Scope::Manage => "manage",
        Scope::Read => "read",
    }
}

/// A key, as shown; with the key itself only to whoever made it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'k> {
    id: &'k str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'k str>,
    name: Option<&'k str>,
    scopes: &'k [Scope],
    created_at: String,
}

fn view<'k>(stored: &'k StoredKey, key: Option<&'k str>) -> View<'k> {
    View {
        id: &stored.id,
        key,
        name: stored.name.as_deref(),
        scopes: &stored.scopes,
        created_at: span::rfc3339(stored.created_at),
    }
}

fn views(keys: &mut [StoredKey]) -> Response {
    keys.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.id.cmp(&b.id)));
    let keys: Vec<View<'_>> = keys.iter().map(|key| view(key, None)).collect();
    Answer(json!({ "keys": keys })).into_response()
}

fn scopes(value: &Value) -> Result<Vec<Scope>, String> {
    let names = SCOPES.map(scope_name).join(", ");
    let items = value.as_array().ok_or_else(|| format!("must be a list of {names}"))?;
    let mut scopes = Vec::new();
    for item in items {
        let scope = SCOPES.into_iter().find(|scope| item.as_str() == Some(scope_name(*scope)));
        match scope {
            None => return Err(format!("must hold nothing but {names}")),
            Some(scope) if scopes.contains(&scope) => return Err(format!("`{}` stands twice", scope_name(scope))),
            Some(scope) => scopes.push(scope),
        }
    }
    if scopes.is_empty() { Err(format!("must hold at least one of {names}")) } else { Ok(scopes) }
}

/// A key's name and scopes out of a body: a tenant's has all where it names none.
fn asked(mut body: Fields) -> Result<(Option<String>, Vec<Scope>), Problem> {
    let name = body.optional("name", text(MAX_NAME_CHARS));
    let scopes = body.optional("scopes", scopes);
    body.finish()?;
    Ok((name, scopes.unwrap_or_else(|| SCOPES.to_vec())))
}

fn stored(key: &str, name: Option<String>, scopes: Vec<Scope>) -> StoredKey {
    let hash = StoredKey::hash_of(key);
    StoredKey { v: FORM, id: secret::key_id(), name, hash, scopes, created_at: now_ms() }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    _: Operator,
    At(id): At<String>,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let tenant = find(&api, &id).await?.tenant.id.clone();
    let (name, scopes) = asked(body)?;
    let key = secret::tenant_key(&tenant);
    let stored = stored(&key, name, scopes);
    match api.tenants.put_key(&tenant, &stored).await.map_err(problem::store)? {
        Saved::Yes => Ok((StatusCode::CREATED, Answer(view(&stored, Some(&key)))).into_response()),
        Saved::Missing | Saved::Stale => Err(nothing_here()),
    }
}

pub(crate) async fn list(State(api): State<Arc<Api>>, _: Operator, At(id): At<String>) -> Result<Response, Problem> {
    Ok(views(&mut find(&api, &id).await?.keys.clone()))
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    _: Operator,
    At((id, key)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    let tenant = find(&api, &id).await?.tenant.id.clone();
    removed(api.tenants.delete_key(&tenant, &key).await.map_err(problem::store)?)
}

pub(crate) async fn create_operators(
    State(api): State<Arc<Api>>,
    _: Operator,
    MaybeJson(mut body): MaybeJson,
) -> Result<Response, Problem> {
    let name = body.optional("name", text(MAX_NAME_CHARS));
    body.finish()?;
    let key = secret::operator_key();
    let stored = stored(&key, name, vec![Scope::Publish]);
    api.tenants.put_operator_key(&stored).await.map_err(problem::store)?;
    Ok((StatusCode::CREATED, Answer(view(&stored, Some(&key)))).into_response())
}

pub(crate) async fn list_operators(State(api): State<Arc<Api>>, _: Operator) -> Result<Response, Problem> {
    Ok(views(&mut api.tenants.operator_keys().await.map_err(problem::store)?))
}

pub(crate) async fn remove_operators(
    State(api): State<Arc<Api>>,
    _: Operator,
    At(key): At<String>,
) -> Result<StatusCode, Problem> {
    removed(api.tenants.delete_operator_key(&key).await.map_err(problem::store)?)
}

fn removed(saved: Saved) -> Result<StatusCode, Problem> {
    match saved {
        Saved::Yes => Ok(StatusCode::NO_CONTENT),
        Saved::Missing | Saved::Stale => Err(nothing_here()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_known_and_stand_once() {
        assert_eq!(scopes(&json!(["read", "publish"])), Ok(vec![Scope::Read, Scope::Publish]));
        for wrong in [json!([]), json!("read"), json!(["admin"]), json!(["read", "read"]), json!([1]), json!({})] {
            assert!(scopes(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_its_maker_sees_a_key() {
        let key = stored("ffk_acme_x", Some("upstream".into()), vec![Scope::Publish]);
        let listed = serde_json::to_string(&view(&key, None)).unwrap();
        assert!(!listed.contains("ffk_acme_x") && !listed.contains(&key.hash), "{listed}");
        assert!(serde_json::to_string(&view(&key, Some("ffk_acme_x"))).unwrap().contains(r#""key":"ffk_acme_x""#));
    }
}
