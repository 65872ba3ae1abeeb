//! Ebbot's outgoing webhooks (design/seed-systems.md, row `ebbot`).

use super::*;
use fanfare_catalog::TriggerRule;
use fanfare_domain::DeliveryPolicy;

const TOPICS: [&str; 11] = [
    "chat.create",
    "chat.update",
    "chat.data.update",
    "chat.user.update",
    "chat.user.message",
    "chat.bot.message",
    "chat.agent.message",
    "chat.system.message",
    "chat.scenario.run",
    "chat.status.change",
    "chat.close",
];

/// A topic's example, as the document has it.
fn example(topic: &str) -> Value {
    let ebbot = catalog("ebbot");
    let event_type = ebbot.event_type(topic).expect("a topic");
    assert_eq!(event_type.examples.len(), 1, "{topic}");
    event_type.examples[0].event.clone()
}

#[test]
fn a_request_is_as_documented() {
    let ebbot = catalog("ebbot");
    for (attributes, data, expected) in [
        (
            r#""id":"e","requestid":"r""#,
            r#"{"data":{"n":1.50},"context":{}}"#,
            r#""data":{"n":1.50},"context":{},"requestId":"r","timestamp":1672531200500}"#,
        ),
        // Without a request's id it is the event's own.
        (
            r#""id":"e""#,
            r#"{"chat":{},"context":{},"more":1}"#,
            r#""chat":{},"context":{},"more":1,"requestId":"e","timestamp":1672531200500}"#,
        ),
        // The envelope is the event's, whatever the data has.
        (
            r#""id":"e""#,
            r#"{"topic":"x","data":{},"requestId":"x","context":{},"botId":"x"}"#,
            r#""data":{},"requestId":"e","context":{},"timestamp":1672531200500}"#,
        ),
    ] {
        let event = published(&format!(
            r#"{{"type":"chat.close","botid":"b",{attributes},"time":"2023-01-01T00:00:00.5Z","data":{data}}}"#
        ));
        let expected = format!(r#"{{"topic":"chat.close","botId":"b",{expected}"#);
        assert_eq!(body(&ebbot, &event, PayloadForm::Full), Ok(expected), "{data}");
    }
    assert!(!ebbot.has_payload(PayloadForm::Identity));
}

#[test]
fn a_tenant_sets_topics_and_target_a_name_and_the_switch() {
    let ebbot = catalog("ebbot");
    assert_eq!(ebbot.settable_fields(), ["name", "triggers", "target", "active"]);
    let shown =
        ["id", "name", "triggers", "target", "active", "secret", "disabled", "revision", "createdAt", "updatedAt"];
    assert_eq!(ebbot.shown_fields(), shown);
    assert_eq!(ebbot.policy(), &DeliveryPolicy::default());
}

#[test]
fn eleven_topics_are_published_and_twelve_are_triggers() {
    let ebbot = catalog("ebbot");
    assert_eq!(event_types(&ebbot), TOPICS);
    assert!(TOPICS.iter().chain(&["chat.message"]).all(|name| ebbot.knows_trigger(name)));
    let wrong = "`type` no event type `chat.message` in this catalog: `GET /v1/event-types` lists them";
    assert_eq!(errors(&ebbot, &json!({ "type": "chat.message" })), [wrong]);

    let covered = |trigger: &str| match ebbot.trigger_rule(trigger) {
        Some(TriggerRule::Pattern { types: Some(types), pattern }) => {
            assert!(types.iter().all(|kind| pattern.matches(&json!({ "type": kind }))), "{trigger}");
            types.to_vec()
        }
        Some(TriggerRule::EventType(kind)) => vec![kind.to_owned()],
        other => panic!("{trigger}: {other:?}"),
    };
    let messages = ["chat.user.message", "chat.bot.message", "chat.agent.message", "chat.system.message"];
    assert_eq!(covered("chat.message"), messages);
    assert_eq!(covered("chat.update"), ["chat.update", "chat.status.change"]);
    for topic in TOPICS.into_iter().filter(|topic| *topic != "chat.update") {
        assert_eq!(covered(topic), [topic]);
    }
}

#[test]
fn what_the_document_shows_is_accepted_and_more_with_it() {
    let ebbot = catalog("ebbot");
    for topic in TOPICS {
        let whole = example(topic);
        assert_eq!(errors(&ebbot, &whole), [""; 0], "{topic}");
        assert_eq!(errors(&ebbot, &without(&whole, "/requestid")), [""; 0], "{topic}");
        for key in ["data", "chat"] {
            let mut event = whole.clone();
            event["data"] = json!({ key: { "new": [1] }, "context": { "new": 1 }, "new": null });
            assert_eq!(errors(&ebbot, &event), [""; 0], "{topic} with `{key}`");
        }
    }
}

#[test]
fn every_rejection_of_the_schemas() {
    let ebbot = catalog("ebbot");
    // Of each topic both `chat` and its own `data`, so that every key is there to be wrong.
    let chat = example("chat.update")["data"]["chat"].clone();
    let whole = TOPICS.map(|topic| {
        let mut event = example(topic);
        event["data"]["chat"] = chat.clone();
        if event["data"].get("data").is_none() {
            event["data"]["data"] = json!({});
        }
        event
    });
    // Required are `botid`, `data` and `context`, of each topic.
    assert_eq!(refusals_by_key(&ebbot, &whole), (33, 1651), "all rejections by `required`, and by `type` and `const`");
    for topic in TOPICS {
        let mut neither = example(topic);
        neither["data"] = json!({ "context": {} });
        assert_eq!(errors(&ebbot, &neither), ["`data.data` is required"], "{topic}");
    }
    for (topic, sender) in [
        ("chat.user.message", "user"),
        ("chat.bot.message", "bot"),
        ("chat.agent.message", "agent"),
        ("chat.system.message", "system"),
    ] {
        let mut event = example(topic);
        event["data"]["data"]["sender"] = json!("nobody");
        assert_eq!(errors(&ebbot, &event), [format!("`data.data.sender` must be \"{sender}\"")], "{topic}");
    }
    for (topic, path, value, expected) in [
        (
            "chat.scenario.run",
            "/data/data/scenario/states",
            json!(1.5),
            "`data.data.scenario.states` must be of type integer",
        ),
        ("chat.close", "/data/data/conversation/0", json!(1), "`data.data.conversation[0]` must be of type object"),
        (
            "chat.close",
            "/data/data/conversation/0/id",
            json!(1),
            "`data.data.conversation[0].id` must be of type string",
        ),
        (
            "chat.close",
            "/data/data/conversation/1/sender",
            json!(1),
            "`data.data.conversation[1].sender` must be of type string",
        ),
        (
            "chat.close",
            "/data/data/conversation/0/type",
            json!(1),
            "`data.data.conversation[0].type` must be of type string",
        ),
        (
            "chat.close",
            "/data/data/conversation/0/timestamp",
            json!(1),
            "`data.data.conversation[0].timestamp` must be of type string",
        ),
    ] {
        let mut event = example(topic);
        *event.pointer_mut(path).unwrap() = value;
        assert_eq!(errors(&ebbot, &event), [expected], "{path}");
    }
}
