//! What a catalog's file may say, and what it gets for what it may not.

use serde_json::json;

use super::*;
use crate::{Catalog, TriggerRule};

const GOOD: &str = r#"format: 1
name: shop
description: A shop.
request:
  contentType: application/JSON
  userAgent: Cloud Shop
  headers: { X-Kind: { jq: .type }, x-shop: one }
  body:
    full: |
      {type,
       data}
eventTypes:
  - name: order.paid
    description: Paid.
    schema: { type: object, required: [data], properties: { data: { type: object } } }
    examples:
      - event: { type: order.paid, data: { total: 12 } }
        body: { full: { "type": "order.paid", "data": { "total": 12 } } }
  - name: order.sent
    description: Sent.
triggers:
  - name: orders
    description: All of it.
    pattern: { type: [order.paid, order.sent] }
    requires: [order.paid]
policy: { schedule: [5min, 1h], jitterPercent: 10, success: [200], gone: [], exhaustedDisables: true }
secret: { form: letters-and-digits, length: 48, header: X-Secret }
webhooks: { collection: shopWebhooks, shown: [id, target, triggers], settable: [target, triggers], maxHeaders: 3 }
testOnSave: { eventType: order.paid }
"#;

fn refused(text: &str) -> String {
    match Catalog::parse(text) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("taken: {text}"),
    }
}

#[test]
fn a_catalog_is_what_its_file_says() {
    let catalog = Catalog::parse(GOOD).unwrap();
    assert_eq!((catalog.name(), catalog.collection()), ("shop", "shopWebhooks"));
    assert_eq!(catalog.secret_form(), SecretForm::LettersAndDigits { length: 48 });
    assert_eq!(catalog.secret_header(), Some("x-secret"));
    assert_eq!(catalog.settable_fields(), ["target", "triggers"]);
    assert_eq!(catalog.shown_fields(), ["id", "target", "triggers"]);
    assert_eq!(catalog.test_on_save().map(|example| &example.event["type"]), Some(&Value::from("order.paid")));
    let policy = catalog.policy();
    assert_eq!(policy.schedule, [Span::secs(300), Span::secs(3_600)]);
    assert_eq!((policy.jitter_percent, &policy.success[..], &policy.gone[..]), (10, &[200][..], &[][..]));
    assert!(policy.exhausted_disables && !catalog.accepts_any());
    let request = catalog.render(br#"{"type":"order.paid","data":1.50}"#, PayloadForm::Full).unwrap();
    assert_eq!(request.body, br#"{"type":"order.paid","data":1.50}"#);
    assert_eq!(request.content_type, "application/JSON");
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [header("user-agent", "Cloud Shop"), header("x-kind", "order.paid"), header("x-shop", "one")];
    assert_eq!(request.headers, expected);
}

/// What stands in the file, what shall stand there instead, and the error.
const WRONG: &[(&str, &str, &str)] = &[
    ("format: 1", "format: 2", "line 1: format: this Fanfare knows format 1"),
    ("format: 1\n", "", "line 1: missing field `format`"),
    ("name: shop", "name: Shop", "line 2: name: a catalog's name is 1 to 63 of a-z, 0-9 and -"),
    ("description: A shop.", "describtion: A shop.", "line 3: unknown field `describtion`"),
    ("request:\n", "request: [\n", "line 4: request: invalid type: sequence"),
    ("x-shop: one }", "x-shop: one", "line 8: did not find expected"),
    ("contentType: application/JSON", "contentType: \"a\\nb\"", "line 5: request.contentType: is no header's value"),
    ("x-shop: one", "X-kind: one", "line 7: request.headers: header `x-kind` stands twice"),
    ("x-shop: one", "Host: one", "line 7: request.headers: header `host` may not be set"),
    ("x-shop: one", "Fanfare-X: one", "line 7: request.headers: header `fanfare-x` may not be set"),
    ("x-shop: one", "User-Agent: one", "line 7: request.headers: header `user-agent` may not be set"),
    ("x-shop: one", "x shop: one", "line 7: request.headers: `x shop` is no header's name"),
    (
        "x-shop: one",
        "x-shop: [1]",
        "line 7: request.headers.x-shop: invalid type: sequence, expected a text or `{jq: program}`",
    ),
    ("x-shop: one", "x-shop: { jq: now }", "line 7: request.headers.x-shop.jq: line 1 of the template, at `now`"),
    ("       data}", "       .data}", "line 9: request.body.full: line 2 of the template"),
    (
        "       data}",
        "       data: now}",
        "line 9: request.body.full: line 2 of the template, at `now`: a template has no function `now`",
    ),
    ("    full: |", "    identity: |", "line 9: request.body: a catalog has a body in full"),
    ("    full: |", "    half: |", "line 9: request.body: unknown variant `half`"),
    ("type: object, required", "type: thing, required", "line 15: eventTypes[0].schema: no JSON Schema at `/type`"),
    (
        "name: order.paid\n",
        "name: order paid\n",
        "line 13: eventTypes[0].name: a name is 1 to 255 bytes without blanks",
    ),
    (
        "name: order.paid\n",
        "name: fanfare.paid\n",
        "line 13: eventTypes[0].name: names beginning `fanfare.` are reserved",
    ),
    ("name: order.sent", "name: order.paid", "line 19: event type `order.paid` stands twice"),
    (
        "data: { total: 12 } }\n",
        "data: 12 }\n",
        "line 13: event type `order.paid`, example 1: `data` must be of type object",
    ),
    (
        "event: { type: order.paid,",
        "event: { type: order.sent,",
        "line 13: event type `order.paid`, example 1: its `type` is `order.sent`",
    ),
    (
        "event: { type: order.paid,",
        "event: { typ: order.paid,",
        "line 13: event type `order.paid`, example 1: no event",
    ),
    (
        "\"total\": 12",
        "\"total\": 13",
        "line 13: event type `order.paid`, example 1: its body in full goes on `d\",\"data\":{\"total\":12}}`, not",
    ),
    (
        "body: { full:",
        "body: { identity:",
        "line 13: event type `order.paid`, example 1: the catalog has no body in identity",
    ),
    (
        "type: [order.paid, order.sent] }",
        "type: [{ pre: order }] }",
        "line 24: triggers[0].pattern: no event pattern, at `type[0]",
    ),
    ("type: [order.paid, order.sent] }", "}", "line 24: triggers[0].pattern: no event pattern"),
    ("type: [order.paid, order.sent] }", "type: order }", "line 24: triggers[0].pattern: no event pattern, at `type`"),
    (
        "requires: [order.paid]",
        "requires: [order.lost]",
        "line 22: trigger `orders` requires `order.lost`, which is no trigger",
    ),
    ("    pattern: { type: [order.paid, order.sent] }\n", "", "line 22: triggers[0]: missing field `pattern`"),
    ("schedule: [5min, 1h]", "schedule: [5]", "line 26: policy"),
    ("schedule: [5min, 1h]", "schedule: [8d]", "line 26: policy: a wait is at most 7d"),
    (
        "schedule: [5min, 1h]",
        "schedule: [7d, 7d, 1s]",
        "line 26: policy: a wait is at most 7d, and all are at most 14d",
    ),
    (
        "schedule: [5min, 1h]",
        "schedule: [1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s]",
        "line 26: policy: a schedule is at most 20 waits",
    ),
    ("jitterPercent: 10", "jitterPercent: 101", "line 26: policy: `jitterPercent` is at most 100"),
    ("success: [200]", "success: [20]", "line 26: policy: a status is a number from 100 to 599"),
    ("success: [200]", "succes: [200]", "line 26: policy: unknown field `succes`"),
    ("length: 48", "length: 8", "line 27: secret: `length` is 32 to 64"),
    ("length: 48", "bytes: 48", "line 27: secret: `letters-and-digits` has a `length`, no `bytes`"),
    ("letters-and-digits", "whsec", "line 27: secret: `whsec` has `bytes`, no `length`"),
    ("header: X-Secret", "header: Webhook-Id", "line 27: secret: header `webhook-id` may not be set"),
    ("collection: shopWebhooks", "collection: shop/webhooks", "line 28: webhooks.collection: a collection's name"),
    ("shown: [id,", "shown: [", "line 28: webhooks.shown: tenants need to see `id`"),
    ("shown: [id,", "shown: [id, colour,", "line 28: webhooks.shown: `colour` is none of a webhook's fields here"),
    (
        "settable: [target, triggers]",
        "settable: [target]",
        "line 28: webhooks.settable: tenants need to set `triggers`",
    ),
    ("settable: [target, triggers]", "settable: [target, triggers, id]", "line 28: webhooks.settable: `id` is none of"),
    (
        "settable: [target, triggers]",
        "settable: [target, triggers, target]",
        "line 28: webhooks.settable: `target` stands twice",
    ),
    ("eventType: order.paid }", "eventType: order.sent }", "testOnSave: `order.sent` is no event type with an example"),
    ("maxHeaders: 3", "maxHeaders: 0", "line 28: webhooks.maxHeaders: `maxHeaders` is 1 to 32"),
    ("maxHeaders: 3", "maxHeaders: 33", "line 28: webhooks.maxHeaders: `maxHeaders` is 1 to 32"),
];

#[test]
fn a_wrong_catalog_is_refused_with_its_line_and_why() {
    for (what, instead, expected) in WRONG {
        assert_eq!(GOOD.matches(what).count(), 1, "`{what}` names one place");
        let error = refused(&GOOD.replace(what, instead));
        assert!(error.contains(expected), "`{instead}`:\n  {error}\n  {expected}");
    }
    let twice =
        GOOD.replace("triggers:\n", "triggers:\n  - { name: orders, description: d, pattern: { type: [a] } }\n");
    assert!(refused(&twice).ends_with("trigger `orders` stands twice"), "{}", refused(&twice));
    let event_types = GOOD.split_once("eventTypes:").unwrap().0;
    assert!(Catalog::parse(event_types).is_ok(), "what can be left out");
}

#[test]
fn an_error_has_its_column_where_it_can_be_told() {
    for (what, instead, place) in [
        ("name: shop", "name: Shop", (2, 7)),
        ("name: order.sent", "name: order.paid", (19, 11)),
        ("success: [200]", "succes: [200]", (26, 52)),
    ] {
        let error = Catalog::parse(&GOOD.replace(what, instead)).unwrap_err();
        assert_eq!((error.line, error.column), (Some(place.0), Some(place.1)), "{error}");
    }
}

const SCHEMA: &str = include_str!("../../catalogs/catalog.schema.json");

/// What stands in `WRONG` and no schema can tell: what a template or pattern says, what takes the whole file, what the
/// JSON Schema within means, how texts differ in case only, sums.
const BEYOND_A_SCHEMA: [&str; 15] = [
    "X-kind: one",
    "x-shop: { jq: now }",
    "       .data}",
    "       data: now}",
    "type: thing, required",
    "name: order.paid",
    "data: 12 }\n",
    "event: { type: order.sent,",
    "\"total\": 13",
    "body: { identity:",
    "type: [{ pre: order }] }",
    "requires: [order.lost]",
    "schedule: [8d]",
    "schedule: [7d, 7d, 1s]",
    "eventType: order.sent }",
];

#[test]
fn the_schema_for_editors_says_what_the_parser_says() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema =
        jsonschema::options().with_pattern_options(jsonschema::PatternOptions::regex()).build(&schema).unwrap();
    let judged = |text: &str| {
        let file: Value = serde_yaml_ng::from_str(text).ok()?;
        Some(schema.iter_errors(&file).map(|error| format!("{}: {error}", error.instance_path())).collect::<Vec<_>>())
    };
    for text in [GOOD, TRIGGERS, GOOD.split_once("eventTypes:").unwrap().0] {
        assert_eq!(judged(text), Some(Vec::new()));
    }
    let mut beyond = Vec::new();
    for (what, instead, _) in WRONG {
        // What is no YAML is refused before any schema.
        if judged(&GOOD.replace(what, instead)).is_some_and(|errors| errors.is_empty()) {
            beyond.push(*instead);
        }
    }
    assert_eq!(beyond, BEYOND_A_SCHEMA);
}

#[test]
fn the_schema_for_editors_knows_every_built_in_catalog_and_is_named_in_it() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema =
        jsonschema::options().with_pattern_options(jsonschema::PatternOptions::regex()).build(&schema).unwrap();
    let catalogs = crate::Catalogs::builtin();
    for name in catalogs.names() {
        let text = catalogs.get(name).unwrap().text();
        assert!(text.starts_with("# yaml-language-server: $schema=catalog.schema.json\n"), "{name}");
        let file: Value = serde_yaml_ng::from_str(text).unwrap();
        let errors: Vec<_> =
            schema.iter_errors(&file).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, [""; 0], "{name}");
    }
}

#[test]
fn the_schema_for_editors_refuses_every_reserved_header() {
    let name = serde_json::from_str::<Value>(SCHEMA).unwrap()["$defs"]["headerName"].clone();
    let name = jsonschema::validator_for(&name).unwrap();
    for reserved in webhook::RESERVED_HEADERS.iter().chain(&["content-type", "user-agent", "fanfare-attempt"]) {
        let capitals: String =
            reserved.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
        assert!(!name.is_valid(&json!(reserved)) && !name.is_valid(&json!(capitals)), "{reserved}");
        assert!(name.is_valid(&json!(format!("x-{reserved}"))));
    }
}

#[test]
fn the_schema_for_editors_lists_the_webhooks_fields() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let listed = |key: &str| schema["$defs"]["webhooks"]["properties"][key]["items"]["enum"].clone();
    assert_eq!(listed("shown"), json!(ALL_FIELDS));
    assert_eq!(listed("settable"), json!(webhook::WRITABLE));
}

#[test]
fn a_trigger_is_an_event_type_or_a_pattern() {
    let catalog = Catalog::parse(TRIGGERS).unwrap();
    let types = |name: &str| match catalog.trigger_rule(name) {
        Some(TriggerRule::Pattern { types, .. }) => types.map(<[String]>::to_vec),
        other => panic!("{name}: {other:?}"),
    };
    for (name, expected) in [
        ("messages", &["chat.user.message", "chat.bot.message"][..]),
        ("bot", &["chat.bot.message"]),
        ("own", &["chat.user.message"]),
        ("any", &["chat.user.message", "chat.bot.message", "chat.close"]),
        ("chat.user.message", &["chat.user.message"]),
    ] {
        assert_eq!(
            types(name).as_deref(),
            Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{name}"
        );
    }
    // A pattern may stand for more or less than the event type of its name; the list has each name once. After them come
    // Fanfare's own, as in every catalog.
    let names: Vec<&str> = catalog.triggers().iter().map(|trigger| trigger.name.as_str()).collect();
    let (names, own) = names.split_at(names.len() - 2);
    assert_eq!(own, ["fanfare.webhook.disabled", "fanfare.delivery.exhausted"]);
    assert_eq!(names, ["messages", "bot", "own", "any", "chat.user.message", "chat.bot.message", "chat.close"]);
    assert!(matches!(catalog.trigger_rule("chat.close"), Some(TriggerRule::EventType("chat.close"))));
    let Some(TriggerRule::Pattern { pattern, .. }) = catalog.trigger_rule("chat.user.message") else {
        panic!("a pattern")
    };
    for (own, matches) in [(0, true), (1, false)] {
        assert_eq!(pattern.matches(&json!({ "type": "chat.user.message", "data": { "own": own } })), matches);
    }

    // Where any type may come, a pattern's types can be told only from the names it has.
    let any = Catalog::parse(&format!("anyEventType: true\n{TRIGGERS}")).unwrap();
    for (name, expected) in [("messages", None), ("any", None), ("bot", Some(1)), ("own", Some(1))] {
        let Some(TriggerRule::Pattern { types, .. }) = any.trigger_rule(name) else { panic!("{name}") };
        assert_eq!(types.map(<[String]>::len), expected, "{name}");
    }
}

fn webhook(fields: &Value) -> webhook::Webhook {
    let settable = webhook::WRITABLE.map(str::to_owned);
    let rules = webhook::Rules {
        settable: &settable,
        knows_trigger: &|_| true,
        has_payload: &|_| true,
        secret_header: None,
        targets: &fanfare_domain::TargetRules::default(),
    };
    let mut body = json!({ "target": "https://example.com/", "triggers": ["chat.close"] });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    webhook::Webhook::create("5ceec43ce1b5b412ba9d0e73".parse().unwrap(), body.as_object().unwrap(), 0, &rules).unwrap()
}

fn against(catalog: &Catalog, fields: &Value) -> Vec<String> {
    let errors = catalog.check(&webhook(fields)).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_trigger_needs_what_it_requires() {
    let catalog = Catalog::parse(TRIGGERS).unwrap();
    let missing = |triggers: &[&str]| against(&catalog, &json!({ "triggers": triggers }));
    assert_eq!(
        missing(&["chat.close", "own"]),
        ["`triggers[1]` `own` needs the trigger `chat.user.message` beside it"]
    );
    assert_eq!(missing(&["own", "chat.user.message"]), [""; 0]);
    assert_eq!(missing(&["chat.user.message", "made.up"]), [""; 0]);
}

#[test]
fn a_webhook_has_as_many_headers_as_its_catalog_allows() {
    let headers = |count: usize| json!({ "headers": (0..count).map(|at| (format!("x-{at}"), json!("v"))).collect::<serde_json::Map<_, _>>() });
    let two = Catalog::parse(&format!("webhooks: {{ maxHeaders: 2 }}\n{TRIGGERS}")).unwrap();
    assert_eq!(against(&two, &headers(2)), [""; 0]);
    assert_eq!(against(&two, &headers(3)), ["`headers` must be at most 2"]);
    assert_eq!(against(&Catalog::parse(TRIGGERS).unwrap(), &headers(32)), [""; 0]);
}

const TRIGGERS: &str = r#"
format: 1
name: chat
description: A chat.
request: { body: { full: . } }
eventTypes:
  - { name: chat.user.message, description: d }
  - { name: chat.bot.message, description: d }
  - { name: chat.close, description: d }
triggers:
  - { name: messages, description: d, pattern: { type: [{ wildcard: "chat.*.message" }] } }
  - { name: bot, description: d, pattern: { type: [chat.bot.message] } }
  - name: own
    description: d
    pattern: { type: [chat.user.message], data: { own: [1] } }
    requires: [chat.user.message]
  - { name: any, description: d, pattern: { source: [{ prefix: "/chat" }] } }
  - { name: chat.user.message, description: d, pattern: { type: [chat.user.message], data: { own: [0] } } }
"#;

#[test]
fn the_fields_are_the_domains() {
    let mut ours = ALL_FIELDS.to_vec();
    let mut domains = [&webhook::WRITABLE[..], &webhook::READ_ONLY[..]].concat();
    ours.sort_unstable();
    domains.sort_unstable();
    assert_eq!(ours, domains);
}
