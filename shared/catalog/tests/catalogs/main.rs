//! The built-in catalogs as a platform sees them: an event goes in as its upstream publishes it, a request comes out.

mod capturi;
mod standard;

use std::sync::Arc;

use fanfare_catalog::{Catalog, Catalogs, RenderError};
use fanfare_domain::{
    Event,
    event::{Defaults, Plain, parse_structured},
    webhook::PayloadForm,
};
use serde_json::Value;

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

#[test]
fn every_example_becomes_the_body_that_stands_beside_it() {
    let catalogs = Catalogs::builtin();
    assert_eq!(catalogs.names().collect::<Vec<_>>(), ["capturi", "standard"]);
    for name in catalogs.names() {
        let catalog = catalog(name);
        let mut bodies = 0;
        for example in catalog.event_types().iter().flat_map(|event_type| &event_type.examples) {
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
