//! A template: jq over an event's JSON, yielding JSON.
//!
//! Most of a template does no more than set parts of the event into place: `{type, data}`. Those are copied as the text
//! they are, which is exact (numbers, escapes, key order), bounded by its input, and many times faster than to parse
//! and write them. What remains is run as jq (`program.rs`). The result is what jq would yield for the whole.

use std::borrow::Cow;

use fanfare_domain::span;
use jaq_core::{
    load::parse::{BinaryOp, Term},
    ops::Cmp,
    path::Part,
};

use crate::{
    json,
    language::{self, literal_text},
    program::{Program, place},
    render::RenderError,
};

/// The values a template finds under a name, beside the event as its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `$unix`: the event's time in whole seconds since 1970.
    Unix,
    /// `$unix_ms`: the same in milliseconds.
    UnixMs,
}

impl Global {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "$unix" => Some(Self::Unix),
            "$unix_ms" => Some(Self::UnixMs),
            _ => None,
        }
    }
}

/// An event's JSON, taken apart into its members.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    json: &'a str,
    members: Vec<(&'a str, &'a str)>,
}

impl<'a> Input<'a> {
    pub(crate) fn read(event: &'a [u8]) -> Result<Self, RenderError> {
        let json = std::str::from_utf8(event).map_err(|_| RenderError::Event("it is no UTF-8".into()))?;
        let members = json::members(json).map_err(|error| RenderError::Event(error.to_string()))?;
        Ok(Self { json, members })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.json.len()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.members.iter().copied()
    }

    /// A member's text, as jq's `.name`.
    fn member(&self, name: &str) -> &'a str {
        self.members.iter().find(|(other, _)| *other == name).map_or("null", |(_, value)| value)
    }

    /// A member that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let json = self.member(name);
        match json.strip_prefix('"')?.strip_suffix('"')? {
            plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str(json).ok().map(Cow::Owned),
        }
    }

    pub(crate) fn global(&self, name: Global) -> Result<isize, RenderError> {
        let at_ms = self.text("time").and_then(|time| span::parse_rfc3339(&time));
        let at_ms = at_ms.ok_or_else(|| RenderError::Event("it has no `time`".into()))?;
        let number = match name {
            Global::Unix => at_ms / 1_000,
            Global::UnixMs => at_ms,
        };
        isize::try_from(number).map_err(|_| RenderError::Event("its `time` is out of bounds".into()))
    }
}

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template(Piece);

#[derive(Debug)]
enum Piece {
    /// JSON that stands in the template.
    Text(String),
    /// `.`
    Event,
    /// `.name`
    Member(String),
    /// `$unix`
    Global(Global),
    /// `{…}`: each key with its quotes and colon.
    Object(Vec<(String, Piece)>),
    /// `if … then … elif … else … end`
    Choice(Vec<(Condition, Piece)>, Box<Piece>),
    /// Everything else.
    Program(Box<Program>),
}

#[derive(Debug)]
enum Condition {
    /// `.name`: neither null nor false.
    Is(String),
    /// `.name == "text"`, or `!=`.
    Equals { member: String, text: String, equal: bool },
}

impl Template {
    /// Compiles a template; the error says where in it and why.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let term = language::parse(text).map_err(|refusal| place(text, &refusal))?;
        piece(term, text).map(Self)
    }

    /// Appends what it yields of an event to `out`, which may grow to `most` bytes.
    pub(crate) fn render(&self, event: &Input<'_>, out: &mut Vec<u8>, most: usize) -> Result<(), RenderError> {
        self.0.render(event, out, most)
    }
}

impl Piece {
    fn render(&self, event: &Input<'_>, out: &mut Vec<u8>, most: usize) -> Result<(), RenderError> {
        match self {
            Self::Text(json) => out.extend_from_slice(json.as_bytes()),
            Self::Event => out.extend_from_slice(event.json.as_bytes()),
            Self::Member(name) => out.extend_from_slice(event.member(name).as_bytes()),
            Self::Global(name) => out.extend_from_slice(event.global(*name)?.to_string().as_bytes()),
            Self::Object(entries) => {
                out.push(b'{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    value.render(event, out, most)?;
                }
                out.push(b'}');
            }
            Self::Choice(branches, otherwise) => {
                let chosen = branches.iter().find(|(condition, _)| condition.holds(event));
                return chosen.map_or(&**otherwise, |(_, then)| then).render(event, out, most);
            }
            Self::Program(program) => {
                return json::write(&program.run(event)?, out, most).map_err(|error| match error {
                    json::WriteError::TooLarge(most) => RenderError::TooLarge(most),
                    json::WriteError::NotJson(_) => RenderError::Template(error.to_string()),
                });
            }
        }
        if out.len() > most { Err(RenderError::TooLarge(most)) } else { Ok(()) }
    }
}

impl Condition {
    fn holds(&self, event: &Input<'_>) -> bool {
        match self {
            Self::Is(member) => !matches!(event.member(member), "null" | "false"),
            Self::Equals { member, text, equal } => {
                event.text(member).is_some_and(|value| value == text.as_str()) == *equal
            }
        }
    }
}

/// Takes a term apart as far as it only places things.
fn piece(term: Term<&str>, text: &str) -> Result<Piece, String> {
    if let Some(name) = member(&term) {
        return Ok(Piece::Member(name));
    }
    if let Some(literal) = literal_text(&term) {
        return Ok(Piece::Text(serde_json::Value::from(literal).to_string()));
    }
    Ok(match term {
        Term::Id => Piece::Event,
        Term::Num(number) if json::parse_number(number).is_some() => Piece::Text(number.to_owned()),
        Term::Call(word @ ("true" | "false" | "null"), arguments) if arguments.is_empty() => {
            Piece::Text(word.to_owned())
        }
        Term::Var(name) if Global::named(name).is_some() => Global::named(name).map_or(Piece::Event, Piece::Global),
        Term::Obj(entries) if keys(&entries).is_some() => {
            let names = keys(&entries).unwrap_or_default();
            let values = names.into_iter().zip(entries).map(|(name, (key, value))| {
                let value = match (key, value) {
                    (_, Some(value)) => piece(value, text)?,
                    (key @ Term::Var(_), None) => piece(key, text)?, // `{$x}` is `{x: $x}`
                    (_, None) => Piece::Member(name.clone()),        // `{x}` is `{x: .x}`
                };
                Ok((format!("{}:", serde_json::Value::from(name)), value))
            });
            Piece::Object(values.collect::<Result<_, String>>()?)
        }
        Term::IfThenElse(branches, Some(otherwise))
            if branches.iter().all(|(condition, _)| self::condition(condition).is_some()) =>
        {
            let branches = branches.into_iter().filter_map(|(condition, then)| {
                self::condition(&condition).map(|condition| Ok((condition, piece(then, text)?)))
            });
            Piece::Choice(branches.collect::<Result<_, String>>()?, Box::new(piece(*otherwise, text)?))
        }
        other => Piece::Program(Box::new(Program::compile(other, text)?)),
    })
}

/// `.name`
fn member(term: &Term<&str>) -> Option<String> {
    match term {
        Term::Path(inner, path) => match (&**inner, &path.0[..]) {
            (Term::Id, [(Part::Index(key), _)]) => literal_text(key),
            _ => None,
        },
        _ => None,
    }
}

/// The keys of an object, where they stand in the template, each once.
fn keys(entries: &[(Term<&str>, Option<Term<&str>>)]) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (key, value) in entries {
        let name = match (key, value) {
            (Term::Var(name), None) => name.trim_start_matches('$').to_owned(),
            (key, _) => literal_text(key)?,
        };
        if names.contains(&name) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

fn condition(term: &Term<&str>) -> Option<Condition> {
    if let Some(name) = member(term) {
        return Some(Condition::Is(name));
    }
    let Term::BinOp(left, BinaryOp::Cmp(op @ (Cmp::Eq | Cmp::Ne)), right) = term else { return None };
    let sides = [(left, right), (right, left)].into_iter();
    let (member, text) = sides.filter_map(|(one, other)| Some((member(one)?, literal_text(other)?))).next()?;
    Some(Condition::Equals { member, text, equal: matches!(op, Cmp::Eq) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","id":"e1","source":"/s","type":"ticket.update","subject":"100","time":"2019-12-10T11:13:33.042Z","data":{"z":1.50,"a":[1,{"b":"x"},null],"big":12345678901234567890123,"neg":-0,"text":"ü \"q\" \/","yes":true}}"#;

    fn yields(template: &str, event: &str) -> Result<String, RenderError> {
        let template = Template::compile(template).map_err(RenderError::Template)?;
        render(&template, event)
    }

    fn render(template: &Template, event: &str) -> Result<String, RenderError> {
        let mut out = Vec::new();
        template.render(&Input::read(event.as_bytes())?, &mut out, 1_000_000)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The template run as jq in one piece.
    fn whole(template: &str) -> Template {
        Template(Piece::Program(Box::new(Program::compile(language::parse(template).unwrap(), template).unwrap())))
    }

    #[test]
    fn a_template_yields_what_jq_yields() {
        for (template, expected) in [
            ("{type, id}", r#"{"type":"ticket.update","id":"e1"}"#),
            ("{id, \"type\": .type, gone: .gone}", r#"{"id":"e1","type":"ticket.update","gone":null}"#),
            ("{n: .data.z, b: .data.big, m: .data.neg}", r#"{"n":1.50,"b":12345678901234567890123,"m":-0}"#),
            ("[.data.a[] | strings, numbers]", "[1]"),
            ("{s: $unix, ms: $unix_ms, $unix}", r#"{"s":1575976413,"ms":1575976413042,"unix":1575976413}"#),
            (
                "{a: {b: {c: .id}}, t: true, f: false, n: null, x: 1.5, s: \"\\n\"}",
                r#"{"a":{"b":{"c":"e1"}},"t":true,"f":false,"n":null,"x":1.5,"s":"\n"}"#,
            ),
            ("{a: 1, a: 2}", r#"{"a":2}"#),
            ("{(.id): 1}", r#"{"e1":1}"#),
            ("if .type == \"ticket.update\" then 1 elif .gone then 2 else 3 end", "1"),
            ("if .type != \"ticket.update\" then 1 elif .gone then 2 else .id end", r#""e1""#),
            ("if .subject then \"s\" else \"n\" end", r#""s""#),
            ("if .data.yes then .data.a[1] else 0 end", r#"{"b":"x"}"#),
            (
                ".type | split(\".\") as [$object, $event] | {$object, $event}",
                r#"{"object":"ticket","event":"update"}"#,
            ),
            (". as {type: $t, data: {a: [$n]}} | [$t, $n]", r#"["ticket.update",1]"#),
            ("{event: .type} + {x: .data.yes} + {t: $unix}", r#"{"event":"ticket.update","x":true,"t":1575976413}"#),
            ("\"\\(.id)-\\(.data.a[0])!\"", r#""e1-1!""#),
            ("@base64 \"<\\(.id)>\"", r#""<ZTE=>""#),
            (".data.text", r#""ü \"q\" /""#),
            (".data | with_entries(select(.value | type == \"number\")) | keys", r#"["big","neg","z"]"#),
            (".data.a | map(.b?) | add", r#""x""#),
            ("[.data.a[] | numbers] | add", "1"),
            ("[.id, .subject] | add", r#""e1100""#),
            ("[.id, 1, null, true] | join(\"-\")", r#""e1-1--true""#),
            (".subject | tointeger", "100"),
            (".id | tointeger? // .", r#""e1""#),
            ("\"9223372036854775807\" | tointeger", "9223372036854775807"),
            ("\"9223372036854775808\" | tointeger? // .", r#""9223372036854775808""#),
            ("\"1.50\" | tonumber", "1.50"),
            ("\"[1, {}]\" | fromjson", "[1,{}]"),
            ("try error(\"no\") catch .", r#""no""#),
            ("first(.data.a[])", "1"),
            ("any(.data.a[]; . == 1), 2", "true"),
            ("$unix | todate", r#""2019-12-10T11:13:33Z""#),
            ("[range(3)]", "[0,1,2]"),
            (".data.a[1:] | length", "2"),
            ("1, 2", "1"),
        ] {
            assert_eq!(yields(template, EVENT).as_deref(), Ok(expected), "{template}");
            assert_eq!(render(&whole(template), EVENT).as_deref(), Ok(expected), "{template}, in one piece");
        }
    }

    #[test]
    fn what_is_only_placed_stays_as_it_was_written() {
        let data = r#"{"n":1.0,"e":1E5,"s":"\u00e9\/","twice":1,"twice":2,"half":"\ud800"}"#;
        let event = format!(r#" {{"time" : "2026-01-01T00:00:00Z", "type":"\u0074", "data" : {data} }} "#);
        assert_eq!(yields("{data, type}", &event), Ok(format!(r#"{{"data":{data},"type":"\u0074"}}"#)));
        assert_eq!(yields("if .type == \"t\" then 1 else 2 end", &event).as_deref(), Ok("1"));
        assert_eq!(yields(".", &event).unwrap(), event);
    }

    #[test]
    fn only_what_is_read_is_parsed() {
        let unreadable = r#"{"id":"e1","data":"\ud800"}"#; // no text that Rust could hold
        assert_eq!(yields(".id | ascii_upcase", unreadable).as_deref(), Ok("\"E1\""));
        for template in
            [".data | ascii_upcase", "[.[]] | length", "has(\"id\")", "with_entries(.)", ".[.id]", "[..] | first"]
        {
            assert!(matches!(yields(template, unreadable), Err(RenderError::Event(_))), "{template}");
        }
    }

    /// The formats of the products to come (design/seed-systems.md) fit: their requests from their documents.
    #[test]
    fn the_other_products_requests_can_be_made() {
        let objects = r#"(.type | split(".")) as [$object, $event]
            | {$event, time: $unix, $object, objectId: (if $object == "conversation" then .subject else (.subject | tointeger? // .) end)}
            + if .data == null then {} else {props: .data} end"#;
        let topics = r#"{topic: .type, botId: .botid} + .data + {requestId: (.requestid // .id), timestamp: $unix_ms}"#;
        let flat = "{event: .type} + .data + {timestamp: $unix}";
        let triggers = "{trigger: .type, id: .subject} + .data";
        for (template, event, expected) in [
            (
                objects,
                r#"{"type":"ticket.update","subject":"100","time":"2019-12-10T11:13:33Z","data":{"state":"invited"}}"#,
                r#"{"event":"update","time":1575976413,"object":"ticket","objectId":100,"props":{"state":"invited"}}"#,
            ),
            (
                objects,
                r#"{"type":"conversation.update","subject":"100","time":"2019-12-10T11:13:33Z","data":{"geoloc.lat":47.866675}}"#,
                r#"{"event":"update","time":1575976413,"object":"conversation","objectId":"100","props":{"geoloc.lat":47.866675}}"#,
            ),
            (
                objects,
                r#"{"type":"smsmessage.create","subject":"9223372036854775808","time":"2019-12-10T11:13:33Z"}"#,
                r#"{"event":"create","time":1575976413,"object":"smsmessage","objectId":"9223372036854775808"}"#,
            ),
            (
                topics,
                r#"{"type":"chat.close","id":"i","botid":"b","time":"2023-01-01T00:00:00Z","data":{"data":{"id":"c"},"context":{"company_id":""}}}"#,
                r#"{"topic":"chat.close","botId":"b","data":{"id":"c"},"context":{"company_id":""},"requestId":"i","timestamp":1672531200000}"#,
            ),
            (
                flat,
                r#"{"type":"profileMerged","time":"2022-09-22T11:16:56Z","data":{"oldPersonId":1,"newPersonId":1}}"#,
                r#"{"event":"profileMerged","oldPersonId":1,"newPersonId":1,"timestamp":1663845416}"#,
            ),
            (
                triggers,
                r#"{"type":"response:created","subject":"5c09a4416241ea2c293275b8","data":{"response":{"text":"?"}}}"#,
                r#"{"trigger":"response:created","id":"5c09a4416241ea2c293275b8","response":{"text":"?"}}"#,
            ),
        ] {
            assert_eq!(yields(template, event).as_deref(), Ok(expected), "{event}");
        }
    }

    #[test]
    fn a_uuid_is_made_of_what_is_none() {
        let space = "7c0be1a6-52f2-4c1b-8a53-0f3f9d2b6e54";
        let made = format!(".id | if isuuid then . else uuid5(\"{space}\") end");
        for (id, expected) in [
            ("0B9F6C1E-3c57-4a0e-9d6b-6f0a4d3a9c11", "0B9F6C1E-3c57-4a0e-9d6b-6f0a4d3a9c11"),
            // Made with Python: uuid.uuid5(uuid.UUID(space), id)
            ("order-1", "f5e24dfd-5ceb-5881-860f-807655540668"),
            ("0b9f6c1e3c574a0e9d6b6f0a4d3a9c11", "9a9aacd6-b49a-54f3-9814-ee479c0b30dc"),
        ] {
            let event = format!(r#"{{"id":"{id}"}}"#);
            assert_eq!(yields(&made, &event), Ok(format!("\"{expected}\"")), "{id}");
        }
        assert!(matches!(yields(".id | uuid5(\"x\")", EVENT), Err(RenderError::Template(_))));
    }

    #[test]
    fn what_could_run_without_bound_is_refused() {
        for (template, reason) in [
            ("def f: f; f", "at `f`: a template defines no functions"),
            ("reduce .[] as $x (0; . + 1)", "a template has no `reduce`"),
            ("foreach .[] as $x (0; . + 1)", "a template has no `foreach`"),
            ("label $out | break $out", "no labels"),
            (".data.x = 1", "no assignments"),
            (".data |= 1", "no assignments"),
            (".data += 1", "no assignments"),
            (".data //= 1", "no assignments"),
            ("repeat(1)", "no function `repeat`"),
            ("{a:\n  recurse(.a)}", "line 2 of the template, at `recurse`: a template has no function `recurse`"),
            ("recurse", "no function `recurse`"),
            ("while(true; .)", "no function `while`"),
            ("until(false; .)", "no function `until`"),
            ("range(0; 1; 0)", "`range` does not take 3 arguments"),
            ("input", "no function `input`"),
            ("inputs", "no function `inputs`"),
            ("now", "no function `now`"),
            ("env", "no function `env`"),
            ("$ENV", "no variable `$ENV`"),
            ("halt", "no function `halt`"),
            ("debug", "no function `debug`"),
            ("test(\"a\")", "no function `test`"),
            ("combinations", "no function `combinations`"),
            ("{a: (1 | {b: walk(.)})}", "no function `walk`"),
            ("[.[] | path(..)]", "no function `path`"),
            ("@sh", "no function `@sh`"),
            ("@sh \"\\(.id)\"", "no function `@sh`"),
            ("include \"x\"; .", "expected"),
            ("weigh", "no function `weigh`"),
            ("{a: $x}", "no variable `$x`"),
            ("{a: .b", "expected a closing brace"),
            ("{a: }", "line 1 of the template"),
            ("", "expected term"),
            (". §", "expected a token"),
            (&" ".repeat(5_000), "at most 4096 bytes"),
        ] {
            match Template::compile(template) {
                Err(why) => assert!(why.contains(reason), "{template}: {why}"),
                Ok(_) => panic!("{template} is taken"),
            }
        }
    }

    #[test]
    fn a_run_ends_when_it_costs_too_much() {
        let event =
            format!(r#"{{"type":"t","data":{{"xs":[{}],"text":"{}"}}}}"#, ["1"; 1_000].join(","), "x".repeat(4_000));
        for template in [
            "[range(1000000000)] | length",
            "[range(1000000000; 2000000000)?] | length",
            "first(range(1000000000) | select(false))",
            "[limit(1000000000; range(1000000000))] | length",
            "[.data.xs[] as $a | .data.xs[] as $b | 1] | length",
            "[.data.xs[] as $a | .data.xs[].gone?] | length",
            "[{a: .data.xs[], b: .data.xs[]}] | length",
            "[.data.xs[] + .data.xs[]] | length",
            "[.data.xs[] == .data.xs[]] | length",
            ".data.text as $t | [.data.xs[] as $x | ($t + \"x\") | 1] | length",
            ".data.text as $t | .data.xs | map($t + \"x\") | length",
            ".data.text as $t | .data.xs | map(\"\\($t)\") | length",
            ".data.text as $t | .data.xs | map($t | ascii_upcase) | length",
            ".data as $d | .data.xs | map([$d, $d]) | tojson | length",
            ".data as $d | .data.xs | map($d == $d) | length",
            "[..] as $d | $d | map($d) | map(. < $d) | length",
            ".data.xs as $x | $x | map($x) | map($x) | sort | length",
            ".data.xs as $x | $x | map($x) | join($x)",
            &format!(". as $e | {} | tojson", vec!["[., .]"; 40].join(" | ")),
            "try ([range(1000000000)] | length) catch 0",
            "([range(1000000000)] | length)? // 0",
        ] {
            assert_eq!(yields(template, &event), Err(RenderError::TooCostly), "{template}");
        }
        // What is only placed costs nothing until it is written.
        let placed = ".data as $d | [.data.xs[] as $x | $d]";
        assert_eq!(yields(placed, &event), Err(RenderError::TooLarge(1_000_000)));
        // The same on what is small, or once, is no trouble.
        let small = r#"{"type":"t","data":{"xs":[1,2,3],"text":"x"}}"#;
        assert_eq!(yields("[.data.xs[] as $a | .data.xs[] as $b | 1] | length", small).as_deref(), Ok("9"));
        assert_eq!(yields(".data.xs | map({a: ., b: [.]}) | length", &event).as_deref(), Ok("1000"));
    }

    #[test]
    fn what_yields_no_json_fails() {
        for (template, reason) in [
            ("empty", "it yields nothing"),
            ("{a: empty}", "it yields nothing"),
            (".data.a | select(false)", "it yields nothing"),
            ("error(\"no such thing\")", "no such thing"),
            (".type.x", "cannot index"),
            ("1 / 0", "no JSON"),
            ("{(.data.z): 1}", "no JSON"),
            ("\"x\" * 1000000000", "for numbers"),
            (".data.a - [1]", "for numbers"),
            (".data.a[.data.a]", "an index is"),
            (".data | add", "cannot calculate"),
            (".id | tonumber", "`tonumber` is for"),
            ("\"NaN\" | fromjson", "no JSON at byte 0"),
        ] {
            match yields(template, EVENT) {
                Err(RenderError::Template(why)) => assert!(why.contains(reason), "{template}: {why}"),
                other => panic!("{template}: {other:?}"),
            }
        }
        let deep = format!(r#"{{"data":"{}"}}"#, "[".repeat(1_000_000));
        assert!(matches!(yields(".data | fromjson", &deep), Err(RenderError::Template(why)) if why.contains("deep")));
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
        assert!(matches!(yields(".data | length", &deep), Err(RenderError::Event(why)) if why.contains("deep")));
        assert!(matches!(yields("{t: $unix}", r#"{"type":"t"}"#), Err(RenderError::Event(_))));
        for event in ["", "7", "[]", "{", r#"{"a":1"#, r#"{"a":1}}"#, r#"{"a" 1}"#, r#"{a:1}"#, r#"{"a":1,}"#] {
            assert!(matches!(yields("1", event), Err(RenderError::Event(_))), "{event}");
        }
    }
}
