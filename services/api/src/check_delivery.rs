//! `--check-delivery API INGEST ADDRESS PORT`: whether an event comes back, asked of a whole Fanfare from outside, with the
//! operator's token from the settings. Makes a tenant with a key and a webhook, publishes an event, waits for the signed
//! request at `ADDRESS:PORT`, and deletes the tenant. Where the settings keep deliveries from that address, the webhook's
//! target is a name that nobody has: then all but the last step is seen, in the log.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use fanfare_domain::{
    Target, TargetError, TargetRules,
    header::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP},
    signature,
};
use fanfare_runtime::{Service, Settings};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use url::Url;

/// Always the same one, so that what a broken check left behind goes with the next, and little stays in Redis.
const TENANT: &str = "fanfare-check";
/// Tells our tenant from somebody's of the same id.
const TENANT_NAME: &str = "made by fanfare-api --check-delivery";
const EVENT_TYPE: &str = "check.delivery";
/// How long the event may take; by then the default schedule has tried twice.
const WITHIN: Duration = Duration::from_secs(30);
/// How long the services may take to answer at all: they may just be starting.
const STARTING_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_MAX_BYTES: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(250);

/// Answers `--check-delivery` and then ends the process: with 0 where the event came as far as it may, else with 1.
pub(crate) fn answer(arguments: impl Iterator<Item = String>) {
    let mut arguments = arguments.skip(1).skip_while(|argument| argument != "--check-delivery");
    if arguments.next().is_none() {
        return;
    }
    let arguments: Vec<String> = arguments.collect();
    let checked = fanfare_runtime::checked_settings(Service::Api).and_then(|settings| {
        let mut said = String::new();
        let asked = async {
            said = check(&settings, &arguments).await?;
            Ok(())
        };
        fanfare_runtime::run(&settings.runtime, asked).map(|()| said)
    });
    // Whoever asked may have gone: there is nobody left to tell.
    let _ = match &checked {
        Ok(said) => writeln!(std::io::stdout(), "{said}"),
        Err(why) => writeln!(std::io::stderr(), "{why:#}"),
    };
    std::process::exit(i32::from(checked.is_err()));
}

async fn check(settings: &Settings, arguments: &[String]) -> anyhow::Result<String> {
    let [api, ingest, address, port] = arguments else {
        bail!(
            "`--check-delivery` takes four arguments: the api's URL, ingest's URL, this machine's IP address, a port"
        );
    };
    let address: IpAddr = address.parse().with_context(|| format!("`{address}` is no IP address"))?;
    let here = SocketAddr::new(address, port.parse().with_context(|| format!("`{port}` is no port"))?);
    let token = settings.api.admin_token.clone().unwrap_or_default();
    let operator = Client { server: Server::parse(api)?, token };
    let ingest = Server::parse(ingest)?;
    let (target, kept) = target(here, &settings.target_rules());
    let mut receiver = Receiver::open(here, kept.is_none()).await?;

    make_tenant(&operator).await?;
    let seen = there_and_back(&operator, ingest, &target, &mut receiver).await;
    let gone = operator.expect(Method::DELETE, &format!("/v1/tenants/{TENANT}"), None).await;
    let seen = seen?;
    gone.with_context(|| format!("deleting the tenant `{TENANT}`"))?;
    Ok(match (seen, kept) {
        (Seen::Received, _) => "an event was accepted, matched, sent here, and is rightly signed".to_owned(),
        (Seen::Attempted(why), Some(kept)) => format!(
            "an event was accepted, matched, attempted and recorded (`{why}`). It was not sent here: {here} {kept}. To see it \
             come back, allow that in the settings `targets.*` (the chart's value `allowNetworks`) while you check"
        ),
        (Seen::Attempted(why), None) => bail!("the dispatcher cannot reach this check at {here}: {why}"),
    })
}

/// The URL to deliver to; where the rules refuse this place, one that leads nowhere, and why.
fn target(here: SocketAddr, rules: &TargetRules) -> (String, Option<TargetError>) {
    let url = format!("http://{here}/");
    match Target::parse(&url, rules) {
        Ok(_) => (url, None),
        Err(refused) => {
            let scheme = if rules.https_only { "https" } else { "http" };
            let port = rules.allow_ports.first().map(|port| format!(":{port}")).unwrap_or_default();
            // RFC 6761 6.4: no such name exists; the dot keeps search domains away.
            (format!("{scheme}://receiver.invalid.{port}/"), Some(refused))
        }
    }
}

/// How far the event came.
enum Seen {
    Received,
    /// The log has an attempt that failed, for this reason.
    Attempted(String),
}

/// Makes our tenant anew, once the api answers.
async fn make_tenant(operator: &Client) -> anyhow::Result<()> {
    let path = format!("/v1/tenants/{TENANT}");
    let tenant = json!({ "id": TENANT, "name": TENANT_NAME });
    let deadline = Instant::now() + STARTING_WITHIN;
    let answer = loop {
        match operator.ask(Method::POST, "/v1/tenants", Some(&tenant)).await {
            Ok(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => break answer,
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(answer) if Instant::now() > deadline => bail!("the api answers {}", answer.told()),
            _ => sleep(POLL).await,
        }
    };
    match answer.status {
        StatusCode::CONFLICT => {
            let found = operator.expect(Method::GET, &path, None).await?;
            ensure!(
                found["name"] == TENANT_NAME,
                "there is a tenant `{TENANT}` that this check has not made: it would be deleted; give it another id"
            );
            operator.expect(Method::DELETE, &path, None).await?;
            operator.expect(Method::POST, "/v1/tenants", Some(&tenant)).await.map(drop)
        }
        StatusCode::UNAUTHORIZED => {
            bail!("the api does not know the token in FANFARE_API__ADMIN_TOKEN: {}", answer.told())
        }
        status if status.is_success() => Ok(()),
        _ => bail!("making a tenant: the api answers {}", answer.told()),
    }
}

async fn there_and_back(
    operator: &Client,
    ingest: Server,
    target: &str,
    receiver: &mut Receiver,
) -> anyhow::Result<Seen> {
    let made = operator.expect(Method::POST, &format!("/v1/tenants/{TENANT}/keys"), Some(&json!({}))).await?;
    let tenant = Client { server: operator.server.clone(), token: text(&made, "key")? };
    let fields = json!({ "target": target, "triggers": [EVENT_TYPE] });
    let webhook = tenant.expect(Method::POST, "/v1/webhooks", Some(&fields)).await.context("making a webhook")?;
    let key = signature::signing_key(&text(&webhook, "secret")?);

    let publisher = Client { server: ingest, token: tenant.token.clone() };
    let nonce = format!("{:032x}", rand::random::<u128>());
    let event = json!({ "type": EVENT_TYPE, "data": { "nonce": nonce } });
    let accepted = publisher.expect(Method::POST, "/v1/events", Some(&event)).await.context("publishing an event")?;
    let event = text(&accepted, "event")?;

    let deadline = Instant::now() + WITHIN;
    let mut received = false;
    loop {
        // Whatever else comes to this port is not for us.
        if let Ok(Some(request)) = timeout(POLL, receiver.next()).await
            && request.is_of(&nonce)
        {
            ensure!(request.is_signed_with(&key), "the event came, and `webhook-signature` is not the secret's");
            received = true;
        }
        let log = tenant.delivery_of(&event).await?;
        match &log {
            Logged { delivered: true, .. } if received => return Ok(Seen::Received),
            Logged { failure: Some(why), .. } if !receiver.is_open() => return Ok(Seen::Attempted(why.clone())),
            _ if Instant::now() < deadline => {}
            Logged { failure: Some(why), .. } => return Ok(Seen::Attempted(why.clone())),
            Logged { made: false, .. } => bail!(
                "event {event} was accepted, and within {} s no delivery was made of it: do fanout and the broker work?",
                WITHIN.as_secs()
            ),
            _ if received => bail!("event {event} came, and the log does not say that it was delivered"),
            _ => bail!(
                "event {event} was matched, and within {} s its delivery was not attempted: does a dispatcher work?",
                WITHIN.as_secs()
            ),
        }
    }
}

/// What the log says of an event's delivery.
struct Logged {
    made: bool,
    delivered: bool,
    failure: Option<String>,
}

/// A place where requests can be made, `http://host:port`.
#[derive(Clone)]
struct Server {
    host: String,
    port: u16,
}

impl Server {
    /// TLS is for the outside: inside a cluster the Services speak plain HTTP.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let url = Url::parse(text).with_context(|| format!("`{text}` is no URL"))?;
        match (url.scheme(), url.host_str(), url.port_or_known_default()) {
            ("http", Some(host), Some(port)) => Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port }),
            _ => bail!("`{text}` is no URL of the form http://host:port"),
        }
    }
}

/// Asks one server with one token.
struct Client {
    server: Server,
    token: String,
}

struct Answered {
    status: StatusCode,
    body: Value,
}

impl Answered {
    /// As a person reads it; problems hold no secrets.
    fn told(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.body["detail"].as_str().unwrap_or_default())
    }
}

impl Client {
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answered> {
        let Server { host, port } = &self.server;
        let asked = timeout(ANSWER_WITHIN, self.exchange(method.clone(), path, body)).await;
        let answer = asked.unwrap_or_else(|_| bail!("no answer within {} s", ANSWER_WITHIN.as_secs()));
        answer.with_context(|| format!("{method} {path} at {host}:{port}"))
    }

    async fn expect(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = self.ask(method.clone(), path, body).await?;
        ensure!(answer.status.is_success(), "{method} {path}: {}", answer.told());
        Ok(answer.body)
    }

    /// One connection for each request: there are few.
    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answered> {
        let Server { host, port } = &self.server;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = to_bytes(Body::new(body), ANSWER_MAX_BYTES).await?;
        connection.abort();
        Ok(Answered { status: head.status, body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    async fn delivery_of(&self, event: &str) -> anyhow::Result<Logged> {
        let found = self.expect(Method::GET, &format!("/v1/deliveries?event={event}"), None).await?;
        let Some(delivery) = found["deliveries"].get(0) else {
            return Ok(Logged { made: false, delivered: false, failure: None });
        };
        let delivery = self.expect(Method::GET, &format!("/v1/deliveries/{}", text(delivery, "id")?), None).await?;
        let failed = |attempt: &Value| match (attempt["error"].as_str(), attempt["response"]["status"].as_u64()) {
            (Some(why), _) => Some(why.to_owned()),
            (None, Some(200..=299)) | (None, None) => None,
            (None, Some(status)) => Some(format!("it is answered with {status}")),
        };
        let attempts = delivery["attempts"].as_array().into_iter().flatten();
        Ok(Logged {
            made: true,
            delivered: delivery["status"] == "delivered",
            failure: attempts.filter_map(failed).next_back(),
        })
    }
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    Ok(value[field].as_str().with_context(|| format!("the answer has no `{field}`"))?.to_owned())
}

/// A request as it came.
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn is_of(&self, nonce: &str) -> bool {
        serde_json::from_slice::<Value>(&self.body).is_ok_and(|body| body["data"]["nonce"] == nonce)
    }

    fn is_signed_with(&self, key: &[u8]) -> bool {
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(at), Some(signatures)) =
            (header(WEBHOOK_ID), header(WEBHOOK_TIMESTAMP), header(WEBHOOK_SIGNATURE))
        else {
            return false;
        };
        let Ok(at) = at.parse() else { return false };
        let right = signature::sign([key], id, at, &self.body);
        signatures.split(' ').any(|signature| signature == right)
    }
}

/// Takes the requests that are made to this process; none where nobody may.
struct Receiver {
    requests: Option<mpsc::Receiver<Received>>,
}

impl Receiver {
    async fn open(here: SocketAddr, open: bool) -> anyhow::Result<Self> {
        if !open {
            return Ok(Self { requests: None });
        }
        let listener = TcpListener::bind(here).await.with_context(|| format!("listening on {here}"))?;
        let (to, requests) = mpsc::channel(16);
        let routes = Router::new().fallback(take).with_state(to);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { requests: Some(requests) })
    }

    fn is_open(&self) -> bool {
        self.requests.is_some()
    }

    /// The next request; safe to drop.
    async fn next(&mut self) -> Option<Received> {
        match &mut self.requests {
            Some(requests) => requests.recv().await,
            None => std::future::pending().await,
        }
    }
}

async fn take(State(to): State<mpsc::Sender<Received>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match to.try_send(Received { headers, body }) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_here_where_the_rules_let_deliveries_in_and_else_nowhere() {
        let here: SocketAddr = "10.1.2.3:8090".parse().unwrap();
        let inside = TargetRules { allow_networks: vec!["10.0.0.0/8".parse().unwrap()], ..TargetRules::default() };
        for (rules, url, is_kept) in [
            (inside.clone(), "http://10.1.2.3:8090/", false),
            (TargetRules::default(), "http://receiver.invalid./", true),
            (TargetRules { https_only: true, ..inside.clone() }, "https://receiver.invalid./", true),
            (TargetRules { allow_ports: vec![8443], ..inside }, "http://receiver.invalid.:8443/", true),
        ] {
            let (target, kept) = target(here, &rules);
            assert_eq!((target.as_str(), kept.is_some()), (url, is_kept));
            assert!(Target::parse(&target, &rules).is_ok(), "{target} can be saved");
        }
        let six = TargetRules { allow_networks: vec!["fd00::/8".parse().unwrap()], ..TargetRules::default() };
        assert_eq!(target("[fd00::1]:8090".parse().unwrap(), &six).0, "http://[fd00::1]:8090/");
    }

    #[test]
    fn a_request_counts_that_is_signed_with_the_webhooks_secret_and_no_other() {
        let (key, body) = (b"key", br#"{"data":{"nonce":"n"}}"#);
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "d1".parse().unwrap());
        headers.insert("webhook-timestamp", "1700000000".parse().unwrap());
        let signed = signature::sign([b"old".as_slice(), key], "d1", 1_700_000_000, body);
        headers.insert("webhook-signature", signed.parse().unwrap());
        let mut request = Received { headers, body: Bytes::from_static(body) };
        assert!(request.is_of("n") && !request.is_of("m"));
        assert!(request.is_signed_with(key) && !request.is_signed_with(b"another"));
        request.headers.insert("webhook-timestamp", "1700000001".parse().unwrap());
        assert!(!request.is_signed_with(key));
    }
}
