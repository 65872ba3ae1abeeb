//! An event: a CloudEvent 1.0, parsed once where it enters, its data copied as bytes ever after.
//!
//! Sources: the CloudEvents specification 1.0.2, its JSON, HTTP and AMQP bindings; contract.md, Publishing events.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{MapAccess, Visitor};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{field::FieldError, id::hex, span};

/// The longest `id`, `source`, `type` or other attribute, in bytes; RabbitMQ's routing keys end at 255.
pub const MAX_ATTRIBUTE_BYTES: usize = 255;
/// The longest value of an extension attribute or `subject`, in bytes: room for a `traceparent` or a URL.
const MAX_VALUE_BYTES: usize = 2_048;
/// The most attributes an event may have.
const MAX_ATTRIBUTES: usize = 64;

/// Whether a type is one of Fanfare's own: nobody else publishes those (contract.md, Publishing events).
pub fn is_reserved(kind: &str) -> bool {
    kind.starts_with("fanfare.")
}

/// An event as it was accepted: valid, whole, with every attribute that may be absent filled in or absent for good.
#[derive(Debug, Clone)]
pub struct Event {
    /// The publisher's own id; with `source` the idempotency key.
    pub id: String,
    /// Where it happened.
    pub source: String,
    /// Its type.
    pub kind: String,
    /// The tenant that the event itself names, where it does.
    pub tenant: Option<String>,
    /// When it happened, in unix milliseconds.
    pub time_ms: u64,
    /// A W3C `traceparent`, where it has one.
    pub traceparent: Option<String>,
    /// The event as one line of JSON, in CloudEvents' JSON format, without `tenant`.
    pub json: Box<RawValue>,
    /// Tells this event's content from another's under the same id: 32 hex digits, over everything but what was filled
    /// in at acceptance.
    pub content_hash: String,
}

impl Event {
    /// An event of Fanfare's own making, about `subject`. The same arguments make the same event.
    pub fn of_our_own(id: &str, source: &str, kind: &str, subject: &str, time_ms: u64, data: &Value) -> Self {
        let whole = json!({
            "specversion": "1.0", "id": id, "source": source, "type": kind, "subject": subject,
            "time": span::rfc3339(time_ms), "datacontenttype": "application/json", "data": data,
        });
        let json = whole.to_string();
        Self {
            id: id.to_owned(),
            source: source.to_owned(),
            kind: kind.to_owned(),
            tenant: None,
            time_ms,
            traceparent: None,
            content_hash: hex(&Sha256::digest(&json)[..16]),
            json: RawValue::from_string(json).expect("a value is written as valid JSON"),
        }
    }
}

/// What an event may leave out, and what stands for it then.
#[derive(Debug, Clone)]
pub struct Defaults<'a> {
    /// The moment of acceptance in unix milliseconds: `time` where that is absent.
    pub now_ms: u64,
    /// For plain `application/json` only: `specversion`, `id` and `source` may be absent, too.
    pub plain: Option<Plain<'a>>,
}

/// What stands for the attributes that a plain event leaves out.
#[derive(Debug, Clone)]
pub struct Plain<'a> {
    /// A fresh id.
    pub id: &'a str,
    /// `/tenants/<tenant>`; `None` where only the event itself names the tenant.
    pub source: Option<&'a str>,
}

/// A member of a JSON object: its name, and its value as the bytes it came in.
type Member<'a> = (Name<'a>, &'a RawValue);

/// A member's name, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object's members in order, values unparsed; a name twice is refused.
struct Members<'a>(Vec<Member<'a>>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvent: a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<Member<'de>> = Vec::with_capacity(12);
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if members.iter().any(|(other, _)| other.0 == name.0) {
                        return Err(serde::de::Error::custom(format_args!("member `{}` stands twice", name.0)));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// Why an event is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventError {
    /// It is no JSON; the text says where.
    NotJson(String),
    /// Its attributes are wrong.
    Invalid(Vec<FieldError>),
}

/// Parses an event in structured mode (CloudEvents JSON format 1.0.2), or a plain one where `defaults` say so.
pub fn parse_structured(json: &[u8], defaults: &Defaults<'_>) -> Result<Event, EventError> {
    let Members(members) = serde_json::from_slice(json).map_err(|error| EventError::NotJson(error.to_string()))?;
    let mut parts = Parts::default();
    for (Name(name), value) in members {
        match name.as_ref() {
            "data" if parts.data.is_none() => parts.json_data(value),
            "data_base64" if parts.data.is_none() => parts.base64(value),
            "data" | "data_base64" => parts.wrong(&name, "an event has `data` or `data_base64`, not both"),
            _ => parts.attribute(name.into_owned(), value),
        }
    }
    parts.build(defaults).map_err(EventError::Invalid)
}

/// Parses an event in binary mode: `attributes` are the names without their binding's prefix (`ce-`, `cloudEvents:`,
/// `cloudEvents_`) with values decoded, `content_type` becomes `datacontenttype`.
pub fn parse_binary(
    attributes: impl IntoIterator<Item = (String, String)>,
    content_type: Option<&str>,
    body: &[u8],
    defaults: &Defaults<'_>,
) -> Result<Event, EventError> {
    let mut parts = Parts::default();
    for (name, value) in attributes {
        if parts.attributes.iter().any(|(other, _)| *other == name) {
            parts.wrong(&name, "stands twice");
        } else {
            parts.text_attribute(name, &value);
        }
    }
    if let Some(content_type) = content_type {
        parts.attributes.retain(|(name, _)| name != "datacontenttype");
        parts.text_attribute("datacontenttype".into(), content_type);
    }
    if !body.is_empty() {
        let essence = content_type
            .unwrap_or("application/json")
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if essence == "application/json" || essence == "text/json" || essence.ends_with("+json") {
            parts.json_data(serde_json::from_slice(body).map_err(|error| EventError::NotJson(error.to_string()))?);
        } else {
            parts.data = Some(match std::str::from_utf8(body) {
                Ok(text) if essence.starts_with("text/") => Data::Json(serde_json::Value::from(text).to_string()),
                _ => Data::Base64(STANDARD.encode(body)),
            });
        }
    }
    parts.build(defaults).map_err(EventError::Invalid)
}

enum Data {
    Json(String),
    Base64(String),
}

/// An event on its way in: its attributes as JSON texts, and all that is wrong with them.
#[derive(Default)]
struct Parts {
    attributes: Vec<(String, String)>,
    data: Option<Data>,
    errors: Vec<FieldError>,
}

impl Parts {
    fn wrong(&mut self, field: &str, message: &str) {
        self.errors.push(FieldError::new(field, message));
    }

    /// An attribute of the JSON format: a string, a boolean or an integer; null is the same as absent.
    fn attribute(&mut self, name: String, value: &RawValue) {
        if let Some(text) = plain_text(value.get()) {
            return self.checked(name, text, || value.get().to_owned());
        }
        match serde_json::from_str(value.get()) {
            Ok(serde_json::Value::Null) => {}
            Ok(serde_json::Value::String(text)) => self.text_attribute(name, &text),
            Ok(serde_json::Value::Bool(value)) if !is_core(&name) => self.push(name, value.to_string()),
            Ok(serde_json::Value::Number(number))
                if !is_core(&name) && number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                self.push(name, number.to_string());
            }
            _ if is_core(&name) => self.wrong(&name, "must be a string"),
            _ => self.wrong(&name, "an attribute must be a string, a boolean or an integer of 32 bits"),
        }
    }

    fn text_attribute(&mut self, name: String, text: &str) {
        self.checked(name, text, || serde_json::Value::from(text).to_string());
    }

    /// Takes an attribute that is a text, in `json` as its JSON string.
    fn checked(&mut self, name: String, text: &str, json: impl Fn() -> String) {
        let longest =
            if matches!(name.as_str(), "id" | "source" | "type") { MAX_ATTRIBUTE_BYTES } else { MAX_VALUE_BYTES };
        if text.len() > longest {
            return self.wrong(&name, &format!("must be at most {longest} bytes"));
        }
        if text.is_empty() && is_core(&name) {
            return self.wrong(&name, "must not be empty");
        }
        if text.chars().any(char::is_control) {
            return self.wrong(&name, "must hold no control characters");
        }
        self.push(name, json());
    }

    fn push(&mut self, name: String, json: String) {
        // CloudEvents 1.0.2, Attribute naming convention.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return self.wrong(&name, "an attribute's name must be of a-z and 0-9");
        }
        if name.len() > MAX_ATTRIBUTE_BYTES || self.attributes.len() >= MAX_ATTRIBUTES {
            return self.wrong(&name, "too many attributes, or a name too long");
        }
        self.attributes.push((name, json));
    }

    fn json_data(&mut self, value: &RawValue) {
        match compact(value.get()) {
            Ok(json) => self.data = Some(Data::Json(json)),
            Err(why) => self.wrong("data", why),
        }
    }

    fn base64(&mut self, value: &RawValue) {
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) if STANDARD.decode(&text).is_ok() => self.data = Some(Data::Base64(text)),
            _ => self.wrong("data_base64", "must be a string in Base64"),
        }
    }

    fn json(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(other, _)| other == name).map(|(_, json)| json.as_str())
    }

    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let json = self.json(name)?;
        match plain_text(json) {
            Some(text) => Some(Cow::Borrowed(text)),
            None => serde_json::from_str(json).ok().map(Cow::Owned),
        }
    }

    fn build(mut self, defaults: &Defaults<'_>) -> Result<Event, Vec<FieldError>> {
        if let Some(plain) = &defaults.plain {
            for (name, value) in [("specversion", Some("1.0")), ("id", Some(plain.id)), ("source", plain.source)] {
                if let (None, Some(value)) = (self.json(name), value) {
                    self.text_attribute(name.into(), value);
                }
            }
        }
        let tenant = self.text("tenant").map(Cow::into_owned);
        if self.json("tenant").is_some() && tenant.is_none() {
            self.wrong("tenant", "must be a string");
        }
        self.attributes.retain(|(name, _)| name != "tenant");
        for name in ["specversion", "id", "source", "type"] {
            if self.json(name).is_none() && !self.errors.iter().any(|error| error.field == name) {
                self.wrong(name, "is required");
            }
        }
        if self.text("specversion").is_some_and(|version| version != "1.0") {
            self.wrong("specversion", "must be `1.0`");
        }
        let content_hash = self.content_hash();
        let time_ms = match self.text("time").map(|time| span::parse_rfc3339(&time)) {
            None => {
                self.text_attribute("time".into(), &span::rfc3339(defaults.now_ms));
                defaults.now_ms
            }
            Some(time) => time.unwrap_or_else(|| {
                self.wrong("time", "must be a time as in RFC 3339, since 1970");
                0
            }),
        };
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let json = self.to_json();
        Ok(Event {
            id: self.text("id").unwrap_or_default().into_owned(), // there, and a string: checked above
            source: self.text("source").unwrap_or_default().into_owned(),
            kind: self.text("type").unwrap_or_default().into_owned(),
            tenant,
            time_ms,
            traceparent: self.text("traceparent").map(Cow::into_owned),
            content_hash,
            json: RawValue::from_string(json).expect("names, attributes and data are each valid JSON"),
        })
    }

    /// Attributes count by name, not by order, and data by its values and order: white space is not content.
    fn content_hash(&self) -> String {
        let mut sorted: Vec<&(String, String)> =
            self.attributes.iter().filter(|(name, _)| name != "specversion").collect();
        sorted.sort();
        let mut hash = Sha256::new();
        for (name, json) in sorted {
            hash.update(name);
            hash.update([0]);
            hash.update(json);
            hash.update([0]);
        }
        match &self.data {
            None => {}
            Some(Data::Json(json)) => hash.update(json),
            Some(Data::Base64(text)) => hash.update(text),
        }
        hex(&hash.finalize()[..16])
    }

    fn to_json(&self) -> String {
        let data_bytes = match &self.data {
            None => 0,
            Some(Data::Json(data) | Data::Base64(data)) => data.len() + 20,
        };
        let attribute_bytes: usize = self.attributes.iter().map(|(name, json)| name.len() + json.len() + 4).sum();
        let mut json = String::with_capacity(2 + attribute_bytes + data_bytes);
        for (name, value) in &self.attributes {
            json.push_str(if json.is_empty() { "{\"" } else { ",\"" });
            json.push_str(name);
            json.push_str("\":");
            json.push_str(value);
        }
        match &self.data {
            None => {}
            Some(Data::Json(data)) => {
                json.push_str(",\"data\":");
                json.push_str(data);
            }
            Some(Data::Base64(text)) => {
                json.push_str(",\"data_base64\":\"");
                json.push_str(text);
                json.push('"');
            }
        }
        json.push('}');
        json
    }
}

/// What a JSON string says, where it says it without escapes.
fn plain_text(json: &str) -> Option<&str> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then_some(text)
}

/// The attributes that the specification itself defines; they are strings.
fn is_core(name: &str) -> bool {
    matches!(name, "specversion" | "id" | "source" | "type" | "datacontenttype" | "dataschema" | "subject" | "time")
}

/// The deepest nesting of `data`: what readers further on take without a stack of their own.
const MAX_DEPTH: u32 = 100;

/// Valid JSON without the white space between its tokens; numbers and strings stay as they were written. Refuses what a
/// `RawValue` lets through and others downstream could not read: nesting without end, halves of surrogate pairs.
fn compact(json: &str) -> Result<String, &'static str> {
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    // What lies between two places of white space is copied in one go; most events have none.
    let (mut depth, mut at, mut kept_from) = (0_u32, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = end_of_string(bytes, at + 1)?;
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&json[kept_from..at]);
                kept_from = at + 1;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("is nested too deeply");
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    out.push_str(&json[kept_from..]);
    Ok(out)
}

/// The place after the string whose first character stands at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, &'static str> {
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += escape(&bytes[at..])?;
    }
    Ok(bytes.len()) // valid JSON ends its strings
}

/// How long the escape at the beginning is: a surrogate's two halves are one.
fn escape(bytes: &[u8]) -> Result<usize, &'static str> {
    let half = |at: usize| {
        let digits = bytes
            .get(at..at + 6)
            .filter(|escape| escape.starts_with(b"\\u"))
            .and_then(|escape| std::str::from_utf8(&escape[2..]).ok());
        digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
    };
    match half(0) {
        None => Ok(2),
        Some(0xd800..=0xdbff) => match half(6) {
            Some(0xdc00..=0xdfff) => Ok(12),
            _ => Err("holds half of a surrogate pair"),
        },
        Some(0xdc00..=0xdfff) => Err("holds half of a surrogate pair"),
        Some(_) => Ok(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Defaults<'static> = Defaults { now_ms: 1_700_000_000_123, plain: None };

    fn errors(json: &str) -> Vec<String> {
        match parse_structured(json.as_bytes(), &NOW) {
            Err(EventError::Invalid(errors)) => errors.into_iter().map(|error| error.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_keeps_its_members_in_order_and_its_numbers_as_written() {
        let json = r#"{ "specversion":"1.0", "type":"order.paid", "source":"/shop", "id":"1",
            "vip":true, "data": {"z": 1.50, "a": "x y", "big": 12345678901234567890123, "q":"\" {" } }"#;
        let event = parse_structured(json.as_bytes(), &NOW).unwrap();
        assert_eq!(
            event.json.get(),
            r#"{"specversion":"1.0","type":"order.paid","source":"/shop","id":"1","vip":true,"time":"2023-11-14T22:13:20.123Z","data":{"z":1.50,"a":"x y","big":12345678901234567890123,"q":"\" {"}}"#
        );
        assert_eq!((event.id.as_str(), event.kind.as_str(), event.time_ms), ("1", "order.paid", NOW.now_ms));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, fields) in [
            (r#"{"specversion":"1.0","type":"t","source":"s"}"#, vec!["id"]),
            (r#"{"specversion":"0.3","type":"t","source":"s","id":"1"}"#, vec!["specversion"]),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":7}"#, vec!["id"]),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":"1","time":"soon"}"#, vec!["time"]),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":"1","Upper":"x"}"#, vec!["Upper"]),
            (r#"{"specversion":"1.0","type":"t","source":"s","id":"1","obj":{}}"#, vec!["obj"]),
            (
                r#"{"specversion":"1.0","type":"t","source":"s","id":"1","data":1,"data_base64":"AA=="}"#,
                vec!["data_base64"],
            ),
            (r#"{"specversion":"1.0","type":"t","source":"","id":"1"}"#, vec!["source"]),
        ] {
            assert_eq!(errors(json), fields, "{json}");
        }
        let long = format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"{}"}}"#, "i".repeat(256));
        assert_eq!(errors(&long), ["id"]);
        assert!(matches!(parse_structured(b"{", &NOW), Err(EventError::NotJson(_))));
        assert!(matches!(parse_structured(br#"{"id":"1","id":"2"}"#, &NOW), Err(EventError::NotJson(_))));
    }

    #[test]
    fn the_same_event_in_either_mode_has_the_same_content() {
        let structured = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":{"a": [1, 2]}}"#;
        let structured = parse_structured(structured.as_bytes(), &NOW).unwrap();
        let attributes = [("type", "t"), ("id", "1"), ("source", "/s"), ("specversion", "1.0")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()));
        let later = Defaults { now_ms: NOW.now_ms + 5_000, plain: None };
        let binary = parse_binary(attributes.clone(), Some("application/json"), br#"{"a":[1,2]}"#, &later).unwrap();
        assert_eq!(
            structured.content_hash, binary.content_hash,
            "neither white space nor the filled-in time is content"
        );
        let other = parse_binary(attributes, Some("application/json"), br#"{"a":[1,3]}"#, &NOW).unwrap();
        assert_ne!(structured.content_hash, other.content_hash);
    }

    #[test]
    fn a_plain_event_may_leave_out_what_we_know() {
        let plain = Defaults { plain: Some(Plain { id: "fresh", source: Some("/tenants/acme") }), ..NOW };
        let event = parse_structured(br#"{"type":"t","data":{}}"#, &plain).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str()), ("fresh", "/tenants/acme"));
        let tenant = parse_structured(br#"{"type":"t","tenant":"acme"}"#, &plain).unwrap();
        assert_eq!(tenant.tenant.as_deref(), Some("acme"));
        assert!(!tenant.json.get().contains("\"tenant\""), "the tenant is an address, not content");
    }

    #[test]
    fn data_that_others_could_not_read_is_refused() {
        let event = |data: &str| format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"1","data":{data}}}"#);
        for data in [r#""\ud83d""#, r#""\ude00\ud83d""#, r#"{"\ud83dx":1}"#, &("[".repeat(101) + &"]".repeat(101))] {
            assert_eq!(errors(&event(data)), ["data"], "{data}");
        }
        for data in
            [r#""\ud83d\ude00 \\ud83d \" \u00e4""#, r#"["[", "{", "\\"]"#, &("[".repeat(100) + &"]".repeat(100))]
        {
            let parsed = parse_structured(event(data).as_bytes(), &NOW).unwrap();
            let written: serde_json::Value = serde_json::from_str(parsed.json.get()).unwrap();
            assert_eq!(written["data"], serde_json::from_str::<serde_json::Value>(data).unwrap());
        }
    }

    #[test]
    fn bytes_that_are_no_json_travel_as_base64_or_text() {
        let attributes = [("type", "t"), ("id", "1"), ("source", "/s"), ("specversion", "1.0")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()));
        let bytes = parse_binary(attributes.clone(), Some("image/png"), &[0xff, 0], &NOW).unwrap();
        assert!(bytes.json.get().ends_with(r#""data_base64":"/wA="}"#), "{}", bytes.json);
        let text = parse_binary(attributes, Some("text/plain"), b"hi", &NOW).unwrap();
        assert!(text.json.get().ends_with(r#""data":"hi"}"#), "{}", text.json);
    }
}
