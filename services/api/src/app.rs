//! The routes (contract.md, Management API), what their handlers share, and what every request has around it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
    serve::ListenerExt,
};
use fanfare_bus::{Answers, Bus, JobItem, Link, ask_channel};
use fanfare_catalog::Catalogs;
use fanfare_domain::{JobId, TargetRules, TenantId};
use fanfare_runtime::{HttpMetrics, Problem, Settings};
use fanfare_store::{CatalogTexts, Configuration, Deliveries, HotLog, Redis, Sealer, Tenants};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    acts, catalog, deliveries, docs, events, explain, keys, metrics, openapi, ping, probe::Turns,
    request::no_parameters, tenants, webhooks,
};

/// Requests worked on at once; one more is asked to come again.
const REQUESTS_AT_ONCE: usize = 512;
/// How long a dispatcher's answer may take beyond the attempt itself: two hops through the broker.
const ASK_MARGIN: Duration = Duration::from_secs(5);
/// How long a request waits for the broker to take a job's message.
const JOB_CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// What the handlers share.
pub(crate) struct Api {
    pub(crate) admin_token: String,
    pub(crate) catalogs: Catalogs,
    pub(crate) catalog_texts: CatalogTexts,
    pub(crate) configuration: Configuration,
    pub(crate) lost: watch::Receiver<bool>,
    pub(crate) tenants: Tenants,
    pub(crate) deliveries: Deliveries,
    pub(crate) log: HotLog,
    pub(crate) sealer: Sealer,
    pub(crate) targets: TargetRules,
    pub(crate) bus: Bus,
    pub(crate) answers: Answers,
    pub(crate) turns: Arc<Turns>,
    pub(crate) ask_patience: Duration,
    pub(crate) retention_ms: u64,
    /// `/openapi.json` and `/docs`, made once.
    pub(crate) openapi: Bytes,
    pub(crate) docs: Bytes,
    metrics: HttpMetrics,
    room: Arc<Semaphore>,
    under_way: TaskTracker,
}

impl Api {
    pub(crate) fn new(
        settings: &Settings,
        catalogs: Catalogs,
        sealer: Sealer,
        redis: &Redis,
        configuration: Configuration,
        bus: Bus,
        metrics: HttpMetrics,
    ) -> anyhow::Result<Arc<Self>> {
        let admin_token = settings.api.admin_token.clone().context("setting FANFARE_API__ADMIN_TOKEN: is required")?;
        let (retention, timeout) = (settings.log.retention, settings.dispatcher.timeout.0);
        let description = openapi::document(&collections(&catalogs));
        Ok(Arc::new(Self {
            admin_token,
            openapi: description.to_string().into(),
            docs: docs::page(&description).into(),
            catalogs,
            catalog_texts: CatalogTexts::new(redis),
            lost: configuration.lost(),
            tenants: Tenants::new(redis, &configuration),
            configuration,
            deliveries: Deliveries::new(redis, timeout, settings.dispatcher.max_in_flight_per_webhook, retention, None),
            log: HotLog::new(redis, retention),
            sealer,
            targets: settings.target_rules(),
            answers: ask_channel(&bus),
            turns: Arc::default(),
            bus,
            ask_patience: timeout + ASK_MARGIN,
            retention_ms: retention.as_millis(),
            metrics,
            room: Arc::new(Semaphore::new(REQUESTS_AT_ONCE)),
            under_way: TaskTracker::new(),
        }))
    }

    /// Has a job begun. Where the broker does not take its message, a scheduler finds it in the index of jobs.
    pub(crate) async fn begin(&self, tenant: &TenantId, job: JobId) {
        let item = JobItem { tenant: tenant.clone(), job, turn: 0 };
        match tokio::time::timeout(JOB_CONFIRMED_WITHIN, self.bus.send(&item)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%tenant, job = %item.job, %error, "a job begins later"),
            Err(_) => tracing::warn!(%tenant, job = %item.job, "a job begins later: the broker does not confirm"),
        }
    }

    /// Refuses what needs the broker while it takes nothing: a publish would wait for as long as that lasts.
    pub(crate) fn broker_takes_messages(&self) -> Result<(), Problem> {
        match *self.bus.link().borrow() {
            Link::Up => Ok(()),
            Link::Blocked => Err(Problem::unavailable("the broker takes no messages at present")),
            Link::Away => Err(Problem::unavailable("the broker is away")),
        }
    }
}

/// Names below `/v1` that no catalog may give its webhooks: ours, now or by the contract.
const RESERVED: [&str; 9] =
    ["tenants", "keys", "triggers", "deliveries", "events", "replays", "filters", "stats", "health"];

/// Refuses catalogs whose name for their webhooks would hide another route.
pub(crate) fn check_collections(catalogs: &Catalogs) -> anyhow::Result<()> {
    for name in collections(catalogs) {
        anyhow::ensure!(
            !RESERVED.contains(&name),
            "a catalog calls its webhooks `{name}`, which is a route of its own"
        );
    }
    Ok(())
}

type Routes = Vec<(String, MethodRouter<Arc<Api>>)>;

/// The addresses whose answers are asked for in parts and narrowed, by parameters.
fn lists(collections: &BTreeSet<&str>) -> Routes {
    let mut routes = vec![
        ("/v1/tenants".to_owned(), get(tenants::list)),
        ("/v1/deliveries".to_owned(), get(deliveries::list)),
        ("/v1/events".to_owned(), get(events::list)),
    ];
    routes.extend(collections.iter().map(|name| (format!("/v1/{name}"), get(webhooks::list))));
    routes
}

/// The addresses that take no parameters.
fn others(collections: &BTreeSet<&str>) -> Routes {
    let mut routes: Routes = [
        ("/v1/tenants", post(tenants::create)),
        ("/v1/tenants/{id}", get(tenants::read).patch(tenants::change).delete(tenants::remove)),
        ("/v1/tenants/{id}/keys", get(keys::list).post(keys::create)),
        ("/v1/tenants/{id}/keys/{key}", delete(keys::remove)),
        ("/v1/keys", get(keys::list_operators).post(keys::create_operators)),
        ("/v1/keys/{key}", delete(keys::remove_operators)),
        ("/v1/event-types", get(catalog::event_types)),
        ("/v1/triggers", get(catalog::triggers)),
        ("/v1/deliveries/{id}", get(deliveries::read)),
        ("/v1/deliveries/{id}/retry", post(acts::retry)),
        ("/v1/deliveries/{id}/cancel", post(acts::cancel)),
        ("/v1/events/{event}", get(events::read)),
        ("/v1/events/{event}/explain", get(explain::event)),
        ("/v1/filters/test", post(explain::filter)),
        ("/openapi.json", get(openapi::read)),
        ("/docs", get(docs::read)),
    ]
    .map(|(path, methods)| (path.to_owned(), methods))
    .into();
    for name in collections {
        let at = |rest: &str| format!("/v1/{name}{rest}");
        routes.extend([
            (at(""), post(webhooks::create)),
            (at("/{id}"), get(webhooks::read).patch(webhooks::change).delete(webhooks::remove)),
            (at("/{id}/ping"), post(ping::send)),
            (at("/{id}/secret/rotate"), post(webhooks::rotate)),
            (at("/{id}/enable"), post(webhooks::enable)),
        ]);
    }
    routes
}

/// Every address that there is.
#[cfg(test)]
pub(crate) fn addresses(collections: &BTreeSet<&str>) -> BTreeSet<String> {
    lists(collections).into_iter().chain(others(collections)).map(|(path, _)| path).collect()
}

fn routes(api: &Arc<Api>) -> Router {
    let collections = collections(&api.catalogs);
    let routed =
        |routes: Routes| routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(&path, methods));
    routed(lists(&collections))
        .merge(routed(others(&collections)).route_layer(from_fn(no_parameters)))
        .fallback(|| async { nothing_here() })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method: `Allow` says which")
        })
        .layer(from_fn_with_state(api.clone(), around))
        .with_state(api.clone())
}

/// What lists of webhooks are called: the contract's own name, and those of the catalogs.
fn collections(catalogs: &Catalogs) -> BTreeSet<&str> {
    let own = catalogs.names().filter_map(|name| catalogs.get(name)).map(|catalog| catalog.collection());
    own.chain([webhooks::COLLECTION]).collect()
}

/// The answer for what does not exist, and, just the same, for what is another tenant's.
pub(crate) fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this address")
}

/// Finishes what is begun even where the client goes away, so that no change stops half way; counts; turns a panic into
/// an answer.
async fn around(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match api.room.clone().try_acquire_owned() {
        Err(_) => Problem::unavailable("too many requests at once").into_response(),
        Ok(room) => {
            let work = api.under_way.spawn(async move {
                let _room = room;
                next.run(request).await
            });
            work.await.unwrap_or_else(|error| {
                tracing::error!(route = route.as_ref().map(MatchedPath::as_str), %error, "a request failed");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a mistake of ours: it is in the log").into_response()
            })
        }
    };
    api.metrics.answered(
        route.as_ref().map(|route| metrics::label(route.as_str())),
        &method,
        response.status(),
        begun.elapsed(),
    );
    response
}

/// Listens where the management API is served.
pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {address}: {error}; another port: FANFARE_API__LISTEN=127.0.0.1:8082")
    })
}

/// Serves until `stop`, then finishes the requests under way.
pub(crate) async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true); // slower without, not wrong
    });
    axum::serve(listener, routes(&api)).with_graceful_shutdown(stop.cancelled_owned()).await?;
    api.under_way.close();
    api.under_way.wait().await;
    Ok(())
}
