//! The built-in catalogs as a platform sees them: an event goes in as its upstream publishes it, a request comes out.

mod apirtc;
mod capturi;
mod ebbot;
mod operational;
mod standard;
mod structurely;
mod tracebuzz;

use std::sync::Arc;

use fanfare_catalog::{Catalog, Catalogs, RenderError};
use fanfare_domain::{
    Event,
    event::{Defaults, Plain, parse_structured},
    webhook::PayloadForm,
};
use serde_json::{Value, json};

/// The moment of acceptance in these tests.
const NOW_MS: u64 = 1_700_000_000_123;

fn catalog(name: &str) -> Arc<Catalog> {
    Catalogs::builtin().get(name).expect("a built-in catalog").clone()
}

/// An event published as plain JSON to the tenant `acme`.
fn published(json: &str) -> Event {
    let plain = Plain { id: "01K3FRESH", source: Some("/tenants/acme") };
    parse_structured(json.as_bytes(), &Defaults { now_ms: NOW_MS, plain: Some(plain) }).expect("an event")
}

/// What Fanfare itself tells tenants, under every catalog.
const OPERATIONAL: [&str; 2] = ["fanfare.webhook.disabled", "fanfare.delivery.exhausted"];

/// A catalog's own event types.
fn event_types(catalog: &Catalog) -> Vec<String> {
    let names: Vec<String> = catalog.event_types().iter().map(|event_type| event_type.name.clone()).collect();
    let (own, operational) = names.split_at(names.len() - OPERATIONAL.len());
    assert_eq!(operational, OPERATIONAL);
    own.to_vec()
}

fn body(catalog: &Catalog, event: &Event, form: PayloadForm) -> Result<String, RenderError> {
    let rendered = catalog.render(event.json.get().as_bytes(), form)?;
    Ok(String::from_utf8(rendered.body).expect("a body in UTF-8"))
}

/// What the catalog has against an event.
fn errors(catalog: &Catalog, event: &Value) -> Vec<String> {
    match catalog.validate(&published(&event.to_string())) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// Every key that a schema knows, with the path of its object, whether it is required, and its schema.
fn keys(schema: &Value, path: &str) -> Vec<(String, bool, Value)> {
    let mut keys = Vec::new();
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key));
        let path = format!("{path}/{key}");
        keys.push((path.clone(), required, inner.clone()));
        keys.extend(self::keys(inner, &path));
    }
    keys
}

/// The event without a key.
fn without(event: &Value, path: &str) -> Value {
    let (parent, key) = path.rsplit_once('/').expect("a JSON pointer");
    let mut event = event.clone();
    event.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(key);
    event
}

/// One value of each of JSON's types.
fn one_of_each() -> [(&'static [&'static str], Value); 7] {
    [
        (&["null"], Value::Null),
        (&["boolean"], json!(true)),
        (&["integer", "number"], json!(1)),
        (&["number"], json!(1.5)),
        (&["string"], json!("2024-02-22T11:20:31Z")),
        (&["array"], json!([])),
        (&["object"], json!({})),
    ]
}

/// Takes each key that the schemas know from whole events, and gives it a value of each wrong type: each is refused by the
/// key's name. Returns how many refusals that made, of missing keys and of wrong types.
fn refusals_by_key(catalog: &Catalog, events: &[Value]) -> (usize, usize) {
    let (mut missing_keys, mut wrong_types) = (0, 0);
    for whole in events {
        let kind = whole["type"].as_str().expect("a type");
        assert_eq!(errors(catalog, whole), [""; 0], "{kind}");
        let schema = catalog.event_type(kind).and_then(|event_type| event_type.schema.clone()).expect("a schema");
        for (path, required, inner) in keys(&schema, "").into_iter().filter(|(path, ..)| whole.pointer(path).is_some())
        {
            let field = path[1..].replace('/', ".");
            let missing = if required { vec![format!("`{field}` is required")] } else { Vec::new() };
            assert_eq!(errors(catalog, &without(whole, &path)), missing, "{kind} without {field}");
            missing_keys += missing.len();

            let is_attribute = !path[1..].contains('/') && field != "data"; // judged before any schema, if not a text
            for (types, value) in
                one_of_each().into_iter().filter(|(types, _)| !is_attribute || types == &["integer", "number"])
            {
                let allowed = match (&inner["type"], &inner["enum"], &inner["const"]) {
                    (Value::Array(allowed), ..) => allowed.iter().any(|kind| types.iter().any(|name| kind == name)),
                    (Value::String(kind), ..) => types.iter().any(|name| kind == name),
                    (_, Value::Array(allowed), _) => allowed.contains(&value),
                    (.., Value::Null) => true,
                    (.., only) => only == &value,
                };
                // What core attributes are no schema has to say.
                if !allowed && field != "subject" {
                    let mut event = whole.clone();
                    *event.pointer_mut(&path).expect("it is there") = value.clone();
                    let errors = errors(catalog, &event);
                    let named = format!("`{field}` must be ");
                    assert!(errors.iter().any(|error| error.starts_with(&named)), "{field}: {value}: {errors:?}");
                    wrong_types += 1;
                }
            }
        }
    }
    (missing_keys, wrong_types)
}

#[test]
fn every_example_becomes_the_body_that_stands_beside_it() {
    let catalogs = Catalogs::builtin();
    assert_eq!(
        catalogs.names().collect::<Vec<_>>(),
        ["apirtc", "capturi", "ebbot", "standard", "structurely", "tracebuzz"]
    );
    for name in catalogs.names() {
        let catalog = catalog(name);
        let mut bodies = 0;
        let own = event_types(&catalog);
        let own = own.iter().filter_map(|name| catalog.event_type(name));
        for example in own.flat_map(|event_type| &event_type.examples) {
            let event = published(&example.event.to_string());
            assert_eq!(catalog.validate(&event), Ok(()), "{name}: {}", event.json);
            for (form, expected) in &example.body {
                assert_eq!(body(&catalog, &event, *form), Ok(expected.to_string()), "{name}: {}", event.json);
                bodies += 1;
            }
        }
        assert!(bodies >= 2, "{name} documents its bodies");
    }
}

#[test]
fn a_digest_finds_the_catalog_it_is_of() {
    let catalogs = Catalogs::builtin();
    for name in catalogs.names() {
        let catalog = catalog(name);
        assert!(catalog.digest().len() == 12 && catalog.digest().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(catalogs.by_digest(catalog.digest()).map(|found| found.name()), Some(name));
        let changed = Catalog::parse(&format!("{}\n# changed", catalog.text())).unwrap();
        assert_ne!(changed.digest(), catalog.digest());
        assert!(catalogs.by_digest(changed.digest()).is_none());
    }
}
