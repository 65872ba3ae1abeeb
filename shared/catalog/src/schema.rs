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
            if place.is_empty() { format!("no JSON Schema: {text}") } else { format!("no JSON Schema at `{place}`: {text}") }
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
    let list = |values: &Value| values.as_array().into_iter().flatten().map(Value::to_string).collect::<Vec<_>>().join(", ");
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
