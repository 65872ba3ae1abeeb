//! From JSON to fields, and to the combinations of them that match. What the Ruler refuses is refused, with its place.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    mem,
};

use serde_json::{Map, Value};

use super::{
    MAX_COMBINATIONS, MAX_COMBINED_FIELDS, MAX_DEPTH, MAX_TEXT_BYTES, MAX_VALUES, PatternError,
    alternative::Alternatives, values::is_operator,
};

/// More errors than that help nobody.
const MAX_ERRORS: usize = 50;

/// With the operators, what the Ruler keeps for itself inside `$or`.
const RESERVED: [&str; 15] = [
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// A field of the pattern.
pub(super) struct Field<'p> {
    pub(super) path: Vec<&'p str>,
    pub(super) wants: Alternatives,
}

/// Sets of fields, each field by its place in the list of all: an event matches that has all fields of one set.
pub(super) type Combinations = Vec<Vec<usize>>;

pub(super) fn parse(pattern: &Value) -> Result<(Vec<Field<'_>>, Combinations), Vec<PatternError>> {
    let mut parser = Parser { combinations: vec![vec![]], ..Parser::default() };
    match pattern {
        Value::Object(object) => parser.object(object, &Place::ROOT, &mut vec![], Within::And),
        _ => parser.refuse(&Place::ROOT, "must be an object of fields, such as {\"type\": [\"order.paid\"]}"),
    };
    if parser.errors.is_empty() { Ok((parser.fields, parser.combinations)) } else { Err(parser.errors) }
}

/// What has been read so far. Its functions say what is wrong in `errors`, return `None` for that part, and go on.
#[derive(Default)]
pub(super) struct Parser<'p> {
    errors: Vec<PatternError>,
    fields: Vec<Field<'p>>,
    combinations: Combinations,
    /// Which fields have a path.
    by_path: BTreeMap<Vec<&'p str>, Vec<usize>>,
    pub(super) values: usize,
    pub(super) slow_values: usize,
}

/// Whether an object lies in a `$or`.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    And,
    Or,
}

impl<'p> Parser<'p> {
    pub(super) fn refuse<T>(&mut self, place: &Place<'_>, message: impl Into<String>) -> Option<T> {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(PatternError { path: place.to_string(), message: message.into() });
        }
        None
    }

    fn object(
        &mut self,
        object: &'p Map<String, Value>,
        place: &Place<'_>,
        path: &mut Vec<&'p str>,
        within: Within,
    ) -> Option<()> {
        if object.is_empty() {
            return self.refuse(place, "is empty: name at least one field");
        }
        if place.depth >= MAX_DEPTH {
            return self.refuse(place, format!("is nested too deep: use at most {MAX_DEPTH} levels"));
        }
        for (name, value) in object {
            if self.values > MAX_VALUES {
                return None; // and has been told
            }
            if name.len() > MAX_TEXT_BYTES {
                self.refuse::<()>(place, format!("has a name of over {MAX_TEXT_BYTES} bytes: use a shorter one"));
                continue;
            }
            let place = &place.name(name);
            match value {
                _ if name == "$or" && (path.is_empty() || is_relation(value)) => self.or(value, place, path),
                _ if within == Within::Or && (is_operator(name) || RESERVED.contains(&&**name)) => {
                    self.refuse(place, "is reserved inside `$or`: ask for this field outside of it")
                }
                _ if path.is_empty() && name != "data" && !is_attribute(name) => self.refuse(
                    place,
                    "is not in an event: use an attribute's name (lower-case letters and digits), `data` or `$or`",
                ),
                Value::Object(_) if path.is_empty() && name != "data" => {
                    self.refuse(place, "is an attribute and has no fields: give a list of values")
                }
                Value::Object(below) => {
                    path.push(name);
                    let read = self.object(below, place, path, within);
                    path.pop();
                    read
                }
                Value::Array(values) => {
                    let wants = self.alternatives(values, place);
                    path.push(name);
                    let read = self.field(Field { path: path.clone(), wants }, place);
                    path.pop();
                    read
                }
                Value::String(long) if long.len() > 64 => self.refuse(place, "must be a list of values"),
                _ => self.refuse(place, format!("must be a list of values, such as [{value}], or an object of fields")),
            };
        }
        Some(())
    }

    /// Asks for a field in all combinations so far.
    fn field(&mut self, field: Field<'p>, place: &Place<'_>) -> Option<()> {
        let same_path = self.by_path.entry(field.path.clone()).or_default();
        if self.combinations.iter().flatten().any(|known| same_path.contains(known)) {
            return self.refuse(place, "is asked for twice: name it once, or in different objects of one `$or`");
        }
        if count_fields(&self.combinations) + self.combinations.len() > MAX_COMBINED_FIELDS {
            return self.refuse(place, too_many_combinations());
        }
        same_path.push(self.fields.len());
        for combination in &mut self.combinations {
            combination.push(self.fields.len());
        }
        self.fields.push(field);
        Some(())
    }

    /// Each combination so far goes on in as many ways as `$or` has objects.
    fn or(&mut self, value: &'p Value, place: &Place<'_>, path: &mut Vec<&'p str>) -> Option<()> {
        let Some(objects) = value.as_array().filter(|objects| objects.len() >= 2) else {
            return self.refuse(place, "must be a list of at least two objects of fields");
        };
        let so_far = mem::take(&mut self.combinations);
        let mut combinations = Combinations::new();
        for (at, object) in objects.iter().enumerate() {
            let place = &place.at(at);
            self.combinations.clone_from(&so_far);
            match object {
                Value::Object(object) => self.object(object, place, path, Within::Or),
                _ => self.refuse(place, "must be an object of fields"),
            };
            combinations.append(&mut self.combinations);
            if combinations.len() > MAX_COMBINATIONS || count_fields(&combinations) > MAX_COMBINED_FIELDS {
                self.combinations = so_far;
                return self.refuse(place, too_many_combinations());
            }
        }
        self.combinations = combinations;
        Some(())
    }
}

fn count_fields(combinations: &Combinations) -> usize {
    combinations.iter().map(Vec::len).sum()
}

fn too_many_combinations() -> String {
    format!(
        "makes too many combinations: use fewer or smaller `$or` (at most {MAX_COMBINATIONS} combinations, \
         with {MAX_COMBINED_FIELDS} fields in all)"
    )
}

/// Whether the value of a `$or` is one. Else it is a field of that name: an object of fields, or a list of values.
fn is_relation(value: &Value) -> bool {
    let is_value = |item: &Value| match item {
        Value::Object(object) => object.len() == 1 && object.keys().all(|name| is_operator(name)),
        _ => true,
    };
    value.as_array().is_some_and(|items| items.is_empty() || !items.iter().all(is_value))
}

/// A name that an attribute of a CloudEvent may have (CloudEvents 1.0.2, Naming Conventions).
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// A place in the pattern: the way down to it. It is written only where something is wrong.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    above: Option<&'a Self>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Name(&'a str),
    At(usize),
}

impl Place<'_> {
    pub(super) const ROOT: Place<'static> = Place { above: None, step: Step::Root, depth: 0 };
}

impl<'a> Place<'a> {
    pub(super) fn name(&'a self, name: &'a str) -> Self {
        self.down(Step::Name(name))
    }

    pub(super) fn at(&'a self, index: usize) -> Self {
        self.down(Step::At(index))
    }

    fn down(&'a self, step: Step<'a>) -> Self {
        Self { above: Some(self), step, depth: self.depth + 1 }
    }
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(above) = self.above else { return Ok(()) };
        above.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::At(index) => write!(f, "[{index}]"),
            Step::Name(name) if !is_plain(name) => write!(f, "[{}]", Value::from(name)),
            Step::Name(name) if above.above.is_none() => f.write_str(name),
            Step::Name(name) => write!(f, ".{name}"),
        }
    }
}

/// Whether a name can be told from the rest of its path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| ".[]\"".contains(c) || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use serde_json::json;

    /// The paths and messages of a pattern's errors.
    pub(crate) fn refused(pattern: &Value) -> Vec<(String, String)> {
        let errors = Pattern::parse(pattern).err().unwrap_or_default();
        errors.into_iter().map(|PatternError { path, message }| (path, message)).collect()
    }

    #[test]
    fn what_is_no_object_of_fields_is_refused_with_its_place() {
        for (pattern, path, message) in [
            (json!([1]), "", "must be an object of fields"),
            (json!("x"), "", "must be an object of fields"),
            (json!({}), "", "is empty: name at least one field"),
            (json!({"type": "order.paid"}), "type", r#"must be a list of values, such as ["order.paid"]"#),
            (json!({"data": {"total": 12}}), "data.total", "must be a list of values, such as [12]"),
            (json!({"data": {"total": null}}), "data.total", "must be a list of values"),
            (json!({"data": {}}), "data", "is empty: name at least one field"),
            (json!({"data": {"a": {"b": {}}}}), "data.a.b", "is empty: name at least one field"),
            (json!({"data": {"a": []}}), "data.a", "is empty: give at least one value"),
            (json!({"detail": ["x"], "Type": ["x"]}), "Type", "is not in an event: use an attribute's name"),
            (json!({"data.total": [1]}), r#"["data.total"]"#, "is not in an event"),
            (json!({"": [1]}), r#"[""]"#, "is not in an event"),
            (json!({"source": {"x": ["y"]}}), "source", "is an attribute and has no fields"),
            (json!({"data": {"a b": {"c": [{}]}}}), r#"data["a b"].c[0]"#, "must have one operator"),
            (json!({"data": {"a": {"x".repeat(1025): [1]}}}), "data.a", "has a name of over 1024 bytes"),
        ] {
            let errors = refused(&pattern);
            let [(found_path, found)] = &errors[..] else { panic!("{pattern}: {errors:?}") };
            assert!(found_path == path && found.starts_with(message), "{pattern}: {errors:?}");
        }
    }

    #[test]
    fn what_or_may_not_be_is_refused_with_its_place() {
        let (a, b) = (json!({"a": [1]}), json!({"b": [1]}));
        for (data, path, message) in [
            (json!({"$or": []}), "data.$or", "must be a list of at least two objects of fields"),
            (json!({"$or": [a]}), "data.$or", "must be a list of at least two objects of fields"),
            (json!({"$or": [{}]}), "data.$or", "must be a list of at least two objects of fields"),
            (json!({"$or": [a, {}]}), "data.$or[1]", "is empty: name at least one field"),
            (json!({"$or": [a, "x"]}), "data.$or[1]", "must be an object of fields"),
            (json!({"$or": [a, b, [a]]}), "data.$or[2]", "must be an object of fields"),
            (json!({"$or": [a, {"b": 1}]}), "data.$or[1].b", "must be a list of values"),
            (json!({"$or": [a, {"prefix": ["x"]}]}), "data.$or[1].prefix", "is reserved inside `$or`"),
            (json!({"$or": [a, {"b": {"=": [1]}}]}), "data.$or[1].b.=", "is reserved inside `$or`"),
            (json!({"$or": [a, {"regex": {"b": [1]}}]}), "data.$or[1].regex", "is reserved inside `$or`"),
            (json!({"$or": "x"}), "data.$or", "must be a list of values"),
            // One combination would ask for the field twice.
            (json!({"a": [1], "$or": [b, {"a": [2]}]}), "data.$or[1].a", "is asked for twice"),
            (json!({"$or": [b, a], "a": [2]}), "data.a", "is asked for twice"),
            (json!({"$or": [a, b], "x": [1], "y": {"$or": [a, b]}, "b": [2]}), "data.b", "is asked for twice"),
            (json!({"$or": [{"$or": [a, b]}, {"$or": [b, a], "b": [1]}]}), "data.$or[1].b", "is asked for twice"),
        ] {
            let pattern = json!({"data": data});
            let errors = refused(&pattern);
            let [(found_path, found)] = &errors[..] else { panic!("{pattern}: {errors:?}") };
            assert!(found_path == path && found.starts_with(message), "{pattern}: {errors:?}");
        }
        for (or, path) in [
            (json!("x"), "$or"),
            (json!(["x", "y"]), "$or[0]"),
            (json!({"type": ["x"]}), "$or"),
            (json!([{"prefix": "x"}, {"prefix": "y"}]), "$or[0].prefix"),
            (json!([{"type": ["x"]}, {"Type": ["x"]}]), "$or[1].Type"),
        ] {
            assert_eq!(refused(&json!({"$or": or}))[0].0, path, "{or}");
        }
        assert_eq!(refused(&json!({"data": {"$or": [a, a], "prefix": {"regex": [1]}}})), []);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let pattern = json!({
            "type": "x", "data": {"a": [1, [2]], "b": [{"prefix": 1}, {"numeric": ["<", "1", 2]}], "c": {}},
        });
        let paths: Vec<_> = refused(&pattern).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["type", "data.a[1]", "data.b[0].prefix", "data.b[1].numeric", "data.c"]);
        let many: Value = (0..1_000).map(|n| (format!("a{n}"), json!(n))).collect();
        assert_eq!(refused(&many).len(), MAX_ERRORS);
    }

    #[test]
    fn patterns_are_bounded() {
        let nested = |levels: usize| (1..levels).fold(json!({"a": [1]}), |below, _| json!({"a": below}));
        assert_eq!(refused(&json!({"data": nested(MAX_DEPTH - 1)})), []);
        let errors = refused(&json!({"data": nested(MAX_DEPTH)}));
        assert_eq!(errors[0].0, format!("data{}", ".a".repeat(MAX_DEPTH - 1)));
        assert!(errors[0].1.starts_with("is nested too deep"), "{errors:?}");

        assert_eq!(refused(&json!({"data": vec![1; MAX_VALUES]})), []);
        let errors =
            refused(&json!({"data": {"a": vec![1; MAX_VALUES - 1], "b": [{"anything-but": ["x", "y", "z"]}]}}));
        let one_too_many = format!("is one too many: use at most {MAX_VALUES} values");
        assert_eq!(errors, [("data.b[0].anything-but[1]".to_owned(), one_too_many)]);

        let ways = |n: usize, of: usize| {
            let or = |at: usize| json!({"$or": (0..of).map(|way| json!({"a": [way + at]})).collect::<Vec<_>>()});
            json!({"data": (0..n).map(|at| (format!("n{at}"), or(at))).collect::<Value>()})
        };
        for allowed in [ways(9, 2), ways(3, 10), ways(1, MAX_COMBINATIONS)] {
            assert_eq!(refused(&allowed), [], "{allowed}");
        }
        for (too_many, path) in
            [(ways(10, 2), "data.n9.$or[1]"), (ways(200, 2), "data.n9.$or[1]"), (ways(2, 32), "data.n1.$or[31]")]
        {
            let errors = refused(&too_many);
            assert!(errors[0].0 == path && errors[0].1.starts_with("makes too many combinations"), "{errors:?}");
        }
        let mut of_many: Value = (0..20).map(|at| (format!("n{at}"), json!([at]))).collect();
        of_many["$or"] = (0..501).map(|way| json!({"a": [way]})).collect();
        assert_eq!(refused(&json!({"data": of_many}))[0].0, "data.$or[476]");
        let or: Value = (0..500).map(|way| json!({"a": [way]})).collect();
        let fields: Value = (0..20).map(|at| (format!("n{at}"), json!([at]))).collect();
        let or_first = json!({"data": {"$or": or, "fields": fields}});
        assert_eq!(refused(&or_first)[0].0, "data.fields.n19");
    }
}
