//! The default catalog.

use super::*;
use fanfare_catalog::{SecretForm, TriggerRule};
use fanfare_domain::{DeliveryPolicy, webhook};

#[test]
fn an_event_of_any_type_becomes_a_standard_webhooks_body() {
    let standard = catalog("standard");
    for (event, full, identity) in [
        (
            r#"{"type":"made.up","time":"2026-01-15T10:30:00.5+01:00","data":{"z":1.50,"big":12345678901234567890123,"a":[]}}"#,
            r#"{"type":"made.up","timestamp":"2026-01-15T10:30:00.5+01:00","data":{"z":1.50,"big":12345678901234567890123,"a":[]}}"#,
            r#"{"type":"made.up","timestamp":"2026-01-15T10:30:00.5+01:00","id":"01K3FRESH","source":"/tenants/acme","subject":null}"#,
        ),
        (
            r#"{"type":"made.up","id":"7","subject":"s"}"#,
            r#"{"type":"made.up","timestamp":"2023-11-14T22:13:20.123Z","data":null}"#,
            r#"{"type":"made.up","timestamp":"2023-11-14T22:13:20.123Z","id":"7","source":"/tenants/acme","subject":"s"}"#,
        ),
        (
            r#"{"type":"made.up","id":"7","time":"2026-01-01T00:00:00Z","data_base64":"/wA="}"#,
            r#"{"type":"made.up","timestamp":"2026-01-01T00:00:00Z","data_base64":"/wA="}"#,
            r#"{"type":"made.up","timestamp":"2026-01-01T00:00:00Z","id":"7","source":"/tenants/acme","subject":null}"#,
        ),
    ] {
        let event = published(event);
        assert_eq!(standard.validate(&event), Ok(()));
        assert_eq!(body(&standard, &event, PayloadForm::Full).as_deref(), Ok(full));
        assert_eq!(body(&standard, &event, PayloadForm::Identity).as_deref(), Ok(identity));
    }
}

#[test]
fn its_requests_are_fanfares_own() {
    let request = catalog("standard").render(published(r#"{"type":"t"}"#).json.get().as_bytes(), PayloadForm::Full);
    let request = request.unwrap();
    assert_eq!(request.content_type, "application/json");
    assert_eq!(request.headers, [("user-agent".to_owned(), format!("Fanfare/{}", env!("CARGO_PKG_VERSION")))]);
}

#[test]
fn any_type_is_a_trigger_and_a_listed_type_has_no_schema() {
    let standard = catalog("standard");
    assert!(standard.accepts_any());
    let own = event_types(&standard);
    assert!(own.iter().all(|name| standard.event_type(name).is_some_and(|event_type| event_type.schema.is_none())));
    for (name, known) in [
        ("order.paid", true),
        ("anything:at/all", true),
        ("ä", true),
        ("", false),
        ("a b", false),
        ("a\u{a0}b", false),
        ("a\tb", false),
        ("a\u{7f}", false),
        (&"x".repeat(255), true),
        (&"x".repeat(256), false),
    ] {
        assert_eq!(standard.knows_trigger(name), known, "`{name}`");
        if known {
            assert!(matches!(standard.trigger_rule(name), Some(TriggerRule::EventType(of)) if of == name), "`{name}`");
        }
    }
    let Some(TriggerRule::Pattern { pattern, types: None }) = standard.trigger_rule("*") else {
        panic!("`*` is a pattern over all types");
    };
    let event: Value = serde_json::from_str(published(r#"{"type":"made.up"}"#).json.get()).unwrap();
    assert!(pattern.matches(&event));
}

#[test]
fn its_tenants_see_and_set_all_there_is() {
    let standard = catalog("standard");
    assert_eq!(standard.settable_fields(), webhook::WRITABLE);
    assert_eq!(standard.shown_fields().len(), webhook::WRITABLE.len() + webhook::READ_ONLY.len());
    assert_eq!((standard.collection(), standard.secret_header()), ("webhooks", None));
    assert_eq!(standard.secret_form(), SecretForm::Whsec { bytes: 32 });
    assert_eq!(standard.policy(), &DeliveryPolicy::default());
    assert!(standard.test_on_save().is_none());
}
