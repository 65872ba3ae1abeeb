//! What comes in: a path, a query, a JSON body. Whatever is not understood is refused by its name.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, RawQuery, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fanfare_domain::FieldError;
use fanfare_runtime::Problem;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{app::nothing_here, problem::invalid};

/// The largest body.
const BODY_BYTES: usize = 256 * 1024;
/// A body arrives within this, or its sender is too slow to wait for.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The variable parts of a path. What does not fit is the id of nothing.
pub(crate) struct At<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state).await.map(|Path(at)| Self(at)).map_err(|_| nothing_here())
    }
}

/// A body: a JSON object, whatever its content type says.
pub(crate) struct Json(pub(crate) Fields);

impl<S: Send + Sync> FromRequest<S> for Json {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        parse(&read(&parts.headers, body).await?).map(|map| Self(Fields::new(map)))
    }
}

/// A body that may be left out.
pub(crate) struct MaybeJson(pub(crate) Fields);

impl<S: Send + Sync> FromRequest<S> for MaybeJson {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body).await?;
        let map = if body.trim_ascii().is_empty() { Map::new() } else { parse(&body)? };
        Ok(Self(Fields::new(map)))
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body is at most {} KiB", BODY_BYTES / 1024));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body.into()),
        Ok(Err(_)) => Err(too_large()), // or its sender is gone, and reads no answer
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 30 s")),
    }
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let wrong = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(wrong("the body must be a JSON object".to_owned())),
        Err(_) if body.trim_ascii().is_empty() => Err(wrong("the body is empty: it must be a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("the body is no JSON: {error}"))),
    }
}

/// A body's fields, each taken once; what is left at the end is unknown.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    pub(crate) fn new(map: Map<String, Value>) -> Self {
        Self { map, errors: Vec::new() }
    }

    /// All of them as they came, for who judges them himself.
    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// A field that may be absent, or null to be reset: `Some(None)`.
    pub(crate) fn change<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let value = self.map.shift_remove(name)?;
        if value.is_null() {
            return Some(None);
        }
        match parse(&value) {
            Ok(value) => Some(Some(value)),
            Err(message) => {
                self.wrong(name, message);
                None
            }
        }
    }

    /// A field that may be absent or null.
    pub(crate) fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        self.change(name, parse).flatten()
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&mut self, name: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        if self.map.get(name).is_none_or(Value::is_null) {
            self.map.shift_remove(name);
            self.wrong(name, "is required".to_owned());
            return None;
        }
        self.optional(name, parse)
    }

    fn wrong(&mut self, name: &str, message: String) {
        self.errors.push(FieldError::new(name, message));
    }

    /// Nothing was wrong, and nothing is left.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for name in self.map.keys() {
            self.errors.push(FieldError::new(name, "is no field here"));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(invalid(self.errors)) }
    }
}

/// A text of at most so many characters.
pub(crate) fn text(max_chars: usize) -> impl Fn(&Value) -> Result<String, String> {
    move |value| match value.as_str() {
        None => Err("must be a string".to_owned()),
        Some(text) if text.chars().count() > max_chars => Err(format!("must be at most {max_chars} characters")),
        Some(text) if text.contains('\0') => Err("must hold no NUL character".to_owned()),
        Some(text) => Ok(text.to_owned()),
    }
}

/// A query's parameters, each once and each known; taken like a body's fields.
#[derive(Debug)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Params {
    pub(crate) fn read(query: Option<&str>, known: &[&str]) -> Self {
        let mut params = Self { values: BTreeMap::new(), errors: Vec::new() };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let why = if known.is_empty() {
                    "is no parameter here: there are none".to_owned()
                } else {
                    format!("is no parameter here: there are {}", known.join(", "))
                };
                params.wrong(&name, why);
            } else if params.values.contains_key(name.as_ref()) {
                params.wrong(&name, "stands twice".to_owned());
            } else {
                params.values.insert(name.into_owned(), value.into_owned());
            }
        }
        params
    }

    /// A parameter that may be absent.
    pub(crate) fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.values.remove(name)?;
        parse(&value).map_err(|message| self.wrong(name, message)).ok()
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, name: &str, default: u64, min: u64, max: u64) -> u64 {
        let number = self.optional(name, |text| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse::<u64>().ok().filter(|number| digits && (min..=max).contains(number));
            number.ok_or_else(|| match max {
                u64::MAX => format!("must be a whole number from {min}"),
                _ => format!("must be a whole number from {min} to {max}"),
            })
        });
        number.unwrap_or(default)
    }

    pub(crate) fn wrong(&mut self, name: &str, message: String) {
        self.errors.push(FieldError::new(name, message));
    }

    /// Nothing was wrong.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(invalid(self.errors)) }
    }
}

/// Around every route that has no parameters.
pub(crate) async fn no_parameters(RawQuery(query): RawQuery, request: Request, next: Next) -> Response {
    match Params::read(query.as_deref(), &[]).finish() {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(result: Result<(), Problem>) -> Vec<String> {
        let Err(problem) = result else { return Vec::new() };
        let problem = serde_json::to_value(problem).unwrap();
        problem["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap().to_owned()).collect()
    }

    fn fields(value: &Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn what_is_no_json_object_is_a_bad_request() {
        for body in ["", " ", "{", "[]", "1", "{\"a\":1}x", "nul"] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().status(), StatusCode::BAD_REQUEST, "`{body}`");
        }
        assert!(parse(b" {} ").is_ok());
    }

    #[test]
    fn every_wrong_or_unknown_field_is_named() {
        let mut body = fields(&json!({ "name": 5, "colour": "red", "note": null }));
        assert_eq!(body.required("id", text(63)), None);
        assert_eq!(body.optional("name", text(200)), None);
        assert_eq!(body.change("note", text(200)), Some(None));
        assert_eq!(body.change("absent", text(200)), None);
        assert_eq!(named(body.finish()), ["id", "name", "colour"]);
    }

    #[test]
    fn a_query_is_strict() {
        let mut query = Params::read(Some("limit=0&limit=3&x=1&offset=7"), &["limit", "offset"]);
        assert_eq!((query.number("limit", 10, 1, 100), query.number("offset", 0, 0, u64::MAX)), (10, 7));
        assert_eq!(named(query.finish()), ["limit", "x", "limit"]);
        for limit in ["", "0", "101", "-1", "1.5", "+5", "99999999999999999999"] {
            let mut query = Params::read(Some(&format!("limit={}", limit.replace('+', "%2B"))), &["limit"]);
            query.number("limit", 10, 1, 100);
            assert_eq!(named(query.finish()), ["limit"], "`{limit}`");
        }
    }
}
