//! A webhook receiver that records each request byte for byte and answers as told: also late, never, or half.
//!
//! Read with httparse itself, not through a server: so headers keep their order and spelling, the path its bytes, and an
//! answer can break off where a test wants.
use crate::signature::{BadSignature, verify};
use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use std::fmt::Write;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const HEAD_MAX_BYTES: usize = 256 * 1024;
const HEADERS_MAX: usize = 256;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `POST`
    pub method: String,
    /// Path and query, byte for byte as in the request line.
    pub target: String,
    /// In the order and spelling they came in.
    pub headers: Vec<(String, String)>,
    /// Without the chunked encoding.
    pub body: Bytes,
    /// When its last byte had come.
    pub at: SystemTime,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// How many requests, with this one, were then being answered.
    pub in_flight: usize,
    /// The status that it is answered with, where it gets an answer.
    pub status: u16,
}

impl Recorded {
    /// A header's first value; the name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether it is signed with this secret, per Standard Webhooks.
    pub fn verify(&self, secret: &str) -> Result<(), BadSignature> {
        verify(secret, self)
    }
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    ending: Ending,
}

#[derive(Clone, Debug)]
enum Ending {
    Whole,
    Trickle { pause: Duration },
    Cut,
    Close,
    Hang,
}

impl Answer {
    /// With this status, at once, without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO, ending: Ending::Whole }
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    /// Nothing: the connection stays open until the client closes it.
    pub fn hang() -> Self {
        Self { ending: Ending::Hang, ..Self::status(200) }
    }

    /// Nothing: the connection is closed.
    pub fn close() -> Self {
        Self { ending: Ending::Close, ..Self::status(200) }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The same after a wait.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same, the body byte by byte with a pause before each.
    #[must_use]
    pub fn trickle(self, pause: Duration) -> Self {
        Self { ending: Ending::Trickle { pause }, ..self }
    }

    /// The same, but closed after half of the body, or before the head's last byte where there is none.
    #[must_use]
    pub fn cut(self) -> Self {
        Self { ending: Ending::Cut, ..self }
    }
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}

type Script = Arc<dyn Fn(&Recorded) -> Answer + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    requests: watch::Sender<Vec<Arc<Recorded>>>,
    in_flight: AtomicUsize,
}

/// A receiver on 127.0.0.1. Dropping it closes its port and connections; [`Receiver::start_on`] its port brings it back.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    /// Starts one on a free port that answers 200.
    pub async fn start() -> Result<Self> {
        Self::start_on(crate::free_port()?).await
    }

    /// Starts one on a given port.
    pub async fn start_on(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.with_context(|| format!("listening on port {port}"))?;
        let address = listener.local_addr()?;
        let script: Script = Arc::new(|_| Answer::status(200));
        let shared = Shared { script: Mutex::new(script), requests: watch::Sender::default(), in_flight: 0.into() };
        let shared = Arc::new(shared);
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Starts one that answers so: `Receiver::answering(503)`.
    pub async fn answering(answer: impl Into<Answer>) -> Result<Self> {
        let receiver = Self::start().await?;
        receiver.answer(answer);
        Ok(receiver)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path (with its query) here: `receiver.url("/hook?a=b")`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers every request from now on so.
    pub fn answer(&self, answer: impl Into<Answer>) {
        let answer = answer.into();
        self.answer_by(move |_| answer.clone());
    }

    /// Answers the next requests with these in turn, and each after them with the last.
    pub fn answer_in_turn<A: Into<Answer>>(&self, answers: impl IntoIterator<Item = A>) {
        let answers: Vec<Answer> = answers.into_iter().map(Into::into).collect();
        let turn = AtomicUsize::new(0);
        self.answer_by(move |_| {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            answers.get(turn).or(answers.last()).cloned().unwrap_or_else(|| Answer::status(200))
        });
    }

    /// Answers every request from now on as this function says.
    pub fn answer_by(&self, script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) {
        *self.shared.script() = Arc::new(script);
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Arc<Recorded>> {
        self.shared.requests.borrow().clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.shared.requests.borrow().len()
    }

    /// All requests so far, which it then forgets.
    pub fn take(&self) -> Vec<Arc<Recorded>> {
        self.shared.requests.send_replace(Vec::new())
    }

    /// Waits until there are `count` requests or more, and returns all.
    pub async fn wait_for(&self, count: usize, within: Duration) -> Result<Vec<Arc<Recorded>>> {
        let mut requests = self.shared.requests.subscribe();
        let waited = timeout(within, requests.wait_for(|requests| requests.len() >= count)).await;
        match waited {
            Ok(Ok(requests)) => Ok(requests.clone()),
            _ => bail!("{} of {count} requests came within {within:?}", self.count()),
        }
    }

    /// Waits for the first request, also among those so far, that is so.
    pub async fn wait_for_one(
        &self,
        within: Duration,
        mut is_so: impl FnMut(&Recorded) -> bool,
    ) -> Result<Arc<Recorded>> {
        let mut requests = self.shared.requests.subscribe();
        let mut seen = 0;
        let found = async {
            loop {
                let found = {
                    let all = requests.borrow_and_update();
                    let unseen = all.get(seen..).unwrap_or(all.as_slice()); // fewer than seen: taken meanwhile
                    let found = unseen.iter().find(|request| is_so(request)).cloned();
                    seen = all.len();
                    found
                };
                match found {
                    Some(request) => return request,
                    None if requests.changed().await.is_err() => pending().await,
                    None => {}
                }
            }
        };
        let waited = timeout(within, found).await;
        waited.with_context(|| format!("no such request within {within:?}, among {}", self.count()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort(); // with it its connections
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        if let Ok((stream, _)) = accepted {
            connections.spawn(serve(stream, number, shared.clone()));
        }
    }
}

/// Serves one connection to its end; an error of the client's ends it too.
async fn serve(stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true); // only slower without
    let mut connection = Connection { stream, unread: BytesMut::new(), number: connection, shared };
    while let Ok(true) = connection.answer_one().await {}
}

struct Connection {
    stream: TcpStream,
    unread: BytesMut,
    number: usize,
    shared: Arc<Shared>,
}

/// A request's head, and where its body ends.
struct Head {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    length: Length,
    keeps_alive: bool,
    wants_continue: bool,
}

enum Length {
    Known(usize),
    Chunked,
}

impl Connection {
    /// Reads a request, records and answers it; whether another may follow.
    async fn answer_one(&mut self) -> Result<bool> {
        let head = loop {
            match parse_head(&mut self.unread)? {
                Some(head) => break head,
                None => self.read_more().await?,
            }
        };
        if head.wants_continue {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = match head.length {
            Length::Known(length) => self.read_exactly(length).await?,
            Length::Chunked => self.read_chunks().await?,
        };
        let _in_flight = InFlight::enter(&self.shared);
        let mut request = Recorded {
            method: head.method,
            target: head.target,
            headers: head.headers,
            body,
            at: SystemTime::now(),
            connection: self.number,
            in_flight: self.shared.in_flight.load(Ordering::SeqCst),
            status: 0,
        };
        let script = self.shared.script().clone();
        let answer = script(&request);
        request.status = answer.status;
        self.shared.requests.send_modify(|requests| requests.push(Arc::new(request)));
        Ok(self.write(&answer, head.keeps_alive).await? && head.keeps_alive)
    }

    /// Whether the answer was whole.
    async fn write(&mut self, answer: &Answer, keeps_alive: bool) -> Result<bool> {
        if !answer.delay.is_zero() && timeout(answer.delay, self.closed()).await.is_ok() {
            return Ok(false);
        }
        let head = head_of(answer, keeps_alive);
        match answer.ending {
            Ending::Whole => self.stream.write_all(&[head.as_bytes(), &answer.body].concat()).await?,
            Ending::Trickle { pause } => {
                self.stream.write_all(head.as_bytes()).await?;
                for byte in &answer.body {
                    tokio::time::sleep(pause).await;
                    self.stream.write_all(&[*byte]).await?;
                }
            }
            Ending::Cut => {
                let whole = [head.as_bytes(), &answer.body].concat();
                let end = (head.len() + answer.body.len() / 2).min(whole.len() - 1);
                self.stream.write_all(&whole[..end]).await?;
            }
            Ending::Close => {}
            Ending::Hang => self.closed().await,
        }
        Ok(matches!(answer.ending, Ending::Whole | Ending::Trickle { .. }))
    }

    /// Until the client closes; what it still sends is kept.
    async fn closed(&mut self) {
        while self.read_more().await.is_ok() {}
    }

    async fn read_more(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => bail!("closed"),
            _ => Ok(()),
        }
    }

    async fn read_exactly(&mut self, length: usize) -> Result<Bytes> {
        while self.unread.len() < length {
            self.read_more().await?;
        }
        Ok(self.unread.split_to(length).freeze())
    }

    async fn read_chunks(&mut self) -> Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let size = self.read_line().await?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&self.read_exactly(size).await?);
            self.read_exactly(2).await?;
        }
        while !self.read_line().await?.is_empty() {} // trailers
        Ok(body.freeze())
    }

    async fn read_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line = self.unread.split_to(end);
                self.unread.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.read_more().await?;
        }
    }
}

/// Takes a head off the buffer, once it is whole.
fn parse_head(unread: &mut BytesMut) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(unread)? else {
        if unread.len() > HEAD_MAX_BYTES {
            bail!("a head of more than {HEAD_MAX_BYTES} bytes");
        }
        return Ok(None);
    };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let named = |name: &str| headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let says = |name, word| named(name).is_some_and(|value| value.to_ascii_lowercase().contains(word));
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        length: if says("transfer-encoding", "chunked") {
            Length::Chunked
        } else {
            Length::Known(named("content-length").map_or(Ok(0), |length| length.parse())?)
        },
        keeps_alive: request.version == Some(1) && !says("connection", "close"),
        wants_continue: says("expect", "100-continue"),
        headers,
    };
    unread.advance(length);
    Ok(Some(head))
}

fn head_of(answer: &Answer, keeps_alive: bool) -> String {
    let mut head = format!("HTTP/1.1 {} Answer\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    if !keeps_alive {
        head += "connection: close\r\n";
    }
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n"); // a String takes all
    }
    head + "\r\n"
}

/// Counts a request while it is being answered, also where its task is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn enter(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A request with these headers, for tests elsewhere.
    pub(crate) fn recorded(headers: &[(&str, &str)], body: &str, at: SystemTime) -> Recorded {
        Recorded {
            method: "POST".into(),
            target: "/".into(),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            at,
            connection: 0,
            in_flight: 1,
            status: 200,
        }
    }

    async fn exchange(receiver: &Receiver, request: &str) -> String {
        let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_request_is_recorded_byte_for_byte() {
        let receiver = Receiver::start().await.unwrap();
        let head = "PATCH /a%20b?q=%41&x= HTTP/1.1\r\nHost: h\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\nConnection: close\r\n";
        let plain = exchange(&receiver, &format!("{head}Content-Length: 5\r\n\r\nhello")).await;
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: v\r\n\r\n");
        exchange(&receiver, &chunked).await;
        assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
        for request in receiver.wait_for(2, SOON).await.unwrap() {
            assert_eq!((request.method.as_str(), request.target.as_str()), ("PATCH", "/a%20b?q=%41&x="));
            assert_eq!(request.body, "hello");
            let names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).take(4).collect();
            assert_eq!(names, ["Host", "X-B", "x-a", "X-B"]);
        }
    }

    #[tokio::test]
    async fn a_connection_carries_many_requests() {
        let receiver = Receiver::answering(204).await.unwrap();
        let two = "POST /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert_eq!(exchange(&receiver, two).await.matches("HTTP/1.1 204").count(), 2);
        let connections: Vec<usize> = receiver.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0]);
    }

    #[tokio::test]
    async fn it_answers_as_told() {
        let receiver = Receiver::start().await.unwrap();
        let body = Answer::status(200).header("x-y", "z").body("four");
        let moment = Duration::from_millis(1);
        receiver.answer_in_turn([
            Answer::status(503),
            Answer::redirect(307, "http://h/"),
            Answer::close(),
            body.clone().trickle(moment),
            body.clone().cut(),
            body.after(moment),
        ]);
        for expected in [
            "HTTP/1.1 503 Answer\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 307 Answer\r\ncontent-length: 0\r\nconnection: close\r\nlocation: http://h/\r\n\r\n",
            "",
            "HTTP/1.1 200 Answer\r\ncontent-length: 4\r\nconnection: close\r\nx-y: z\r\n\r\nfour",
            "HTTP/1.1 200 Answer\r\ncontent-length: 4\r\nconnection: close\r\nx-y: z\r\n\r\nfo",
            "HTTP/1.1 200 Answer\r\ncontent-length: 4\r\nconnection: close\r\nx-y: z\r\n\r\nfour",
        ] {
            assert_eq!(exchange(&receiver, "POST / HTTP/1.1\r\nConnection: close\r\n\r\n").await, expected);
        }
    }

    #[tokio::test]
    async fn a_hanging_answer_counts_as_in_flight_until_the_client_goes() {
        let receiver = Receiver::answering(Answer::hang()).await.unwrap();
        let post = b"POST / HTTP/1.1\r\n\r\n";
        let mut patient = TcpStream::connect(receiver.address()).await.unwrap();
        patient.write_all(post).await.unwrap();
        receiver.wait_for(1, SOON).await.unwrap();
        let mut second = TcpStream::connect(receiver.address()).await.unwrap();
        second.write_all(post).await.unwrap();
        let in_flight = receiver.wait_for(2, SOON).await.unwrap()[1].in_flight;
        assert_eq!(in_flight, 2);
        drop((patient, second));
        while receiver.shared.in_flight.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn it_comes_back_on_its_port() {
        let receiver = Receiver::start().await.unwrap();
        let port = receiver.address().port();
        drop(receiver);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        Receiver::start_on(port).await.unwrap();
    }
}
