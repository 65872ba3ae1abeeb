//! ApiRTC's webhooks (design/seed-systems.md, row `apirtc`).

use super::*;
use fanfare_catalog::TriggerRule;
use fanfare_domain::DeliveryPolicy;

const OBJECTS: [&str; 5] = ["ticket", "media", "conversation", "smsmessage", "conversationevent"];
const EVENTS: [&str; 3] = ["create", "update", "delete"];

/// An event of an object with every key that the document knows, both with a dot and nested.
fn event(object: &str) -> Value {
    let props = match object {
        "ticket" => {
            json!({ "state": "new", "geoloc.lat": 47.8, "geoloc.lng": -3.8, "geoloc": { "lat": 47.8, "lng": -3.8 } })
        }
        "media" => json!({
            "state": "error", "_parent.name": "ticket", "_parent.id": 1, "_parent": { "name": "ticket", "id": 1 },
        }),
        "conversation" => {
            json!({ "eventType": "conversationEnded", "name": "x", "finishedAt": "2021-08-03T15:05:50+00:00" })
        }
        "conversationevent" => json!({ "eventType": "x", "eventCode": 1, "ticketId": 1, "conversationId": 1 }),
        _ => Value::Null,
    };
    json!({ "type": format!("{object}.update"), "subject": "100", "time": "2019-12-10T11:13:33Z", "data": props })
}

#[test]
fn every_object_has_every_event_and_nothing_else_is_published() {
    let apirtc = catalog("apirtc");
    let expected: Vec<String> =
        OBJECTS.iter().flat_map(|object| EVENTS.map(|event| format!("{object}.{event}"))).collect();
    let types = event_types(&apirtc);
    assert_eq!(types, expected);
    for name in &types {
        assert!(matches!(apirtc.trigger_rule(name), Some(TriggerRule::EventType(of)) if of == *name));
    }
    let wrong = "`type` no event type `ticket.close` in this catalog: `GET /v1/event-types` lists them";
    assert_eq!(errors(&apirtc, &json!({ "type": "ticket.close", "subject": "1" })), [wrong]);
}

#[test]
fn a_request_is_as_documented() {
    let apirtc = catalog("apirtc");
    let request =
        apirtc.render(published(&event("ticket").to_string()).json.get().as_bytes(), PayloadForm::Full).unwrap();
    assert_eq!(request.content_type, "application/JSON");
    assert_eq!(request.headers, [("user-agent".to_owned(), "Cloud Apizee".to_owned())]);
    assert!(!apirtc.has_payload(PayloadForm::Identity));

    for (object, subject, id) in [
        ("ticket", "100", "100"),
        ("ticket", "9223372036854775807", "9223372036854775807"),
        ("ticket", "9223372036854775808", "\"9223372036854775808\""),
        ("media", "a1", "\"a1\""),
        ("smsmessage", "7", "7"),
        ("conversationevent", "7", "7"),
        ("conversation", "7", "\"7\""),
        ("conversation", "734e3a7b-eb17-4d3f-901d-bcff178b", "\"734e3a7b-eb17-4d3f-901d-bcff178b\""),
    ] {
        for event in EVENTS {
            let head = |rest: &str| {
                format!(r#"{{"event":"{event}","time":1575976413,"object":"{object}","objectId":{id}{rest}}}"#)
            };
            let attributes =
                format!(r#""type":"{object}.{event}","subject":"{subject}","time":"2019-12-10T11:13:33.9Z""#);
            for (data, rest) in [
                ("", String::new()),
                (r#","data":null"#, String::new()),
                (r#","data":{"b":1.50,"a":{}}"#, r#","props":{"b":1.50,"a":{}}"#.to_owned()),
                (r#","data":{}"#, r#","props":{}"#.to_owned()),
            ] {
                let event = published(&format!("{{{attributes}{data}}}"));
                assert_eq!(body(&apirtc, &event, PayloadForm::Full), Ok(head(&rest)), "{attributes}{data}");
            }
        }
    }
}

#[test]
fn a_tenant_sets_what_the_panel_has_and_a_name() {
    let apirtc = catalog("apirtc");
    let documented = ["name", "triggers", "target", "headers", "active"];
    assert_eq!(apirtc.settable_fields(), documented);
    assert_eq!(apirtc.shown_fields()[0], "id");
    assert_eq!(apirtc.shown_fields()[1..6], documented);
    assert_eq!(apirtc.shown_fields()[6..], ["secret", "disabled", "revision", "createdAt", "updatedAt"]);
    assert_eq!((apirtc.collection(), apirtc.secret_header()), ("webhooks", None));
    assert_eq!(apirtc.policy(), &DeliveryPolicy::default());
    assert!(apirtc.test_on_save().is_none());
}

#[test]
fn what_the_document_allows_is_accepted() {
    let apirtc = catalog("apirtc");
    for (object, key, values) in [
        (
            "ticket",
            "state",
            &[
                "new",
                "open",
                "opened",
                "invited",
                "inprogress",
                "updated",
                "expired",
                "declined",
                "rejected",
                "done",
                "closed",
            ][..],
        ),
        ("media", "state", &["inprogress", "uncompleted", "completed", "error"]),
        ("media", "_parent.name", &["ticket", "conference", "conversation"]),
        ("conversation", "eventType", &["conversationEnded"]),
    ] {
        for value in values {
            let mut event = event(object);
            event["data"][key] = json!(value);
            assert_eq!(errors(&apirtc, &event), [""; 0], "{object}.{key} {value}");
        }
    }
    for object in OBJECTS {
        assert_eq!(errors(&apirtc, &without(&event(object), "/data")), [""; 0], "{object} without props");
    }
    let mut more = event("conversationevent");
    more["data"]["somethingNew"] = json!([1, { "a": null }]);
    assert_eq!(errors(&apirtc, &more), [""; 0]);
}

#[test]
fn every_rejection_of_the_schemas() {
    let apirtc = catalog("apirtc");
    let refusals = refusals_by_key(&apirtc, &OBJECTS.map(event));
    assert_eq!(refusals, (5, 141), "all rejections by `required`, and by `type` and `enum`");
    let state = "new\", \"open\", \"opened\", \"invited\", \"inprogress\", \"updated\", \"expired\", \"declined\", \"rejected\", \"done\", \"closed\"";
    for (object, path, value, expected) in [
        ("ticket", "/data/state", json!("lost"), format!("`data.state` must be one of \"{state}")),
        (
            "media",
            "/data/_parent.name",
            json!("call"),
            "`data._parent.name` must be one of \"ticket\", \"conference\", \"conversation\"".to_owned(),
        ),
        (
            "conversation",
            "/data/finishedAt",
            json!("today"),
            "`data.finishedAt` must be in the format `date-time`".to_owned(),
        ),
        ("smsmessage", "/data", json!({}), "`data` must be of type null".to_owned()),
    ] {
        let mut event = event(object);
        *event.pointer_mut(path).unwrap() = value;
        assert_eq!(errors(&apirtc, &event), [expected], "{path}");
    }
    for object in OBJECTS {
        let mut binary = without(&event(object), "/data");
        binary["data_base64"] = json!("/wA=");
        assert_eq!(errors(&apirtc, &binary), ["`data_base64` must be absent"], "{object}");
    }
}
