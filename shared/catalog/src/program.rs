//! A jq program in the bounds of `language.rs`, compiled once, run for each event.

use std::cell::Cell;

use bytes::Bytes;
use jaq_core::{
    Compiler, Ctx, Vars,
    load::{
        Arena, File, Loader,
        lex::StrPart,
        parse::{BinaryOp, Def, Pattern, Term},
        span,
    },
    path::Part,
};
use jaq_json::{Map, Val};

use crate::{
    functions::{Metered, Run, functions},
    json,
    language::{self, Refusal},
    render::RenderError,
    template::{Global, Input},
};

/// What a run may cost whatever the event: enough for any program that does not repeat itself.
const BASE_FUEL: u64 = 10_000;
/// And what it may cost for each byte of the event: to look at all of it some twenty times.
const FUEL_PER_BYTE: u64 = 4;

/// A compiled program.
pub(crate) struct Program {
    filter: jaq_core::Filter<Metered>,
    globals: Vec<Global>,
    reads: Reads,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("reads", &self.reads).finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles a part of the template `text`; the error says where in it and why.
    pub(crate) fn compile<'s>(term: Term<&'s str>, text: &'s str) -> Result<Self, String> {
        let mut reads = Reads::default();
        reads.term(&term, true);
        let mut names = Vec::new();
        let body = language::metered(term, &mut names).map_err(|refusal| place(text, &refusal))?;
        let globals = names.iter().filter_map(|name| Some((*name, Global::named(name)?)));
        let (names, globals): (Vec<&str>, Vec<Global>) = globals.unzip();

        // The program becomes a definition that the main program calls: jaq takes a parsed one in no other way.
        let mut definitions: Vec<Def<&str>> = language::definitions();
        definitions.push(Def { name: "template", args: Vec::new(), body });
        let arena = Arena::default();
        let modules = Loader::new(definitions)
            .load(&arena, File { code: "template", path: () })
            .expect("the main program is one call");
        let filter =
            Compiler::default().with_funs(functions()).with_global_vars(names).compile(modules).map_err(|errors| {
                match errors.iter().flat_map(|(_, errors)| errors).next() {
                    Some((name, kind)) => {
                        place(text, &Refusal { at: Some(name), why: format!("no {} `{name}`", kind.as_str()) })
                    }
                    None => "no jq".into(),
                }
            })?;
        Ok(Self { filter, globals, reads })
    }

    /// Runs it over an event; its first output counts.
    pub(crate) fn run(&self, input: &Input<'_>) -> Result<Val, RenderError> {
        let fuel = Cell::new(BASE_FUEL + FUEL_PER_BYTE * input.bytes() as u64);
        let mut event = Map::default();
        for (name, value) in input.members() {
            if self.reads.reads(name) {
                let value = json::read(&Bytes::copy_from_slice(value.as_bytes()))
                    .map_err(|error| RenderError::Event(format!("`{name}`: {error}")))?;
                event.insert(Val::utf8_str(Bytes::copy_from_slice(name.as_bytes())), value);
            }
        }
        let globals = self.globals.iter().map(|&global| input.global(global).map(Val::from));
        let globals = Vars::new(globals.collect::<Result<Vec<_>, _>>()?);
        let context = Ctx::<Metered>::new(Run { code: &self.filter.lut, fuel: &fuel }, globals);
        let first = self.filter.id.run((context, Val::obj(event))).next();
        match first {
            Some(Ok(value)) => Ok(value),
            None => Err(RenderError::Template("it yields nothing".into())),
            Some(Err(exception)) => Err(match exception.get_err() {
                Ok(error) => RenderError::Template(error.to_string().chars().take(200).collect()),
                Err(_) => RenderError::TooCostly,
            }),
        }
    }
}

/// A refusal with its place in the template: the line, and what stands there.
pub(crate) fn place(text: &str, refusal: &Refusal<'_>) -> String {
    let bytes = text.as_bytes().as_ptr_range();
    // What is refused may also be a piece of our own definitions: then it has no place in this text.
    let inside = |at: &&str| at.as_ptr() >= bytes.start && at.as_bytes().as_ptr_range().end <= bytes.end;
    let Some(at) = refusal.at.filter(inside) else { return refusal.why.clone() };
    let line = text[..span(text, at).start].matches('\n').count() + 1;
    let here: String = at.lines().next().unwrap_or_default().chars().take(24).collect();
    if here.is_empty() {
        format!("line {line} of the template: {}", refusal.why)
    } else {
        format!("line {line} of the template, at `{here}`: {}", refusal.why)
    }
}

/// Which of the event's members a program can look at: the others need not be parsed for it.
#[derive(Debug, Default)]
struct Reads {
    all: bool,
    named: Vec<String>,
}

impl Reads {
    fn reads(&self, member: &str) -> bool {
        self.all || self.named.iter().any(|name| name == member)
    }

    /// Notes what a term reads; `of_event` says that its input is the event.
    fn term(&mut self, term: &Term<&str>, of_event: bool) {
        match term {
            Term::Id | Term::Recurse => self.all |= of_event,
            Term::Num(_) | Term::Var(_) | Term::Arr(None) => {}
            Term::Str(_, parts) => {
                for part in parts {
                    if let StrPart::Term(inner) = part {
                        self.term(inner, of_event);
                    }
                }
            }
            Term::Arr(Some(inner)) | Term::Neg(inner) => self.term(inner, of_event),
            Term::Obj(entries) => {
                for (key, value) in entries {
                    self.term(key, of_event);
                    match value {
                        Some(value) => self.term(value, of_event),
                        None if matches!(key, Term::Var(_)) => {}
                        None => self.member(key, of_event), // `{type}` is `{type: .type}`
                    }
                }
            }
            Term::BinOp(left, BinaryOp::Pipe(None), right) => {
                self.term(left, of_event);
                self.term(right, false);
            }
            Term::BinOp(left, op, right) => {
                self.term(left, of_event);
                if let BinaryOp::Pipe(Some(pattern)) = op {
                    self.pattern(pattern, of_event);
                }
                self.term(right, of_event);
            }
            Term::TryCatch(inner, catch) => {
                self.term(inner, of_event);
                catch.iter().for_each(|catch| self.term(catch, false));
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.term(condition, of_event);
                    self.term(then, of_event);
                }
                match otherwise {
                    Some(otherwise) => self.term(otherwise, of_event),
                    None => self.all |= of_event, // without `else` it is `.`
                }
            }
            Term::Call("true" | "false" | "null" | "empty", _) => {}
            Term::Call(_, arguments) => {
                self.all |= of_event;
                arguments.iter().for_each(|argument| self.term(argument, of_event));
            }
            Term::Path(inner, path) => {
                let mut parts = path.0.iter();
                match (&**inner, parts.clone().next()) {
                    (Term::Id, Some((Part::Index(index), _))) if of_event => {
                        self.member(index, of_event);
                        parts.next();
                    }
                    _ => self.term(inner, of_event),
                }
                for (part, _) in path.0.iter() {
                    match part {
                        Part::Index(index) => self.term(index, of_event),
                        Part::Range(from, to) => {
                            from.iter().chain(to).for_each(|bound| self.term(bound, of_event));
                        }
                    }
                }
            }
            // Refused by `language.rs`.
            Term::Def(..) | Term::Fold(..) | Term::Label(..) | Term::Break(_) => self.all = true,
        }
    }

    fn pattern(&mut self, pattern: &Pattern<&str>, of_event: bool) {
        match pattern {
            Pattern::Var(_) => {}
            Pattern::Arr(items) => items.iter().for_each(|item| self.pattern(item, of_event)),
            Pattern::Obj(entries) => {
                for (key, inner) in entries {
                    self.term(key, of_event);
                    self.pattern(inner, of_event);
                }
            }
        }
    }

    /// Notes the member under this key of the event.
    fn member(&mut self, key: &Term<&str>, of_event: bool) {
        match language::literal_text(key) {
            _ if !of_event => {}
            Some(name) => self.named.push(name),
            None => self.all = true,
        }
    }
}
