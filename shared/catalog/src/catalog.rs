//! One catalog, compiled: what it accepts, what it triggers, how it sends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fanfare_domain::{
    DeliveryPolicy, Event, FieldError, Pattern,
    event::{Defaults, EventError, Plain, is_reserved, parse_structured},
    hex,
    webhook::{PayloadForm, Webhook},
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    format::{CatalogFile, EventTypeFile, HeaderFile, RequestFile, TriggerFile, is_event_name},
    operational,
    render::{HeaderValue, RenderError, Rendered, Request},
    schema,
    template::Input,
};

/// A catalog, compiled.
#[derive(Debug)]
pub struct Catalog {
    name: String,
    description: String,
    digest: String,
    text: String,
    accepts_any: bool,
    event_types: Vec<EventType>,
    triggers: Vec<Trigger>,
    /// Where a name stands in the lists above.
    event_type_at: HashMap<String, usize>,
    trigger_at: HashMap<String, usize>,
    request: Request,
    /// How Fanfare's own events are sent.
    operational: Request,
    policy: DeliveryPolicy,
    secret_form: SecretForm,
    secret_header: Option<String>,
    collection: String,
    shown: Vec<String>,
    settable: Vec<String>,
    max_headers: usize,
    test_on_save: Option<usize>,
}

/// An event type as its upstream publishes it; serializes as `GET /v1/event-types` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventType {
    /// The CloudEvents `type`.
    pub name: String,
    /// What happened.
    pub description: String,
    /// A JSON Schema of the whole event: its attributes and `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Events to publish and what receivers get of them.
    pub examples: Vec<Example>,
    #[serde(skip)]
    pub(crate) validator: Option<Arc<jsonschema::Validator>>,
}

/// An event in plain form (contract.md, Publishing events), and the bodies it becomes.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// The event.
    pub event: Value,
    /// The bodies, by payload form, where the catalog documents them; their key order counts.
    pub body: BTreeMap<PayloadForm, Value>,
}

/// A trigger that webhooks subscribe to; serializes as `GET /v1/triggers` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it triggers.
    pub description: String,
    /// Its pattern as written; none where it is the event type of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Value>,
    /// The triggers without which a webhook may not have this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    #[serde(skip)]
    compiled: Option<Pattern>,
    #[serde(skip)]
    types: Option<Vec<String>>,
}

/// Which events a trigger stands for.
#[derive(Debug, Clone, Copy)]
pub enum TriggerRule<'a> {
    /// Every event of exactly this type.
    EventType(&'a str),
    /// The events that match.
    Pattern {
        /// The pattern, over the whole event in CloudEvents' JSON format.
        pattern: &'a Pattern,
        /// The only event types it can match, for an index by type; `None`: any type may match.
        types: Option<&'a [String]>,
    },
}

/// How a webhook's secret is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretForm {
    /// Standard Webhooks: `whsec_` and so many random bytes in Base64; the bytes are the signing key.
    Whsec {
        /// 24 to 64.
        bytes: usize,
    },
    /// So many random letters and digits; the text's bytes are the signing key.
    LettersAndDigits {
        /// 32 to 64.
        length: usize,
    },
}

/// What is wrong with a catalog's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogError {
    /// The line, from 1, where it can be told.
    pub line: Option<usize>,
    /// The column in that line, from 1, where it can be told.
    pub column: Option<usize>,
    /// The place by its keys, and why.
    pub reason: String,
}

impl std::fmt::Display for CatalogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for CatalogError {}

impl From<serde_yaml_ng::Error> for CatalogError {
    fn from(error: serde_yaml_ng::Error) -> Self {
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned();
        let (line, column) = error.location().map(|location| (location.line(), location.column())).unzip();
        Self { line, column, reason }
    }
}

impl Catalog {
    /// Compiles a catalog and tries its examples.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let file: CatalogFile = serde_yaml_ng::from_str(text)?;
        let wrong_at = |key: &str, value: &str, nth, reason: String| {
            let (line, column) = place_of(text, key, value, nth).unzip();
            CatalogError { line, column, reason }
        };
        let wrong = |name: &str, nth, reason: String| wrong_at("name", name, nth, reason);

        let mut event_types: Vec<EventType> = file.event_types.into_iter().map(event_type).collect();
        let mut triggers = named_triggers(file.triggers, &event_types, file.any_event_type);
        event_types.extend(operational::event_types());
        let event_type_at = index(event_types.iter().map(|event_type| event_type.name.as_str()))
            .map_err(|name| wrong(name, 1, format!("event type `{name}` stands twice")))?;
        index(triggers.iter().map(|trigger| trigger.name.as_str()))
            .map_err(|name| wrong(name, 1, format!("trigger `{name}` stands twice")))?;
        for event_type in &event_types {
            if !triggers.iter().any(|trigger| trigger.name == event_type.name) {
                triggers.push(own_trigger(event_type));
            }
        }
        let trigger_at = index(triggers.iter().map(|trigger| trigger.name.as_str()))
            .map_err(|name| wrong(name, 1, format!("trigger `{name}` stands twice")))?;
        for trigger in &triggers {
            if let Some(missing) = trigger.requires.iter().find(|name| !trigger_at.contains_key(*name)) {
                let reason = format!("trigger `{}` requires `{missing}`, which is no trigger", trigger.name);
                return Err(wrong(&trigger.name, 0, reason));
            }
        }
        let test_on_save = match &file.test_on_save {
            None => None,
            Some(test) => match event_type_at.get(&test.event_type) {
                Some(&at) if !event_types[at].examples.is_empty() => Some(at),
                _ => {
                    let reason = format!("testOnSave: `{}` is no event type with an example", test.event_type);
                    return Err(wrong_at("eventType", &test.event_type, 0, reason));
                }
            },
        };

        let catalog = Self {
            name: file.name,
            description: file.description,
            digest: hex(&Sha256::digest(text)[..6]),
            text: text.to_owned(),
            accepts_any: file.any_event_type,
            event_types,
            triggers,
            event_type_at,
            trigger_at,
            request: request(file.request),
            operational: operational::request(),
            policy: file.policy,
            secret_form: file.secret.form,
            secret_header: file.secret.header,
            collection: file.webhooks.collection,
            shown: file.webhooks.shown,
            settable: file.webhooks.settable,
            max_headers: file.webhooks.max_headers,
            test_on_save,
        };
        for event_type in catalog.event_types.iter().filter(|event_type| !is_reserved(&event_type.name)) {
            for (at, example) in event_type.examples.iter().enumerate() {
                catalog.try_example(event_type, example).map_err(|why| {
                    wrong(&event_type.name, 0, format!("event type `{}`, example {}: {why}", event_type.name, at + 1))
                })?;
            }
        }
        Ok(catalog)
    }

    /// An example is an event of its type, and becomes the bodies that stand beside it.
    fn try_example(&self, event_type: &EventType, example: &Example) -> Result<(), String> {
        let event = example.published()?;
        if event.kind != event_type.name {
            return Err(format!("its `type` is `{}`", event.kind));
        }
        self.validate(&event).map_err(|errors| {
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") // as the publisher would see it
        })?;
        for &form in self.request.body.keys() {
            let rendered = self.render(event.json.get().as_bytes(), form).map_err(|error| error.to_string())?;
            let body = String::from_utf8_lossy(&rendered.body);
            match example.body.get(&form).map(Value::to_string) {
                Some(expected) if expected != body => {
                    let (is, not) = where_they_differ(&body, &expected);
                    return Err(format!("its body in {} goes on `{is}`, not `{not}`", form.as_str()));
                }
                _ => {}
            }
        }
        match example.body.keys().find(|form| !self.has_payload(**form)) {
            Some(form) => Err(format!("the catalog has no body in {}", form.as_str())),
            None => Ok(()),
        }
    }

    /// The request that a receiver gets of an example; the error says why none can be made.
    pub fn render_example(&self, example: &Example, form: PayloadForm) -> Result<Rendered, String> {
        self.render(example.published()?.json.get().as_bytes(), form).map_err(|error| error.to_string())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The first 12 hex digits of the SHA-256 of its text: pins what a delivery's body is made by.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The text it was made of.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its event types, in the catalog's order, and after them Fanfare's own.
    pub fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    /// The event type of this name.
    pub fn event_type(&self, name: &str) -> Option<&EventType> {
        self.event_type_at.get(name).map(|&at| &self.event_types[at])
    }

    /// Events of types it does not list are accepted, too.
    pub fn accepts_any(&self) -> bool {
        self.accepts_any
    }

    /// All triggers it lists: named patterns, then the event types. Fanfare's own events are triggered by their names
    /// alone: no pattern, however wide, stands for them.
    pub fn triggers(&self) -> &[Trigger] {
        &self.triggers
    }

    /// The listed trigger of this name. Where any event type is accepted there are more: [`Self::trigger_rule`].
    pub fn trigger(&self, name: &str) -> Option<&Trigger> {
        self.trigger_at.get(name).map(|&at| &self.triggers[at])
    }

    /// Whether a webhook may subscribe to this.
    pub fn knows_trigger(&self, name: &str) -> bool {
        self.trigger_rule(name).is_some()
    }

    /// Which events a trigger stands for; `None` where the catalog does not know it.
    pub fn trigger_rule<'a>(&'a self, name: &'a str) -> Option<TriggerRule<'a>> {
        match self.trigger(name) {
            Some(trigger) => Some(match &trigger.compiled {
                Some(pattern) => TriggerRule::Pattern { pattern, types: trigger.types.as_deref() },
                None => TriggerRule::EventType(name),
            }),
            None if self.accepts_any && is_event_name(name) && !is_reserved(name) => Some(TriggerRule::EventType(name)),
            None => None,
        }
    }

    /// What the catalog has against a webhook that has the right fields: a trigger that `requires` another without that
    /// one beside it (field `triggers[n]`), more headers than it allows.
    pub fn check(&self, webhook: &Webhook) -> Result<(), Vec<FieldError>> {
        let triggers = &webhook.triggers;
        let required = |name: &String| self.trigger(name).map_or(&[][..], |trigger| trigger.requires.as_slice());
        let mut errors = Vec::new();
        for (at, name) in triggers.iter().enumerate() {
            for missing in required(name).iter().filter(|missing| !triggers.contains(missing)) {
                let why = format!("`{name}` needs the trigger `{missing}` beside it");
                errors.push(FieldError::new(format!("triggers[{at}]"), why));
            }
        }
        if webhook.headers.len() > self.max_headers {
            errors.push(FieldError::new("headers", format!("must be at most {}", self.max_headers)));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Judges an event that somebody publishes: its type must be known and none of Fanfare's own, and it must be as that
    /// type's schema says. A type without a schema costs nothing.
    pub fn validate(&self, event: &Event) -> Result<(), Vec<FieldError>> {
        match self.event_type(&event.kind) {
            _ if is_reserved(&event.kind) => {
                Err(vec![FieldError::new("type", "types beginning `fanfare.` are reserved")])
            }
            Some(EventType { validator: Some(validator), .. }) => schema::validate(validator, event.json.get()),
            Some(_) => Ok(()),
            None if self.accepts_any => Ok(()),
            None => {
                let shown: String = event.kind.chars().take(64).collect();
                let why = format!("no event type `{shown}` in this catalog: `GET /v1/event-types` lists them");
                Err(vec![FieldError::new("type", why)])
            }
        }
    }

    /// How deliveries are tried.
    pub fn policy(&self) -> &DeliveryPolicy {
        &self.policy
    }

    /// What the list of webhooks is called.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The webhook fields that its tenants see, in the documented order.
    pub fn shown_fields(&self) -> &[String] {
        &self.shown
    }

    /// The webhook fields that its tenants set.
    pub fn settable_fields(&self) -> &[String] {
        &self.settable
    }

    /// Whether it has bodies of this form.
    pub fn has_payload(&self, form: PayloadForm) -> bool {
        self.request.body.contains_key(&form)
    }

    /// The header that carries the webhook's secret on every request, where there is one; lower case.
    pub fn secret_header(&self) -> Option<&str> {
        self.secret_header.as_deref()
    }

    /// How a webhook's secret is made.
    pub fn secret_form(&self) -> SecretForm {
        self.secret_form
    }

    /// There where a webhook's target must answer an example of its first trigger for the save to succeed; the event to
    /// send where that trigger has none.
    pub fn test_on_save(&self) -> Option<&Example> {
        self.test_on_save.and_then(|at| self.event_types[at].examples.first())
    }

    /// The request that a receiver gets of an event (its JSON, as made by [`Event`]). Fanfare's own events are sent as
    /// Standard Webhooks whatever the catalog and the form.
    pub fn render(&self, event: &[u8], form: PayloadForm) -> Result<Rendered, RenderError> {
        let event = Input::read(event)?;
        if event.text("type").is_some_and(|kind| is_reserved(&kind)) {
            return self.operational.render(&event, PayloadForm::Full);
        }
        self.request.render(&event, form)
    }
}

impl Example {
    /// The event as it would have been published at the beginning of 2024, where it says no other time.
    fn published(&self) -> Result<Event, String> {
        let plain = Plain { id: "example", source: Some("/example") };
        let defaults = Defaults { now_ms: 1_704_067_200_000, plain: Some(plain) };
        parse_structured(self.event.to_string().as_bytes(), &defaults).map_err(|error| match error {
            EventError::NotJson(why) => format!("no event: {why}"),
            EventError::Invalid(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                format!("no event: {}", errors.join(", "))
            }
        })
    }
}

fn event_type(file: EventTypeFile) -> EventType {
    let (schema, validator) = file.schema.map(|(schema, validator)| (schema, Arc::new(validator))).unzip();
    let examples = file.examples.into_iter().map(|example| Example { event: example.event, body: example.body });
    EventType { name: file.name, description: file.description, schema, examples: examples.collect(), validator }
}

fn own_trigger(event_type: &EventType) -> Trigger {
    Trigger {
        name: event_type.name.clone(),
        description: event_type.description.clone(),
        pattern: None,
        requires: Vec::new(),
        compiled: None,
        types: None,
    }
}

fn named_triggers(files: Vec<TriggerFile>, event_types: &[EventType], any_event_type: bool) -> Vec<Trigger> {
    let names: Vec<&str> = event_types.iter().map(|event_type| event_type.name.as_str()).collect();
    let triggers = files.into_iter().map(|file| {
        let (pattern, compiled) = file.pattern;
        Trigger {
            name: file.name,
            description: file.description,
            types: matched_types(&pattern, if any_event_type { None } else { Some(&names) }),
            pattern: Some(pattern),
            requires: file.requires,
            compiled: Some(compiled),
        }
    });
    triggers.collect()
}

/// The event types that a pattern can match, of those `known`, or of all there could be.
fn matched_types(pattern: &Value, known: Option<&[&str]>) -> Option<Vec<String>> {
    let kinds = pattern.get("type");
    match known {
        Some(known) => {
            // Judged by the pattern's own rules: the part on the type alone, against each type there is.
            let on_type = kinds.and_then(|kinds| Pattern::parse(&json!({ "type": kinds })).ok());
            let can_match = |name: &&&str| on_type.as_ref().is_none_or(|rule| rule.matches(&json!({ "type": name })));
            Some(known.iter().filter(can_match).map(|name| (*name).to_owned()).collect())
        }
        None => kinds?.as_array()?.iter().map(|kind| kind.as_str().map(str::to_owned)).collect(),
    }
}

fn request(file: RequestFile) -> Request {
    let headers = file.headers.into_iter().map(|(name, value)| match value {
        HeaderFile::Constant(text) => (name, HeaderValue::Constant(text)),
        HeaderFile::Program(program) => (name, HeaderValue::Template(program.0)),
    });
    Request {
        content_type: file.content_type,
        user_agent: file.user_agent,
        headers: headers.collect(),
        body: file.body.into_iter().map(|(form, program)| (form, program.0)).collect(),
    }
}

/// How two texts go on from shortly before where they differ, so that long bodies give a short error.
fn where_they_differ(one: &str, other: &str) -> (String, String) {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let shown = |text: &str| text.chars().skip(same.saturating_sub(20)).take(60).collect();
    (shown(one), shown(other))
}

/// Where each name stands; the error is one that stands twice.
fn index<'a>(names: impl Iterator<Item = &'a str>) -> Result<HashMap<String, usize>, &'a str> {
    let mut index = HashMap::new();
    for (at, name) in names.enumerate() {
        if index.insert(name.to_owned(), at).is_some() {
            return Err(name);
        }
    }
    Ok(index)
}

/// Line and column of the `nth` (from 0) place where a value stands behind a key, for what is found only in the whole.
fn place_of(text: &str, key: &str, value: &str, nth: usize) -> Option<(usize, usize)> {
    let forms = ["", "\"", "'"].map(|quote| format!("{key}: {quote}{value}{quote}"));
    let stands_here = |line: &str, form: &String| {
        let (before, after) = line.split_once(form)?;
        let begins = before.chars().next_back().is_none_or(|c| matches!(c, ' ' | '{'));
        let ends = after.chars().next().is_none_or(|c| matches!(c, ' ' | ',' | '}'));
        (begins && ends).then(|| before.chars().count() + key.len() + 3)
    };
    let column = |line| forms.iter().find_map(|form| stands_here(line, form));
    let mut places = text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, column(line)?)));
    places.nth(nth)
}
