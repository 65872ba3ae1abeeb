//! What a template may say: jq, without what could run or grow without bound.
//!
//! Refused are definitions, `reduce`, `foreach`, `label` and assignments: recursion and accumulators, by which a short
//! program does unlimited work. Of jq's functions those in [`FUNCTIONS`] are there. What is left takes polynomial time,
//! which is still too much; so every operation that repeats, copies, compares or converts has its values *weighed*
//! (`functions.rs`): each value costs fuel by its size, each run has fuel in proportion to its event, and without fuel
//! it ends. The cost of a template is thus linear in the event, whatever the event holds.

use jaq_core::{
    load::{
        lex::{self, StrPart, Token},
        parse::{BinaryOp, Def, Parser, Pattern, Term},
    },
    ops::Math,
    path::{Part, Path},
};

/// The longest template, in bytes: it bounds how deeply the parser and a run can nest.
const MAX_BYTES: usize = 4_096;

/// The functions a template may call, with the number of their arguments. All do what they do in jq; `isuuid` (whether a
/// text is a UUID of 36 characters), `uuid5(namespace)` (the version 5 UUID of a text) and `tointeger` (of decimal digits
/// within 63 bits, else an error) are our own.
const FUNCTIONS: &[(&str, &[usize])] = &[
    ("@base64", &[0]),
    ("@base64d", &[0]),
    ("@html", &[0]),
    ("@json", &[0]),
    ("@text", &[0]),
    ("@uri", &[0]),
    ("abs", &[0]),
    ("add", &[0, 1]),
    ("all", &[0, 1, 2]),
    ("any", &[0, 1, 2]),
    ("arrays", &[0]),
    ("ascii_downcase", &[0]),
    ("ascii_upcase", &[0]),
    ("booleans", &[0]),
    ("ceil", &[0]),
    ("empty", &[0]),
    ("endswith", &[1]),
    ("error", &[0, 1]),
    ("explode", &[0]),
    ("false", &[0]),
    ("first", &[0, 1]),
    ("floor", &[0]),
    ("from_entries", &[0]),
    ("fromdate", &[0]),
    ("fromjson", &[0]),
    ("group_by", &[1]),
    ("has", &[1]),
    ("implode", &[0]),
    ("isuuid", &[0]),
    ("join", &[1]),
    ("keys", &[0]),
    ("keys_unsorted", &[0]),
    ("last", &[0]),
    ("length", &[0]),
    ("limit", &[2]),
    ("ltrimstr", &[1]),
    ("map", &[1]),
    ("map_values", &[1]),
    ("max", &[0]),
    ("max_by", &[1]),
    ("min", &[0]),
    ("min_by", &[1]),
    ("not", &[0]),
    ("null", &[0]),
    ("nulls", &[0]),
    ("numbers", &[0]),
    ("objects", &[0]),
    ("range", &[1, 2]),
    ("reverse", &[0]),
    ("round", &[0]),
    ("rtrimstr", &[1]),
    ("scalars", &[0]),
    ("select", &[1]),
    ("sort", &[0]),
    ("sort_by", &[1]),
    ("split", &[1]),
    ("startswith", &[1]),
    ("strftime", &[1]),
    ("strings", &[0]),
    ("to_entries", &[0]),
    ("todate", &[0]),
    ("tointeger", &[0]),
    ("tojson", &[0]),
    ("tonumber", &[0]),
    ("tostring", &[0]),
    ("trim", &[0]),
    ("true", &[0]),
    ("type", &[0]),
    ("unique", &[0]),
    ("unique_by", &[1]),
    ("utf8bytelength", &[0]),
    ("uuid5", &[1]),
    ("values", &[0]),
    ("with_entries", &[1]),
];

/// Of these, those that take no longer for a large value than for a small one.
const WEIGHTLESS: [&str; 6] = ["empty", "false", "not", "null", "select", "true"];

/// Jaq's definitions that take quadratic time, again; they stand after jaq's and so before them.
const OWN_DEFINITIONS: &str = "def add: concat; def add(f): [f] | concat; def join($s): glue($s);
    def fromjson: readjson; def tonumber: readnumber;";

/// What is wrong with a template, and the piece of its text that is.
#[derive(Debug)]
pub(crate) struct Refusal<'s> {
    pub(crate) at: Option<&'s str>,
    pub(crate) why: String,
}

type Checked<'s, T = Term<&'s str>> = Result<T, Refusal<'s>>;

/// Parses a template.
pub(crate) fn parse(text: &str) -> Checked<'_> {
    if text.len() > MAX_BYTES {
        return refuse(None, format!("a template is at most {MAX_BYTES} bytes"));
    }
    let tokens = lex::Lexer::new(text).lex().map_err(|errors| match errors.first() {
        Some((expected, at)) => Refusal { at: Some(at), why: format!("expected a {}", expected.as_str()) },
        None => Refusal { at: None, why: "no jq".into() },
    })?;
    Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| match errors.first() {
        Some((expected, found)) => {
            Refusal { at: Some(Token::opt_as_str(*found, text)), why: format!("expected {}", expected.as_str()) }
        }
        None => Refusal { at: None, why: "no jq".into() },
    })
}

/// Judges a parsed template, or a part of one, and has its values weighed; the global variables it reads are noted in
/// `globals`.
pub(crate) fn metered<'s>(term: Term<&'s str>, globals: &mut Vec<&'s str>) -> Checked<'s> {
    Check { globals }.term(term)
}

/// The definitions that templates stand on: jaq's and our own.
pub(crate) fn definitions() -> Vec<Def<&'static str>> {
    let own = jaq_core::load::parse(OWN_DEFINITIONS, |parser| parser.defs()).expect("the definitions above are jq");
    jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).chain(own).collect()
}

fn refuse<'s, T>(at: Option<&'s str>, why: impl Into<String>) -> Checked<'s, T> {
    Err(Refusal { at, why: why.into() })
}

struct Check<'a, 's> {
    globals: &'a mut Vec<&'s str>,
}

impl<'s> Check<'_, 's> {
    fn term(&mut self, term: Term<&'s str>) -> Checked<'s> {
        Ok(match term {
            Term::Id | Term::Num(_) | Term::Arr(None) => term,
            Term::Var(name) => {
                if !self.globals.contains(&name) {
                    self.globals.push(name);
                }
                term
            }
            Term::Recurse => weighed(Term::Recurse),
            Term::Str(format, parts) => self.text(format, parts)?,
            Term::Arr(Some(inner)) => Term::Arr(Some(self.boxed(*inner)?)),
            Term::Obj(entries) => Term::Obj(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let key = if is_literal(&key) || matches!(key, Term::Var(_)) {
                            self.term(key)?
                        } else {
                            weighed(self.term(key)?)
                        };
                        Ok((key, value.map(|value| self.term(value)).transpose()?))
                    })
                    .collect::<Checked<'s, _>>()?,
            ),
            Term::Neg(inner) => Term::Neg(self.boxed(*inner)?),
            Term::BinOp(left, op, right) => self.operation(*left, op, *right)?,
            Term::TryCatch(inner, catch) => {
                Term::TryCatch(self.boxed(*inner)?, catch.map(|catch| self.boxed(*catch)).transpose()?)
            }
            Term::IfThenElse(branches, otherwise) => Term::IfThenElse(
                branches
                    .into_iter()
                    .map(|(condition, then)| Ok((self.term(condition)?, self.term(then)?)))
                    .collect::<Checked<'s, _>>()?,
                otherwise.map(|otherwise| self.boxed(*otherwise)).transpose()?,
            ),
            Term::Call(name, arguments) => self.call(name, arguments)?,
            Term::Path(inner, path) => self.path(*inner, path)?,
            Term::Def(defs, _) => return refuse(defs.first().map(|def| def.name), "a template defines no functions"),
            Term::Fold(name, ..) => {
                return refuse(Some(name), format!("a template has no `{name}`: use `map`, `add`, `any` or `all`"));
            }
            Term::Label(name, _) | Term::Break(name) => return refuse(Some(name), "a template has no labels"),
        })
    }

    fn boxed(&mut self, term: Term<&'s str>) -> Checked<'s, Box<Term<&'s str>>> {
        self.term(term).map(Box::new)
    }

    fn text(&mut self, format: Option<&'s str>, parts: Vec<StrPart<&'s str, Term<&'s str>>>) -> Checked<'s> {
        let parts = parts.into_iter().map(|part| {
            Ok(match part {
                StrPart::Term(inner) => StrPart::Term(match format {
                    None => weighed(self.term(inner)?),
                    Some(format) => pipe(self.term(inner)?, self.call(format, Vec::new())?),
                }),
                plain => plain,
            })
        });
        Ok(Term::Str(None, parts.collect::<Checked<'s, _>>()?))
    }

    fn operation(&mut self, left: Term<&'s str>, op: BinaryOp<&'s str>, right: Term<&'s str>) -> Checked<'s> {
        let light = is_literal(&left) || is_literal(&right);
        let (left, right) = (self.term(left)?, self.term(right)?);
        let joined = |left, op, right| Term::BinOp(Box::new(left), op, Box::new(right));
        Ok(match op {
            BinaryOp::Pipe(Some(pattern)) => {
                let pattern = self.pattern(pattern)?;
                joined(left, BinaryOp::Pipe(Some(pattern)), right)
            }
            BinaryOp::Pipe(None) | BinaryOp::Comma | BinaryOp::Alt | BinaryOp::Or | BinaryOp::And => {
                joined(left, op, right)
            }
            BinaryOp::Math(Math::Add) => weighed(joined(left, op, right)),
            // On texts and arrays these repeat, split and search.
            BinaryOp::Math(_) => joined(pipe(left, own("number")), op, pipe(right, own("number"))),
            BinaryOp::Cmp(_) if light => joined(left, op, right),
            BinaryOp::Cmp(_) => joined(weighed(left), op, weighed(right)),
            BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => {
                return refuse(None, "a template has no assignments: build the value with `+` or `with_entries`");
            }
        })
    }

    fn pattern(&mut self, pattern: Pattern<&'s str>) -> Checked<'s, Pattern<&'s str>> {
        Ok(match pattern {
            Pattern::Var(_) => pattern,
            Pattern::Arr(items) => {
                Pattern::Arr(items.into_iter().map(|item| self.pattern(item)).collect::<Checked<'s, _>>()?)
            }
            Pattern::Obj(entries) => Pattern::Obj(
                entries
                    .into_iter()
                    .map(|(key, inner)| Ok((self.index(key)?, self.pattern(inner)?)))
                    .collect::<Checked<'s, _>>()?,
            ),
        })
    }

    fn call(&mut self, name: &'s str, arguments: Vec<Term<&'s str>>) -> Checked<'s> {
        let Some((_, counts)) = FUNCTIONS.iter().find(|(other, _)| *other == name) else {
            return refuse(Some(name), format!("a template has no function `{name}`"));
        };
        if !counts.contains(&arguments.len()) {
            return refuse(Some(name), format!("`{name}` does not take {} arguments here", arguments.len()));
        }
        if WEIGHTLESS.contains(&name) {
            let arguments = arguments.into_iter().map(|argument| self.term(argument));
            return Ok(Term::Call(name, arguments.collect::<Checked<'s, _>>()?));
        }
        let arguments = arguments.into_iter().map(|argument| Ok(weighed(self.term(argument)?)));
        let call = Term::Call(name, arguments.collect::<Checked<'s, _>>()?);
        Ok(pipe(own("weigh"), weighed(call)))
    }

    /// A path, cut after each part that yields more than one value or copies.
    fn path(&mut self, inner: Term<&'s str>, path: Path<Term<&'s str>>) -> Checked<'s> {
        let mut inner = self.term(inner)?;
        let mut parts = Vec::new();
        for (part, optional) in path.0 {
            let repeats = matches!(part, Part::Range(..));
            let mut bound = |term: Option<Term<&'s str>>| term.map(|term| self.index(term)).transpose();
            parts.push(match part {
                Part::Index(index) => (Part::Index(self.index(index)?), optional),
                Part::Range(from, to) => (Part::Range(bound(from)?, bound(to)?), optional),
            });
            if repeats {
                inner = weighed(Term::Path(Box::new(inner), Path(std::mem::take(&mut parts))));
            }
        }
        Ok(if parts.is_empty() { inner } else { Term::Path(Box::new(inner), Path(parts)) })
    }

    /// What stands in brackets: a name or a number. An array there would search.
    fn index(&mut self, index: Term<&'s str>) -> Checked<'s> {
        if is_literal(&index) { self.term(index) } else { Ok(pipe(self.term(index)?, own("index"))) }
    }
}

/// A text or number that stands in the program itself.
fn is_literal(term: &Term<&str>) -> bool {
    matches!(term, Term::Num(_)) || literal_text(term).is_some()
}

/// The text that a literal is, its escapes resolved.
pub(crate) fn literal_text(term: &Term<&str>) -> Option<String> {
    let Term::Str(None, parts) = term else { return None };
    let mut text = String::new();
    for part in parts {
        match part {
            StrPart::Str(plain) => text.push_str(plain),
            StrPart::Char(char) => text.push(*char),
            StrPart::Term(_) => return None,
        }
    }
    Some(text)
}

fn pipe<'s>(left: Term<&'s str>, right: Term<&'s str>) -> Term<&'s str> {
    Term::BinOp(Box::new(left), BinaryOp::Pipe(None), Box::new(right))
}

fn own(name: &'static str) -> Term<&'static str> {
    Term::Call(name, Vec::new())
}

fn weighed(term: Term<&str>) -> Term<&str> {
    pipe(term, own("weigh"))
}
