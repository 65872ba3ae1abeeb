//! An event becomes a request: its body and headers by the catalog's templates.

use std::collections::BTreeMap;

use fanfare_domain::webhook::PayloadForm;
use serde_json::Value;

use crate::template::{Input, Template};

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
    pub(crate) fn render(&self, event: &Input<'_>, form: PayloadForm) -> Result<Rendered, RenderError> {
        let template = self.body.get(&form).ok_or(RenderError::NoSuchForm)?;
        let mut body = Vec::with_capacity(event.bytes() + 128);
        template.render(event, &mut body, BASE_BODY_BYTES + BODY_PER_EVENT * event.bytes())?;

        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        headers.push(("user-agent".to_owned(), self.user_agent.clone()));
        for (name, value) in &self.headers {
            let value = match value {
                HeaderValue::Constant(value) => Some(value.clone()),
                HeaderValue::Template(template) => header_text(template, event).map_err(|error| match error {
                    RenderError::Template(why) => RenderError::Template(format!("header `{name}`: {why}")),
                    other => other,
                })?,
            };
            headers.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(Rendered { body, content_type: self.content_type.clone(), headers })
    }
}

/// What a header's template makes: null leaves the header out.
fn header_text(template: &Template, event: &Input<'_>) -> Result<Option<String>, RenderError> {
    let mut json = Vec::new();
    template.render(event, &mut json, MAX_HEADER_BYTES)?;
    let text = match serde_json::from_slice(&json) {
        Ok(Value::Null) => return Ok(None),
        Ok(Value::String(text)) => text,
        Ok(Value::Number(_) | Value::Bool(_)) => String::from_utf8_lossy(&json).into_owned(), // as it was written
        _ => return Err(RenderError::Template("must be a text, a number, a boolean or null".into())),
    };
    if is_header_value(&text) {
        Ok(Some(text))
    } else {
        Err(RenderError::Template("must be visible ASCII characters and blanks, with none at either end".into()))
    }
}

/// What may stand as a header's value: as in a webhook's own headers.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.len() <= MAX_HEADER_BYTES && text.trim() == text && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(header: &str, event: &str) -> Result<Vec<(String, String)>, RenderError> {
        let request = Request {
            content_type: "application/json".into(),
            user_agent: "Shop/1".into(),
            headers: vec![("x-made".into(), HeaderValue::Template(Template::compile(header).unwrap()))],
            body: BTreeMap::from([(PayloadForm::Full, Template::compile(".").unwrap())]),
        };
        request.render(&Input::read(event.as_bytes())?, PayloadForm::Full).map(|rendered| rendered.headers)
    }

    #[test]
    fn a_header_is_made_of_the_event() {
        let event = r#"{"type":"a \"b\"","n":1.50,"time":"2019-12-10T11:13:33Z","u":"ü","data":{"x":"y\nz"}}"#;
        let agent = ("user-agent".to_owned(), "Shop/1".to_owned());
        for (header, expected) in [
            (".type", Some("a \"b\"")),
            (".n", Some("1.50")),
            ("$unix", Some("1575976413")),
            ("\"v=\\(.n)\"", Some("v=1.50")),
            (".gone", None),
            ("if .gone then .gone else null end", None),
            ("true", Some("true")),
        ] {
            let made = expected.map(|value| ("x-made".to_owned(), value.to_owned()));
            let headers: Vec<_> = [agent.clone()].into_iter().chain(made).collect();
            assert_eq!(rendered(header, event), Ok(headers), "{header}");
        }
        for header in [".u", ".data", ".data.x", "\" \"", "[1]", ".type | error"] {
            match rendered(header, event) {
                Err(RenderError::Template(why)) => assert!(why.starts_with("header `x-made`: "), "{why}"),
                other => panic!("{header}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_body_is_bounded_by_its_event() {
        let request = |template: &str| Request {
            content_type: String::new(),
            user_agent: String::new(),
            headers: Vec::new(),
            body: BTreeMap::from([(PayloadForm::Full, Template::compile(template).unwrap())]),
        };
        let event = format!(r#"{{"data":"{}"}}"#, "x".repeat(100_000));
        let input = Input::read(event.as_bytes()).unwrap();
        let bytes = |template: &str| request(template).render(&input, PayloadForm::Full).map(|it| it.body.len());
        assert_eq!(bytes("{a: .data, b: .data, c: .data, d: .data}"), Ok(400_029));
        let most = BASE_BODY_BYTES + BODY_PER_EVENT * event.len();
        assert_eq!(bytes("{a: .data, b: .data, c: .data, d: .data, e: .data}"), Err(RenderError::TooLarge(most)));
        assert_eq!(bytes(".data | [., ., ., ., .]"), Err(RenderError::TooLarge(most)));
        assert_eq!(request(".").render(&input, PayloadForm::Identity), Err(RenderError::NoSuchForm));
    }
}
