//! What Fanfare itself tells tenants, under every catalog.

use super::*;
use fanfare_catalog::TriggerRule;

const ANY: &str = "format: 1\nname: own\ndescription: d\nanyEventType: true\nrequest: { userAgent: Own/1, body: { full: '{x: .type}', identity: '{y: .type}' } }\n";

fn all() -> Vec<Arc<Catalog>> {
    let builtin = Catalogs::builtin();
    let own = Arc::new(Catalog::parse(ANY).expect("a catalog"));
    builtin.names().map(catalog).chain([own]).collect()
}

#[test]
fn a_webhook_can_subscribe_to_them_under_every_catalog() {
    for catalog in all() {
        for name in OPERATIONAL {
            let rule = catalog.trigger_rule(name);
            assert!(matches!(rule, Some(TriggerRule::EventType(of)) if of == name), "{}: {rule:?}", catalog.name());
            let listed = catalog.triggers().iter().filter(|trigger| trigger.name == name).count();
            assert_eq!(listed, 1, "{}", catalog.name());
        }
        assert!(!catalog.knows_trigger("fanfare.made.up"), "{}", catalog.name());
        for trigger in catalog.triggers() {
            if let Some(TriggerRule::Pattern { types: Some(types), .. }) = catalog.trigger_rule(&trigger.name) {
                assert!(types.iter().all(|kind| !kind.starts_with("fanfare.")), "`{}` covers none", trigger.name);
            }
        }
    }
}

#[test]
fn nobody_else_publishes_them() {
    for catalog in all() {
        for kind in OPERATIONAL.iter().chain(&["fanfare.made.up"]) {
            let wrong = ["`type` types beginning `fanfare.` are reserved"];
            assert_eq!(errors(&catalog, &json!({ "type": kind, "data": {} })), wrong, "{}", catalog.name());
        }
    }
}

#[test]
fn they_are_sent_as_standard_webhooks_whatever_the_catalog_and_the_form() {
    let standard = catalog("standard");
    for catalog in all() {
        for name in OPERATIONAL {
            let [example] = &catalog.event_type(name).unwrap().examples[..] else { panic!("one example of {name}") };
            let event = published(&example.event.to_string());
            for form in [PayloadForm::Full, PayloadForm::Identity] {
                let request = catalog.render(event.json.get().as_bytes(), form).unwrap();
                assert_eq!(String::from_utf8_lossy(&request.body), example.body[&PayloadForm::Full].to_string());
                let mut plain = example.event.clone();
                plain["type"] = json!("order.paid");
                let usual = standard.render(published(&plain.to_string()).json.get().as_bytes(), PayloadForm::Full);
                let usual = usual.unwrap();
                assert_eq!((&request.content_type, &request.headers), (&usual.content_type, &usual.headers));
                assert_eq!(
                    String::from_utf8_lossy(&request.body).replace(name, "order.paid"),
                    String::from_utf8_lossy(&usual.body)
                );
            }
        }
    }
}

#[test]
fn their_data_is_as_their_schema_says() {
    let catalog = catalog("standard");
    for (name, keys) in [
        (OPERATIONAL[0], &["webhook", "reason", "at"][..]),
        (OPERATIONAL[1], &["webhook", "delivery", "event", "eventType", "attempts", "reason"]),
    ] {
        let event_type = catalog.event_type(name).unwrap();
        let schema = event_type.schema.as_ref().unwrap();
        assert_eq!(schema["properties"]["data"]["required"], json!(keys));
        let example = event_type.examples[0].event["data"].as_object().unwrap();
        assert_eq!(example.keys().collect::<Vec<_>>(), keys);
        let validator = jsonschema::validator_for(schema).unwrap();
        assert!(validator.is_valid(&event_type.examples[0].event));
        for key in keys {
            assert!(!validator.is_valid(&without(&event_type.examples[0].event, &format!("/data/{key}"))), "{key}");
        }
    }
}
