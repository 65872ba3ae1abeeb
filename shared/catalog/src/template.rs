//! A template: a jq program (in the bounds of `language.rs`) over an event's JSON, compiled once, run for each event.

use std::cell::Cell;

use jaq_core::{
    Compiler, Ctx, Vars,
    load::{Arena, File, Loader, parse::Def, span},
};
use jaq_json::Val;

use crate::{
    functions::{Metered, Run, functions},
    language,
    render::RenderError,
};

/// The values a template finds under a name, beside the event as its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `$unix`: the event's time in whole seconds since 1970.
    Unix,
    /// `$unix_ms`: the same in milliseconds.
    UnixMs,
    /// `$time`: the event's time in UTC with milliseconds, as RFC 3339; `.time` is the text that was published.
    Time,
}

const GLOBALS: [(&str, Global); 3] =
    [("$unix", Global::Unix), ("$unix_ms", Global::UnixMs), ("$time", Global::Time)];

/// What a run may cost whatever the event: enough for any template that does not repeat itself.
const BASE_FUEL: u64 = 10_000;
/// And what it may cost for each byte of the event: to look at all of it some hundred times.
const FUEL_PER_BYTE: u64 = 16;

/// A compiled template.
pub(crate) struct Template {
    filter: jaq_core::Filter<Metered>,
    globals: Vec<Global>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template")
    }
}

impl Template {
    /// Compiles a program; the error says where in it and why.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let mut names = Vec::new();
        let body = language::parse(text, &mut names).map_err(|refusal| place(text, refusal.at, &refusal.why))?;
        let globals: Vec<(&str, Global)> = GLOBALS.into_iter().filter(|(name, _)| names.contains(name)).collect();

        // The checked program becomes a definition that the main program calls: jaq takes no parsed program otherwise.
        let program = Def { name: "template", args: Vec::new(), body };
        let arena = Arena::default();
        let modules = Loader::new(language::definitions().chain([program]))
            .load(&arena, File { code: "template", path: () })
            .expect("the main program is one call");
        let filter = Compiler::default()
            .with_funs(functions())
            .with_global_vars(globals.iter().map(|(name, _)| *name))
            .compile(modules)
            .map_err(|errors| match errors.iter().flat_map(|(_, errors)| errors).next() {
                Some((name, kind)) => place(text, Some(name), &format!("no {} `{name}`", kind.as_str())),
                None => "no jq".into(),
            })?;
        Ok(Self { filter, globals: globals.into_iter().map(|(_, global)| global).collect() })
    }

    /// Runs it over an event that came in so many bytes; its first output counts.
    pub(crate) fn run(
        &self,
        event: Val,
        event_bytes: usize,
        mut global: impl FnMut(Global) -> Result<Val, RenderError>,
    ) -> Result<Val, RenderError> {
        let fuel = Cell::new(BASE_FUEL + FUEL_PER_BYTE * event_bytes as u64);
        let values = self.globals.iter().map(|&name| global(name)).collect::<Result<Vec<_>, _>>()?;
        let context = Ctx::<Metered>::new(Run { code: &self.filter.lut, fuel: &fuel }, Vars::new(values));
        let first = self.filter.id.run((context, event)).next();
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

/// A reason with its place in the text: the line, and what stands there.
fn place(text: &str, at: Option<&str>, why: &str) -> String {
    let bytes = text.as_bytes().as_ptr_range();
    // What is refused may also be a piece of our own definitions: then it has no place in this text.
    let Some(at) = at.filter(|at| at.as_ptr() >= bytes.start && at.as_bytes().as_ptr_range().end <= bytes.end) else {
        return why.to_owned();
    };
    let line = text[..span(text, at).start].matches('\n').count() + 1;
    let here: String = at.lines().next().unwrap_or_default().chars().take(24).collect();
    if here.is_empty() {
        format!("line {line} of the template: {why}")
    } else {
        format!("line {line} of the template, at `{here}`: {why}")
    }
}
