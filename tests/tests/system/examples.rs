//! The receivers of deploy/examples, started as they stand there: what Fanfare sends is taken once, what is forged is refused.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use fanfare_local::{Client, Event, Process, Sandbox, free_port, sign};
use serde_json::json;

use crate::{
    fanfare::{Fanfare, PATIENCE, story},
    languages::python,
};

/// A file of deploy/examples.
fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(file)
}

/// A receiver under way.
struct Running {
    process: Process,
    url: String,
}

impl Running {
    async fn start(sandbox: &Sandbox, mut command: Command, port: u16, secret: &str) -> Result<Self> {
        command.env("PORT", port.to_string()).env("WEBHOOK_SECRET", secret);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let process = Process::start(sandbox, &format!("receiver-{port}"), &command)?;
        let running = Self { process, url: format!("http://127.0.0.1:{port}") };
        running.says(&format!("listening on {port}")).await?;
        Ok(running)
    }

    fn lines(&self) -> Vec<String> {
        self.process.log_tail(1_000).lines().map(str::to_owned).collect()
    }

    /// Waits until it has said this line.
    async fn says(&self, line: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|said| said == line) {
            let goes_on = self.process.ended().is_none() && Instant::now() < deadline;
            ensure!(goes_on, "it never says `{line}`, but: {:?}", self.lines());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The status that a request gets, which somebody signs with this secret at this many seconds from now.
    async fn answers(&self, secret: &str, id: &str, seconds_from_now: i64, signed: &str, body: &str) -> Result<u16> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let at = now.checked_add_signed(seconds_from_now).context("a time")?.to_string();
        let signature = sign(secret, id, &at, signed.as_bytes()).context("a secret")?;
        let headers = [("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
        self.answers_to(&headers, body).await
    }

    async fn answers_to(&self, headers: &[(&str, &str)], body: &str) -> Result<u16> {
        let anybody = Client::new(&self.url, &self.url, "nobody")?;
        Ok(anybody.post_events(headers, body.to_owned()).await?.status)
    }
}

/// What a receiver of the Capturi document's sample project gets, and what somebody else sends it.
async fn takes_what_fanfare_sends_once_and_refuses_the_rest(command: Command) -> Result<()> {
    let mut fanfare = Fanfare::start().await?;
    let tenant = fanfare.tenant_of("acme", "capturi").await?;
    let port = free_port()?;
    let target = format!("http://127.0.0.1:{port}/hook?of=capturi");
    let fields = json!({ "target": target, "triggers": ["ConversationProcessed", "LiveSummaryCreated"] });
    let webhook = tenant.client.create_webhook(&fields).await?;
    let receiver = Running::start(&fanfare.sandbox, command, port, &webhook.secret).await?;

    let path = format!("/v1/webhooks/{}", webhook.id);
    let types = tenant.client.event_types().await?;
    let delivered = async |kind: &str| {
        let documented = types.iter().find(|one| one.name == kind).context("the catalog's")?;
        let event = tenant.client.publish(&Event::from_example(kind, &documented.examples[0])).await?;
        let delivery = tenant.delivery_that_is(&event, "delivered").await?;
        assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(1));
        Ok::<_, anyhow::Error>(())
    };
    delivered("ConversationProcessed").await?;
    for (method, payload) in [("PUT", "identity"), ("PATCH", "full"), ("DELETE", "identity")] {
        tenant.client.patch(&path, &json!({ "method": method, "payload": payload })).await?;
        delivered("LiveSummaryCreated").await?;
    }
    // Both secrets sign for a while: the old one is still enough.
    tenant.client.post(&format!("{path}/secret/rotate"), &json!({ "graceSeconds": 3_600 })).await?;
    delivered("ConversationProcessed").await?;

    let secret = webhook.secret.as_str();
    let body = r#"{"event":"ConversationProcessed","uid":"forged"}"#;
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(receiver.answers(other, "id-1", 0, body, body).await?, 401, "another's secret");
    assert_eq!(receiver.answers(secret, "id-1", 0, "{}", body).await?, 401, "another body");
    for seconds in [-330, 330] {
        assert_eq!(receiver.answers(secret, "id-1", seconds, body, body).await?, 401, "{seconds} s from now");
    }
    for headers in [
        vec![],
        vec![("webhook-id", "id-1"), ("webhook-signature", "v1,")],
        vec![("webhook-id", "id-1"), ("webhook-timestamp", "soon"), ("webhook-signature", "v1,")],
        vec![("webhook-id", "id-1"), ("webhook-timestamp", "9999999999999999999999"), ("webhook-signature", "v1,x")],
    ] {
        assert_eq!(receiver.answers_to(&headers, body).await?, 401, "{headers:?}");
    }
    assert_eq!(receiver.answers_to(&[], &"x".repeat(2 * 1024 * 1024)).await.unwrap_or(413), 413, "or it hangs up");

    // What fails is not remembered, what was taken is.
    for _ in 0..2 {
        assert_eq!(receiver.answers(secret, "id-2", 0, "no json", "no json").await?, 500);
    }
    let body = body.replace("forged", "repeated");
    for seconds in [0, 1, -200] {
        assert_eq!(receiver.answers(secret, "id-2", seconds, &body, &body).await?, 200);
    }
    fanfare.balance().await?;
    let (conversation, summary) = ("5f0c2a94-8d1e-4b7a-9a57-3f1f2f0d6a21", "d4c3b2a1-0f9e-4d8c-b7a6-95847362514f");
    let said: Vec<String> = receiver.lines().into_iter().filter(|line| !line.starts_with("not taken: ")).collect();
    assert_eq!(
        said,
        [
            format!("listening on {port}"),
            format!("full ConversationProcessed {conversation}"),
            format!("identity LiveSummaryMessage {summary}"),
            format!("full LiveSummaryMessage {summary}"),
            format!("identity LiveSummaryMessage {summary}"),
            format!("identity ConversationProcessed {conversation}"),
            "identity ConversationProcessed repeated".to_owned(),
        ]
    );
    Ok(())
}

#[test]
fn the_receiver_in_python_takes_what_fanfare_sends_once_and_refuses_the_rest() {
    story(async {
        let mut command = Command::new(python());
        command.arg(example("python/receiver.py"));
        takes_what_fanfare_sends_once_and_refuses_the_rest(command).await
    });
}

#[test]
fn the_receiver_in_node_takes_what_fanfare_sends_once_and_refuses_the_rest() {
    story(async {
        let mut command = Command::new("node");
        command.arg(example("node/receiver.mjs"));
        takes_what_fanfare_sends_once_and_refuses_the_rest(command).await
    });
}
