//! The admin port: whether the process lives, whether it takes work, and its metrics.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use fanfare_metrics::{Gauges, gauges};
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;

/// What a process is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not everything is there yet.
    Starting,
    /// It takes work.
    Ready,
    /// It finishes what it holds.
    Draining,
}

/// How the process is, for probes: told by its parts, asked by the admin port.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State_>>,
    up: Gauges<2>,
    ready: Gauges<1>,
    service: &'static str,
}

struct State_ {
    phase: Phase,
    dependencies: Vec<(&'static str, bool)>,
}

impl Health {
    pub(crate) fn new(service: &'static str) -> Self {
        let up = gauges(
            "fanfare_dependency_up",
            "1 while this process reaches the dependency, else 0.",
            ["service", "dependency"],
            [[service, "amqp"], [service, "redis"]],
        );
        let ready = gauges(
            "fanfare_ready",
            "1 while the process takes work, 0 while it starts or drains.",
            ["service"],
            [[service]],
        );
        let state = State_ { phase: Phase::Starting, dependencies: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), up, ready, service }
    }

    /// The process enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.ready.set([self.service], if phase == Phase::Ready { 1.0 } else { 0.0 });
        self.lock().phase = phase;
    }

    /// A dependency (`amqp`, `redis`, `log`) is there, or away.
    pub fn dependency(&self, name: &'static str, up: bool) {
        self.up.set([self.service, name], if up { 1.0 } else { 0.0 });
        let mut state = self.lock();
        match state.dependencies.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = up,
            None => state.dependencies.push((name, up)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready is who takes work; a dependency that is away shows, and is no reason to take a replica out: all would go.
    fn readiness(&self, verbose: bool) -> (StatusCode, String) {
        let state = self.lock();
        let (status, mut text) = match state.phase {
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
            Phase::Ready => (StatusCode::OK, "ready\n".to_owned()),
            Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        };
        if verbose {
            for (name, up) in &state.dependencies {
                text += &format!("{name}: {}\n", if *up { "up" } else { "away" });
            }
        }
        (status, text)
    }
}

/// Listens on the admin port.
pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {address}: {error}; another port: FANFARE_ADMIN__LISTEN=127.0.0.1:9999")
    })
}

/// Answers probes and scrapes for as long as the process lives.
pub(crate) async fn serve(listener: TcpListener, health: Health) {
    let routes = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the admin port is closed");
    }
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> impl IntoResponse {
    health.readiness(query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose"))))
}

async fn metrics() -> Response {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&fanfare_metrics::registry().gather(), &mut body) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
