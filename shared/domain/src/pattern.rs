//! Event patterns: what narrows a webhook (its `filter`).
//!
//! JSON patterns as the open Event Ruler (github.com/aws/event-ruler) takes them, over one document: the attributes of
//! a CloudEvent at the top and its `data`. A pattern names fields, each with a list of alternatives; an event matches
//! if every field has one that holds, of values which the event keeps together: what lies in different elements of one
//! array does not match together. `$or` takes one of several sets of fields.
//!
//! A pattern is read into fields and the combinations of them that `$or` allows (`parse`, `values`), which become one
//! tree in the shape of the event (`tree`); its leaves hold the alternatives (`alternative`, `text`).
//!
//! **What a match costs.** There is no search: the event is walked once, and only along the pattern's paths. Each value
//! found at a field is tried against the field's alternatives, of which a pattern has at most [`MAX_VALUES`]; at most
//! [`MAX_SLOW_VALUES`] of them take time linear in the value's length, the others compare. Each object on the way costs
//! a step for each of its fields in each combination, at most [`MAX_COMBINED_FIELDS`]. So the worst patterns take some
//! 0.3 s for an event of 256 KiB made for them, an ordinary one 0.3 µs for an ordinary event.
//!
//! **Where we part from the Ruler** (2.0.1, against whose code this was compared over a million random cases):
//! - A dot in a name is a dot, not a step down, as its README lets us expect.
//! - A path asked for twice in one combination is refused, as it does unless told to let the last win.
//! - A name that is a field and an object in one combination is matched as if it were two.
//! - Its machine confuses some alternatives, such as a wildcard beside a text in any case, and loses some matches of
//!   `$or` whose objects share values. We do what its README says.
//! - IPv4 and IPv6 networks never match each other; an IPv4 address with leading zeros is a text; where case is ignored,
//!   a character outside the basic plane, or in title case, still equals itself.
mod alternative; // what a value may be, and whether it is
mod parse; // from JSON to fields and combinations; what is refused, and where
mod parts; // field by field, to tell why an event does not match
mod text; // wildcards, and texts in any case
mod tree; // the compiled form, and the match
mod values; // the list of values of a field, as written

use serde_json::Value;

pub use parts::Part;

/// The most levels that a pattern may nest.
pub const MAX_DEPTH: usize = 32;
/// The most values in a pattern, over all its fields and lists.
pub const MAX_VALUES: usize = 1_000;
/// The most of them that may be a `wildcard` or ignore case.
pub const MAX_SLOW_VALUES: usize = 100;
/// The longest text or name in a pattern.
pub const MAX_TEXT_BYTES: usize = 1_024;
/// The most combinations that the `$or` of a pattern may allow.
pub const MAX_COMBINATIONS: usize = 1_000;
/// The most fields in all combinations together.
pub const MAX_COMBINED_FIELDS: usize = 10_000;

/// A compiled event pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    root: tree::Group,
}

/// A place in a pattern and why it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    /// Where in the pattern: `data.total[0].numeric`; empty for the pattern itself.
    pub path: String,
    /// Lower case, without a full stop; says what to do.
    pub message: String,
}

impl Pattern {
    /// Compiles a pattern, or says all that is wrong with it.
    pub fn parse(pattern: &Value) -> Result<Self, Vec<PatternError>> {
        let (fields, combinations) = parse::parse(pattern)?;
        Ok(Self { root: tree::Group::new(&fields, combinations) })
    }

    /// Whether an event matches: an object with the event's attributes and `data`. Anything else matches nothing.
    pub fn matches(&self, event: &Value) -> bool {
        event.as_object().is_some_and(|event| self.root.matches(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pattern(pattern: &Value) -> Pattern {
        Pattern::parse(pattern).unwrap_or_else(|errors| panic!("{pattern} is refused: {errors:?}"))
    }

    /// Whether an event with this `data` matches a pattern of `data`.
    fn matches(wanted: &str, data: &str) -> bool {
        let [wanted, data] = [wanted, data].map(|text| serde_json::from_str::<Value>(text).expect(text));
        pattern(&json!({"data": wanted})).matches(&json!({"type": "order.paid", "data": data}))
    }

    #[test]
    fn a_field_has_one_of_its_values() {
        for (values, these, not_those) in [
            (r#"["paid", "sent"]"#, &[r#""paid""#, r#""sent""#][..], &[r#""Paid""#, r#""pai""#, r#""""#][..]),
            (r#"[""]"#, &[r#""""#], &[r#"" ""#, "null"]),
            (r#"[300]"#, &["300", "300.0", "3.0e2", "3E+2"], &["300.5", r#""300""#, "true"]),
            (r#"[3.0e2]"#, &["300", "300.0"], &["-300"]),
            (r#"[0]"#, &["0", "-0", "0.0", "-0.0"], &["1", "false", "null", r#""""#]),
            (r#"[true]"#, &["true"], &["false", "1", r#""true""#]),
            (r#"[null]"#, &["null"], &["false", "0", r#""null""#, "[]", "{}"]),
            (r#"[{"exactly": "::1"}]"#, &[r#""::1""#], &[r#""0::1""#]),
            (r#"[{"prefix": "ord"}]"#, &[r#""order""#, r#""ord""#], &[r#""or""#, r#""Order""#, r#""word""#, "1"]),
            (r#"[{"prefix": ""}]"#, &[r#""""#, r#""x""#], &["1", "null"]),
            (r#"[{"prefix": {"equals-ignore-case": "ORÉ"}}]"#, &[r#""oréx""#, r#""ORé""#], &[r#""or""#, r#""xoré""#]),
            (r#"[{"suffix": ".png"}]"#, &[r#""a.png""#, r#"".png""#], &[r#""a.PNG""#, r#""png""#]),
            (r#"[{"suffix": {"equals-ignore-case": ".PnG"}}]"#, &[r#""a.png""#, r#"".PNG""#], &[r#"".png.""#, "1"]),
            (r#"[{"equals-ignore-case": "éA"}]"#, &[r#""Éa""#, r#""éA""#], &[r#""Éab""#, r#""É""#, "1"]),
            (r#"[{"wildcard": "*/bin/*.jar"}]"#, &[r#""a/bin/.jar""#, r#""/bin/x.jar""#], &[r#""a/bin.jar""#, "1"]),
            (r#"[{"wildcard": "*"}]"#, &[r#""""#, r#""x""#], &["1", "null", "true"]),
            (r#"[{"wildcard": "\\*\\\\"}]"#, &[r#""*\\""#], &[r#""a\\""#, r#""*""#]),
            (
                r#"[{"exists": true}]"#,
                &["null", "0", r#""""#, "[1]", "[[false]]"],
                &["[]", "{}", "[[]]", r#"{"b": 1}"#],
            ),
            (r#"[{"exists": false}]"#, &["[]", "{}", "[{}]", r#"{"b": 1}"#], &["null", "0", "[[1]]"]),
            (r#"[{"exists": false}, "x"]"#, &["[]", "{}", r#""x""#], &[r#""y""#, "null"]),
            (r#"["x", {"prefix": "y"}, 1]"#, &[r#""x""#, r#""yes""#, "1.0"], &[r#""z""#, "2"]),
            (r#"["x"]"#, &[r#"["y", "x"]"#, r#"[[], [["x"]]]"#], &[r#"["y"]"#, r#"{"x": "x"}"#, r#"[{"a": "x"}]"#]),
        ] {
            for value in these {
                assert!(
                    matches(&format!(r#"{{"a": {values}}}"#), &format!(r#"{{"a": {value}}}"#)),
                    "{values}: {value}"
                );
            }
            for value in not_those {
                assert!(
                    !matches(&format!(r#"{{"a": {values}}}"#), &format!(r#"{{"a": {value}}}"#)),
                    "{values}: {value}"
                );
            }
        }
    }

    #[test]
    fn anything_but_takes_all_values_of_any_kind_but_those() {
        for (but, not_those) in [
            (r#""a""#, &["a"][..]),
            (r#"["a", "ab"]"#, &["a", "ab"]),
            (r#"{"prefix": "a"}"#, &["a", "ab"]),
            (r#"{"prefix": ["ab", "b"]}"#, &["ab", "b"]),
            (r#"{"suffix": "b"}"#, &["b", "ab"]),
            (r#"{"suffix": ["a", "B"]}"#, &["a", "B"]),
            (r#"{"equals-ignore-case": "b"}"#, &["b", "B"]),
            (r#"{"equals-ignore-case": ["AB", ""]}"#, &["ab", ""]),
            (r#"{"wildcard": "*b*"}"#, &["ab", "b"]),
            (r#"{"wildcard": ["a*", "*B"]}"#, &["a", "ab", "B"]),
        ] {
            let but = format!(r#"{{"a": [{{"anything-but": {but}}}]}}"#);
            for text in ["", "a", "b", "ab", "B", "10"] {
                let data = format!(r#"{{"a": "{text}"}}"#);
                assert_eq!(matches(&but, &data), !not_those.contains(&text), "{but}: {text}");
            }
            for value in ["1", "true", "null", r#"["a", "ab", "b", "B", "", 0]"#] {
                assert!(matches(&but, &format!(r#"{{"a": {value}}}"#)), "{but}: {value}");
            }
            for none in ["{}", r#"{"a": []}"#, r#"{"a": {"b": 1}}"#] {
                assert!(!matches(&but, none), "{but}: {none}, which has no value");
            }
        }
        let but = r#"{"a": [{"anything-but": [100, 2.5]}]}"#;
        for (value, expected) in [("100.0", false), ("25e-1", false), ("101", true), (r#""100""#, true), ("null", true)]
        {
            assert_eq!(matches(but, &format!(r#"{{"a": {value}}}"#)), expected, "{value}");
        }
    }

    #[test]
    fn numbers_are_compared_as_doubles() {
        for (numeric, these, not_those) in [
            (r#"["=", 3.018e2]"#, &["301.8"][..], &["301.80001", r#""301.8""#][..]),
            (r#"["<", 10]"#, &["9.99", "-1e300"], &["10", "10.0", "null"]),
            (r#"["<=", 10]"#, &["10", "10.0", "0"], &["10.000001"]),
            (r#"[">", 0]"#, &["1e-320", "5"], &["0", "-0.0", "-1", r#""5""#, "true"]),
            (r#"[">=", 0]"#, &["0", "-0.0", "1e308"], &["-1e-320"]),
            (r#"[">", 0, "<=", 5]"#, &["5", "0.1"], &["0", "5.1"]),
            (r#"[">=", -5, "<", 0]"#, &["-5", "-0.1"], &["0", "-5.1"]),
        ] {
            for (values, expected) in [(these, true), (not_those, false)] {
                for value in values {
                    let wanted = format!(r#"{{"a": [{{"numeric": {numeric}}}]}}"#);
                    assert_eq!(matches(&wanted, &format!(r#"{{"a": {value}}}"#)), expected, "{numeric}: {value}");
                }
            }
        }
    }

    /// Where a double would stand for its neighbours too: the Ruler compares them as text, and orders them nowhere.
    #[test]
    fn whole_numbers_that_no_double_prints_as_equal_only_themselves() {
        for (values, value, expected) in [
            ("[9007199254740993]", "9007199254740993", true),
            ("[9007199254740993]", "9007199254740992", false),
            ("[9007199254740992]", "9007199254740992.0", true),
            ("[-9007199254740993]", "-9007199254740993", true),
            ("[18446744073709551615]", "18446744073709551615", true),
            ("[18446744073709551615]", "18446744073709551614", false),
            ("[9223372036854776000]", "9.223372036854776e18", true),
            ("[9223372036854775807]", "9.223372036854775807e18", false),
            (r#"[{"numeric": [">", 0]}]"#, "9007199254740992", true),
            (r#"[{"numeric": [">", 0]}]"#, "9007199254740993", false),
            (r#"[{"anything-but": 9007199254740992}]"#, "9007199254740993", true),
        ] {
            let found = matches(&format!(r#"{{"a": {values}}}"#), &format!(r#"{{"a": {value}}}"#));
            assert_eq!(found, expected, "{values}: {value}");
        }
    }

    #[test]
    fn addresses_are_matched_in_any_spelling() {
        for (values, these, not_those) in [
            (r#"{"cidr": "10.0.0.0/24"}"#, &["10.0.0.0", "10.0.0.255"][..], &["10.0.1.0", "10.0.0", "x", "::"][..]),
            (r#"{"cidr": "10.0.0.77/24"}"#, &["10.0.0.0", "10.0.0.255"], &["10.0.1.0"]),
            (r#"{"cidr": "0.0.0.0/0"}"#, &["1.2.3.4", "::ffff:102:304"], &["::1", "", "1.2.3.4/32"]),
            (r#"{"cidr": "10.0.0.2/31"}"#, &["10.0.0.2", "10.0.0.3"], &["10.0.0.1", "10.0.0.4"]),
            (r#"{"cidr": "2001:db8::/33"}"#, &["2001:DB8::1", "2001:db8:7fff::"], &["2001:db8:8000::", "10.0.0.1"]),
            (r#"{"cidr": "::/0"}"#, &["::", "ffff::"], &["1.2.3.4", "::1.2.3.4", "fe80::1%eth0"]),
            (r#""10.0.0.1""#, &["10.0.0.1", "::ffff:a00:1"], &["10.0.0.2", "010.0.0.1"]),
            (r#""::1""#, &["::1", "0:0:0:0:0:0:0:1"], &["::2", "0.0.0.1"]),
            (r#""12:30""#, &["12:30"], &["0012:0030"]),
        ] {
            for (texts, expected) in [(these, true), (not_those, false)] {
                for text in texts {
                    let found = matches(&format!(r#"{{"a": [{values}]}}"#), &format!(r#"{{"a": "{text}"}}"#));
                    assert_eq!(found, expected, "{values}: {text}");
                }
            }
        }
    }

    #[test]
    fn all_fields_must_match_attributes_too() {
        let event =
            json!({"id": "1", "type": "order.paid", "source": "/shop/7", "partition": 3, "data": {"total": 12}});
        for (wanted, expected) in [
            (json!({"type": ["order.paid"], "source": [{"prefix": "/shop/"}], "data": {"total": [12]}}), true),
            (json!({"type": ["order.paid"], "source": [{"prefix": "/shop/"}], "data": {"total": [13]}}), false),
            (json!({"type": ["order.sent"], "data": {"total": [12]}}), false),
            (json!({"partition": [{"numeric": [">", 2]}]}), true),
            (json!({"subject": [{"exists": false}]}), true),
            (json!({"subject": [{"exists": true}]}), false),
        ] {
            assert_eq!(pattern(&wanted).matches(&event), expected, "{wanted}");
        }
        for (data, expected) in [(json!("x"), true), (json!(["y", "x"]), true), (json!({"x": "x"}), false)] {
            assert_eq!(pattern(&json!({"data": ["x"]})).matches(&json!({"data": data})), expected, "{data}");
        }
        for no_event in [json!([]), json!("x"), json!(null), json!([{"data": {"a": 1}}])] {
            assert!(!pattern(&json!({"data": {"a": [{"exists": false}]}})).matches(&no_event), "{no_event}");
        }
    }

    #[test]
    fn names_are_taken_as_they_are() {
        assert!(matches(r#"{"a.b": [1]}"#, r#"{"a.b": 1}"#));
        assert!(!matches(r#"{"a.b": [1]}"#, r#"{"a": {"b": 1}}"#));
        assert!(matches(r#"{"": [1], "ä ö": {"*": [2]}}"#, r#"{"": 1, "ä ö": {"*": 2}}"#));
        assert!(!matches(r#"{"A": [1]}"#, r#"{"a": 1}"#));
    }

    /// The Ruler's own example, and what follows from it.
    #[test]
    fn fields_in_different_elements_of_an_array_do_not_match_together() {
        let people = r#"{"people": [{"first": "John", "last": "Doe"}, {"first": "Anna", "last": "Smith"},
                                    {"first": "Peter", "last": "Jones", "tags": ["x", "y"]}], "n": 3}"#;
        for (wanted, expected) in [
            (r#"{"people": {"first": ["Anna"]}}"#, true),
            (r#"{"people": {"first": ["Anna"], "last": ["Smith"]}, "n": [3]}"#, true),
            (r#"{"people": {"first": ["Anna"], "last": ["Jones"]}}"#, false),
            (r#"{"people": {"first": ["Anna", "Peter"], "last": ["Jones", "Doe"]}}"#, true),
            (r#"{"people": {"first": ["Peter"], "tags": ["y"]}}"#, true),
            (r#"{"people": {"first": ["Anna"], "tags": ["y"]}}"#, false),
            (r#"{"people": {"first": [{"anything-but": ["Anna", "John"]}], "last": ["Jones"]}}"#, true),
            (r#"{"people": {"first": [{"anything-but": "Anna"}], "last": ["Smith"]}}"#, false),
            (r#"{"people": ["Anna"]}"#, false),
            (r#"{"people": {"first": {"x": ["Anna"]}}}"#, false),
        ] {
            assert_eq!(matches(wanted, people), expected, "{wanted}");
        }
        for (data, expected) in [
            (r#"[{"a": 1, "b": 2}]"#, true),
            (r#"[{"a": 1}, {"b": 2}]"#, false),
            (r#"[[{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}]]"#, true),
            (r#"[[{"a": 1}], {"b": 2}, [{"b": 2}]]"#, false),
            (r#"[[[{"a": 1}, {"b": 2}]]]"#, false),
            (r#"[{"a": [0, 1], "b": [[2]]}, 7]"#, true),
            (r#"[{"a": [[1]], "b": 0}, {"b": 2}]"#, false),
            (r#"{"a": [1], "b": [3, 2]}"#, true),
            (r#"[]"#, false),
        ] {
            assert_eq!(matches(r#"{"a": [1], "b": [2]}"#, data), expected, "{data}");
        }
        for (data, expected) in [
            (r#"{"u": [{"t": [{"k": 1, "v": 2}]}]}"#, true),
            (r#"{"u": [{"t": [{"k": 1}, {"v": 2}]}]}"#, false),
            (r#"{"u": [{"t": {"k": 1}}, {"t": {"v": 2}}]}"#, false),
            (r#"{"u": [{"t": [{"k": 1}, {"v": 2}]}, {"t": [{"k": 1, "v": 2}]}]}"#, true),
            (r#"{"u": {"t": [[{"k": 1, "v": 2}]]}}"#, true),
        ] {
            assert_eq!(matches(r#"{"u": {"t": {"k": [1], "v": [2]}}}"#, data), expected, "{data}");
        }
        // Two arrays beside each other do not bind each other.
        assert!(matches(r#"{"a": {"x": [1]}, "b": {"x": [2]}}"#, r#"{"a": [{"x": 1}, {}], "b": [{}, {"x": 2}]}"#));
    }

    /// As in the Ruler, the order of the paths matters: `tree` says why.
    #[test]
    fn an_absent_field_is_absent_from_the_element_that_fields_before_it_chose() {
        let absent = r#"[{"exists": false}]"#;
        for (wanted, data, expected) in [
            (r#"{"sku": ["A"], "void": ABSENT}"#, r#"[{"sku": "A"}]"#, true),
            (r#"{"sku": ["A"], "void": ABSENT}"#, r#"[{"sku": "A"}, {"sku": "B", "void": 1}]"#, true),
            (r#"{"sku": ["A"], "void": ABSENT}"#, r#"[{"sku": "A", "void": 1}, {"sku": "B"}]"#, false),
            (r#"{"sku": ["A"], "void": ABSENT}"#, r#"[{"sku": "A", "void": 1}, {"sku": "A"}]"#, true),
            (r#"{"sku": ["A"], "gone": ABSENT}"#, r#"[{"sku": "A"}, {"sku": "B", "gone": 1}]"#, false),
            (r#"{"sku": ["A"], "gone": ABSENT}"#, r#"[{"sku": "A"}, {"sku": "B"}]"#, true),
            (r#"{"gone": ABSENT, "void": ABSENT}"#, r#"[{"gone": 1}, {"void": 1}]"#, false),
            (r#"{"gone": ABSENT, "void": ABSENT}"#, r#"[{"x": 1}, 1, []]"#, true),
            (r#"{"gone": ABSENT, "void": ABSENT}"#, r#"[]"#, true),
            (r#"{"gone": [{"exists": false}, "x"], "void": ABSENT}"#, r#"[{"gone": "x"}, {"void": 1}]"#, true),
            (r#"{"gone": [{"exists": false}, "x"], "void": ABSENT}"#, r#"[{"gone": "y"}, {}]"#, false),
            (r#"{"s": [{"exists": false}, "x"], "t": ABSENT, "u": ["A"]}"#, r#"[{"u": "A"}, {"s": "x"}]"#, false),
            (r#"{"s": [{"exists": false}, "x"], "t": ABSENT, "u": ["A"]}"#, r#"[{"u": "A"}, {"t": 1}]"#, false),
            (
                r#"{"s": [{"exists": false}, "x"], "t": ABSENT, "u": ["A"]}"#,
                r#"[{"u": "A", "s": "x"}, {"t": 1}]"#,
                true,
            ),
            (r#"{"n": {"gone": ABSENT}, "sku": ["A"]}"#, r#"[{"sku": "A"}, {"n": [{"gone": 1}]}]"#, false),
            (r#"{"sku": ["A"], "t": {"gone": ABSENT}}"#, r#"[{"sku": "A"}, {"t": [{"gone": 1}]}]"#, true),
            (r#"{"sku": ["A"], "t": {"gone": ABSENT}}"#, r#"[{"sku": "A", "t": [{}, {"gone": 1}]}]"#, false),
            (r#"{"n": {"a": ABSENT, "b": ABSENT}, "s": ABSENT, "t": ["A"]}"#, r#"[{"t": "A"}, {"s": 1}]"#, false),
            (r#"{"n": {"a": ABSENT, "b": ABSENT}, "s": ABSENT, "t": ["A"]}"#, r#"[{"t": "A"}, {"u": 1}]"#, true),
            // `-` comes before the dot in `a.b`: the order is that of whole paths.
            (r#"{"a": {"b": ABSENT}, "a-c": ["A"]}"#, r#"[{"a-c": "A"}, {"a": {"b": 1}}]"#, true),
            (r#"{"a": {"b": ABSENT}, "aa": ["A"]}"#, r#"[{"aa": "A"}, {"a": {"b": 1}}]"#, false),
        ] {
            assert_eq!(matches(&wanted.replace("ABSENT", absent), data), expected, "{wanted}: {data}");
        }
    }

    #[test]
    fn or_takes_one_of_several_objects() {
        for (wanted, these, not_those) in [
            (
                r#"{"$or": [{"a": [1]}, {"b": [2], "c": [3]}]}"#,
                &[r#"{"a": 1}"#, r#"{"b": 2, "c": 3}"#][..],
                &["{}", r#"{"b": 2}"#][..],
            ),
            (
                r#"{"z": [0], "$or": [{"a": [1]}, {"a": [2]}]}"#,
                &[r#"{"z": 0, "a": 2}"#],
                &[r#"{"a": 1}"#, r#"{"z": 0}"#],
            ),
            (
                r#"{"$or": [{"a": [1]}, {"b": [1]}], "d": {"$or": [{"a": [1]}, {"b": [1]}]}}"#,
                &[r#"{"a": 1, "d": {"b": 1}}"#, r#"{"b": 1, "d": {"a": 1}}"#],
                &[r#"{"a": 1, "b": 1}"#, r#"{"d": {"a": 1, "b": 1}}"#],
            ),
            (
                r#"{"$or": [{"a": [1], "$or": [{"b": [1]}, {"c": [1]}]}, {"d": [1]}]}"#,
                &[r#"{"a": 1, "c": 1}"#, r#"{"d": 1}"#],
                &[r#"{"a": 1}"#, r#"{"b": 1, "c": 1}"#],
            ),
            // What is asked outside of it holds for the same element.
            (
                r#"{"i": {"k": [1]}, "$or": [{"i": {"v": [1]}}, {"i": {"v": [2], "w": [3]}}]}"#,
                &[r#"{"i": [{"k": 1, "v": 1}]}"#, r#"{"i": [{"k": 2}, {"k": 1, "v": 2, "w": 3}]}"#],
                &[r#"{"i": [{"k": 1}, {"v": 1}]}"#, r#"{"i": [{"k": 1, "v": 2}, {"k": 1, "w": 3}]}"#],
            ),
            (
                r#"{"$or": [{"a": ["x"]}, {"a": {"b": ["x"]}}, {"a": [{"exists": false}], "c": [1]}]}"#,
                &[r#"{"a": "x"}"#, r#"{"a": {"b": "x"}}"#, r#"{"c": 1}"#, r#"{"a": {"b": "y"}, "c": 1}"#],
                &[r#"{"a": "y"}"#, r#"{"a": "y", "c": 1}"#, r#"{"a": {"b": "y"}}"#],
            ),
            // An array may have what one object asks for, and what the other does.
            (
                r#"{"$or": [{"i": {"a": [1]}, "n": [9]}, {"i": {"b": [1]}}]}"#,
                &[r#"{"i": [{"a": 1}, {"b": 1}]}"#, r#"{"i": [{"a": 1}, {}], "n": 9}"#],
                &[r#"{"i": [{"a": 1}, {}]}"#],
            ),
            (
                r#"{"$or": [{"i": ["x"], "n": [9]}, {"i": ["y"]}]}"#,
                &[r#"{"i": ["x", "y"]}"#, r#"{"i": ["x", "z"], "n": 9}"#],
                &[r#"{"i": ["x", "z"]}"#],
            ),
            // Not a relation, but a name.
            (
                r#"{"$or": ["x", {"prefix": "y"}]}"#,
                &[r#"{"$or": "x"}"#, r#"{"$or": "yes"}"#],
                &["{}", r#"{"$or": "z"}"#],
            ),
            (r#"{"$or": [{"prefix": "x"}, {"prefix": "y"}]}"#, &[r#"{"$or": "xx"}"#], &[r#"{"prefix": "x"}"#]),
            (r#"{"$or": {"a": [1]}}"#, &[r#"{"$or": {"a": 1}}"#], &[r#"{"a": 1}"#]),
        ] {
            for (data, expected) in
                these.iter().map(|data| (data, true)).chain(not_those.iter().map(|data| (data, false)))
            {
                assert_eq!(matches(wanted, data), expected, "{wanted}: {data}");
            }
        }
        let wanted = pattern(&json!({"$or": [{"type": ["a"]}, {"data": {"x": [1]}}], "source": ["s"]}));
        for (event, expected) in [
            (json!({"source": "s", "type": "a"}), true),
            (json!({"source": "s", "type": "b", "data": {"x": 1}}), true),
            (json!({"source": "s", "type": "b"}), false),
            (json!({"source": "t", "type": "a"}), false),
        ] {
            assert_eq!(wanted.matches(&event), expected, "{event}");
        }
    }

    /// Searched element by element, each of these would outlast the sun.
    #[test]
    fn a_hostile_event_costs_no_more_than_its_size() {
        let many: Vec<Value> = (0..5_000).map(|_| json!({"x": 1, "y": [{"z": 1}, {"z": 1}]})).collect();
        let arrays = json!({"a": many, "b": many, "c": many, "d": many});
        let part = json!({"x": [1], "y": {"z": [1]}});
        let wanted = pattern(&json!({"data": {"a": part, "b": part, "c": part, "d": {"x": [1], "y": {"z": [2]}}}}));
        assert!(!wanted.matches(&json!({"data": arrays})));
        let both: Vec<Value> = (0..9).map(|n| json!({"$or": [{"x": [n]}, {"y": {"z": [n, 7]}}]})).collect();
        let names =
            both.into_iter().enumerate().map(|(n, or)| (format!("n{n}"), or)).collect::<serde_json::Map<_, _>>();
        let element: Value = (0..9).map(|n| (format!("n{n}"), json!({"x": n + 1, "y": [{"z": 8}]}))).collect();
        assert!(!pattern(&json!({"data": names})).matches(&json!({"data": vec![element; 500]})));
        let wanted = pattern(&json!({"data": [{"wildcard": format!("{}b", "*a".repeat(500))}]}));
        assert!(!wanted.matches(&json!({"data": "a".repeat(200_000)})));
        let nested = (0..100).fold(json!({"x": 1}), |inner, _| json!([inner]));
        assert!(pattern(&json!({"data": {"x": [1]}})).matches(&json!({"data": nested})));
    }

    #[test]
    fn a_pattern_is_shared_between_threads() {
        fn shared<T: Send + Sync + Clone>() {}
        shared::<Pattern>();
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e15..1e15).prop_map(Value::from),
            (-3..3).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ]
    }

    fn data() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c$.]{0,2}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    /// What asks for the values of a part of an event, of one element where it has an array; `None` if it has no value.
    fn asking_for(part: &Value, element: usize) -> Option<Value> {
        match part {
            Value::Object(fields) => {
                let fields =
                    fields.iter().filter_map(|(name, value)| Some((name.clone(), asking_for(value, element)?)));
                Some(fields.collect::<Value>()).filter(|fields| fields != &json!({}))
            }
            Value::Array(array) => asking_for(array.get(element % array.len().max(1))?, element),
            value => Some(json!([value])),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_of_an_events_own_values_matches_it(data in data(), element in 0_usize..4) {
            if let Some(wanted) = asking_for(&data, element) {
                prop_assert!(pattern(&json!({"data": wanted})).matches(&json!({"data": data})), "{}", wanted);
            }
        }

        #[test]
        fn for_a_value_anything_but_is_the_contrary_of_the_value(
            but in prop_oneof!["[ab]{0,2}".prop_map(Value::from), (-3..3).prop_map(Value::from)], value in scalar(),
        ) {
            let event = json!({"data": value});
            let found = pattern(&json!({"data": [but]})).matches(&event);
            prop_assert_eq!(pattern(&json!({"data": [{"anything-but": but}]})).matches(&event), !found);
            prop_assert_eq!(pattern(&json!({"data": [{"anything-but": [but]}]})).matches(&event), !found);
        }

        #[test]
        fn numeric_agrees_with_comparing(
            wanted in prop_oneof![-1e3..1e3, (-9..9).prop_map(f64::from)],
            is in prop_oneof![(-9_i32..9).prop_map(|n| (Value::from(n), f64::from(n))), (-1e3..1e3).prop_map(|n: f64| (Value::from(n), n))],
        ) {
            let (value, is) = is;
            for (operator, expected) in [
                ("=", is == wanted), ("<", is < wanted), ("<=", is <= wanted), (">", is > wanted), (">=", is >= wanted),
            ] {
                let wanted = pattern(&json!({"data": [{"numeric": [operator, wanted]}]}));
                prop_assert_eq!(wanted.matches(&json!({"data": value})), expected, "{}", operator);
            }
            let (low, high) = (wanted - 1.0, wanted + 1.0);
            for (above, below, expected) in [
                (">", "<", is > low && is < high), (">=", "<=", is >= low && is <= high), (">=", "<", is >= low && is < high),
            ] {
                let wanted = pattern(&json!({"data": [{"numeric": [above, low, below, high]}]}));
                prop_assert_eq!(wanted.matches(&json!({"data": value})), expected, "{} {}", above, below);
            }
        }

        #[test]
        fn no_json_makes_parse_or_match_panic(wanted in data(), event in data()) {
            if let Ok(pattern) = Pattern::parse(&json!({"data": wanted})) {
                pattern.matches(&json!({"data": event}));
            }
        }
    }
}
