//! Capturi's webhooks (design/seed-systems.md, row `capturi`).

use super::*;
use fanfare_catalog::TriggerRule;
use fanfare_domain::DeliveryPolicy;
use serde_json::json;

const UID: &str = "5f0c2a94-8d1e-4b7a-9a57-3f1f2f0d6a21";

/// A conversation with every key that the document knows.
fn conversation() -> Value {
    json!({
        "organizationId": UID, "uid": UID, "userUid": UID, "teamUid": UID, "state": "Processed",
        "externalIdentity": "x", "source": "x", "subject": "x", "customer": "x",
        "dateTime": "2024-02-22T11:20:31Z", "lastChanged": "x", "duration": 1, "labels": ["x"], "status": "x",
        "deleted": false, "qaIsReviewed": false, "qaReviewedByUserUid": "x", "qaReviewedDate": "x",
        "questionnaireAnswers": [{}], "hasAudio": true, "hasConsent": true, "statistics": {}, "trackerHits": [{}],
        "insights": {}, "sentiment": {}, "metadata": {}, "details": {}, "metrics": {}, "ignoredPhrases": [{}],
        "scores": { UID: {} }, "summary": "x", "aiInsights": {},
        "sentimentRaw": { "wordScore": { "user": 0.5, "other": null, "combined": 1 } },
    })
}

fn live_summary() -> Value {
    json!({ "uid": UID, "puzzelSessionUid": "x", "created": "2024-02-22T11:28:39.512Z", "text": "x", "metadata": { "a": "b" } })
}

fn event(kind: &str, data: &Value) -> Value {
    json!({ "type": kind, "subject": UID, "data": data })
}

#[test]
fn a_request_is_as_documented() {
    let capturi = catalog("capturi");
    let guid = "0b9f6c1e-3c57-4a0e-9d6b-6f0a4d3a9c11";
    for (kind, id, named, event_uid) in [
        ("ConversationSummaryUpdated", guid, "ConversationSummaryUpdated", guid),
        ("ConversationProcessed", guid, "ConversationProcessed", guid),
        ("LiveSummaryCreated", guid, "LiveSummaryMessage", guid),
        // An id that is no Guid: uuid.uuid5(uuid.UUID("7c0be1a6-52f2-4c1b-8a53-0f3f9d2b6e54"), "order-1") in Python.
        ("LiveSummaryCreated", "order-1", "LiveSummaryMessage", "f5e24dfd-5ceb-5881-860f-807655540668"),
    ] {
        // Numbers stay as they are written and keys in their order, also those the document does not know.
        let data = r#"{"z":1.50,"uid":"u","a":{"n":12345678901234567890123}}"#;
        let event = published(&format!(r#"{{"type":"{kind}","id":"{id}","subject":"{UID}","data":{data}}}"#));
        let full = format!(r#"{{"eventUid":"{event_uid}","event":"{named}","entity":{data}}}"#);
        let identity = format!(r#"{{"event":"{named}","uid":"{UID}"}}"#);
        assert_eq!(body(&capturi, &event, PayloadForm::Full), Ok(full));
        assert_eq!(body(&capturi, &event, PayloadForm::Identity), Ok(identity));
    }
}

#[test]
fn a_tenant_sees_and_sets_the_documented_fields_in_their_order() {
    let capturi = catalog("capturi");
    let documented = ["name", "description", "triggers", "target", "method", "headers", "payload"];
    assert_eq!(capturi.settable_fields(), documented);
    assert_eq!(capturi.shown_fields()[0], "id");
    assert_eq!(capturi.shown_fields()[1..8], documented);
    assert_eq!(capturi.shown_fields()[8..], ["secret", "disabled", "revision", "createdAt", "updatedAt"]);
    assert_eq!(capturi.policy(), &DeliveryPolicy::default());
}

#[test]
fn each_event_type_is_a_trigger_and_nothing_else_is() {
    let capturi = catalog("capturi");
    let names: Vec<&str> = capturi.triggers().iter().map(|trigger| trigger.name.as_str()).collect();
    let (names, _) = names.split_at(names.len() - OPERATIONAL.len());
    assert_eq!(names, ["ConversationSummaryUpdated", "ConversationProcessed", "LiveSummaryCreated"]);
    for name in names {
        assert!(matches!(capturi.trigger_rule(name), Some(TriggerRule::EventType(of)) if of == *name));
    }
    // Its requests' name of the live summary is none to subscribe to or to publish.
    assert!(!capturi.knows_trigger("LiveSummaryMessage") && !capturi.accepts_any());
    let wrong = "`type` no event type `LiveSummaryMessage` in this catalog: `GET /v1/event-types` lists them";
    assert_eq!(errors(&capturi, &event("LiveSummaryMessage", &live_summary())), [wrong]);
}

#[test]
fn what_the_document_allows_is_accepted() {
    let capturi = catalog("capturi");
    for kind in ["ConversationSummaryUpdated", "ConversationProcessed"] {
        assert!(errors(&capturi, &event(kind, &conversation())).is_empty());
        for (key, value) in [
            ("teamUid", Value::Null),
            ("summary", Value::Null),
            ("qaReviewedByUserUid", Value::Null),
            ("qaReviewedDate", Value::Null),
            ("sentimentRaw", Value::Null),
            ("state", json!(3)),
            ("sentiment", json!("Positive")),
            ("scores", json!({})),
            ("scores", json!({ UID.to_uppercase(): 7.5 })),
            ("labels", json!([])),
            ("duration", json!(412.5)),
            ("somethingNew", json!([1, { "a": null }])),
        ] {
            let mut data = conversation();
            data[key] = value;
            assert_eq!(errors(&capturi, &event(kind, &data)), [""; 0], "{key}");
        }
        for optional in [
            "teamUid",
            "labels",
            "questionnaireAnswers",
            "statistics",
            "trackerHits",
            "insights",
            "sentiment",
            "metadata",
            "details",
            "ignoredPhrases",
            "scores",
            "summary",
            "aiInsights",
        ] {
            let mut data = conversation();
            data.as_object_mut().unwrap().remove(optional);
            assert_eq!(errors(&capturi, &event(kind, &data)), [""; 0], "{optional}");
        }
    }
    assert!(errors(&capturi, &event("LiveSummaryCreated", &live_summary())).is_empty());
}

#[test]
fn every_key_that_is_missing_or_of_a_wrong_type_is_refused_by_name() {
    let capturi = catalog("capturi");
    let events = [event("ConversationProcessed", &conversation()), event("LiveSummaryCreated", &live_summary())];
    // Required are `subject` and `data` of both, 20 keys of a conversation, 4 within `sentimentRaw`, 5 of a live summary.
    assert_eq!(refusals_by_key(&capturi, &events), (33, 248), "all rejections by `required` and `type`");
}

#[test]
fn the_other_rejections_of_the_schemas() {
    let capturi = catalog("capturi");
    let (uuid, date) = ("must be in the format `uuid`", "must be in the format `date-time`");
    for (path, value, expected) in [
        ("/subject", json!("17"), vec![format!("`subject` {uuid}")]),
        ("/data/uid", json!("17"), vec![format!("`data.uid` {uuid}")]),
        ("/data/organizationId", json!(""), vec![format!("`data.organizationId` {uuid}")]),
        ("/data/userUid", json!("5f0c2a948d1e4b7a9a573f1f2f0d6a21"), vec![format!("`data.userUid` {uuid}")]),
        ("/data/teamUid", json!("none"), vec![format!("`data.teamUid` {uuid}")]),
        ("/data/dateTime", json!("22.02.2024"), vec![format!("`data.dateTime` {date}")]),
        ("/data/labels", json!(["a", 1]), vec!["`data.labels[1]` must be of type string".into()]),
        ("/data/trackerHits", json!([{}, 1]), vec!["`data.trackerHits[1]` must be of type object".into()]),
        (
            "/data/questionnaireAnswers",
            json!(["x"]),
            vec!["`data.questionnaireAnswers[0]` must be of type object".into()],
        ),
        ("/data/ignoredPhrases", json!(["x"]), vec!["`data.ignoredPhrases[0]` must be of type object".into()]),
        ("/data/scores", json!({ "first": {} }), vec![format!("`data.scores` has a wrong key: {uuid}")]),
        ("/data/scores", json!({ UID: "x" }), vec![format!("`data.scores.{UID}` must be of type number or object")]),
        ("/data/sentimentRaw", json!({}), vec!["`data.sentimentRaw.wordScore` is required".into()]),
    ] {
        let mut event = event("ConversationSummaryUpdated", &conversation());
        *event.pointer_mut(path).unwrap() = value;
        assert_eq!(errors(&capturi, &event), expected, "{path}");
    }
    for (path, value, expected) in [
        ("/data/uid", json!("17"), format!("`data.uid` {uuid}")),
        ("/data/created", json!("today"), format!("`data.created` {date}")),
        ("/data/metadata", json!({ "a": 1 }), "`data.metadata.a` must be of type string".into()),
        ("/data/metadata", json!({ "a": null }), "`data.metadata.a` must be of type string".into()),
    ] {
        let mut event = event("LiveSummaryCreated", &live_summary());
        *event.pointer_mut(path).unwrap() = value;
        assert_eq!(errors(&capturi, &event), [expected], "{path}");
    }
}
