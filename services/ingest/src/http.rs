//! Events over HTTP: structured, batch, binary and plain (contract.md, Publishing events).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use fanfare_domain::{
    Event, EventId, TenantId,
    event::{Defaults, EventError, Plain, parse_binary, parse_structured},
};
use fanfare_metrics::IntGauge;
use fanfare_runtime::{IngestSettings, Problem, now_ms};
use fanfare_store::{Grant, KeyOwner, Scope, TenantConfig};
use futures::{StreamExt, stream};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{Accepted, Intake, Refused},
    limit::Limiter,
    metrics::EVENTS,
};

/// The most events of one batch.
const BATCH_EVENTS: usize = 100;
/// Events of one batch that are accepted side by side.
const BATCH_SIDE_BY_SIDE: usize = 32;
/// Bytes of bodies held at once, over all requests.
const BODIES_BYTES: usize = 64 * 1024 * 1024;
/// A request's head arrives within this, or its connection is closed; so is one without a request. Longer than the minute for
/// which load balancers keep idle connections.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// How long no connection is taken after one could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// A body arrives within this, or its sender is too slow to wait for.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// And on its way it brings so many bytes, or its end, in every such time: who has stopped sending holds room no longer.
const PACE: (usize, Duration) = (16 * 1024, Duration::from_secs(5));
/// How long a body waits for room. It holds room itself meanwhile: all of them waiting for each other would wait for ever.
const ROOM_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct App {
    intake: Arc<Intake>,
    settings: Arc<IngestSettings>,
    room: Arc<Semaphore>,
    limiter: Option<Arc<Limiter>>,
}

/// Listens where events are taken.
pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {address}: {error}; another port: FANFARE_INGEST__LISTEN=127.0.0.1:8090")
    })
}

/// Serves until `stop`, then finishes the requests under way.
pub(crate) async fn serve(
    listener: TcpListener,
    intake: Arc<Intake>,
    settings: IngestSettings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let limiter = settings.rate_limit.map(|per_second| Arc::new(Limiter::new(per_second)));
    let app = App { intake, settings: Arc::new(settings), room: Arc::new(Semaphore::new(BODIES_BYTES)), limiter };
    let routes = Router::new()
        .route(EVENTS, post(publish))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "events go to `POST /v1/events`") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "events go to `POST /v1/events`")
        })
        .layer(from_fn_with_state(app.clone(), counted))
        .with_state(app);
    serve_routes(listener, routes, stop).await;
    Ok(())
}

/// Counts a request once its answer begins.
async fn counted(State(app): State<App>, request: Request, next: Next) -> Response {
    let (begun, method) = (Instant::now(), request.method().clone());
    let route = (request.uri().path() == EVENTS).then_some(EVENTS);
    let response = next.run(request).await;
    app.intake.metrics.http.answered(route, &method, response.status(), begun.elapsed());
    response
}

/// As `axum::serve` does, and with an end for heads that never do.
async fn serve_routes(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let (service, under_way) = (TowerToHyperService::new(routes), GracefulShutdown::new());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            Ok((connection, _)) => connection,
            Err(error) => {
                // Too many files are open, say: some will be closed.
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let _ = connection.set_nodelay(true); // slower without, not wrong
        let served = under_way.watch(http.serve_connection(TokioIo::new(connection), service.clone()));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }
    drop(listener);
    under_way.shutdown().await;
}

/// How a request carries its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Structured,
    Batch,
    Binary,
    Plain,
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let content_type = text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/cloudevents+json" => Ok(Form::Structured),
        "application/cloudevents-batch+json" => Ok(Form::Batch),
        _ if headers.keys().any(|name| name.as_str().starts_with("ce-")) => Ok(Form::Binary),
        "application/json" => Ok(Form::Plain),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "an event comes as application/cloudevents+json, application/cloudevents-batch+json, application/json, or with `ce-` headers",
        )),
    }
}

async fn publish(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let count = |problem: Problem, reason: &str| {
        app.intake.metrics.rejected.inc([reason]);
        problem
    };
    let grant = authorize(&app.intake, &headers).await.map_err(|problem| count(problem, "unauthorized"))?;
    if app.limiter.as_ref().is_some_and(|limiter| !limiter.admits(&grant.key_id, Instant::now())) {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "this key publishes faster than the operator allows")
            .retry_after(1);
        return Err(count(problem, "rate"));
    }
    let form = form(&headers).map_err(|problem| count(problem, "invalid"))?;
    let limit = if form == Form::Batch { app.settings.max_batch_bytes } else { app.settings.max_event_bytes };
    let (body, _room) = read(&app, &headers, body, limit).await.map_err(|problem| {
        let reason = match problem.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::REQUEST_TIMEOUT => "too_slow",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            _ => "invalid",
        };
        count(problem, reason)
    })?;
    if form == Form::Batch {
        return batch(&app, &grant, &body).await.map_err(|problem| count(problem, "invalid"));
    }
    let parsed = match form {
        Form::Binary => parse_binary(attributes(&headers)?, text(&headers, "content-type"), &body, &defaults(None)),
        Form::Plain => plain(&grant, &body),
        Form::Structured | Form::Batch => parse_structured(&body, &defaults(None)),
    };
    let event = Arc::new(parsed.map_err(|error| count(unparsed(error), "invalid"))?);
    let accepted = accept(&app, &grant, &event).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(Answer::of(&event, &accepted))).into_response())
}

/// What a body takes of the room that all share.
struct Room {
    taken: Option<OwnedSemaphorePermit>,
    bodies_bytes: IntGauge,
}

impl Room {
    fn add(&mut self, more: OwnedSemaphorePermit) {
        self.bodies_bytes.add(i64::try_from(more.num_permits()).unwrap_or(i64::MAX));
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bytes = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.bodies_bytes.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Reads a body within its limit and at its pace. It takes room among all bodies for what it has sent, not for what it
/// announces: many that are slow leave room for the others.
async fn read(app: &App, headers: &HeaderMap, body: Body, limit: usize) -> Result<(Bytes, Room), Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body of this form is at most {limit} bytes"));
    let announced = text(headers, "content-length").and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut room = Room { taken: None, bodies_bytes: app.intake.metrics.bodies_bytes.clone() };
    // Most come in one piece, which need not be copied; many small ones must not keep a buffer each.
    let (mut chunks, mut only, mut joined) = (body.into_data_stream(), Bytes::new(), Vec::new());
    let deadline = Instant::now() + BODY_WITHIN;
    let (mut pace_until, mut paced_bytes, mut whole) = (Instant::now() + PACE.1, 0, 0);
    loop {
        let chunk = match tokio::time::timeout_at(pace_until.min(deadline).into(), chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(_))) => return Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
            Ok(None) => break,
            Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")),
        };
        whole += chunk.len();
        if whole > limit {
            return Err(too_large());
        }
        let asked = Instant::now();
        let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let more = tokio::time::timeout(ROOM_WITHIN, app.room.clone().acquire_many_owned(bytes)).await;
        let more = more.map_err(|_| Problem::unavailable("too many bodies are under way"))?;
        let more = more.map_err(|_| Problem::unavailable("the process is ending"))?;
        room.add(more);
        pace_until += asked.elapsed(); // a wait for room is not the sender's
        paced_bytes += chunk.len();
        if paced_bytes >= PACE.0 {
            (pace_until, paced_bytes) = (Instant::now() + PACE.1, 0);
        }
        if whole == chunk.len() {
            only = chunk;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&only);
            }
            joined.extend_from_slice(&chunk);
        }
    }
    Ok((if joined.is_empty() { only } else { joined.into() }, room))
}

async fn authorize(intake: &Intake, headers: &HeaderMap) -> Result<Grant, Problem> {
    let bearer = text(headers, "authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| text(headers, "x-api-authorization"));
    let key = key.ok_or_else(|| {
        Problem::unauthorized("no key: send `Authorization: Bearer <key>` or `X-Api-Authorization: <key>`")
    })?;
    match intake.configuration.grant(key).await {
        Ok(Some(grant)) if grant.scopes.contains(&Scope::Publish) => Ok(grant),
        Ok(Some(_)) => Err(Problem::new(StatusCode::FORBIDDEN, "this key lacks the scope `publish`")),
        Ok(None) => Err(Problem::unauthorized("no such key")),
        Err(error) => Err(problem(crate::accept::away(&error))),
    }
}

/// The tenant that an event is for: the key's own, or the one that the event names under an operator's key.
async fn tenant_of(intake: &Intake, grant: &Grant, event: &Event) -> Result<Arc<TenantConfig>, Refused> {
    let id = match (&grant.owner, &event.tenant) {
        (KeyOwner::Tenant(own), Some(named)) if named != own.as_str() => {
            return Err(Refused::invalid("tenant", "is another than the key's"));
        }
        (KeyOwner::Tenant(own), _) => own.clone(),
        (KeyOwner::Operator, None) => return Err(Refused::invalid("tenant", "is required with the operator's key")),
        (KeyOwner::Operator, Some(named)) => {
            named.parse::<TenantId>().map_err(|error| Refused::invalid("tenant", &error.to_string()))?
        }
    };
    let known = intake.configuration.followed(&id).await.map_err(|error| crate::accept::away(&error))?;
    known.ok_or_else(|| Refused::invalid("tenant", "there is no such tenant"))
}

/// In a task of its own: a client that goes away amid this must not leave an event claimed and not published.
async fn accept(app: &App, grant: &Grant, event: &Arc<Event>) -> Result<Accepted, Refused> {
    if *app.intake.configuration.lost().borrow() {
        return Err(Refused::Unavailable(fanfare_store::StoreError::Lost.to_string()));
    }
    let tenant = tenant_of(&app.intake, grant, event).await?;
    let (intake, event) = (app.intake.clone(), event.clone());
    let accepting = tokio::spawn(async move { intake.accept(&tenant, &event, "http").await });
    accepting.await.unwrap_or_else(|_| Err(Refused::Unavailable("accepting the event broke off".to_owned())))
}

fn defaults(plain: Option<Plain<'_>>) -> Defaults<'_> {
    Defaults { now_ms: now_ms(), plain }
}

fn plain(grant: &Grant, body: &[u8]) -> Result<Event, EventError> {
    let id = EventId::new(now_ms(), rand::random()).to_string();
    let own = match &grant.owner {
        KeyOwner::Tenant(tenant) => Some(tenant.to_string()),
        KeyOwner::Operator => {
            #[derive(serde::Deserialize)]
            struct Named {
                tenant: Option<String>,
            }
            serde_json::from_slice::<Named>(body).ok().and_then(|named| named.tenant)
        }
    };
    let source = own.map(|tenant| format!("/tenants/{tenant}"));
    parse_structured(body, &defaults(Some(Plain { id: &id, source: source.as_deref() })))
}

/// The attributes in `ce-` headers (CloudEvents HTTP binding 1.0.2, 3.1.3).
fn attributes(headers: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let mut attributes = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let wrong = || Problem::field(name, "must be text in UTF-8, with percent-encoding where it is not ASCII");
        let value = value.to_str().map_err(|_| wrong())?;
        let value = percent_encoding::percent_decode_str(value).decode_utf8().map_err(|_| wrong())?;
        attributes.push((name.to_owned(), value.into_owned()));
    }
    Ok(attributes)
}

async fn batch(app: &App, grant: &Grant, body: &[u8]) -> Result<Response, Problem> {
    let items: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| not_json(&format!("not a list of events: {error}")))?;
    if items.len() > BATCH_EVENTS {
        return Err(Problem::field("", format!("a batch is at most {BATCH_EVENTS} events")));
    }
    let one = |item: &RawValue| {
        let item = item.get().to_owned(); // its own: a stream of borrowers would tie the whole request's future to the body
        async move {
            if item.len() > app.settings.max_event_bytes {
                let limit = app.settings.max_event_bytes;
                return BatchAnswer::refused(
                    None,
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an event is at most {limit} bytes")),
                );
            }
            match parse_structured(item.as_bytes(), &defaults(None)) {
                Err(error) => BatchAnswer::refused(id_of(&item), unparsed(error)),
                Ok(event) => {
                    let event = Arc::new(event);
                    match accept(app, grant, &event).await {
                        Ok(accepted) => BatchAnswer::Accepted(Answer::of(&event, &accepted)),
                        Err(refused) => BatchAnswer::refused(Some(event.id.clone()), problem(refused)),
                    }
                }
            }
        }
    };
    let answers: Vec<BatchAnswer> =
        stream::iter(items.into_iter().map(one).collect::<Vec<_>>()).buffered(BATCH_SIDE_BY_SIDE).collect().await;
    let refused = |answer: &BatchAnswer| match answer {
        BatchAnswer::Accepted(_) => None,
        BatchAnswer::Refused { error, .. } => Some(error.status()),
    };
    let status = if answers.iter().any(|answer| refused(answer).is_none()) {
        StatusCode::ACCEPTED
    } else if answers.iter().any(|answer| refused(answer) == Some(StatusCode::SERVICE_UNAVAILABLE)) {
        return Err(Problem::unavailable("no event of the batch could be accepted at present"));
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    Ok((status, Json(answers)).into_response())
}

fn id_of(json: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        id: String,
    }
    serde_json::from_str::<Named>(json).ok().map(|named| named.id)
}

/// An acceptance, as answered.
#[derive(Debug, Serialize)]
struct Answer {
    id: String,
    event: EventId,
    duplicate: bool,
}

impl Answer {
    fn of(event: &Event, accepted: &Accepted) -> Self {
        Self { id: event.id.clone(), event: accepted.event, duplicate: accepted.duplicate }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum BatchAnswer {
    Accepted(Answer),
    Refused { id: Option<String>, error: Problem },
}

impl BatchAnswer {
    fn refused(id: Option<String>, error: Problem) -> Self {
        Self::Refused { id, error }
    }
}

fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::Invalid(errors) => Problem::invalid(errors),
        Refused::Conflict => Problem::new(
            StatusCode::CONFLICT,
            "an event with this id and source was accepted with another content: give each event an id of its own",
        ),
        Refused::Unavailable(why) | Refused::Stuck(why) => Problem::unavailable(why),
    }
}

fn unparsed(error: EventError) -> Problem {
    match error {
        EventError::NotJson(why) => not_json(&why),
        EventError::Invalid(errors) => Problem::invalid(errors),
    }
}

fn not_json(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, started) = (CancellationToken::new(), tokio::time::Instant::now());
        let server = tokio::spawn(serve_routes(listener, Router::new(), stop.clone()));
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"POST /v1/events HTTP/1.1\r\nHo").await.unwrap();
        let mut answer = Vec::new();
        // Its end, or that the server let go of it.
        let _ = slow.read_to_end(&mut answer).await;
        assert!(started.elapsed() >= HEAD_WITHIN, "it had its time");
        stop.cancel();
        server.await.unwrap();
    }
}
