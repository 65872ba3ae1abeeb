//! An event becomes a request: its body and headers by the catalog's templates.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanfare_domain::{span, webhook::PayloadForm};
use jaq_json::Val;

use crate::{
    json,
    template::{Global, Template},
};

/// The most that a body may be, whatever its event.
const BASE_BODY_BYTES: usize = 64 * 1024;
/// And how many times its event.
const BODY_PER_EVENT: usize = 4;
/// The longest value of a header, in bytes.
const MAX_HEADER_BYTES: usize = 4_096;

/// What an event becomes for a receiver; the signature and attempt headers are the dispatcher's to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The request's body.
    pub body: Vec<u8>,
    /// Its `content-type`.
    pub content_type: String,
    /// The catalog's headers, `user-agent` among them; `content-type` is not.
    pub headers: Vec<(String, String)>,
}

/// Why no request can be made of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The catalog has no such form of body.
    #[error("the catalog has no payload of this form")]
    NoSuchForm,
    /// What was stored as event is no JSON, nests too deeply, or has no time.
    #[error("the event is not readable: {0}")]
    Event(String),
    /// The template fails on this event, or its result is no JSON or no header.
    #[error("the template fails on this event: {0}")]
    Template(String),
    /// The body is larger than a request may be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The template takes more steps than an event of this size may cost.
    #[error("the template costs too much on this event")]
    TooCostly,
}

/// A catalog's request, compiled.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    pub(crate) headers: Vec<(String, HeaderValue)>,
    pub(crate) body: BTreeMap<PayloadForm, Template>,
}

/// A header's value: the same on all requests, or made of the event.
#[derive(Debug)]
pub(crate) enum HeaderValue {
    Constant(String),
    Template(Template),
}

impl Request {
    /// Makes the request of an event in CloudEvents' JSON format, with a `time`.
    pub(crate) fn render(&self, event: &[u8], form: PayloadForm) -> Result<Rendered, RenderError> {
        let template = self.body.get(&form).ok_or(RenderError::NoSuchForm)?;
        let input = json::read(&Bytes::copy_from_slice(event)).map_err(|error| RenderError::Event(error.to_string()))?;
        let run = |template: &Template| template.run(input.clone(), event.len(), |name| global(&input, name));

        let most = BASE_BODY_BYTES + BODY_PER_EVENT * event.len();
        let mut body = Vec::with_capacity(event.len() + 128);
        json::write(&run(template)?, &mut body, most).map_err(|error| match error {
            json::WriteError::TooLarge(most) => RenderError::TooLarge(most),
            json::WriteError::NotJson(_) => RenderError::Template(error.to_string()),
        })?;

        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        headers.push(("user-agent".to_owned(), self.user_agent.clone()));
        for (name, value) in &self.headers {
            let value = match value {
                HeaderValue::Constant(value) => Some(value.clone()),
                HeaderValue::Template(template) => header_text(name, &run(template)?)?,
            };
            headers.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(Rendered { body, content_type: self.content_type.clone(), headers })
    }
}

/// What a header's template made: null leaves the header out.
fn header_text(name: &str, value: &Val) -> Result<Option<String>, RenderError> {
    let wrong = |why: &str| Err(RenderError::Template(format!("header `{name}`: {why}")));
    let text = match value {
        Val::Null => return Ok(None),
        Val::TStr(text) => text.to_vec(),
        Val::Num(_) | Val::Bool(_) => {
            let mut text = Vec::new();
            json::write(value, &mut text, MAX_HEADER_BYTES)
                .map_err(|error| RenderError::Template(format!("header `{name}`: {error}")))?;
            text
        }
        _ => return wrong("must be a text, a number, a boolean or null"),
    };
    match String::from_utf8(text) {
        Ok(text) if is_header_value(&text) => Ok(Some(text)),
        _ => wrong("must be visible ASCII characters and blanks, with none at either end"),
    }
}

/// What may stand as a header's value: as in a webhook's own headers.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.len() <= MAX_HEADER_BYTES && text.trim() == text && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

fn global(event: &Val, name: Global) -> Result<Val, RenderError> {
    let Val::Obj(members) = event else { return Err(RenderError::Event("it is no object".into())) };
    let time = members.iter().find_map(|(key, value)| match (key, value) {
        (Val::TStr(key), Val::TStr(time)) if ***key == *b"time" => std::str::from_utf8(time).ok(),
        _ => None,
    });
    let at_ms = time.and_then(span::parse_rfc3339).ok_or_else(|| RenderError::Event("it has no `time`".into()))?;
    let integer = |number: u64| Val::from(isize::try_from(number).unwrap_or(isize::MAX));
    Ok(match name {
        Global::Unix => integer(at_ms / 1_000),
        Global::UnixMs => integer(at_ms),
        Global::Time => Val::from(span::rfc3339(at_ms)),
    })
}
