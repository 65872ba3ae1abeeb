//! When something goes wrong, a webhook's people get mails, one an hour of each kind, and the tenant's own webhooks get
//! events; neither delays a delivery.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use fanfare_local::{Process, Receiver, Sandbox, Service, free_port};
use serde_json::{Value, json};

use crate::{
    fanfare::{Fanfare, PATIENCE, order, requests, story},
    languages::python,
};

/// A mail server that takes every mail.
pub(crate) struct MailServer {
    process: Process,
}

impl MailServer {
    pub(crate) async fn start_on(sandbox: &Sandbox, port: u16) -> Result<Self> {
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("languages/smtp.py")).arg(port.to_string());
        let process = Process::start(sandbox, &format!("smtp-{port}"), &command)?;
        let deadline = Instant::now() + PATIENCE;
        while !process.log_tail(1_000).contains("ready") {
            ensure!(process.ended().is_none() && Instant::now() < deadline, "no mail server: {}", process.log_tail(20));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { process })
    }

    /// The mails so far.
    fn mails(&self) -> Vec<Value> {
        self.process.log_tail(1_000).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn subjects(&self) -> Vec<String> {
        self.mails().iter().map(|mail| mail["headers"]["subject"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) async fn wait_for(&self, count: usize) -> Result<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        while self.mails().len() < count {
            ensure!(Instant::now() < deadline, "{:?} are not {count} mails", self.subjects());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(self.mails())
    }
}

/// A Fanfare that sends its mails to this port.
async fn mailing(port: u16) -> Result<Fanfare> {
    let url = format!("smtp://127.0.0.1:{port}");
    Fanfare::start_with(&[
        ("FANFARE_SMTP__URL", &url),
        ("FANFARE_SMTP__FROM", "Fanfare <fanfare@example.com>"),
        ("FANFARE_CONSOLE__PUBLIC_URL", "https://console.example.com"),
    ])
    .await
}

#[test]
fn each_kind_of_mail_comes_once_an_hour_for_however_many_failures_and_schedulers() {
    story(async {
        let port = free_port()?;
        let mut fanfare = mailing(port).await?;
        let server = MailServer::start_on(&fanfare.sandbox, port).await?;
        let _second = fanfare.another(Service::Scheduler).await?;
        let tenant = fanfare.tenant("acme").await?;
        let (receiver, quiet) = (Receiver::answering(503).await?, Receiver::answering(503).await?);
        let fields = json!({ "retrySchedule": ["300ms", "100ms"], "notifyEmail": "ops@example.com", "name": "Größer" });
        let webhook = tenant.webhook_with(&receiver, "order.paid", &fields).await?;
        tenant.webhook_with(&quiet, "order.paid", &json!({ "retrySchedule": ["100ms"] })).await?;
        let mut events = Vec::new();
        for total in 0..20 {
            events.push(tenant.client.publish(&order("order.paid", total)).await?);
        }
        server.wait_for(2).await?;
        for event in &events {
            tenant.delivery_that_is(event, "failed").await?;
        }
        requests(&receiver, 60).await?;
        // A success, and failures again: within the hour nobody hears of it.
        receiver.answer(200);
        let event = tenant.client.publish(&order("order.paid", 20)).await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        receiver.answer_in_turn([503, 200]);
        let event = tenant.client.publish(&order("order.paid", 21)).await?;
        tenant.delivery_that_is(&event, "delivered").await?;
        receiver.answer(410);
        for total in 22..25 {
            tenant.client.publish(&order("order.paid", total)).await?;
        }
        let mails = server.wait_for(3).await?;
        for mail in &mails {
            assert_eq!(mail["to"], json!(["ops@example.com"]));
            let body = mail["body"].as_str().unwrap_or_default();
            for part in ["acme", webhook.id.as_str(), "Größer", "127.0.0.1", "https://console.example.com/"] {
                assert!(body.contains(part), "`{part}` in {body}");
            }
            assert!(!body.contains("/hook"), "a target's path may hold a secret: {body}");
        }
        fanfare.balance().await?;
        let mut subjects = server.subjects();
        subjects.sort();
        let about = format!("Webhook Größer ({})", webhook.id);
        assert_eq!(
            subjects,
            ["has lost a delivery", "is disabled", "is failing"].map(|what| format!("{about} {what}"))
        );
        Ok(())
    });
}

#[test]
fn a_mail_server_that_is_away_delays_mails_and_no_delivery() {
    story(async {
        let port = free_port()?;
        let mut fanfare = mailing(port).await?;
        let tenant = fanfare.tenant("acme").await?;
        let receiver = Receiver::start().await?;
        receiver.answer_in_turn([503, 503, 503, 200]);
        let fields = json!({ "retrySchedule": ["1s", "1s", "1s"], "notifyEmail": "ops@example.com" });
        tenant.webhook_with(&receiver, "order.paid", &fields).await?;
        for total in 0..3 {
            let event = tenant.client.publish(&order("order.paid", total)).await?;
            tenant.delivery_that_is(&event, "delivered").await?;
        }
        let server = MailServer::start_on(&fanfare.sandbox, port).await?;
        server.wait_for(1).await?;
        fanfare.balance().await?;
        let subjects = server.subjects();
        assert!(subjects.len() == 1 && subjects[0].ends_with("is failing"), "{subjects:?}");
        Ok(())
    });
}

#[test]
fn operational_events_reach_the_tenants_own_webhooks_and_beget_none() {
    story(async {
        let mut fanfare = Fanfare::start().await?;
        let tenant = fanfare.tenant("acme").await?;
        let (bad, told, deaf) =
            (Receiver::answering(503).await?, Receiver::start().await?, Receiver::answering(503).await?);
        let webhook = tenant.webhook_with(&bad, "order.paid", &json!({ "retrySchedule": ["100ms"] })).await?;
        let ours = ["fanfare.delivery.exhausted", "fanfare.webhook.disabled"];
        tenant.webhook_with(&told, "order.sent", &json!({ "triggers": ours })).await?;
        tenant.webhook_with(&deaf, "order.sent", &json!({ "triggers": ours, "retrySchedule": ["100ms"] })).await?;
        let event = tenant.client.publish(&order("order.paid", 1)).await?;
        let exhausted = requests(&told, 1).await?[0].json();
        assert_eq!(exhausted["type"], "fanfare.delivery.exhausted");
        let delivery = format!("{event}_{}", webhook.id);
        assert_eq!(
            exhausted["data"],
            json!({
                "webhook": webhook.id, "delivery": delivery, "event": event, "eventType": "order.paid", "attempts": 2,
                "reason": "exhausted",
            })
        );
        bad.answer(410);
        tenant.client.publish(&order("order.paid", 2)).await?;
        let disabled = requests(&told, 2).await?[1].json();
        assert_eq!(disabled["type"], "fanfare.webhook.disabled");
        let shown = tenant.client.webhook(&webhook.id).await?.fields["disabled"].clone();
        assert_eq!(disabled["data"], json!({ "webhook": webhook.id, "reason": "gone", "at": shown["at"] }));
        // Those to the deaf one are exhausted, too, and nobody hears of that.
        requests(&deaf, 4).await?;
        fanfare.balance().await?;
        assert_eq!((told.count(), deaf.count()), (2, 4));
        Ok(())
    });
}

#[test]
fn a_notice_is_given_whatever_stops_dead_wherever() {
    story(async {
        let port = free_port()?;
        let mut fanfare = mailing(port).await?;
        let server = MailServer::start_on(&fanfare.sandbox, port).await?;
        let tenant = fanfare.tenant("acme").await?;
        let told = Receiver::start().await?;
        tenant.webhook(&told, "fanfare.delivery.exhausted").await?;
        let places = [
            "scheduler.published",
            "notices.queued",
            "notices.consumed",
            "notices.claimed",
            "notices.accepted",
            "notices.published",
            "notices.given",
        ];
        for (number, place) in places.into_iter().enumerate() {
            let bad = Receiver::answering(503).await?;
            let fields = json!({ "retrySchedule": [], "notifyEmail": "ops@example.com", "name": place });
            let webhook = tenant.webhook_with(&bad, "order.paid", &fields).await?;
            fanfare.start_to_stop_dead(Service::Scheduler, place).await?;
            tenant.client.publish(&order("order.paid", 1)).await?;
            fanfare.services.get(Service::Scheduler).process().wait(PATIENCE).await?;
            fanfare.start_mended(Service::Scheduler).await?;
            requests(&told, number + 1).await?;
            server.wait_for(number + 1).await?;
            tenant.client.delete(&format!("/v1/webhooks/{}", webhook.id)).await?;
        }
        fanfare.balance().await?;
        assert_eq!(told.count(), places.len(), "one event each");
        assert_eq!(server.mails().len(), places.len(), "one mail each: {:?}", server.subjects());
        Ok(())
    });
}
