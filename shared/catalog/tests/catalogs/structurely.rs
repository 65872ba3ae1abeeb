//! Structurely's conversation webhooks (design/seed-systems.md, row `structurely`).

use super::*;
use fanfare_catalog::{SecretForm, TriggerRule};
use fanfare_domain::DeliveryPolicy;

const ID: &str = "5c09a4416241ea2c293275b8";

fn created() -> Value {
    json!({ "type": "response:created", "subject": ID, "data": { "response": { "text": "x" } } })
}

fn updated(slots: &Value, stages: &Value) -> Value {
    json!({ "type": "conversation:updated", "subject": ID, "data": { "updates": { "slots": slots, "stages": stages } } })
}

#[test]
fn a_request_is_as_documented() {
    let structurely = catalog("structurely");
    for kind in ["response:created", "conversation:updated"] {
        for (data, rest) in [
            (r#"{"response":{"text":"x"}}"#, r#""response":{"text":"x"}"#),
            (r#"{"updates":{"slots":[],"n":1.50},"more":1}"#, r#""updates":{"slots":[],"n":1.50},"more":1"#),
            // What stands in front is the conversation's, whatever the data has.
            (r#"{"id":"other","a":1,"trigger":"other"}"#, r#""a":1"#),
        ] {
            let event = published(&format!(r#"{{"type":"{kind}","subject":"{ID}","data":{data}}}"#));
            let expected = format!(r#"{{"trigger":"{kind}","id":"{ID}",{rest}}}"#);
            assert_eq!(body(&structurely, &event, PayloadForm::Full), Ok(expected), "{data}");
        }
    }
    assert!(!structurely.has_payload(PayloadForm::Identity));
}

#[test]
fn a_tenant_sees_eight_fields_and_sets_three() {
    let structurely = catalog("structurely");
    assert_eq!(structurely.collection(), "conversationWebhooks");
    assert_eq!(structurely.settable_fields(), ["name", "target", "triggers"]);
    let shown = ["id", "name", "target", "secret", "version", "triggers", "updatedAt", "createdAt"];
    assert_eq!(structurely.shown_fields(), shown);
    assert_eq!(structurely.secret_form(), SecretForm::LettersAndDigits { length: 48 });
    assert_eq!(structurely.secret_header(), Some("x-webhook-secret"));
    assert_eq!(structurely.policy(), &DeliveryPolicy::default());
}

#[test]
fn each_event_type_is_a_trigger_and_nothing_else_is() {
    let structurely = catalog("structurely");
    let names = event_types(&structurely);
    assert_eq!(names, ["response:created", "conversation:updated"]);
    for name in &names {
        assert!(matches!(structurely.trigger_rule(name), Some(TriggerRule::EventType(of)) if of == *name));
    }
    assert!(!structurely.knows_trigger("fallback:suggested"), "the prose names it, nothing defines it");
}

#[test]
fn what_the_document_allows_is_accepted() {
    let structurely = catalog("structurely");
    let set = |value: Value| json!({ "name": "x", "action": "set", "value": value });
    for (slots, stages) in [
        (json!([]), json!([])),
        (json!([set(json!(1)), set(Value::Null), set(json!([])), set(json!({ "a": 1 }))]), json!([])),
        (json!([{ "name": "x", "action": "push", "values": [1, null, "x"] }]), json!([])),
        (
            json!([]),
            json!([
                { "name": "x", "action": "add", "reasons": [] },
                { "name": "x", "action": "remove", "reasons": ["a", "b"], "new": 1 },
            ]),
        ),
    ] {
        assert_eq!(errors(&structurely, &updated(&slots, &stages)), [""; 0], "{slots} {stages}");
    }
    for optional in ["/data/updates/slots", "/data/updates/stages"] {
        assert_eq!(errors(&structurely, &without(&updated(&json!([]), &json!([])), optional)), [""; 0], "{optional}");
    }
    let mut capital = created();
    capital["subject"] = json!(ID.to_uppercase());
    capital["data"]["more"] = json!(1);
    assert_eq!(errors(&structurely, &capital), [""; 0]);
}

#[test]
fn every_rejection_of_the_schemas() {
    let structurely = catalog("structurely");
    let refusals = refusals_by_key(&structurely, &[created(), updated(&json!([]), &json!([]))]);
    // Required are `subject` and `data` of both, `response` with its `text`, and `updates`.
    assert_eq!(refusals, (7, 42), "all rejections by `required` and `type`");
    for subject in ["17", "5c09a4416241ea2c293275b", "5c09a4416241ea2c293275b8a", "xc09a4416241ea2c293275b8"] {
        let mut event = created();
        event["subject"] = json!(subject);
        assert_eq!(errors(&structurely, &event), ["`subject` must match `^[0-9a-fA-F]{24}$`"], "{subject}");
    }
    for (slot, expected) in [
        (json!(1), &["`data.updates.slots[0]` must be of type object"][..]),
        (json!({ "action": "set", "value": 1 }), &["`data.updates.slots[0].name` is required"]),
        (json!({ "name": "x" }), &["`data.updates.slots[0].action` is required"]),
        (json!({ "name": 1, "action": "set", "value": 1 }), &["`data.updates.slots[0].name` must be of type string"]),
        (
            json!({ "name": "x", "action": "drop" }),
            &["`data.updates.slots[0].action` must be one of \"set\", \"push\""],
        ),
        (json!({ "name": "x", "action": "set" }), &["`data.updates.slots[0].value` is required"]),
        (
            json!({ "name": "x", "action": "set", "value": 1, "values": [] }),
            &["`data.updates.slots[0].values` must be absent"],
        ),
        (json!({ "name": "x", "action": "push" }), &["`data.updates.slots[0].values` is required"]),
        (
            json!({ "name": "x", "action": "push", "values": 1 }),
            &["`data.updates.slots[0].values` must be of type array"],
        ),
        (
            json!({ "name": "x", "action": "push", "values": [], "value": 1 }),
            &["`data.updates.slots[0].value` must be absent"],
        ),
    ] {
        assert_eq!(errors(&structurely, &updated(&json!([slot]), &json!([]))), expected, "{slot}");
    }
    for (stage, expected) in [
        (json!(1), "`data.updates.stages[0]` must be of type object"),
        (json!({ "action": "add", "reasons": [] }), "`data.updates.stages[0].name` is required"),
        (json!({ "name": "x", "reasons": [] }), "`data.updates.stages[0].action` is required"),
        (json!({ "name": "x", "action": "add" }), "`data.updates.stages[0].reasons` is required"),
        (json!({ "name": 1, "action": "add", "reasons": [] }), "`data.updates.stages[0].name` must be of type string"),
        (
            json!({ "name": "x", "action": "set", "reasons": [] }),
            "`data.updates.stages[0].action` must be one of \"add\", \"remove\"",
        ),
        (
            json!({ "name": "x", "action": "add", "reasons": 1 }),
            "`data.updates.stages[0].reasons` must be of type array",
        ),
        (
            json!({ "name": "x", "action": "add", "reasons": [1] }),
            "`data.updates.stages[0].reasons[0]` must be of type string",
        ),
    ] {
        assert_eq!(errors(&structurely, &updated(&json!([]), &json!([stage]))), [expected], "{stage}");
    }
}
