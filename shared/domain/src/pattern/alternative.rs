//! What a value may be: the alternatives of a field, and whether a value of an event is one of them.

use std::{
    io::Write,
    net::IpAddr,
    ops::{Bound, RangeBounds},
};

use ipnet::IpNet;
use serde_json::Value;

use super::text::{AnyCase, Wildcard};

/// What a field wants.
#[derive(Debug, Clone)]
pub(super) struct Alternatives {
    /// A value that is one of these.
    pub(super) values: Vec<Alternative>,
    /// Or no value.
    pub(super) or_absent: bool,
}

impl Alternatives {
    pub(super) fn accept(&self, leaf: &Leaf<'_>) -> bool {
        self.values.iter().any(|value| value.accepts(leaf))
    }

    /// Whether they look at [`Leaf::Text`]'s address.
    pub(super) fn reads_addresses(&self) -> bool {
        self.values.iter().any(|value| matches!(value, Alternative::Address(_) | Alternative::Network(_)))
    }
}

/// What a field's value may be. Texts are matched by texts, numbers by numbers: `300` is not `"300"`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Alternative {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    /// A text that is an IP address equals that address in any spelling.
    Address(IpAddr),
    Prefix(Box<str>),
    Suffix(Box<str>),
    AnyCase(AnyCase),
    PrefixAnyCase(AnyCase),
    SuffixAnyCase(AnyCase),
    Wildcard(Wildcard),
    Range(Range),
    Network(IpNet),
    /// Any value.
    Exists,
    /// Any value that is none of these.
    AnythingBut(Vec<Self>),
}

impl Alternative {
    pub(super) fn text(text: &str) -> Self {
        address(text).map_or_else(|| Self::Text(text.into()), Self::Address)
    }

    fn accepts(&self, leaf: &Leaf<'_>) -> bool {
        match (self, leaf) {
            (Self::Exists, _) => true,
            (Self::AnythingBut(these), _) => !these.iter().any(|this| this.accepts(leaf)),
            (Self::Null, Leaf::Null) => true,
            (Self::Bool(wanted), Leaf::Bool(is)) => wanted == is,
            (Self::Number(wanted), Leaf::Number(is)) => wanted == is,
            (Self::Range(range), Leaf::Number(is)) => range.contains(*is),
            (Self::Text(wanted), Leaf::Text { text, .. }) => **wanted == **text,
            (Self::Prefix(prefix), Leaf::Text { text, .. }) => text.starts_with(&**prefix),
            (Self::Suffix(suffix), Leaf::Text { text, .. }) => text.ends_with(&**suffix),
            (Self::AnyCase(wanted), Leaf::Text { text, .. }) => wanted.equals(text),
            (Self::PrefixAnyCase(prefix), Leaf::Text { text, .. }) => prefix.starts(text),
            (Self::SuffixAnyCase(suffix), Leaf::Text { text, .. }) => suffix.ends(text),
            (Self::Wildcard(wildcard), Leaf::Text { text, .. }) => wildcard.matches(text),
            (Self::Address(wanted), Leaf::Text { address, .. }) => Some(*wanted) == *address,
            (Self::Network(network), Leaf::Text { address, .. }) => address.is_some_and(|is| network.contains(&is)),
            _ => false,
        }
    }
}

/// A value of an event, read once for all the alternatives that it is tried against.
pub(super) enum Leaf<'e> {
    Null,
    Bool(bool),
    Number(Number),
    Text { text: &'e str, address: Option<IpAddr> },
}

impl<'e> Leaf<'e> {
    /// `None`: an array or object, which is not a value but holds values. Its address is read only where it is wanted.
    pub(super) fn of(value: &'e Value, with_address: bool) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(is) => Some(Self::Bool(*is)),
            Value::Number(number) => Some(Self::Number(Number::of(number))),
            Value::String(text) => Some(Self::Text { text, address: with_address.then(|| address(text)).flatten() }),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// An IP address as the Ruler reads it: no IPv6 address with an IPv4 tail, and an IPv4 address mapped to IPv6 is IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let mixed = text.contains(':') && text.contains('.');
    text.parse::<IpAddr>().ok().filter(|_| !mixed).map(|address| address.to_canonical())
}

/// A number: `300`, `300.0` and `3.0e2` are equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// What a double stands for.
    Double(f64),
    /// A whole number that no double prints as (above 2^53): the Ruler finds it equal to itself and orders it nowhere.
    Whole(i128),
}

impl Number {
    pub(super) fn of(number: &serde_json::Number) -> Self {
        const EXACT: i128 = 1 << f64::MANTISSA_DIGITS;
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        let double = number.as_f64().unwrap_or(f64::NAN); // equal to nothing; no number of serde_json's own parsing
        match whole {
            Some(whole) if !(-EXACT..=EXACT).contains(&whole) && digits(whole) != digits(double) => Self::Whole(whole),
            _ => Self::Double(double),
        }
    }

    pub(super) fn as_double(self) -> Option<f64> {
        match self {
            Self::Double(double) => Some(double),
            Self::Whole(_) => None,
        }
    }
}

/// How a number prints, without allocating: ids of 64 bits come with every other event.
fn digits(number: impl std::fmt::Display) -> [u8; 24] {
    let mut digits = [0; 24];
    write!(&mut digits[..], "{number}").expect("64-bit numbers that are whole have at most 20 digits");
    digits
}

/// A range of numbers, compared as doubles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range(pub(super) Bound<f64>, pub(super) Bound<f64>);

impl Range {
    fn contains(self, number: Number) -> bool {
        number.as_double().is_some_and(|double| (self.0, self.1).contains(&double))
    }
}
