//! How a setting is written: with its type in TOML, as text in the environment.

use std::str::FromStr;

use figment::value::Value;
use serde::{Deserialize, Deserializer, Serialize};

/// A size, written `8GiB`, `512MiB` or in plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "String")]
pub struct Bytes(pub u64);

impl TryFrom<Value> for Bytes {
    type Error = String;
    fn try_from(value: Value) -> Result<Self, String> {
        let text =
            value.as_str().map(str::to_owned).or_else(|| value.to_u128().map(|n| n.to_string())).unwrap_or_default();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => 0,
        };
        match digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
            Some(bytes) if unit > 0 => Ok(Self(bytes)),
            _ => Err("must be a size such as `8GiB`".to_owned()),
        }
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        match bytes.0 {
            n if n > 0 && n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
            n => n.to_string(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written<T> {
    Native(T),
    Text(String),
}

/// From the environment everything is text; from TOML it has its type.
pub(super) fn parsed<'de, D: Deserializer<'de>, T: Deserialize<'de> + FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<T, D::Error> {
    match Written::<T>::deserialize(from)? {
        Written::Native(value) => Ok(value),
        Written::Text(text) => {
            text.trim().parse().map_err(|why| serde::de::Error::custom(format_args!("`{text}`: {why}")))
        }
    }
}

pub(super) fn optional_parsed<'de, D: Deserializer<'de>, T: Deserialize<'de> + FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    match Option::<Written<T>>::deserialize(from)? {
        None => Ok(None),
        Some(Written::Native(value)) => Ok(Some(value)),
        Some(Written::Text(text)) if text.trim().is_empty() => Ok(None),
        Some(Written::Text(text)) => {
            text.trim().parse().map(Some).map_err(|why| serde::de::Error::custom(format_args!("`{text}`: {why}")))
        }
    }
}

/// An empty text is the same as none: a chart writes what was left out as `""`.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}

/// A list, or a text of its items with commas between them.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de> + FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    match Written::<Vec<T>>::deserialize(from)? {
        Written::Native(items) => Ok(items),
        Written::Text(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items
                .map(|item| item.parse().map_err(|why| serde::de::Error::custom(format_args!("`{item}`: {why}"))))
                .collect()
        }
    }
}
