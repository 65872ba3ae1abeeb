//! A product's webhook gives up, those who should know hear of it, and a save brings it back with all it has missed.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fanfare_local::{Event, Receiver, Recorded, free_port};
use serde_json::{Value, json};

use crate::{
    fanfare::{Fanfare, PATIENCE, requests, story},
    notices::MailServer,
};

/// How much sooner retries come than their document says: three days in a few seconds.
const SPEED: u64 = 36_000;
/// Tracebuzz' document (seed 004): "retry after failure 5 minutes", and so on, each after the failure before it.
const MINUTES: [u64; 10] = [5, 7, 21, 59, 133, 255, 437, 691, 1_029, 1_758];

/// A customer's message with this number.
fn message(number: u32) -> Event {
    let ids = ["searchId", "resultId", "personId", "caseId", "handlerId", "sourceId", "connectionId"];
    let mut data: serde_json::Map<String, Value> = ids.map(|id| (id.to_owned(), json!(1))).into_iter().collect();
    data.extend([("uniqueId", number), ("typeId", 4), ("own", 0)].map(|(name, value)| (name.to_owned(), json!(value))));
    Event::new("newResult", Value::Object(data))
}

/// When a request came, in milliseconds.
fn millis(request: &Recorded) -> Result<u128> {
    Ok(request.at.duration_since(UNIX_EPOCH)?.as_millis())
}

#[test]
fn tracebuzz_waits_as_documented_tells_who_asked_and_brings_what_it_held_once_a_save_gets_its_200() {
    story(async {
        let port = free_port()?;
        let (speed, mails) = (SPEED.to_string(), format!("smtp://127.0.0.1:{port}"));
        let mut fanfare = Fanfare::start_with(&[
            ("FANFARE_SCHEDULER__SPEED", &speed),
            ("FANFARE_SMTP__URL", &mails),
            ("FANFARE_SMTP__FROM", "Fanfare <fanfare@example.com>"),
            // A resume takes half of these: one after the other.
            ("FANFARE_DISPATCHER__MAX_IN_FLIGHT_PER_WEBHOOK", "2"),
        ])
        .await?;
        let server = MailServer::start_on(&fanfare.sandbox, port).await?;
        let profile = fanfare.tenant_of("profile", "tracebuzz").await?;
        let other = fanfare.tenant_of("other", "tracebuzz").await?;
        let (receiver, told, strangers) =
            (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        let fields = json!({ "name": "Messages", "notifyEmail": "care@example.com" });
        let webhook = profile.webhook_with(&receiver, "newResult", &fields).await?;
        let path = format!("/v1/webhooks/{}", webhook.id);
        let ours = ["fanfare.delivery.exhausted", "fanfare.webhook.disabled"];
        let telling = profile.webhook_with(&told, ours[0], &json!({ "triggers": ours })).await?;
        other.webhook_with(&strangers, ours[0], &json!({ "triggers": ours })).await?;
        for tested in [&receiver, &told, &strangers] {
            assert_eq!(tested.take().len(), 1, "the test on save");
        }

        receiver.answer(500);
        let event = profile.client.publish(&message(1)).await?;
        let delivery = format!("{event}_{}", webhook.id);
        profile.delivery_that_is(&event, "failed").await?;
        let attempts = receiver.take();
        let numbers: Vec<_> = attempts.iter().filter_map(|request| request.header("fanfare-attempt")).collect();
        assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
        for (at, minutes) in MINUTES.into_iter().enumerate() {
            let waited = millis(&attempts[at + 1])? - millis(&attempts[at])?;
            let least = Duration::from_secs(minutes * 60).as_millis().div_ceil(u128::from(SPEED));
            assert!(waited >= least, "retry {} came after {waited} ms, {least} ms at the earliest", at + 1);
        }

        // Its own tenant hears of both, as Standard Webhooks, and nobody else.
        let says = async |kind: &str| {
            let request = told.wait_for_one(PATIENCE, |request| request.json()["type"] == kind).await?;
            request.verify(&telling.secret)?;
            Ok::<_, anyhow::Error>(request.json()["data"].clone())
        };
        let exhausted = json!({
            "webhook": webhook.id, "delivery": delivery, "event": event, "eventType": "newResult", "attempts": 11,
            "reason": "exhausted",
        });
        assert_eq!(says("fanfare.delivery.exhausted").await?, exhausted);
        let told_of = says("fanfare.webhook.disabled").await?;
        let disabled = profile.client.webhook(&webhook.id).await?.fields["disabled"].clone();
        assert_eq!(told_of, json!({ "webhook": webhook.id, "reason": "exhausted", "at": disabled["at"] }));
        server.wait_for(3).await?;

        // What comes meanwhile is held; a save that gets no 200 changes nothing of that.
        for number in 2..22 {
            let event = profile.client.publish(&message(number)).await?;
            profile.delivery_that_is(&event, "held").await?;
        }
        let refused = profile.client.ask("PATCH", &path, Some(&json!({ "name": "Again" }))).await?;
        assert_eq!(refused.status, 422);
        assert_eq!(profile.client.webhook(&webhook.id).await?.fields["disabled"], disabled);
        assert_eq!(receiver.take().len(), 1, "the test, and nothing of what is held");

        receiver.answer(200);
        let saved = profile.client.patch(&path, &json!({ "name": "Again" })).await?;
        assert_eq!((&saved["disabled"], &saved["name"]), (&Value::Null, &json!("Again")));
        requests(&receiver, 21).await?;
        let after = profile.client.publish(&message(22)).await?;
        profile.delivery_that_is(&after, "delivered").await?;
        fanfare.balance().await?;
        let came: Vec<Value> = receiver.take().iter().map(|request| request.json()["uniqueId"].clone()).collect();
        let (test, messages) = came.split_first().context("a test")?;
        assert_eq!(*test, 11_111, "the document's example");
        assert_eq!(messages, (2..23).map(|number| json!(number)).collect::<Vec<_>>(), "once each, oldest first");
        assert_eq!((told.count(), strangers.count()), (2, 0));
        let mut subjects = server.subjects();
        subjects.sort();
        let about = format!("Webhook Messages ({})", webhook.id);
        assert_eq!(
            subjects,
            ["has lost a delivery", "is disabled", "is failing"].map(|what| format!("{about} {what}"))
        );
        Ok(())
    });
}
