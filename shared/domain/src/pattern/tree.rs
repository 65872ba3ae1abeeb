//! The compiled form, a tree in the shape of the event, and the match.
//!
//! All combinations of a pattern (sets of fields; one, if it has no `$or`) share the tree, so that an event is walked
//! once: a [`Group`] numbers the sets of fields that combinations want below it, a [`Field`] the lists of alternatives.
//!
//! **Arrays.** A field's value may lie in arrays, at any level. The Ruler takes a combination's fields in the order of
//! their paths. A field that takes a value from an element of an array binds the fields after it to that element. A
//! field that is absent (`exists: false`) has no value there, and binds nothing. So with
//! `{"items": {"sku": ["A"], "void": [{"exists": false}]}}` the item of sku `A` has no `void`; were the second field
//! called `cancelled`, and so came first, no item might have it.
//!
//! That needs no search. Where the fields below an array match, the first that takes a value picks the element, and the
//! rest match in it; those before it are absent from the whole array. Of the elements in which the fields match, the
//! best leaves the fewest fields absent before its first value: any other asks for the same and more. So two numbers, a
//! [`Fit`], are all that is to be known of a part of an event.

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::{Map, Value};

use super::{
    alternative::{Alternatives, Leaf},
    parse,
};

/// How a set of fields fits a part of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fit {
    /// The fewest fields that are left absent before one takes a value; all, if none need take one.
    /// [`Fit::NEVER`] if the fields do not match.
    first: u16,
    /// How many fields, from the first on, may be absent and are.
    absent: u16,
}

impl Fit {
    const NEVER: u16 = u16::MAX;
    /// Of a field that takes a value; and of no fields.
    const VALUE: Self = Self { first: 0, absent: 0 };
    /// Of a field that has values, but none that is wanted, or none and wants one.
    const NO_VALUE: Self = Self { first: Self::NEVER, absent: 0 };
    /// Of a field that is absent and may be.
    const ABSENT: Self = Self { first: 1, absent: 1 };

    fn matches(self) -> bool {
        self.first != Self::NEVER
    }

    /// With the fields that follow after `before` fields.
    fn and_then(self, before: u16, next: Self) -> Self {
        let first = match (self.matches(), next.matches()) {
            (true, true) if self.first == before => before + next.first,
            (true, true) => self.first,
            _ => Self::NEVER,
        };
        let absent = if self.absent == before { before + next.absent } else { self.absent };
        Self { first, absent }
    }

    /// Of the elements of an array, with one more.
    fn or_element(self, element: Self) -> Self {
        Self { first: self.first.min(element.first), absent: self.absent.min(element.absent) }
    }

    /// Of an array, from its elements: what comes before the first value is absent from all of them.
    fn of_array(self) -> Self {
        if self.first <= self.absent { self } else { Self { first: Self::NEVER, ..self } }
    }
}

/// The fits found so far, those of inner parts on top: what a match allocates.
type Fits = Vec<Fit>;

/// The fields of the pattern below one name, or all of them.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// In the order of paths.
    parts: Vec<Part>,
    /// How each set of fields that is wanted here fits where none of its fields has a value.
    without_values: Fits,
}

/// What a group wants of one name.
#[derive(Debug, Clone)]
struct Part {
    name: Box<str>,
    below: Below,
    uses: Vec<Use>,
}

#[derive(Debug, Clone)]
enum Below {
    Field(Field),
    Group(Group),
}

/// That a set of the group wants something of a part.
#[derive(Debug, Clone)]
struct Use {
    set: usize,
    /// Which list of the field, or which set of the group below.
    wants: usize,
    /// How many fields of the set come before.
    before: u16,
}

/// A field, with each list of alternatives that a combination has for it.
#[derive(Debug, Clone)]
struct Field {
    lists: Vec<Alternatives>,
    reads_addresses: bool,
}

impl Group {
    /// The tree of a pattern's combinations.
    pub(super) fn new(fields: &[parse::Field<'_>], mut combinations: parse::Combinations) -> Self {
        for combination in &mut combinations {
            combination.sort_by(|a, b| in_order(&fields[*a].path, &fields[*b].path));
        }
        Self::at_depth(0, fields, &combinations)
    }

    fn at_depth(depth: usize, fields: &[parse::Field<'_>], sets: &[Vec<usize>]) -> Self {
        /// The sets of fields below one step, and who wants them.
        type Draft<'a> = (Vec<&'a [usize]>, Vec<Use>);
        let step = |field: &usize| step(&fields[*field].path, depth);
        let mut drafts = BTreeMap::<String, Draft<'_>>::new();
        for (set, wanted) in sets.iter().enumerate() {
            let mut before = 0;
            for below in wanted.chunk_by(|a, b| step(a) == step(b)) {
                let (sets_below, uses) = drafts.entry(step(&below[0])).or_default();
                let wants = sets_below.iter().position(|known| *known == below).unwrap_or(sets_below.len());
                if wants == sets_below.len() {
                    sets_below.push(below);
                }
                uses.push(Use { set, wants, before });
                before += count(below);
            }
        }
        let parts = drafts.into_values().map(|(sets_below, uses)| {
            let path = &fields[sets_below[0][0]].path;
            let below = if path.len() == depth + 1 {
                Below::Field(Field::new(sets_below.iter().map(|field| fields[field[0]].wants.clone()).collect()))
            } else {
                let sets_below: Vec<_> = sets_below.into_iter().map(<[usize]>::to_vec).collect();
                Below::Group(Self::at_depth(depth + 1, fields, &sets_below))
            };
            Part { name: path[depth].into(), below, uses }
        });
        let mut group = Self { parts: parts.collect(), without_values: vec![Fit::VALUE; sets.len()] };
        let mut without_values = Fits::new();
        group.fit_object(&Map::new(), &mut without_values);
        group.without_values = without_values;
        group
    }

    /// Whether one of the combinations fits an event.
    pub(super) fn matches(&self, event: &Map<String, Value>) -> bool {
        let mut fits = Fits::with_capacity(16 + 4 * self.without_values.len());
        self.fit_object(event, &mut fits);
        fits.into_iter().any(Fit::matches)
    }

    /// Puts on top how each set of the group fits a value.
    fn fit(&self, value: Option<&Value>, fits: &mut Fits) {
        match value {
            Some(Value::Object(object)) => self.fit_object(object, fits),
            Some(Value::Array(array)) => self.fit_array(array, fits),
            _ => fits.extend_from_slice(&self.without_values),
        }
    }

    fn fit_object(&self, object: &Map<String, Value>, fits: &mut Fits) {
        let start = fits.len();
        let sets = self.without_values.len();
        fits.resize(start + sets, Fit::VALUE);
        let mut matching = sets;
        for part in &self.parts {
            let value = object.get(&*part.name);
            match &part.below {
                Below::Field(field) => field.fit(value, fits),
                Below::Group(group) => group.fit(value, fits),
            }
            let (here, below) = fits[start..].split_at_mut(sets);
            for Use { set, wants, before } in &part.uses {
                let so_far = here[*set];
                here[*set] = so_far.and_then(*before, below[*wants]);
                matching -= usize::from(so_far.matches() && !here[*set].matches());
            }
            fits.truncate(start + sets);
            if matching == 0 {
                break; // the fields that follow change no fit: the one that does not match is not absent
            }
        }
    }

    /// Objects and arrays in the array may have the group's fields, values in it are of no interest.
    fn fit_array(&self, array: &[Value], fits: &mut Fits) {
        let start = fits.len();
        let sets = self.without_values.len();
        fits.extend_from_slice(&self.without_values);
        for element in array.iter().filter(|element| element.is_object() || element.is_array()) {
            self.fit(Some(element), fits);
            let (here, below) = fits[start..].split_at_mut(sets);
            for (so_far, found) in here.iter_mut().zip(below) {
                *so_far = so_far.or_element(*found);
            }
            fits.truncate(start + sets);
            if fits[start..].iter().all(|fit| *fit == Fit::VALUE) {
                break; // no element changes that
            }
        }
        for fit in &mut fits[start..] {
            *fit = fit.of_array();
        }
    }
}

impl Field {
    fn new(lists: Vec<Alternatives>) -> Self {
        Self { reads_addresses: lists.iter().any(Alternatives::reads_addresses), lists }
    }

    /// Puts on top how each list of the field fits a value.
    fn fit(&self, value: Option<&Value>, fits: &mut Fits) {
        let start = fits.len();
        fits.extend(self.lists.iter().map(|list| if list.or_absent { Fit::ABSENT } else { Fit::NO_VALUE }));
        if let Some(value) = value {
            self.fit_values(value, &mut fits[start..]);
        }
    }

    /// A value; or the values in an array, and in the arrays in it.
    fn fit_values(&self, value: &Value, fits: &mut [Fit]) {
        if let Some(leaf) = Leaf::of(value, self.reads_addresses) {
            for (list, fit) in self.lists.iter().zip(fits).filter(|(_, fit)| **fit != Fit::VALUE) {
                *fit = if list.accept(&leaf) { Fit::VALUE } else { Fit::NO_VALUE };
            }
            return;
        }
        for element in value.as_array().into_iter().flatten() {
            self.fit_values(element, fits);
            if fits.iter().all(|fit| *fit == Fit::VALUE) {
                break;
            }
        }
    }
}

/// The order of paths in the Ruler: as texts, with dots between the names.
fn in_order(a: &[&str], b: &[&str]) -> Ordering {
    let steps = |path: &[&str]| (0..path.len()).map(|depth| step(path, depth)).collect::<Vec<_>>();
    steps(a).cmp(&steps(b))
}

/// A step of a path, as it sorts there. A field and a group of the same name differ.
fn step(path: &[&str], depth: usize) -> String {
    let dot = if depth + 1 < path.len() { "." } else { "" };
    [path[depth], dot].concat()
}

fn count(fields: &[usize]) -> u16 {
    u16::try_from(fields.len()).expect("a pattern has at most MAX_VALUES fields")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A value of an event, where it is found: its path, and the element of each array that it lies in. As in the
    /// Ruler, a value does not lie in the array that has it as an element, so that `["x", "y"]` is both.
    struct Found<'e> {
        path: String,
        value: &'e Value,
        elements: BTreeMap<usize, usize>,
    }

    fn values_in<'e>(part: &'e Value, path: &str, elements: &BTreeMap<usize, usize>, found: &mut Vec<Found<'e>>) {
        match part {
            Value::Object(object) => {
                for (name, value) in object {
                    values_in(value, &format!("{path}.{name}"), elements, found);
                }
            }
            Value::Array(array) => {
                let id = std::ptr::from_ref(array) as usize;
                for (at, element) in array.iter().enumerate() {
                    let mut elements = elements.clone();
                    if element.is_object() || element.is_array() {
                        elements.insert(id, at);
                    }
                    values_in(element, path, &elements, found);
                }
            }
            value => found.push(Found { path: path.to_owned(), value, elements: elements.clone() }),
        }
    }

    /// The Ruler's way: for one field after the other, all its values that agree with those chosen before.
    fn search(fields: &[(String, &Alternatives)], found: &[Found<'_>], chosen: &BTreeMap<usize, usize>) -> bool {
        let Some(((path, wants), rest)) = fields.split_first() else { return true };
        let agrees = |value: &&Found<'_>| {
            value.path == *path && value.elements.iter().all(|(array, at)| chosen.get(array).is_none_or(|is| is == at))
        };
        if wants.or_absent && !found.iter().any(|value| agrees(&value)) {
            return search(rest, found, chosen);
        }
        found.iter().filter(agrees).any(|Found { value, elements, .. }| {
            let chosen = chosen.iter().chain(elements).map(|(array, at)| (*array, *at)).collect();
            wants.accept(&Leaf::of(value, true).expect("is no array or object")) && search(rest, found, &chosen)
        })
    }

    fn naive(pattern: &Value, event: &Value) -> Option<bool> {
        let (fields, combinations) = parse::parse(pattern).ok()?;
        let mut found = vec![];
        values_in(event, "", &BTreeMap::new(), &mut found);
        Some(combinations.iter().any(|combination| {
            let of = |at: &usize| (format!(".{}", fields[*at].path.join(".")), &fields[*at].wants);
            let mut fields: Vec<_> = combination.iter().map(of).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            search(&fields, &found, &BTreeMap::new())
        }))
    }

    /// Values have these names, and what has fields has others: a name that is both in one combination is matched
    /// as two names, which the naive way tells from one where an array holds an array of values beside an object.
    const VALUES: [&str; 5] = ["a", "b", "g-h", "z", "zz"];
    const GROUPS: [&str; 3] = ["g", "h", "y"];

    fn fields() -> impl Strategy<Value = Value> {
        let list = prop::sample::select(vec![
            json!(["x"]),
            json!(["x", "y"]),
            json!([1]),
            json!([{"exists": true}]),
            json!([{"exists": false}]),
            json!([{"exists": false}]),
            json!([{"exists": false}, "x"]),
            json!([{"exists": false}, "y", 1]),
            json!([{"anything-but": "x"}]),
        ]);
        let leaf = prop::collection::btree_map(prop::sample::select(VALUES.to_vec()), list, 1..4);
        let leaf = leaf.prop_map(|map| map.into_iter().map(|(name, list)| (name.to_owned(), list)).collect::<Value>());
        leaf.prop_recursive(3, 12, 3, |inner| {
            let group = prop::collection::btree_map(prop::sample::select(GROUPS.to_vec()), inner.clone(), 0..3);
            let or = prop::option::weighted(0.5, prop::collection::vec(inner.clone(), 2..4));
            (inner, group, or).prop_map(|(mut fields, group, or)| {
                for (name, group) in group {
                    fields[name] = group;
                }
                if let Some(or) = or {
                    fields["$or"] = or.into();
                }
                fields
            })
        })
    }

    fn event() -> impl Strategy<Value = Value> {
        let leaf = prop::sample::select(vec![json!("x"), json!("y"), json!(1), json!([]), json!(["x", "y"])]);
        leaf.prop_recursive(5, 24, 4, |inner| {
            let name = prop::sample::select([VALUES.as_slice(), &GROUPS].concat());
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::from),
                prop::collection::btree_map(name, inner, 1..5)
                    .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_tree_agrees_with_trying_all(fields in fields(), data in event()) {
            let (pattern, event) = (json!({"data": fields}), json!({"data": data}));
            if let Some(expected) = naive(&pattern, &event) {
                let (fields, combinations) = parse::parse(&pattern).expect("was parsed");
                let found = Group::new(&fields, combinations).matches(event.as_object().expect("is an object"));
                prop_assert_eq!(found, expected, "{} {}", pattern, event);
            }
        }
    }
}
