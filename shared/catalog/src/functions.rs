//! The functions that templates have beside jaq's: those that weigh and guard, those that replace slow ones, and UUIDs.

use bytes::{BufMut, Bytes, BytesMut};
use jaq_core::{
    DataT, Exn, Lut, RunPtr, ValX, ValXs,
    box_iter::box_once,
    data::HasLut,
    native::{Filter, Fun, run, v},
};
use jaq_json::{Error, Num, Val};
use std::cell::Cell;
use uuid::Uuid;

use crate::json;

/// The kind of run our templates make: over jaq's values, with fuel.
pub(crate) struct Metered;

impl DataT for Metered {
    type V<'a> = Val;
    type Data<'a> = Run<'a>;
}

/// One run: its program's code and the fuel it has left.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) code: &'a Lut<Metered>,
    pub(crate) fuel: &'a Cell<u64>,
}

impl<'a> HasLut<'a, Metered> for Run<'a> {
    fn lut(&self) -> &'a Lut<Metered> {
        self.code
    }
}

/// All functions; ours come first, so they win over jaq's of the same name.
pub(crate) fn functions() -> impl Iterator<Item = Fun<Metered>> {
    own()
        .into_iter()
        .map(|function| run::<Metered>(function))
        .chain(jaq_core::funs())
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
}

fn own() -> [Filter<RunPtr<Metered>>; 10] {
    [
        ("weigh", v(0), |(context, value)| {
            let fuel = context.data().fuel;
            let left = weigh(&value, fuel.get());
            fuel.set(left.unwrap_or(0));
            // Not an error: a template could catch that and go on.
            box_once(if left.is_some() { Ok(value) } else { Err(Exn::halt(0)) })
        }),
        ("number", v(0), |(_, value)| match value {
            Val::Num(_) => box_once(Ok(value)),
            _ => fail("`-`, `*`, `/` and `%` are for numbers"),
        }),
        ("index", v(0), |(_, value)| match value {
            Val::Num(_) | Val::TStr(_) | Val::Null => box_once(Ok(value)),
            _ => fail("an index is a text or a number"),
        }),
        ("concat", v(0), |(_, value)| yields(concat(value))),
        ("glue", v(1), |(mut context, value)| {
            let separator = context.pop_var();
            yields(glue(&value, &separator))
        }),
        ("readjson", v(0), |(_, value)| match &value {
            Val::TStr(text) => yields(json::read(text).map_err(Error::str)),
            _ => fail("`fromjson` is for texts"),
        }),
        ("readnumber", v(0), |(_, value)| match text(&value).and_then(json::parse_number) {
            Some(number) => box_once(Ok(Val::Num(number))),
            None if matches!(value, Val::Num(_)) => box_once(Ok(value)),
            None => fail("`tonumber` is for texts that are a number"),
        }),
        ("tointeger", v(0), |(_, value)| match text(&value).and_then(integer) {
            Some(integer) => box_once(Ok(Val::Num(Num::Int(integer)))),
            None => fail("`tointeger` is for texts of decimal digits within 63 bits"),
        }),
        ("isuuid", v(0), |(_, value)| box_once(Ok(Val::Bool(text(&value).and_then(uuid).is_some())))),
        ("uuid5", v(1), |(mut context, value)| {
            let namespace = context.pop_var();
            match (text(&namespace).and_then(uuid), text(&value)) {
                (Some(namespace), Some(name)) => {
                    box_once(Ok(Val::from(Uuid::new_v5(&namespace, name.as_bytes()).to_string())))
                }
                _ => fail("`uuid5(namespace)` is for texts, its namespace is a UUID"),
            }
        }),
    ]
}

fn fail<'a>(why: &str) -> ValXs<'a, Val> {
    yields(Err(Error::str(why)))
}

fn yields<'a>(result: Result<Val, Error>) -> ValXs<'a, Val> {
    let result: ValX<'a, Val> = result.map_err(Exn::from);
    box_once(result)
}

/// The fuel left of `fuel` after a value's weight: one for each value in it, and one for each 16 bytes of text.
fn weigh(value: &Val, fuel: u64) -> Option<u64> {
    let weight = match value {
        Val::TStr(text) | Val::BStr(text) => 1 + text.len() as u64 / 16,
        Val::Num(Num::Dec(digits)) => 1 + digits.len() as u64 / 16,
        _ => 1,
    };
    let fuel = fuel.checked_sub(weight)?;
    match value {
        Val::Arr(array) => array.iter().try_fold(fuel, |fuel, value| weigh(value, fuel)),
        Val::Obj(object) => object.iter().try_fold(fuel, |fuel, (key, value)| weigh(value, weigh(key, fuel)?)),
        _ => Some(fuel),
    }
}

/// `add`: the sum of all values, in linear time also for texts.
fn concat(value: Val) -> Result<Val, Error> {
    let values: Vec<Val> = match value {
        Val::Arr(array) => array.iter().cloned().collect(),
        Val::Obj(object) => object.values().cloned().collect(),
        _ => return Err(Error::str("`add` is for arrays and objects")),
    };
    if !values.is_empty() && values.iter().all(|value| matches!(value, Val::TStr(_))) {
        let mut all = BytesMut::new();
        values.iter().for_each(|value| all.put_slice(bytes(value)));
        return Ok(Val::utf8_str(all));
    }
    values.into_iter().try_fold(Val::Null, |sum, value| sum + value)
}

/// `join`: as in jq, null is the empty text, numbers and booleans are their texts.
fn glue(value: &Val, separator: &Val) -> Result<Val, Error> {
    let (Val::Arr(array), Val::TStr(separator)) = (value, separator) else {
        return Err(Error::str("`join` is for arrays, its separator is a text"));
    };
    let mut all = Vec::new();
    for (at, value) in array.iter().enumerate() {
        if at > 0 {
            all.extend_from_slice(separator);
        }
        match value {
            Val::Null => {}
            Val::TStr(text) => all.extend_from_slice(text),
            Val::Num(_) | Val::Bool(_) => json::write(value, &mut all, usize::MAX).map_err(Error::str)?,
            _ => return Err(Error::str("`join` is for texts, numbers, booleans and null")),
        }
    }
    Ok(Val::utf8_str(Bytes::from(all)))
}

fn bytes(value: &Val) -> &[u8] {
    match value {
        Val::TStr(text) => text,
        _ => &[],
    }
}

fn text(value: &Val) -> Option<&str> {
    match value {
        Val::TStr(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn integer(text: &str) -> Option<isize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A UUID in the form of RFC 9562, section 4; the `uuid` crate knows more.
fn uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}
