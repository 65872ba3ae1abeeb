//! Tracebuzz' webhooks (design/seed-systems.md, row `tracebuzz`).

use super::*;
use fanfare_catalog::TriggerRule;
use fanfare_domain::{
    Answer, Chance, DisableReason, NextStep, Outcome, next_step, outcome,
    webhook::{Rules, WRITABLE, Webhook},
};

fn message(own: u8) -> Value {
    json!({ "type": "newResult", "data": {
        "searchId": 1, "uniqueId": 1, "resultId": 1, "personId": 1, "caseId": 1, "handlerId": 0, "sourceId": 14,
        "connectionId": 1, "typeId": 4, "own": own,
    } })
}

fn closed() -> Value {
    json!({ "type": "caseClosed", "data": {
        "searchId": 1, "caseId": 1, "externalCaseId": null, "reasonId": 1, "personId": 1, "externalPersonId": false,
        "agentId": 1, "resultId": 1, "connectionId": 1,
    } })
}

fn merged() -> Value {
    json!({ "type": "profileMerged", "data": { "oldPersonId": 1, "newPersonId": 2 } })
}

#[test]
fn a_request_is_as_documented() {
    let tracebuzz = catalog("tracebuzz");
    for (data, expected) in [
        (
            r#"{"z":1.50,"oldPersonId":1}"#,
            r#"{"event":"profileMerged","z":1.50,"oldPersonId":1,"timestamp":1663845416}"#,
        ),
        // The event's own type and time stand there, whatever the data has.
        (r#"{"timestamp":5,"event":"x","a":1}"#, r#"{"event":"profileMerged","timestamp":1663845416,"a":1}"#),
    ] {
        let event = published(&format!(r#"{{"type":"profileMerged","time":"2022-09-22T11:16:56.9Z","data":{data}}}"#));
        assert_eq!(body(&tracebuzz, &event, PayloadForm::Full).as_deref(), Ok(expected));
    }
    assert!(!tracebuzz.has_payload(PayloadForm::Identity));
}

#[test]
fn a_tenant_sees_and_sets_the_documented_fields_in_their_order() {
    let tracebuzz = catalog("tracebuzz");
    let documented = ["name", "triggers", "target", "notifyEmail", "headers"];
    assert_eq!(tracebuzz.settable_fields(), documented);
    assert_eq!(tracebuzz.shown_fields()[0], "id");
    assert_eq!(tracebuzz.shown_fields()[1..6], documented);
    assert_eq!(tracebuzz.shown_fields()[6..], ["secret", "disabled", "revision", "createdAt", "updatedAt"]);
}

/// What is wrong with a webhook of these triggers and this many headers.
fn against(triggers: &[&str], headers: usize) -> Vec<String> {
    let tracebuzz = catalog("tracebuzz");
    let settable = WRITABLE.map(str::to_owned);
    let rules = Rules {
        settable: &settable,
        knows_trigger: &|name| tracebuzz.knows_trigger(name),
        has_payload: &|form| tracebuzz.has_payload(form),
        secret_header: tracebuzz.secret_header(),
        targets: &fanfare_domain::TargetRules::default(),
    };
    let headers: serde_json::Map<_, _> = (0..headers).map(|at| (format!("x-{at}"), json!("v"))).collect();
    let body = json!({ "target": "https://example.com/", "triggers": triggers, "headers": headers });
    let id = "5ceec43ce1b5b412ba9d0e73".parse().expect("an id");
    let webhook = Webhook::create(id, body.as_object().expect("an object"), 0, &rules);
    let errors = webhook.and_then(|webhook| tracebuzz.check(&webhook)).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn own_messages_are_a_trigger_that_needs_the_incoming_ones() {
    let needs = "`includeOwnMessage` needs the trigger `newResult` beside it";
    assert_eq!(against(&["includeOwnMessage"], 0), [format!("`triggers[0]` {needs}")]);
    assert_eq!(against(&["caseClosed", "includeOwnMessage"], 0), [format!("`triggers[1]` {needs}")]);
    for fine in [&["newResult"][..], &["includeOwnMessage", "newResult"], &["caseClosed", "profileMerged"]] {
        assert_eq!(against(fine, 0), [""; 0], "{fine:?}");
    }

    let tracebuzz = catalog("tracebuzz");
    let names: Vec<&str> = tracebuzz.triggers().iter().map(|trigger| trigger.name.as_str()).collect();
    assert_eq!(names[..4], ["newResult", "includeOwnMessage", "caseClosed", "profileMerged"]);
    for (trigger, own) in [("newResult", 0), ("includeOwnMessage", 1)] {
        let Some(TriggerRule::Pattern { pattern, types: Some(types) }) = tracebuzz.trigger_rule(trigger) else {
            panic!("`{trigger}` is a pattern");
        };
        assert_eq!(types, ["newResult"]);
        assert_eq!((pattern.matches(&message(own)), pattern.matches(&message(1 - own))), (true, false), "{trigger}");
    }
}

#[test]
fn a_webhook_has_one_custom_header() {
    assert_eq!(against(&["caseClosed"], 1), [""; 0]);
    assert_eq!(against(&["caseClosed"], 2), ["`headers` must be at most 1"]);
}

#[test]
fn a_save_is_tested() {
    let example = catalog("tracebuzz").test_on_save().map(|example| example.event["type"].clone());
    assert_eq!(example, Some(json!("newResult")));
}

#[test]
fn ten_retries_by_the_documented_timetable_then_the_webhook_is_disabled() {
    let tracebuzz = catalog("tracebuzz");
    let policy = tracebuzz.policy();
    let judged = |status| outcome(&Answer::Response { status, retry_after: None }, policy);
    assert_eq!(judged(200), Outcome::Accepted);
    for status in [201, 202, 204, 301, 404, 410, 500, 503] {
        assert!(matches!(judged(status), Outcome::Failed { .. }), "{status} is no 200 OK");
    }
    for chance in [Chance(0.0), Chance(1.0)] {
        let waits: Vec<u64> = (1..=10)
            .map(|made| match next_step(judged(500), made, policy, chance) {
                NextStep::Retry { after, whole_webhook: None } => after.as_secs(),
                other => panic!("after request {made}: {other:?}"),
            })
            .collect();
        assert_eq!(waits, [5, 7, 21, 59, 133, 255, 437, 691, 1029, 1758].map(|minutes| minutes * 60));
        let end = next_step(judged(500), 11, policy, chance);
        assert_eq!(end, NextStep::GiveUp { disable: Some(DisableReason::Exhausted) });
    }
}

#[test]
fn what_the_document_allows_is_accepted() {
    let tracebuzz = catalog("tracebuzz");
    for kind in 1..=6 {
        let mut event = message(1);
        event["data"]["typeId"] = json!(kind);
        assert_eq!(errors(&tracebuzz, &event), [""; 0], "{kind}");
    }
    for (key, value) in [
        ("externalCaseId", json!(5)),
        ("reasonId", Value::Null),
        ("externalPersonId", json!(5)),
        ("externalPersonId", json!(0)),
        ("somethingNew", json!([{}])),
    ] {
        let mut event = closed();
        event["data"][key] = value.clone();
        assert_eq!(errors(&tracebuzz, &event), [""; 0], "{key}: {value}");
    }
}

#[test]
fn every_rejection_of_the_schemas() {
    let tracebuzz = catalog("tracebuzz");
    let refusals = refusals_by_key(&tracebuzz, &[message(0), closed(), merged()]);
    // Required are `data` of all three, 10 keys of a message, 9 of a closed case, 2 of a merged profile.
    assert_eq!(refusals, (24, 141), "all rejections by `required`, and by `type` and `enum`");
    for (mut event, key, value, expected) in [
        (message(0), "own", json!(2), "`data.own` must be one of 0, 1"),
        (message(0), "typeId", json!(0), "`data.typeId` must be one of 1, 2, 3, 4, 5, 6"),
        (message(0), "typeId", json!(7), "`data.typeId` must be one of 1, 2, 3, 4, 5, 6"),
        (closed(), "externalPersonId", json!(true), "`data.externalPersonId` must be false"),
    ] {
        event["data"][key] = value;
        assert_eq!(errors(&tracebuzz, &event), [expected]);
    }
    let wrong = "`type` no event type `includeOwnMessage` in this catalog: `GET /v1/event-types` lists them";
    assert_eq!(errors(&tracebuzz, &json!({ "type": "includeOwnMessage", "data": {} })), [wrong]);
}
