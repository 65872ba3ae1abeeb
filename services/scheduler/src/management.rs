//! Bytes in queues, which AMQP does not tell: asked of the broker's management API.

use std::time::Duration;

use anyhow::{Context, ensure};
use fanfare_bus::ManagementSettings;
use reqwest::{Client, redirect};
use serde_json::Value;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read: it is to hold one number.
const ANSWER_BYTES: usize = 4_096;
/// What a queue's `x-max-length-bytes` bounds. Absent from an answer until the broker has counted, some seconds after its start.
const READY_BYTES: &str = "message_bytes_ready";

/// The management API.
pub(crate) struct Management {
    client: Client,
    settings: ManagementSettings,
}

impl Management {
    pub(crate) fn new(settings: ManagementSettings) -> anyhow::Result<Self> {
        // The password goes to whom the setting names, and to nobody else.
        let client = Client::builder().redirect(redirect::Policy::none()).no_proxy().timeout(ANSWER_WITHIN).build()?;
        Ok(Self { client, settings })
    }

    /// Bytes ready in a queue; `None` where the broker does not say yet. It counts every few seconds.
    pub(crate) async fn ready_bytes(&self, queue: &str) -> anyhow::Result<Option<u64>> {
        let url = self.settings.queue(queue, READY_BYTES);
        let asked = self.client.get(url).basic_auth(&self.settings.username, Some(&self.settings.password));
        let mut answer = asked.send().await.context("asking the broker's management API")?;
        ensure!(answer.status().is_success(), "the broker's management API answers {}", answer.status());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.context("reading the broker's management API")? {
            body.extend_from_slice(&chunk);
            ensure!(body.len() <= ANSWER_BYTES, "the broker's management API answers too much");
        }
        let answer: Value = serde_json::from_slice(&body).context("the broker's management API answers no JSON")?;
        Ok(answer[READY_BYTES].as_u64())
    }
}
