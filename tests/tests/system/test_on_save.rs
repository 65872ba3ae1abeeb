//! The test on save: where a catalog asks for it, a webhook is saved only if its target takes an example.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use fanfare_local::{Answer, Answered, Event, Receiver, Recorded, free_port};
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};

use crate::{
    fanfare::{Fanfare, Tenant, broker, requests, story},
    management::with_invented_catalogs,
};

async fn create(tenant: &Tenant, fields: Value) -> Result<Answered> {
    let mut body = json!({ "triggers": ["messageCame"] });
    if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
        body.extend(fields);
    }
    tenant.client.ask("POST", "/v1/webhooks", Some(&body)).await
}

/// A webhook on a receiver that has taken its test, which the receiver then forgets.
async fn created(tenant: &Tenant, receiver: &Receiver) -> Result<(String, Value)> {
    let answer = create(tenant, json!({ "target": receiver.url("/hook") })).await?;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    receiver.take();
    let webhook = answer.json();
    Ok((format!("/v1/webhooks/{}", webhook["id"].as_str().context("an id")?), webhook))
}

/// 422 with what came back, named at the target.
fn refused(answer: &Answered, told: &str) {
    let problem = answer.json();
    assert_eq!((answer.status, &problem["errors"][0]["field"]), (422, &json!("target")), "{problem}");
    let message = problem["errors"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains(told), "`{message}` does not tell `{told}`");
}

async fn stored(tenant: &Tenant) -> Result<Value> {
    Ok(tenant.client.get("/v1/webhooks").await?["_metadata"]["total"].clone())
}

fn case(own: u32) -> Event {
    Event::new("messageCame", json!({ "caseId": 7, "own": own }))
}

#[test]
fn only_a_target_that_takes_an_example_is_saved() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let receiver = Receiver::start().await?;
        for (answer, told) in [
            (Answer::status(204), "status 204"),
            (Answer::status(201), "status 201"),
            (Answer::redirect(302, "http://127.0.0.1/"), "status 302"),
            (Answer::status(410), "status 410"),
            (Answer::status(500), "only 200 saves"),
            (Answer::hang(), "no answer within 2 s"),
            (Answer::close(), "did not answer"),
        ] {
            receiver.answer(answer);
            refused(&create(&tenant, json!({ "target": receiver.url("/hook") })).await?, told);
        }
        let nobody = format!("http://127.0.0.1:{}/", free_port()?);
        refused(&create(&tenant, json!({ "target": nobody })).await?, "did not answer");
        assert_eq!(stored(&tenant).await?, 0, "what is refused is not stored");
        assert_eq!(receiver.take().len(), 7, "a test is made once");

        // What is wrong in itself calls nobody.
        let wrong = create(&tenant, json!({ "target": receiver.url("/hook"), "triggers": ["ownMessage"] })).await?;
        assert_eq!((wrong.status, &wrong.json()["errors"][0]["field"]), (422, &json!("triggers[0]")));
        assert_eq!(receiver.count(), 0);

        receiver.answer(200);
        let fields = json!({
            "target": receiver.url("/hook?a=1&b=%20"), "method": "PUT", "headers": { "X-Auth": "hush" },
            "triggers": ["ownMessage", "messageCame"],
        });
        let answer = create(&tenant, fields).await?;
        assert_eq!(answer.status, 201, "{:?}", answer.json());
        let (webhook, test) = (answer.json(), &requests(&receiver, 1).await?[0]);
        assert_eq!((test.method.as_str(), test.target.as_str()), ("PUT", "/hook?a=1&b=%20"));
        assert_eq!(test.body, r#"{"event":"messageCame","caseId":11111,"own":1}"#, "an example of the first trigger");
        let secret = webhook["secret"].as_str().context("a secret")?;
        assert_eq!(test.header("x-caseline-secret"), Some(secret), "the secret that it is then saved with");
        assert_eq!((test.header("x-auth"), test.header("fanfare-attempt")), (Some("hush"), Some("1")));
        test.verify(secret)?;
        fanfare.balance().await
    });
}

#[test]
fn a_change_that_its_target_refuses_leaves_the_webhook_as_it_was() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let (before, after) = (Receiver::start().await?, Receiver::answering(500).await?);
        let (path, webhook) = created(&tenant, &before).await?;
        let change = json!({
            "target": after.url("/new"), "method": "PATCH", "headers": { "X-New": "1" }, "triggers": ["caseClosed"],
            "name": "new",
        });
        refused(&tenant.client.ask("PATCH", &path, Some(&change)).await?, "status 500");
        let test = &requests(&after, 1).await?[0];
        assert_eq!((test.method.as_str(), test.target.as_str(), test.header("x-new")), ("PATCH", "/new", Some("1")));
        assert_eq!(test.body, r#"{"event":"caseClosed","caseId":7}"#, "what is tested is what would be saved");
        test.verify(webhook["secret"].as_str().context("a secret")?)?;
        assert_eq!(tenant.client.get(&path).await?, webhook);
        tenant.client.publish(&case(0)).await?;
        requests(&before, 1).await?;

        after.answer(200);
        let changed = tenant.client.patch(&path, &change).await?;
        assert_eq!((&changed["name"], &changed["revision"]), (&json!("new"), &json!(2)));
        tenant.client.publish(&Event::new("caseClosed", json!({ "caseId": 1 }))).await?;
        requests(&after, 3).await?;
        fanfare.balance().await?;
        assert_eq!((before.count(), after.count()), (1, 3));
        Ok(())
    });
}

#[test]
fn a_webhook_that_gave_up_is_enabled_by_a_save_that_gets_its_200() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let receiver = Receiver::start().await?;
        let (path, _) = created(&tenant, &receiver).await?;
        let disabled = async |total: usize| {
            receiver.answer(500);
            let failed = tenant.client.publish(&case(0)).await?;
            tenant.delivery_that_is(&failed, "failed").await?;
            requests(&receiver, total).await?;
            wait_for_disabled(&tenant, &path).await
        };
        disabled(2).await?;
        refused(&tenant.client.ask("PATCH", &path, Some(&json!({ "name": "again" }))).await?, "status 500");
        refused(&tenant.client.ask("POST", &format!("{path}/enable"), Some(&json!({}))).await?, "status 500");
        assert_eq!(tenant.client.get(&path).await?["disabled"]["reason"], "exhausted");

        receiver.answer(200);
        let saved = tenant.client.patch(&path, &json!({ "name": "again" })).await?;
        assert_eq!((&saved["disabled"], &saved["name"]), (&Value::Null, &json!("again")));
        let delivered = tenant.client.publish(&case(0)).await?;
        tenant.delivery_that_is(&delivered, "delivered").await?;

        receiver.take();
        disabled(2).await?;
        receiver.answer(200);
        let enabled = tenant.client.post(&format!("{path}/enable"), &json!({})).await?;
        assert_eq!(enabled["disabled"], Value::Null);
        let delivered = tenant.client.publish(&case(0)).await?;
        tenant.delivery_that_is(&delivered, "delivered").await?;
        fanfare.balance().await
    });
}

/// Waits until its last failure has disabled a webhook.
async fn wait_for_disabled(tenant: &Tenant, path: &str) -> Result<()> {
    let waited = tokio::time::timeout(crate::fanfare::PATIENCE, async {
        while tenant.client.get(path).await?["disabled"].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
    waited.await.context("it is not disabled")?
}

#[test]
fn a_webhook_that_is_switched_off_calls_nobody_until_it_is_switched_on() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let receiver = Receiver::start().await?;
        let (path, _) = created(&tenant, &receiver).await?;
        receiver.answer(500);
        tenant.client.patch(&path, &json!({ "active": false })).await?;
        let other = json!({ "target": receiver.url("/other"), "active": false });
        assert_eq!(create(&tenant, other).await?.status, 201);
        assert_eq!(receiver.count(), 0);
        refused(&tenant.client.ask("PATCH", &path, Some(&json!({ "active": true }))).await?, "status 500");
        assert_eq!(tenant.client.get(&path).await?["active"], false);
        receiver.answer(200);
        tenant.client.patch(&path, &json!({ "active": true })).await?;
        assert_eq!(receiver.count(), 2);
        fanfare.balance().await
    });
}

/// A save that waits for its target, once the target has the test.
async fn under_test(
    tenant: &Tenant,
    receiver: &Receiver,
    path: &str,
    if_match: Option<&str>,
) -> Result<tokio::task::JoinHandle<Result<Answered>>> {
    let (tenant, path, if_match) = (tenant.clone(), path.to_owned(), if_match.map(str::to_owned));
    let before = receiver.count();
    let save = tokio::spawn(async move {
        let body = json!({ "name": "tested" });
        match if_match {
            Some(tag) => tenant.client.ask_with("PATCH", &path, &[("if-match", &tag)], Some(&body)).await,
            None => tenant.client.ask("PATCH", &path, Some(&body)).await,
        }
    });
    requests(receiver, before + 1).await?;
    Ok(save)
}

#[test]
fn what_changes_while_its_target_is_tested_is_not_overwritten() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let receiver = Receiver::start().await?;
        let (path, _) = created(&tenant, &receiver).await?;
        receiver.answer(Answer::status(200).after(Duration::from_millis(1_500)));
        for (if_match, expected) in [(None, 409), (Some("\"2\""), 412)] {
            let save = under_test(&tenant, &receiver, &path, if_match).await?;
            // A second save of it does not call the target as well.
            let second = tenant.client.ask("PATCH", &path, Some(&json!({ "name": "second" }))).await?;
            assert_eq!((second.status, second.headers["retry-after"].to_str()?), (409, "1"));
            let ping = tenant.client.ask("POST", &format!("{path}/ping"), None).await?;
            assert_eq!(ping.status, 409);
            // What needs no test goes on.
            tenant.client.post(&format!("{path}/secret/rotate"), &json!({ "graceSeconds": 0 })).await?;
            let rotated = tenant.client.get(&path).await?;
            let saved = save.await??;
            assert_eq!(saved.status, expected, "{:?}", saved.json());
            assert_eq!(tenant.client.get(&path).await?, rotated);
            assert_eq!(rotated["name"], Value::Null, "neither save has come through");
        }
        let save = under_test(&tenant, &receiver, &path, Some("\"3\"")).await?.await??;
        assert_eq!((save.status, &save.json()["revision"]), (200, &json!(4)));
        let stale = tenant.client.ask_with("PATCH", &path, &[("if-match", "\"3\"")], Some(&json!({}))).await?;
        assert_eq!(stale.status, 412);
        assert_eq!(receiver.count(), 3, "a stale save calls nobody");

        let save = under_test(&tenant, &receiver, &path, None).await?;
        tenant.client.delete(&path).await?;
        assert_eq!(save.await??.status, 404, "a webhook that is deleted meanwhile stays so");
        assert_eq!(stored(&tenant).await?, 0);
        fanfare.balance().await
    });
}

#[test]
fn a_tenant_has_few_tests_under_way_at_once() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let (tenant, other) =
            (fanfare.tenant_of("acme", "caseline").await?, fanfare.tenant_of("other", "caseline").await?);
        let (receiver, others) = (Receiver::answering(Answer::hang()).await?, Receiver::start().await?);
        let mut hanging = Vec::new();
        for _ in 0..4 {
            let (tenant, target) = (tenant.clone(), receiver.url("/hook"));
            hanging.push(tokio::spawn(async move { create(&tenant, json!({ "target": target })).await }));
        }
        requests(&receiver, 4).await?;
        let fifth = create(&tenant, json!({ "target": receiver.url("/hook") })).await?;
        assert_eq!((fifth.status, fifth.headers["retry-after"].to_str()?), (429, "1"));
        assert_eq!(create(&other, json!({ "target": others.url("/hook") })).await?.status, 201);
        for save in hanging {
            refused(&save.await??, "no answer within 2 s");
        }
        assert_eq!(receiver.count(), 4);
        receiver.answer(200);
        assert_eq!(create(&tenant, json!({ "target": receiver.url("/hook") })).await?.status, 201);
        fanfare.balance().await
    });
}

#[test]
fn without_a_dispatcher_nothing_is_saved_and_no_late_test_is_made() {
    story(async {
        let mut fanfare = with_invented_catalogs().await?;
        let tenant = fanfare.tenant_of("acme", "caseline").await?;
        let receiver = Receiver::start().await?;
        fanfare.services.dispatcher.kill();
        let target = receiver.url("/hook?token=in-the-target");
        let fields = json!({ "target": target, "headers": { "X-Auth": "in-the-header" } });
        let save = {
            let (tenant, fields) = (tenant.clone(), fields.clone());
            tokio::spawn(async move { create(&tenant, fields).await })
        };
        let question = waiting(&fanfare, "fanfare.probes").await?;
        for secret in ["in-the-target", "in-the-header", "whsec_"] {
            assert!(!question.contains(secret), "the broker sees {secret}");
        }
        let port = receiver.address().port().to_string(); // a number of its own: any five digits may stand in a time
        assert!(!question.split(|byte: char| !byte.is_ascii_digit()).any(|number| number == port), "{question}");
        let answer = save.await??;
        assert_eq!((answer.status, answer.headers["retry-after"].to_str()?), (503, "1"), "{:?}", answer.json());
        assert_eq!(stored(&tenant).await?, 0);

        fanfare.services.dispatcher.start_again().await?;
        let answer = create(&tenant, fields).await?;
        assert_eq!(answer.status, 201, "{:?}", answer.json());
        let dead: Vec<_> = broker().await?.depths(&fanfare.vhost).await?;
        assert!(dead.iter().all(|queue| queue.name != "fanfare.dead" || queue.ready == 0), "{dead:?}");
        fanfare.balance().await?;
        assert_eq!(receiver.count(), 1, "a test that nobody waits for any more is not made");
        Ok(())
    });
}

/// The message that comes to wait in a queue, which stays there.
async fn waiting(fanfare: &Fanfare, queue: &str) -> Result<String> {
    let connection = lapin::Connection::connect(&fanfare.amqp_url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let found = tokio::time::timeout(crate::fanfare::PATIENCE, async {
        loop {
            if let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
                return Ok::<_, anyhow::Error>(format!(
                    "{:?} {}",
                    message.properties,
                    String::from_utf8_lossy(&message.data)
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let found = found.await.context("nothing waits")??;
    connection.close(200, "seen".into()).await?; // unacked: it goes back to its place
    Ok(found)
}

fn bodies(requests: &[Arc<Recorded>]) -> Vec<Value> {
    requests.iter().map(|request| request.json()).collect()
}

#[test]
fn tracebuzz_saves_with_a_200_gives_up_after_ten_retries_and_comes_back_by_a_save() {
    story(async {
        let mut fanfare = Fanfare::start_with(&[("FANFARE_SCHEDULER__SPEED", "100000")]).await?;
        let tenant = fanfare.tenant_of("profile", "tracebuzz").await?;
        let receiver = Receiver::answering(202).await?;
        let body = json!({
            "name": "Messages", "triggers": ["newResult"], "target": receiver.url("/hook"),
            "notifyEmail": "care@example.com", "headers": { "X-Token": "hush" },
        });
        refused(&tenant.client.ask("POST", "/v1/webhooks", Some(&body)).await?, "status 202");
        assert_eq!(stored(&tenant).await?, 0);
        receiver.answer(200);
        let webhook = tenant.client.post("/v1/webhooks", &body).await?;
        let path = format!("/v1/webhooks/{}", webhook["id"].as_str().context("an id")?);
        let tests = receiver.take();
        assert_eq!(tests[1].header("x-token"), Some("hush"));
        tests[1].verify(webhook["secret"].as_str().context("a secret")?)?;
        for test in bodies(&tests) {
            assert_eq!((&test["event"], &test["own"]), (&json!("newResult"), &json!(0)));
        }
        let own = json!({ "triggers": ["includeOwnMessage"] });
        assert_eq!(tenant.client.ask("PATCH", &path, Some(&own)).await?.status, 422, "it needs `newResult`");
        tenant.client.patch(&path, &json!({ "triggers": ["newResult", "includeOwnMessage"] })).await?;
        assert_eq!(receiver.take().len(), 1, "every save that could succeed is tested");

        let message = |own: u32| {
            let ids =
                ["searchId", "uniqueId", "resultId", "personId", "caseId", "handlerId", "sourceId", "connectionId"];
            let mut data: serde_json::Map<String, Value> =
                ids.map(|id| (id.to_owned(), json!(11_111))).into_iter().collect();
            data.extend([("typeId".to_owned(), json!(4)), ("own".to_owned(), json!(own))]);
            Event::new("newResult", Value::Object(data))
        };
        receiver.answer(500);
        let failed = tenant.client.publish(&message(0)).await?;
        tenant.delivery_that_is(&failed, "failed").await?;
        assert_eq!(receiver.take().len(), 11, "the first attempt and ten retries");
        wait_for_disabled(&tenant, &path).await?;
        assert_eq!(tenant.client.get(&path).await?["disabled"]["reason"], "exhausted");

        refused(&tenant.client.ask("PATCH", &path, Some(&json!({ "name": "Again" }))).await?, "status 500");
        assert!(tenant.client.get(&path).await?["disabled"].is_object());
        receiver.answer(200);
        assert_eq!(tenant.client.patch(&path, &json!({ "name": "Again" })).await?["disabled"], Value::Null);
        for own in [0, 1] {
            let event = tenant.client.publish(&message(own)).await?;
            tenant.delivery_that_is(&event, "delivered").await?;
        }
        fanfare.balance().await
    });
}
