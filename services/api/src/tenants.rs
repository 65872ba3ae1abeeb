//! The operator's tenants.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fanfare_domain::{IdError, TenantId, span};
use fanfare_runtime::{Problem, now_ms};
use fanfare_store::{Saved, Tenant, TenantConfig};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::{Api, nothing_here},
    auth::Operator,
    list::Window,
    problem,
    request::{At, Json, text},
};

/// The stored form of a tenant that is written here.
const FORM: u32 = 1;
/// The catalog of a tenant that names none.
const DEFAULT_CATALOG: &str = "standard";
const MAX_NAME_CHARS: usize = 200;

/// A tenant, as shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'t> {
    id: &'t TenantId,
    name: Option<&'t str>,
    catalog: &'t str,
    created_at: String,
    updated_at: String,
}

fn view(tenant: &Tenant) -> View<'_> {
    View {
        id: &tenant.id,
        name: tenant.name.as_deref(),
        catalog: &tenant.catalog,
        created_at: span::rfc3339(tenant.created_at),
        updated_at: span::rfc3339(tenant.updated_at),
    }
}

/// The tenant of this id, as it is in Redis now.
pub(crate) async fn find(api: &Api, id: &str) -> Result<Arc<TenantConfig>, Problem> {
    let id: TenantId = id.parse().map_err(|_| nothing_here())?;
    api.configuration.latest(&id).await.map_err(problem::store)?.ok_or_else(nothing_here)
}

fn id(value: &Value) -> Result<TenantId, String> {
    value.as_str().ok_or("must be a string")?.parse().map_err(|error: IdError| error.to_string())
}

fn catalog(api: &Api) -> impl Fn(&Value) -> Result<String, String> {
    |value| {
        let name = value.as_str().ok_or("must be a string")?;
        if api.catalogs.get(name).is_some() {
            return Ok(name.to_owned());
        }
        let shown: String = name.chars().take(64).collect();
        Err(format!("no catalog `{shown}`: there are {}", api.catalogs.names().collect::<Vec<_>>().join(", ")))
    }
}

pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    _: Operator,
    Json(mut body): Json,
) -> Result<Response, Problem> {
    let id = body.required("id", id);
    let name = body.optional("name", text(MAX_NAME_CHARS));
    let catalog = body.optional("catalog", catalog(&api));
    body.finish()?;
    let id = id.ok_or_else(nothing_here)?; // finish() has refused a body without
    let now = now_ms();
    let catalog = catalog.unwrap_or_else(|| DEFAULT_CATALOG.to_owned());
    let tenant = Tenant { v: FORM, id, name, catalog, created_at: now, updated_at: now };
    match api.tenants.create(&tenant).await.map_err(problem::store)? {
        Saved::Yes => {}
        Saved::Missing | Saved::Stale => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("there is a tenant `{}` already: delete it first, or choose another id", tenant.id),
            ));
        }
    }
    // So that a list which follows has it.
    api.configuration.latest(&tenant.id).await.map_err(problem::store)?;
    let location = [(header::LOCATION, format!("/v1/tenants/{}", tenant.id))];
    Ok((StatusCode::CREATED, location, Answer(view(&tenant))).into_response())
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    _: Operator,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let window = Window::parse(query.as_deref())?;
    let mut tenants = api.configuration.tenants();
    let newest_first = |config: &Arc<TenantConfig>| std::cmp::Reverse(config.tenant.created_at);
    tenants.sort_by(|a, b| newest_first(a).cmp(&newest_first(b)).then_with(|| a.tenant.id.cmp(&b.tenant.id)));
    let metadata = window.metadata("tenants", tenants.len());
    let part: Vec<Arc<TenantConfig>> = window.part(tenants).collect();
    let part: Vec<View<'_>> = part.iter().map(|config| view(&config.tenant)).collect();
    Ok(Answer(json!({ "_metadata": metadata, "tenants": part })).into_response())
}

pub(crate) async fn read(State(api): State<Arc<Api>>, _: Operator, At(id): At<String>) -> Result<Response, Problem> {
    let config = find(&api, &id).await?;
    Ok(Answer(view(&config.tenant)).into_response())
}

pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    _: Operator,
    At(id): At<String>,
    Json(mut body): Json,
) -> Result<Response, Problem> {
    let config = find(&api, &id).await?;
    let name = body.change("name", text(MAX_NAME_CHARS));
    let catalog = body.change("catalog", catalog(&api));
    body.finish()?;
    let mut tenant = config.tenant.clone();
    if let Some(name) = name {
        tenant.name = name;
    }
    if let Some(catalog) = catalog {
        tenant.catalog = catalog.unwrap_or_else(|| DEFAULT_CATALOG.to_owned());
    }
    tenant.updated_at = now_ms().max(tenant.created_at);
    match api.tenants.change(&tenant).await.map_err(problem::store)? {
        Saved::Yes => {}
        Saved::Missing | Saved::Stale => return Err(nothing_here()),
    }
    api.configuration.latest(&tenant.id).await.map_err(problem::store)?;
    Ok(Answer(view(&tenant)).into_response())
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    _: Operator,
    At(id): At<String>,
) -> Result<StatusCode, Problem> {
    let id: TenantId = id.parse().map_err(|_| nothing_here())?;
    match api.tenants.delete(&id).await.map_err(problem::store)? {
        Saved::Yes => {}
        Saved::Missing | Saved::Stale => return Err(nothing_here()),
    }
    api.configuration.latest(&id).await.map_err(problem::store)?;
    Ok(StatusCode::NO_CONTENT)
}
