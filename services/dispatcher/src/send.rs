//! One request, and what came of it. A failed request is an answer, not an error.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_domain::{Answer, Failure, TargetRules, header, retry_after, signature};
use fanfare_runtime::now_ms;
use fanfare_store::{AttemptEntry, EntryForm};
use reqwest::{
    Client, Request, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    redirect,
};

use crate::{
    resolve::{ResolveError, Resolver},
    webhooks::InForce,
};

/// How much of an answer's body is read and kept.
const ANSWER_BODY_BYTES: usize = 16 * 1024;
/// How much of an answer's headers is kept.
const ANSWER_HEADERS: usize = 64;
/// How long an idle connection is kept.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// Instead of a value that is not for the log.
const MASKED: &str = "***";

/// The headers that Fanfare's own requests always have, and what they say.
#[derive(Debug, Clone)]
pub(crate) struct Meta<'a> {
    /// `webhook-id`.
    pub(crate) id: &'a str,
    /// `fanfare-attempt`, from 1.
    pub(crate) attempt: u32,
    /// `fanfare-first-attempt`, in unix milliseconds.
    pub(crate) first_attempt_ms: u64,
    /// `fanfare-redelivery`: this attempt may have been made before.
    pub(crate) redelivery: bool,
    /// `fanfare-replay`: the job or delivery.
    pub(crate) replay: Option<&'a str>,
    /// Which headers the entry names.
    pub(crate) form: EntryForm,
}

/// A body and the catalog's headers, made once per event and shape.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) body: Bytes,
    pub(crate) headers: HeaderMap,
}

/// An attempt that was made.
pub(crate) struct Made {
    pub(crate) answer: Answer,
    pub(crate) entry: AttemptEntry,
    pub(crate) took: Duration,
}

/// Makes requests, over connections that are kept.
#[derive(Clone)]
pub(crate) struct Sender {
    client: Client,
    rules: Arc<TargetRules>,
    timeout: Duration,
}

impl Sender {
    pub(crate) fn new(rules: TargetRules, timeout: Duration) -> anyhow::Result<Self> {
        let rules = Arc::new(rules);
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy() // a proxy would connect for us, to addresses that we have not seen
            .dns_resolver(Arc::new(Resolver { rules: rules.clone() }))
            .pool_idle_timeout(KEEP_IDLE)
            .build()?;
        Ok(Self { client, rules, timeout })
    }

    /// Sends, and reads the answer, within the timeout.
    pub(crate) async fn send(&self, webhook: &InForce, payload: &Payload, meta: &Meta<'_>) -> Made {
        let at_ms = now_ms();
        let headers = headers(webhook, payload, meta, at_ms / 1_000);
        let entry = AttemptEntry {
            form: meta.form,
            at: at_ms,
            ms: 0,
            error: None,
            method: webhook.method.to_string(),
            url: webhook.target.clone(),
            headers: match meta.form {
                EntryForm::Whole => logged(&headers, webhook),
                EntryForm::Short => untold(&headers, webhook),
            },
            status: None,
            answer_headers: Vec::new(),
            answer_body: String::new(),
        };
        let mut request = Request::new(webhook.method.clone(), webhook.url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(payload.body.clone().into());
        let started = Instant::now();
        let result = match self.check(&webhook.url) {
            Ok(()) => tokio::time::timeout(self.timeout, self.exchange(request)).await,
            Err(refused) => Ok(Err((Failure::RefusedTarget, refused))),
        };
        let took = started.elapsed();
        let entry = AttemptEntry { ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX), ..entry };
        match result {
            Ok(Ok(received)) => {
                let answer = Answer::Response { status: received.status, retry_after: received.retry_after };
                let (status, answer_headers, answer_body) = (Some(received.status), received.headers, received.body);
                Made { answer, entry: AttemptEntry { status, answer_headers, answer_body, ..entry }, took }
            }
            Ok(Err((failure, why))) => {
                Made { answer: Answer::None(failure), entry: AttemptEntry { error: Some(why), ..entry }, took }
            }
            Err(_) => {
                let why = format!("no answer within {} s", self.timeout.as_secs_f64());
                Made { answer: Answer::None(Failure::Timeout), entry: AttemptEntry { error: Some(why), ..entry }, took }
            }
        }
    }

    /// A host that is an address is never resolved: it is checked here.
    fn check(&self, url: &Url) -> Result<(), String> {
        self.rules.check(url).map_err(|refused| format!("the target {refused}"))
    }

    async fn exchange(&self, request: Request) -> Result<Received, (Failure, String)> {
        match self.client.execute(request).await {
            Ok(response) => receive(response).await.map_err(|error| judged(&error)),
            Err(error) => Err(judged(&error)),
        }
    }
}

struct Received {
    status: u16,
    retry_after: Option<Duration>,
    headers: Vec<(String, String)>,
    body: String,
}

async fn receive(mut response: Response) -> reqwest::Result<Received> {
    let status = response.status().as_u16();
    let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|value| retry_after(value, now_ms()));
    let headers = response.headers().iter().take(ANSWER_HEADERS).map(|(name, value)| {
        let value = if name == "set-cookie" { MASKED.into() } else { String::from_utf8_lossy(value.as_bytes()) };
        (name.to_string(), value.chars().take(1_024).collect())
    });
    let headers = headers.collect();
    let mut body = Vec::new();
    while body.len() < ANSWER_BODY_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BODY_BYTES - body.len())]);
    }
    Ok(Received { status, retry_after, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// What kind of failure an error is, and how to say so.
fn judged(error: &reqwest::Error) -> (Failure, String) {
    let mut failure = if error.is_connect() || error.is_request() || error.is_body() {
        Failure::Connect
    } else {
        Failure::BadResponse
    };
    let mut why = "the connection failed".to_owned();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        why = inner.to_string(); // the innermost says most; the outer ones name the URL, which may hold secrets
        if let Some(resolve) = inner.downcast_ref::<ResolveError>() {
            failure = match resolve {
                ResolveError::Unknown(_) => Failure::Dns,
                ResolveError::Refused(_) => Failure::RefusedTarget,
            };
        } else if inner.is::<rustls::Error>() {
            failure = Failure::Tls;
        } else if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            failure = Failure::BadResponse;
        }
        cause = match inner.downcast_ref::<std::io::Error>() {
            // An I/O error hides what it wraps from `source`.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => inner.source(),
        };
    }
    (failure, why)
}

const WEBHOOK_ID: HeaderName = HeaderName::from_static(header::WEBHOOK_ID);
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static(header::WEBHOOK_TIMESTAMP);
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static(header::WEBHOOK_SIGNATURE);
const ATTEMPT: HeaderName = HeaderName::from_static(header::ATTEMPT);
const FIRST_ATTEMPT: HeaderName = HeaderName::from_static(header::FIRST_ATTEMPT);
const REDELIVERY: HeaderName = HeaderName::from_static(header::REDELIVERY);
const REPLAY: HeaderName = HeaderName::from_static(header::REPLAY);
/// How many of them there are, and what reqwest and hyper add.
const OWN_HEADERS: usize = 10;

/// The catalog's headers, the tenant's over them, ours over both.
fn headers(webhook: &InForce, payload: &Payload, meta: &Meta<'_>, timestamp_secs: u64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(payload.headers.len() + webhook.headers.len() + OWN_HEADERS);
    headers.extend(payload.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    for (name, value) in &webhook.headers {
        headers.insert(name.clone(), value.clone());
    }
    let keys = webhook.signing_keys(timestamp_secs * 1_000);
    let text = |value: &str| HeaderValue::from_str(value).expect("ids and signatures are of letters, digits and signs");
    headers.insert(WEBHOOK_ID, text(meta.id));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp_secs));
    headers.insert(WEBHOOK_SIGNATURE, text(&signature::sign(keys, meta.id, timestamp_secs, &payload.body)));
    headers.insert(ATTEMPT, HeaderValue::from(meta.attempt));
    headers.insert(FIRST_ATTEMPT, HeaderValue::from(meta.first_attempt_ms / 1_000));
    if meta.redelivery {
        headers.insert(REDELIVERY, HeaderValue::from_static("true"));
    }
    if let Some(replay) = meta.replay {
        headers.insert(REPLAY, text(replay));
    }
    headers
}

/// All headers as they may be shown: what a tenant set and what is secret is masked.
fn logged(headers: &HeaderMap, webhook: &InForce) -> Vec<(String, String)> {
    let secret = |name: &HeaderName| webhook.headers.iter().any(|(own, _)| own == name);
    headers.iter().map(|(name, value)| if secret(name) { masked(name) } else { shown(name, value) }).collect()
}

/// Of these, what neither the event's shape nor the delivery's record tells.
fn untold(headers: &HeaderMap, webhook: &InForce) -> Vec<(String, String)> {
    let secret = |name: &HeaderName| webhook.headers.iter().any(|(own, _)| own == name);
    let own = webhook.headers.iter().map(|(name, _)| masked(name));
    // The agent names the version that sent it.
    let ours = [USER_AGENT, WEBHOOK_SIGNATURE, REDELIVERY, REPLAY].into_iter().filter(|name| !secret(name));
    own.chain(ours.filter_map(|name| Some(shown(&name, headers.get(&name)?)))).collect()
}

fn masked(name: &HeaderName) -> (String, String) {
    (name.to_string(), MASKED.to_owned())
}

fn shown(name: &HeaderName, value: &HeaderValue) -> (String, String) {
    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
}
