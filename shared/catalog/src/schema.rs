//! What an event type's JSON Schema says against an event, in the API's words.

use fanfare_domain::FieldError;
use jsonschema::{
    Draft, PatternOptions, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind as Kind},
    types::JsonType,
};
use serde_json::Value;

/// The most errors told of one event.
const MAX_ERRORS: usize = 20;
/// The most bytes of a message that repeats what the schema says.
const MAX_MESSAGE_CHARS: usize = 300;

/// Compiles a JSON Schema, of draft 2020-12 where it names no other. Formats count; it may refer only to itself; its
/// patterns are matched in linear time.
pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    if !schema.is_object() {
        return Err("a JSON Schema is an object".into());
    }
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| {
            let (place, text) = (error.instance_path().to_string(), error.to_string());
            let text: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
            if place.is_empty() {
                format!("no JSON Schema: {text}")
            } else {
                format!("no JSON Schema at `{place}`: {text}")
            }
        })
}

/// Judges an event's JSON.
pub(crate) fn validate(validator: &Validator, event: &str) -> Result<(), Vec<FieldError>> {
    // It was accepted as JSON; what serde_json cannot hold (1e999, too deep a nesting) no schema can judge.
    let event: Value = serde_json::from_str(event)
        .map_err(|error| vec![FieldError::new("data", format!("cannot be validated: {error}"))])?;
    if validator.is_valid(&event) {
        return Ok(());
    }
    Err(validator.iter_errors(&event).take(MAX_ERRORS).map(|error| told(&error)).collect())
}

fn told(error: &ValidationError<'_>) -> FieldError {
    let mut field = field(&error.instance_path().to_string());
    let list =
        |values: &Value| values.as_array().into_iter().flatten().map(Value::to_string).collect::<Vec<_>>().join(", ");
    let message = match error.kind() {
        Kind::Required { property } => {
            let missing = property.as_str().unwrap_or_default();
            field = if field.is_empty() { missing.to_owned() } else { format!("{field}.{missing}") };
            "is required".to_owned()
        }
        Kind::Type { kind: TypeKind::Single(kind) } => format!("must be of type {kind}"),
        Kind::Type { kind: TypeKind::Multiple(kinds) } => {
            format!("must be of type {}", kinds.iter().map(JsonType::as_str).collect::<Vec<_>>().join(" or "))
        }
        Kind::Enum { options } => format!("must be one of {}", list(options)),
        Kind::Constant { expected_value } => format!("must be {expected_value}"),
        Kind::Format { format } => format!("must be in the format `{format}`"),
        Kind::Pattern { pattern } => format!("must match `{pattern}`"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::MinLength { limit } => format!("must be at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must be at most {limit} characters"),
        Kind::MinItems { limit } => format!("must be at least {limit} items"),
        Kind::MaxItems { limit } => format!("must be at most {limit} items"),
        Kind::FalseSchema => "must be absent".to_owned(),
        Kind::PropertyNames { error } => format!("has a wrong key: {}", told(error).message),
        // The rest in the library's words, without the event's own: those may be large, or not for everyone's eyes.
        _ => error.masked_with("the value").to_string(),
    };
    FieldError::new(field, message.chars().take(MAX_MESSAGE_CHARS).collect::<String>())
}

/// A JSON Pointer as the API writes places: `/data/items/0/sku` is `data.items[0].sku`.
fn field(pointer: &str) -> String {
    let mut field = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            field.push_str(&format!("[{part}]"));
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(&part);
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(schema: &Value, event: &str) -> Vec<String> {
        let validator = compile(schema).unwrap();
        match validate(&validator, event) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn each_keyword_says_where_and_why() {
        for (of_data, data, expected) in [
            (json!({ "type": "string" }), "1", "`data` must be of type string"),
            (json!({ "type": ["string", "null"] }), "1", "`data` must be of type null or string"),
            (json!({ "required": ["a"] }), "{}", "`data.a` is required"),
            (json!({ "properties": { "a": { "required": ["b"] } } }), r#"{"a":{}}"#, "`data.a.b` is required"),
            (json!({ "items": { "required": ["b"] } }), r#"[{"b":1},{}]"#, "`data[1].b` is required"),
            (json!({ "properties": { "x/~": { "type": "null" } } }), r#"{"x/~":1}"#, "`data.x/~` must be of type null"),
            (json!({ "enum": ["a", 1, null] }), "2", "`data` must be one of \"a\", 1, null"),
            (json!({ "const": { "a": 1 } }), "2", "`data` must be {\"a\":1}"),
            (json!({ "format": "uuid" }), "\"x\"", "`data` must be in the format `uuid`"),
            (json!({ "format": "date-time" }), "\"2026-13-01T00:00:00Z\"", "`data` must be in the format `date-time`"),
            (json!({ "pattern": "^a+$" }), "\"b\"", "`data` must match `^a+$`"),
            (json!({ "minimum": 1 }), "0", "`data` must be at least 1"),
            (json!({ "maximum": 1.5 }), "2", "`data` must be at most 1.5"),
            (json!({ "minLength": 2 }), "\"x\"", "`data` must be at least 2 characters"),
            (json!({ "maxLength": 2 }), "\"xyz\"", "`data` must be at most 2 characters"),
            (json!({ "minItems": 2 }), "[]", "`data` must be at least 2 items"),
            (json!({ "maxItems": 0 }), "[1]", "`data` must be at most 0 items"),
            (json!(false), "1", "`data` must be absent"),
            (json!({ "properties": { "a": false } }), r#"{"a":1}"#, "`data.a` must be absent"),
            (
                json!({ "propertyNames": { "format": "uuid" } }),
                r#"{"a":1}"#,
                "`data` has a wrong key: must be in the format `uuid`",
            ),
            // The library's words, without the value, which may be large or not for everyone's eyes.
            (json!({ "multipleOf": 2 }), "3", "`data` the value is not a multiple of 2"),
            (
                json!({ "not": { "type": "string" } }),
                "\"secret\"",
                "`data` {\"type\":\"string\"} is not allowed for the value",
            ),
            (
                json!({ "oneOf": [{ "type": "string" }, { "type": "null" }] }),
                "77",
                "`data` the value is not valid under any of the schemas listed in the 'oneOf' keyword",
            ),
        ] {
            let schema = json!({ "properties": { "data": of_data } });
            assert_eq!(judged(&schema, &format!(r#"{{"type":"t","data":{data}}}"#)), [expected], "{schema}");
        }
        assert_eq!(
            judged(&json!({ "required": ["subject", "data"] }), "{}"),
            ["`subject` is required", "`data` is required"]
        );
    }

    #[test]
    fn all_errors_are_told_up_to_a_bound() {
        let schema = json!({ "properties": { "data": { "items": { "type": "string" } } } });
        let event = format!(r#"{{"data":[{}]}}"#, vec!["1"; 1_000].join(","));
        let errors = judged(&schema, &event);
        assert_eq!(errors.len(), MAX_ERRORS);
        assert_eq!(errors[19], "`data[19]` must be of type string");
        let schema = json!({ "properties": { "data": { "enum": ["x".repeat(1_000)] } } });
        assert!(judged(&schema, r#"{"data":1}"#)[0].chars().count() < MAX_MESSAGE_CHARS + 10);
    }

    #[test]
    fn what_no_schema_can_judge_is_an_error_of_data() {
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for event in [r#"{"data":1e999}"#, &deep, r#"{"data":"\ud800"}"#] {
            let errors = judged(&json!({}), event);
            assert!(errors.len() == 1 && errors[0].starts_with("`data` cannot be validated: "), "{errors:?}");
        }
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for (schema, reason) in [
            (json!(true), "a JSON Schema is an object"),
            (json!({ "type": "text" }), "at `/type`"),
            (json!({ "properties": { "a": { "required": "b" } } }), "at `/properties/a/required`"),
            (json!({ "pattern": "(" }), "no JSON Schema"),
            (json!({ "pattern": "(?=a)" }), "no JSON Schema"), // look-around: not in linear time
            (json!({ "format": "colour" }), "no JSON Schema"),
            (json!({ "$ref": "https://example.com/schema.json" }), "no JSON Schema"),
            (json!({ "$ref": "file:///etc/passwd" }), "no JSON Schema"),
            (json!({ "$ref": "#/$defs/gone" }), "no JSON Schema"),
        ] {
            let why = compile(&schema).map(|_| ()).expect_err("refused");
            assert!(why.contains(reason), "{schema}: {why}");
        }
        assert!(compile(&json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "object" } } })).is_ok());
    }
}
