//! `--check-catalog FILE`: whether a catalog is right, and the requests that its examples make. Needs no settings.

use std::{fmt::Write as _, io::Write as _, path::Path};

use fanfare_catalog::{Catalog, Catalogs};
use fanfare_domain::webhook::PayloadForm;

use crate::app::check_collections;

/// Answers `--check-catalog FILE` and then ends the process: with 0 where the catalog is right, with 1 where it is not.
pub(crate) fn answer(arguments: impl Iterator<Item = String>) {
    let mut arguments = arguments.skip(1).skip_while(|argument| argument != "--check-catalog");
    if arguments.next().is_none() {
        return;
    }
    let checked = match (arguments.next(), arguments.next()) {
        (Some(file), None) => check(Path::new(&file)),
        _ => Err("`--check-catalog` takes one file".to_owned()),
    };
    // Whoever asked may have gone: there is nobody left to tell.
    let _ = match &checked {
        Ok(requests) => std::io::stdout().write_all(requests.as_bytes()),
        Err(why) => writeln!(std::io::stderr(), "{why}"),
    };
    std::process::exit(i32::from(checked.is_err()));
}

/// What is to be said of a right catalog; else what is wrong, as `file:line:column: reason`.
fn check(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let catalog = Catalog::parse(&text).map_err(|error| {
        let place: String =
            [error.line, error.column].into_iter().flatten().map(|number| format!(":{number}")).collect();
        format!("{shown}{place}: {}", error.reason)
    })?;
    let mut catalogs = Catalogs::builtin();
    let catalog = match catalogs.by_digest(catalog.digest()) {
        Some(builtin) => builtin.clone(),
        None => catalogs.join(catalog).map_err(|why| format!("{shown}: {why}"))?,
    };
    check_collections(&catalogs).map_err(|why| format!("{shown}: {why}"))?;
    Ok(requests(&catalog))
}

/// The requests that a catalog's examples make: per event type, example and payload form.
fn requests(catalog: &Catalog) -> String {
    let mut text = String::new();
    let (mut types, mut requests) = (0, 0);
    let own = catalog.event_types().iter().filter(|event_type| !fanfare_domain::event::is_reserved(&event_type.name));
    for event_type in own {
        types += 1;
        for (at, example) in event_type.examples.iter().enumerate() {
            for form in [PayloadForm::Full, PayloadForm::Identity].into_iter().filter(|form| catalog.has_payload(*form))
            {
                let _ = writeln!(text, "# {}, example {}, {}\n", event_type.name, at + 1, form.as_str());
                requests += 1;
                let rendered = match catalog.render_example(example, form) {
                    Ok(rendered) => rendered,
                    Err(why) => {
                        let _ = writeln!(text, "no request: {why}\n");
                        continue;
                    }
                };
                let _ = writeln!(text, "POST <target>");
                let content_type = ("content-type", rendered.content_type.as_str());
                let headers = rendered.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let secret = catalog.secret_header().map(|name| (name, "<secret>"));
                for (name, value) in headers.chain([content_type]).chain(secret) {
                    let _ = writeln!(text, "{name}: {value}");
                }
                let _ = writeln!(text, "\n{}\n", String::from_utf8_lossy(&rendered.body));
            }
        }
    }
    let method = match catalog.settable_fields().iter().any(|field| field == "method") {
        true => " The method is the webhook's, POST where it has none.",
        false => "",
    };
    let _ = writeln!(
        text,
        "The catalog `{}` is right: {types} event types, {requests} requests of their examples.{method} Beside these headers \
         every request has `webhook-id`, `webhook-timestamp`, `webhook-signature`, `fanfare-attempt`, \
         `fanfare-first-attempt` and the webhook's own.",
        catalog.name()
    );
    text
}
