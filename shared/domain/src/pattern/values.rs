//! The list of values that a field may have, as written: what stands for itself, and the operators.

use std::ops::Bound;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    MAX_SLOW_VALUES, MAX_TEXT_BYTES, MAX_VALUES,
    alternative::{Alternative, Alternatives, Number, Range, address},
    parse::{Parser, Place},
    text::{AnyCase, Wildcard},
};

/// Whether `{"<name>": …}` in a list of values is an operator.
pub(super) fn is_operator(name: &str) -> bool {
    OPERATORS.contains(&name)
}

const OPERATORS: [&str; 9] =
    ["anything-but", "cidr", "equals-ignore-case", "exactly", "exists", "numeric", "prefix", "suffix", "wildcard"];

/// What an item of the list asks for.
enum Asked {
    Value(Alternative),
    Absence,
}

impl Parser<'_> {
    pub(super) fn alternatives(&mut self, list: &[Value], place: &Place<'_>) -> Alternatives {
        if list.is_empty() {
            self.refuse::<()>(place, "is empty: give at least one value");
        }
        let (mut values, mut or_absent) = (vec![], false);
        for (at, item) in list.iter().enumerate() {
            match self.item(item, &place.at(at)) {
                Some(Asked::Value(value)) => values.push(value),
                Some(Asked::Absence) => or_absent = true,
                None => {}
            }
        }
        Alternatives { values, or_absent }
    }

    fn item(&mut self, item: &Value, place: &Place<'_>) -> Option<Asked> {
        let value = match item {
            Value::Null => self.count(place).map(|()| Alternative::Null),
            Value::Bool(is) => self.count(place).map(|()| Alternative::Bool(*is)),
            Value::Number(number) => self.count(place).map(|()| Alternative::Number(Number::of(number))),
            Value::String(_) => self.text(item, place).map(Alternative::text),
            Value::Array(_) => self.refuse(place, "must be a value or an operator, not a list"),
            Value::Object(object) => {
                let (operator, operand) = self.only_entry(object, place)?;
                let place = &place.name(operator);
                if operator == "exists" {
                    return self.exists(operand, place);
                }
                self.operator(operator, operand, place)
            }
        };
        value.map(Asked::Value)
    }

    fn exists(&mut self, operand: &Value, place: &Place<'_>) -> Option<Asked> {
        self.count(place)?;
        match operand {
            Value::Bool(true) => Some(Asked::Value(Alternative::Exists)),
            Value::Bool(false) => Some(Asked::Absence),
            _ => self.refuse(place, "must be true or false"),
        }
    }

    fn operator(&mut self, operator: &str, operand: &Value, place: &Place<'_>) -> Option<Alternative> {
        match (operator, operand) {
            ("exactly", _) => self.text(operand, place).map(|text| Alternative::Text(text.into())),
            ("prefix", Value::Object(_)) => self.any_case_of(operand, place).map(Alternative::PrefixAnyCase),
            ("prefix", _) => self.text(operand, place).map(|text| Alternative::Prefix(text.into())),
            ("suffix", Value::Object(_)) => self.any_case_of(operand, place).map(Alternative::SuffixAnyCase),
            ("suffix", _) => self.text(operand, place).map(|text| Alternative::Suffix(text.into())),
            ("equals-ignore-case", _) => self.any_case(operand, place).map(Alternative::AnyCase),
            ("wildcard", _) => self.wildcard(operand, place).map(Alternative::Wildcard),
            ("cidr", _) => self.network(operand, place).map(Alternative::Network),
            ("numeric", _) => self.numeric(operand, place),
            ("anything-but", _) => self.anything_but(operand, place).map(Alternative::AnythingBut),
            _ => self.refuse(place, format!("is no operator: use one of {}", OPERATORS.map(quoted).join(", "))),
        }
    }

    /// `{"equals-ignore-case": "…"}`, as `prefix` and `suffix` take it.
    fn any_case_of(&mut self, operand: &Value, place: &Place<'_>) -> Option<AnyCase> {
        let (operator, text) = self.only_entry(operand.as_object()?, place)?;
        let place = &place.name(operator);
        if operator == "equals-ignore-case" {
            self.any_case(text, place)
        } else {
            self.refuse(place, "does not go here: give a text, or an object with `equals-ignore-case`")
        }
    }

    fn anything_but(&mut self, operand: &Value, place: &Place<'_>) -> Option<Vec<Alternative>> {
        match operand {
            Value::String(_) => Some(vec![Alternative::Text(self.text(operand, place)?.into())]),
            Value::Number(_) => Some(vec![Alternative::Number(Number::Double(self.double(operand, place)?))]),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => self
                .each(operand, place, |parser, item, place| {
                    Some(Alternative::Number(Number::Double(parser.double(item, place)?)))
                }),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => self
                .each(operand, place, |parser, item, place| Some(Alternative::Text(parser.text(item, place)?.into()))),
            Value::Array(_) => self.refuse(place, "must have at least one value, and all texts or all numbers"),
            Value::Object(object) => {
                let (operator, operand) = self.only_entry(object, place)?;
                let place = &place.name(operator);
                if !["prefix", "suffix", "equals-ignore-case", "wildcard"].contains(&operator) {
                    return self.refuse(place, "does not go here: use `prefix`, `suffix`, `equals-ignore-case` or `wildcard`");
                }
                self.each(operand, place, |parser, item, place| match (operator, item) {
                    ("prefix" | "suffix", Value::String(empty)) if empty.is_empty() => {
                        parser.refuse(place, "is empty and so excludes all texts: give at least one character")
                    }
                    (_, Value::Object(_)) => parser.refuse(place, "must be a text"),
                    _ => parser.operator(operator, item, place),
                })
            }
            Value::Null | Value::Bool(_) => self.refuse(
                place,
                "must be a text, a number, a list of either, or an object with `prefix`, `suffix`, `equals-ignore-case` or `wildcard`",
            ),
        }
    }

    /// Reads one operand or each of a list of them.
    fn each<T>(
        &mut self,
        operand: &Value,
        place: &Place<'_>,
        mut read: impl FnMut(&mut Self, &Value, &Place<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        match operand {
            Value::Array(list) if list.is_empty() => self.refuse(place, "is empty: give at least one value"),
            Value::Array(list) => {
                let items = list.iter().enumerate().map(|(at, item)| read(self, item, &place.at(at)));
                items.collect::<Vec<_>>().into_iter().collect() // every item is read, for its errors
            }
            operand => Some(vec![read(self, operand, place)?]),
        }
    }

    fn numeric(&mut self, operand: &Value, place: &Place<'_>) -> Option<Alternative> {
        use Bound::{Excluded, Included, Unbounded};
        const HOW: &str = r#"must be a comparison, such as [">", 0], or a range, such as [">", 0, "<=", 5]"#;
        match operand.as_array().map(Vec::as_slice) {
            Some([operator, number]) => {
                let operator = self.comparison(operator, &place.at(0), &["=", "<", "<=", ">", ">="])?;
                let number = self.double(number, &place.at(1))?;
                Some(Alternative::Range(match operator {
                    "=" => return Some(Alternative::Number(Number::Double(number))),
                    "<" => Range(Unbounded, Excluded(number)),
                    "<=" => Range(Unbounded, Included(number)),
                    ">" => Range(Excluded(number), Unbounded),
                    _ => Range(Included(number), Unbounded),
                }))
            }
            Some([above, bottom, below, top]) => {
                let above = self.comparison(above, &place.at(0), &[">", ">="]);
                let bottom = self.double(bottom, &place.at(1));
                let below = self.comparison(below, &place.at(2), &["<", "<="]);
                let top = self.double(top, &place.at(3));
                let (above, bottom, below, top) = (above?, bottom?, below?, top?);
                if bottom >= top {
                    return self.refuse(place, "holds for no number: its first must be less than its second");
                }
                let bottom = if above == ">" { Excluded(bottom) } else { Included(bottom) };
                let top = if below == "<" { Excluded(top) } else { Included(top) };
                Some(Alternative::Range(Range(bottom, top)))
            }
            _ => self.refuse(place, HOW),
        }
    }

    fn comparison<'a>(&mut self, operator: &Value, place: &Place<'_>, known: &[&'a str]) -> Option<&'a str> {
        let written = known.iter().find(|known| operator.as_str() == Some(**known));
        let quoted: Vec<_> = known.iter().copied().map(quoted).collect();
        written.copied().or_else(|| self.refuse(place, format!("must be one of {}", quoted.join(", "))))
    }

    fn double(&mut self, number: &Value, place: &Place<'_>) -> Option<f64> {
        let Value::Number(number) = number else { return self.refuse(place, "must be a number") };
        self.count(place)?;
        let double = Number::of(number).as_double();
        double.or_else(|| self.refuse(place, "has more digits than numbers are compared with: use at most 15"))
    }

    fn network(&mut self, operand: &Value, place: &Place<'_>) -> Option<IpNet> {
        let text = self.text(operand, place)?;
        let Some((address, bits)) =
            text.split_once('/').and_then(|(ip, bits)| Some((address(ip)?, bits.parse().ok()?)))
        else {
            return self.refuse(place, "must be an IP address and its mask's bits, such as `10.0.0.0/8`");
        };
        let most = if address.is_ipv4() { 31 } else { 127 };
        let network = IpNet::new(address, bits).ok().filter(|_| bits <= most);
        network.or_else(|| {
            self.refuse(place, format!("may have at most {most} bits of mask: give one address as a value of its own"))
        })
    }

    fn wildcard(&mut self, operand: &Value, place: &Place<'_>) -> Option<Wildcard> {
        let text = self.text(operand, place)?;
        self.count_slow(place)?;
        Wildcard::parse(text).map_or_else(|why| self.refuse(place, why), Some)
    }

    fn any_case(&mut self, operand: &Value, place: &Place<'_>) -> Option<AnyCase> {
        let text = self.text(operand, place)?;
        self.count_slow(place)?;
        Some(AnyCase::new(text))
    }

    fn text<'a>(&mut self, value: &'a Value, place: &Place<'_>) -> Option<&'a str> {
        let Value::String(text) = value else { return self.refuse(place, "must be a text") };
        self.count(place)?;
        if text.len() > MAX_TEXT_BYTES {
            return self.refuse(place, format!("is too long: use at most {MAX_TEXT_BYTES} bytes"));
        }
        Some(text)
    }

    fn only_entry<'a>(&mut self, object: &'a Map<String, Value>, place: &Place<'_>) -> Option<(&'a str, &'a Value)> {
        let mut entries = object.iter();
        match (entries.next(), entries.next()) {
            (Some((name, value)), None) => Some((name, value)),
            _ => self.refuse(place, r#"must have one operator, such as {"prefix": "order."}"#),
        }
    }

    fn count(&mut self, place: &Place<'_>) -> Option<()> {
        self.values += 1;
        match self.values {
            ..=MAX_VALUES => Some(()),
            values if values == MAX_VALUES + 1 => {
                self.refuse(place, format!("is one too many: use at most {MAX_VALUES} values"))
            }
            _ => None,
        }
    }

    fn count_slow(&mut self, place: &Place<'_>) -> Option<()> {
        self.slow_values += 1;
        match self.slow_values {
            ..=MAX_SLOW_VALUES => Some(()),
            values if values == MAX_SLOW_VALUES + 1 => self.refuse(
                place,
                format!("is one too many: use at most {MAX_SLOW_VALUES} of `wildcard` and `equals-ignore-case`"),
            ),
            _ => None,
        }
    }
}

fn quoted(name: &str) -> String {
    format!("`{name}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::parse::tests::refused;
    use serde_json::json;

    #[test]
    fn what_is_no_value_or_operator_is_refused_with_its_place() {
        for (item, place, message) in [
            (json!([1]), "", "must be a value or an operator, not a list"),
            (json!({}), "", "must have one operator"),
            (json!({"prefix": "x", "suffix": "y"}), "", "must have one operator"),
            (json!({"less": 3}), ".less", "is no operator: use one of `anything-but`, `cidr`,"),
            (json!({"exactly": 33}), ".exactly", "must be a text"),
            (json!({"prefix": 3}), ".prefix", "must be a text"),
            (json!({"prefix": ["x"]}), ".prefix", "must be a text"),
            (json!({"prefix": {"suffix": "x"}}), ".prefix.suffix", "does not go here"),
            (json!({"prefix": {"equals-ignore-case": ["x"]}}), ".prefix.equals-ignore-case", "must be a text"),
            (json!({"prefix": {"equals-ignore-case": "x", "y": "z"}}), ".prefix", "must have one operator"),
            (json!({"suffix": null}), ".suffix", "must be a text"),
            (json!({"suffix": {"equals-ignore-case": 5}}), ".suffix.equals-ignore-case", "must be a text"),
            (json!({"suffix": {}}), ".suffix", "must have one operator"),
            (json!({"equals-ignore-case": ["x"]}), ".equals-ignore-case", "must be a text"),
            (json!({"wildcard": 5}), ".wildcard", "must be a text"),
            (json!({"wildcard": ["x*"]}), ".wildcard", "must be a text"),
            (json!({"wildcard": "a**b"}), ".wildcard", "has two `*` in a row"),
            (json!({"wildcard": "a\\b"}), ".wildcard", "may have `\\` only before `*` or `\\`"),
            (json!({"exists": "yes"}), ".exists", "must be true or false"),
            (json!({"exists": 1}), ".exists", "must be true or false"),
            (json!({"prefix": "x".repeat(1025)}), ".prefix", "is too long: use at most 1024 bytes"),
            (json!("é".repeat(513)), "", "is too long: use at most 1024 bytes"),
            (json!({"cidr": 10}), ".cidr", "must be a text"),
            (json!({"cidr": "10.0.0.0"}), ".cidr", "must be an IP address and its mask's bits"),
            (json!({"cidr": "10.0.0/8"}), ".cidr", "must be an IP address and its mask's bits"),
            (json!({"cidr": "10.0.0.0/8/8"}), ".cidr", "must be an IP address and its mask's bits"),
            (json!({"cidr": "10.0.0.0/-1"}), ".cidr", "must be an IP address and its mask's bits"),
            (json!({"cidr": "example.org/8"}), ".cidr", "must be an IP address and its mask's bits"),
            (json!({"cidr": "10.0.0.1/32"}), ".cidr", "may have at most 31 bits of mask"),
            (json!({"cidr": "::1/128"}), ".cidr", "may have at most 127 bits of mask"),
            (json!({"cidr": "::ffff:a00:0/104"}), ".cidr", "may have at most 31 bits of mask"),
        ] {
            check(&item, place, message);
        }
    }

    #[test]
    fn what_is_no_comparison_is_refused_with_its_place() {
        for (operand, place, message) in [
            (json!(5), "", r#"must be a comparison, such as [">", 0]"#),
            (json!({">": 0}), "", "must be a comparison"),
            (json!([]), "", "must be a comparison"),
            (json!(["="]), "", "must be a comparison"),
            (json!([">", 1, "<"]), "", "must be a comparison"),
            (json!([">", 1, "<", 30, false]), "", "must be a comparison"),
            (json!(["==", 1]), "[0]", "must be one of `=`, `<`, `<=`, `>`, `>=`"),
            (json!([1, "<"]), "[0]", "must be one of `=`"),
            (json!(["=", "1"]), "[1]", "must be a number"),
            (json!([">", true]), "[1]", "must be a number"),
            (json!([">", 0, "<", null]), "[3]", "must be a number"),
            (json!(["<", 1, "<", 3]), "[0]", "must be one of `>`, `>=`"),
            (json!([">", 0, ">", 1]), "[2]", "must be one of `<`, `<=`"),
            (json!([">", 0, "=", 1]), "[2]", "must be one of `<`, `<=`"),
            (json!([">", 1, "<", 1]), "", "holds for no number"),
            (json!([">=", 1, "<=", 1.0]), "", "holds for no number"),
            (json!([">", 30, "<", 1]), "", "holds for no number"),
            (json!(["=", 9_007_199_254_740_993_i64]), "[1]", "has more digits than numbers are compared with"),
        ] {
            check(&json!({"numeric": operand}), &format!(".numeric{place}"), message);
        }
    }

    #[test]
    fn what_nothing_can_be_but_is_refused_with_its_place() {
        for (operand, place, message) in [
            (json!(null), "", "must be a text, a number, a list of either, or an object with"),
            (json!(true), "", "must be a text, a number, a list of either, or an object with"),
            (json!([]), "", "must have at least one value, and all texts or all numbers"),
            (json!([1, "x"]), "", "must have at least one value, and all texts or all numbers"),
            (json!([[1]]), "", "must have at least one value, and all texts or all numbers"),
            (json!([true]), "", "must have at least one value, and all texts or all numbers"),
            (json!([1, 9_007_199_254_740_993_i64]), "[1]", "has more digits than numbers are compared with"),
            (json!({}), "", "must have one operator"),
            (json!({"prefix": "x", "suffix": "y"}), "", "must have one operator"),
            (json!({"exists": true}), ".exists", "does not go here: use `prefix`,"),
            (json!({"numeric": [">", 1]}), ".numeric", "does not go here"),
            (json!({"prefix": ""}), ".prefix", "is empty and so excludes all texts"),
            (json!({"suffix": ["x", ""]}), ".suffix[1]", "is empty and so excludes all texts"),
            (json!({"prefix": []}), ".prefix", "is empty: give at least one value"),
            (json!({"prefix": 27}), ".prefix", "must be a text"),
            (json!({"prefix": ["x", 1]}), ".prefix[1]", "must be a text"),
            (json!({"prefix": {"equals-ignore-case": "x"}}), ".prefix", "must be a text"),
            (json!({"equals-ignore-case": [1]}), ".equals-ignore-case[0]", "must be a text"),
            (json!({"wildcard": ["x", "a**"]}), ".wildcard[1]", "has two `*` in a row"),
            (json!({"wildcard": {"x": "y"}}), ".wildcard", "must be a text"),
        ] {
            check(&json!({"anything-but": operand}), &format!(".anything-but{place}"), message);
        }
    }

    #[test]
    fn the_values_that_cost_more_are_fewer() {
        let list = |n: usize| (0..n).map(|n| json!({"equals-ignore-case": n.to_string()})).collect::<Value>();
        assert_eq!(refused(&json!({"data": list(MAX_SLOW_VALUES)})), []);
        let pattern =
            json!({"data": {"a": list(MAX_SLOW_VALUES - 1), "b": [{"anything-but": {"wildcard": ["x", "y"]}}]}});
        let errors = refused(&pattern);
        assert_eq!(errors[0].0, "data.b[0].anything-but.wildcard[1]");
        assert!(errors.len() == 1 && errors[0].1.starts_with("is one too many: use at most 100 of"), "{errors:?}");
    }

    /// An item of `data.total` is refused at `place` in it.
    fn check(item: &Value, place: &str, message: &str) {
        let errors = refused(&json!({"data": {"total": [item]}}));
        let [(found_path, found)] = &errors[..] else { panic!("{item}: {errors:?}") };
        assert!(*found_path == format!("data.total[0]{place}") && found.starts_with(message), "{item}: {errors:?}");
    }
}
