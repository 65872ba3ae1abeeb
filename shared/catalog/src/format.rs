//! A catalog's file: YAML, as written by a person, checked on the way in.
//!
//! What can be judged where it stands is judged while it is read: the error then has its line. What takes the whole
//! catalog is judged in `catalog.rs`.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use fanfare_domain::{DeliveryPolicy, Pattern, Span, event::is_reserved, webhook, webhook::PayloadForm};
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor, value},
};
use serde_json::Value;

use crate::{SecretForm, render::is_header_value, schema, template::Template};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CatalogFile {
    /// The version of this format; there is one so far. What an older Fanfare would refuse by name, a key that may be left
    /// out, joins a version; the number rises when what could be written before means something else.
    #[serde(deserialize_with = "format_version")]
    #[expect(dead_code, reason = "it is there to be checked")]
    pub(crate) format: u64,
    #[serde(deserialize_with = "catalog_name")]
    pub(crate) name: String,
    pub(crate) description: String,
    /// Events of types that are not listed are accepted, too.
    #[serde(default)]
    pub(crate) any_event_type: bool,
    #[serde(default)]
    pub(crate) event_types: Vec<EventTypeFile>,
    /// Named patterns; every event type is a trigger of its own name, unless a pattern has that name.
    #[serde(default)]
    pub(crate) triggers: Vec<TriggerFile>,
    pub(crate) request: RequestFile,
    #[serde(default, deserialize_with = "policy")]
    pub(crate) policy: DeliveryPolicy,
    #[serde(default)]
    pub(crate) secret: SecretFile,
    #[serde(default)]
    pub(crate) webhooks: WebhooksFile,
    /// Saving a webhook sends an example of its first trigger, or where there is none this type's first, and what is no
    /// success refuses the save.
    pub(crate) test_on_save: Option<TestOnSaveFile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EventTypeFile {
    #[serde(deserialize_with = "event_name")]
    pub(crate) name: String,
    pub(crate) description: String,
    /// A JSON Schema of the whole event, attributes and `data`, in CloudEvents' JSON format.
    #[serde(default, deserialize_with = "schema")]
    pub(crate) schema: Option<(Value, jsonschema::Validator)>,
    #[serde(default)]
    pub(crate) examples: Vec<ExampleFile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExampleFile {
    /// An event as it can be published in plain form.
    pub(crate) event: Value,
    /// The bodies it becomes, key by key in this order.
    #[serde(default)]
    pub(crate) body: BTreeMap<PayloadForm, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TriggerFile {
    #[serde(deserialize_with = "event_name")]
    pub(crate) name: String,
    pub(crate) description: String,
    #[serde(deserialize_with = "pattern")]
    pub(crate) pattern: (Value, Pattern),
    /// The triggers that a webhook must have beside this one.
    #[serde(default)]
    pub(crate) requires: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestFile {
    #[serde(default = "json_content_type", deserialize_with = "header_value")]
    pub(crate) content_type: String,
    #[serde(default = "our_user_agent", deserialize_with = "header_value")]
    pub(crate) user_agent: String,
    /// Name to a constant text, or `{jq: program}`.
    #[serde(default, deserialize_with = "headers")]
    pub(crate) headers: Vec<(String, HeaderFile)>,
    /// A jq program for each payload form that webhooks can choose.
    #[serde(deserialize_with = "bodies")]
    pub(crate) body: BTreeMap<PayloadForm, ProgramFile>,
}

#[derive(Debug)]
pub(crate) enum HeaderFile {
    Constant(String),
    Program(ProgramFile),
}

impl<'de> Deserialize<'de> for HeaderFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            jq: ProgramFile,
        }
        struct TextOrProgram;
        impl<'de> Visitor<'de> for TextOrProgram {
            type Value = HeaderFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or `{jq: program}`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HeaderFile, E> {
                Ok(HeaderFile::Constant(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderFile, A::Error> {
                let raw = Raw::deserialize(value::MapAccessDeserializer::new(map))?;
                Ok(HeaderFile::Program(raw.jq))
            }
        }
        from.deserialize_any(TextOrProgram)
    }
}

/// A jq program, compiled where it stands.
#[derive(Debug)]
pub(crate) struct ProgramFile(pub(crate) Template);

impl<'de> Deserialize<'de> for ProgramFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        checked(from, |text: String| Template::compile(&text).map(Self))
    }
}

#[derive(Debug)]
pub(crate) struct SecretFile {
    pub(crate) form: SecretForm,
    pub(crate) header: Option<String>,
}

impl Default for SecretFile {
    fn default() -> Self {
        Self { form: SecretForm::Whsec { bytes: 32 }, header: None }
    }
}

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            form: Form,
            bytes: Option<usize>,
            length: Option<usize>,
            header: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Form {
            Whsec,
            LettersAndDigits,
        }
        checked(from, |raw: Raw| {
            let form = match (raw.form, raw.bytes, raw.length) {
                (Form::Whsec, bytes, None) => SecretForm::Whsec { bytes: within(bytes, 32, 24, "bytes")? },
                (Form::LettersAndDigits, None, length) => {
                    SecretForm::LettersAndDigits { length: within(length, 48, 32, "length")? }
                }
                (Form::Whsec, ..) => return Err("`whsec` has `bytes`, no `length`".into()),
                (Form::LettersAndDigits, ..) => return Err("`letters-and-digits` has a `length`, no `bytes`".into()),
            };
            let header = raw.header.map(|name| header_name(&name)).transpose()?;
            Ok(Self { form, header })
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct WebhooksFile {
    /// What the list is called, also as `/v1/<that name>`.
    #[serde(deserialize_with = "collection")]
    pub(crate) collection: String,
    /// The fields that tenants see, in their order.
    #[serde(deserialize_with = "shown")]
    pub(crate) shown: Vec<String>,
    /// The fields that tenants set.
    #[serde(deserialize_with = "settable")]
    pub(crate) settable: Vec<String>,
    /// How many headers of its own a webhook may have.
    #[serde(deserialize_with = "max_headers")]
    pub(crate) max_headers: usize,
}

/// A webhook's fields in the contract's order (contract.md, Management API).
pub(crate) const ALL_FIELDS: [&str; 20] = [
    "id",
    "name",
    "description",
    "target",
    "method",
    "headers",
    "triggers",
    "filter",
    "payload",
    "active",
    "secret",
    "version",
    "notifyEmail",
    "retrySchedule",
    "rateLimit",
    "maxInFlight",
    "disabled",
    "revision",
    "createdAt",
    "updatedAt",
];

impl Default for WebhooksFile {
    fn default() -> Self {
        let settable = ALL_FIELDS.iter().filter(|field| webhook::WRITABLE.contains(field));
        Self {
            collection: "webhooks".into(),
            shown: ALL_FIELDS.map(str::to_owned).to_vec(),
            settable: settable.map(|&field| field.to_owned()).collect(),
            max_headers: webhook::MAX_HEADERS,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TestOnSaveFile {
    pub(crate) event_type: String,
}

// The checks, each in the place of one field.

fn format_version<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    checked(from, |version| if version == 1 { Ok(version) } else { Err("this Fanfare knows format 1".into()) })
}

fn catalog_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, |name: String| {
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(name) } else { Err("a catalog's name is 1 to 63 of a-z, 0-9 and -".into()) }
    })
}

fn event_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, |name: String| {
        if !is_event_name(&name) {
            Err("a name is 1 to 255 bytes without blanks and control characters".into())
        } else if is_reserved(&name) {
            Err("names beginning `fanfare.` are reserved".into())
        } else {
            Ok(name)
        }
    })
}

/// What can be an event's type, and a trigger's name.
pub(crate) fn is_event_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn schema<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(Value, jsonschema::Validator)>, D::Error> {
    checked(from, |schema: Value| schema::compile(&schema).map(|validator| Some((schema, validator))))
}

fn pattern<'de, D: Deserializer<'de>>(from: D) -> Result<(Value, Pattern), D::Error> {
    checked(from, |pattern: Value| match Pattern::parse(&pattern) {
        Ok(compiled) => Ok((pattern, compiled)),
        Err(errors) => Err(errors.first().map_or("no event pattern".into(), |error| {
            format!("no event pattern, at `{}`: {}", error.path, error.message)
        })),
    })
}

fn policy<'de, D: Deserializer<'de>>(from: D) -> Result<DeliveryPolicy, D::Error> {
    checked(from, |policy: DeliveryPolicy| {
        // The bounds of a webhook's own schedule (contract.md, Management API).
        let longest = Span::secs(7 * 86_400);
        let total: std::time::Duration = policy.schedule.iter().map(|span| span.0).sum();
        if policy.schedule.len() > 20 {
            Err("a schedule is at most 20 waits".into())
        } else if policy.schedule.iter().any(|span| *span > longest) || total > 2 * longest.0 {
            Err("a wait is at most 7d, and all are at most 14d".into())
        } else if policy.jitter_percent > 100 {
            Err("`jitterPercent` is at most 100".into())
        } else if policy.success.iter().chain(&policy.gone).any(|status| !(100..600).contains(status)) {
            Err("a status is a number from 100 to 599".into())
        } else {
            Ok(policy)
        }
    })
}

fn header_value<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, |text: String| {
        if is_header_value(&text) { Ok(text) } else { Err("is no header's value: visible ASCII and blanks".into()) }
    })
}

/// A header's name in lower case.
fn header_name(name: &str) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte); // RFC 9110, 5.6.2
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        Err(format!("`{name}` is no header's name"))
    } else if webhook::RESERVED_HEADERS.contains(&name.as_str())
        || matches!(name.as_str(), "content-type" | "user-agent")
        || name.starts_with("fanfare-")
    {
        Err(format!("header `{name}` may not be set: it is Fanfare's or the connection's own"))
    } else {
        Ok(name)
    }
}

fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, HeaderFile)>, D::Error> {
    checked(from, |headers: BTreeMap<String, HeaderFile>| {
        let mut named: Vec<(String, HeaderFile)> = Vec::new();
        for (name, value) in headers {
            let name = header_name(&name)?;
            if named.iter().any(|(other, _)| *other == name) {
                return Err(format!("header `{name}` stands twice"));
            }
            if matches!(&value, HeaderFile::Constant(text) if !is_header_value(text)) {
                return Err(format!("header `{name}` has no header's value: visible ASCII and blanks"));
            }
            named.push((name, value));
        }
        Ok(named)
    })
}

fn bodies<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<PayloadForm, ProgramFile>, D::Error> {
    checked(from, |bodies: BTreeMap<PayloadForm, ProgramFile>| {
        if bodies.contains_key(&PayloadForm::Full) { Ok(bodies) } else { Err("a catalog has a body in full".into()) }
    })
}

fn collection<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, |name: String| {
        let fits = (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fits { Ok(name) } else { Err("a collection's name is 1 to 63 letters and digits".into()) }
    })
}

fn shown<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, |fields: Vec<String>| {
        fields_of(&fields, &ALL_FIELDS)?;
        if fields.iter().any(|field| field == "id") { Ok(fields) } else { Err("tenants need to see `id`".into()) }
    })
}

fn settable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    checked(from, |fields: Vec<String>| {
        fields_of(&fields, &webhook::WRITABLE)?;
        match ["target", "triggers"].into_iter().find(|needed| !fields.iter().any(|field| field == needed)) {
            None => Ok(fields),
            Some(needed) => Err(format!("tenants need to set `{needed}`: no webhook is without")),
        }
    })
}

fn max_headers<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    checked(from, |most: usize| {
        let most_ever = webhook::MAX_HEADERS;
        if (1..=most_ever).contains(&most) { Ok(most) } else { Err(format!("`maxHeaders` is 1 to {most_ever}")) }
    })
}

fn fields_of(fields: &[String], known: &[&str]) -> Result<(), String> {
    for (at, field) in fields.iter().enumerate() {
        if !known.contains(&field.as_str()) {
            return Err(format!("`{field}` is none of a webhook's fields here: {}", known.join(", ")));
        }
        if fields[..at].contains(field) {
            return Err(format!("`{field}` stands twice"));
        }
    }
    Ok(())
}

fn within(number: Option<usize>, default: usize, least: usize, name: &str) -> Result<usize, String> {
    let number = number.unwrap_or(default);
    if (least..=64).contains(&number) { Ok(number) } else { Err(format!("`{name}` is {least} to 64")) }
}

/// Reads a value of any kind and checks it before its parent goes on: so the error has the value's own line.
fn checked<'de, D, Raw, T>(from: D, check: impl FnOnce(Raw) -> Result<T, String>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    Raw: Deserialize<'de>,
{
    from.deserialize_any(Checked { check, raw: PhantomData })
}

struct Checked<Raw, F> {
    check: F,
    raw: PhantomData<Raw>,
}

impl<Raw, F> Checked<Raw, F> {
    fn of<'de, D, T>(self, from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        Raw: Deserialize<'de>,
        F: FnOnce(Raw) -> Result<T, String>,
    {
        (self.check)(Raw::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl<'de, Raw: Deserialize<'de>, F: FnOnce(Raw) -> Result<T, String>, T> Visitor<'de> for Checked<Raw, F>
where
    Self: Sized,
{
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        self.of(value.into_deserializer())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        self.of(value.into_deserializer())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        self.of(value.into_deserializer())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        self.of(value.into_deserializer())
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
        self.of(value.into_deserializer())
    }
    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        self.of(().into_deserializer())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        self.of(value::SeqAccessDeserializer::new(seq))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        self.of(value::MapAccessDeserializer::new(map))
    }
}

pub(crate) fn json_content_type() -> String {
    "application/json".into()
}

pub(crate) fn our_user_agent() -> String {
    concat!("Fanfare/", env!("CARGO_PKG_VERSION")).into()
}

#[cfg(test)]
mod tests;
