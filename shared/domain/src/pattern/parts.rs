//! A pattern's fields one by one: what each wants, what an event has there, and whether that will do. To tell people why an
//! event does not match.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Pattern;

/// Fields that are told of at most.
const MAX_PARTS: usize = 100;
/// Values told of one field at most: an array on the way gives many.
const MAX_FOUND: usize = 10;

/// A field of a pattern, or one of its `$or`s, judged alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Where it stands: `data.total`, `data.$or`.
    pub path: String,
    /// What stands there in the pattern.
    pub wants: Value,
    /// What the event has there, the first ten; nothing: no such field. Nothing either of an `$or`.
    pub found: Vec<Value>,
    /// Whether the event has one that will do.
    pub holds: bool,
}

impl Part {
    /// The first hundred parts of a pattern as written, judged against an event; those that do not hold come first. All can
    /// hold of an event that does not match: what lies in different elements of an array does not match together.
    pub fn all(pattern: &Value, event: &Value) -> Vec<Self> {
        let mut parts = Vec::new();
        gather(pattern, &mut Vec::new(), event, &mut parts);
        parts.sort_by_key(|part| part.holds);
        parts
    }
}

fn gather<'p>(pattern: &'p Value, at: &mut Vec<&'p str>, event: &Value, parts: &mut Vec<Part>) {
    for (name, wants) in pattern.as_object().into_iter().flatten() {
        at.push(name);
        if wants.is_object() {
            gather(wants, at, event, parts);
        } else if parts.len() < MAX_PARTS {
            let mut found = Vec::new();
            if name != "$or" {
                find(event, at, &mut found);
            }
            let alone = at
                .iter()
                .rev()
                .fold(wants.clone(), |inner, name| Value::Object(Map::from_iter([((*name).to_owned(), inner)])));
            let holds = Pattern::parse(&alone).is_ok_and(|alone| alone.matches(event));
            parts.push(Part { path: at.join("."), wants: wants.clone(), found, holds });
        }
        at.pop();
    }
}

/// What an event has at a path, in all elements of the arrays on the way.
fn find(event: &Value, path: &[&str], found: &mut Vec<Value>) {
    match (event, path) {
        (Value::Array(items), _) => items.iter().for_each(|item| find(item, path, found)),
        (value, []) if found.len() < MAX_FOUND => found.push(value.clone()),
        (Value::Object(map), [name, rest @ ..]) => {
            if let Some(value) = map.get(*name) {
                find(value, rest, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_is_told_and_what_fails_comes_first() {
        let pattern = json!({
            "type": ["order.paid"],
            "data": { "total": [{ "numeric": [">", 100] }], "tier": ["gold"], "$or": [{ "a": [1] }, { "b": [2] }] },
        });
        let event = json!({ "type": "order.paid", "data": { "total": 12, "b": 2 } });
        let told: Vec<(String, Vec<Value>, bool)> =
            Part::all(&pattern, &event).into_iter().map(|part| (part.path, part.found, part.holds)).collect();
        assert_eq!(
            told,
            [
                ("data.total".to_owned(), vec![json!(12)], false),
                ("data.tier".to_owned(), vec![], false),
                ("type".to_owned(), vec![json!("order.paid")], true),
                ("data.$or".to_owned(), vec![], true),
            ]
        );
    }

    #[test]
    fn what_lies_in_different_elements_holds_alone() {
        let pattern = json!({ "data": { "items": { "sku": ["A"], "count": [2] } } });
        let event = json!({ "data": { "items": [{ "sku": "A", "count": 1 }, { "sku": "B", "count": 2 }] } });
        let parts = Part::all(&pattern, &event);
        assert!(parts.iter().all(|part| part.holds) && !Pattern::parse(&pattern).unwrap().matches(&event));
        assert_eq!(parts[0].found, [json!("A"), json!("B")]);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let pattern: Map<String, Value> = (0..500).map(|n| (format!("f{n}"), json!([1]))).collect();
        let event = json!({ "f0": (0..500).collect::<Vec<_>>() });
        let parts = Part::all(&Value::Object(pattern), &event);
        assert_eq!((parts.len(), parts.iter().map(|part| part.found.len()).max()), (MAX_PARTS, Some(MAX_FOUND)));
    }
}
