//! What it costs to validate and render an event of about 1 KiB: `cargo run --release -p fanfare-catalog --example render_cost`.
#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use std::{hint::black_box, time::Instant};

use fanfare_catalog::{Catalog, Catalogs};
use fanfare_domain::{
    Event,
    event::{Defaults, Plain, parse_structured},
    webhook::PayloadForm,
};

const ROUNDS: u32 = 100_000;

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let catalogs = Catalogs::load(None)?;
    println!("compiling the built-in catalogs: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);

    let capturi = catalogs.get("capturi").ok_or_else(|| anyhow::anyhow!("no capturi"))?;
    let standard = catalogs.get("standard").ok_or_else(|| anyhow::anyhow!("no standard"))?;
    for (catalog, kind) in [(standard, "order.paid"), (standard, "large"), (capturi, "ConversationProcessed")] {
        // An event without examples of its own is shown with the data of a conversation: 1 KiB of real keys and values.
        let example = catalog.event_type(kind).or_else(|| capturi.event_type("ConversationProcessed"));
        let example = &example.ok_or_else(|| anyhow::anyhow!("no event type `{kind}`"))?.examples[0].event;
        measure(catalog, &event(example)?);
    }
    Ok(())
}

fn event(example: &serde_json::Value) -> anyhow::Result<Event> {
    let defaults = Defaults { now_ms: 1_700_000_000_000, plain: Some(Plain { id: "1", source: Some("/example") }) };
    parse_structured(example.to_string().as_bytes(), &defaults).map_err(|error| anyhow::anyhow!("{error:?}"))
}

fn measure(catalog: &Catalog, event: &Event) {
    let json = event.json.get().as_bytes();
    let per_round = |work: &dyn Fn()| {
        let started = Instant::now();
        (0..ROUNDS).for_each(|_| work());
        started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
    };
    let validate = per_round(&|| drop(black_box(catalog.validate(black_box(event)))));
    let render = |form| per_round(&|| drop(black_box(catalog.render(black_box(json), form))));
    println!(
        "{} {}, {} bytes: validate {validate:.2} µs, render full {:.2} µs, identity {:.2} µs",
        catalog.name(),
        event.kind,
        json.len(),
        render(PayloadForm::Full),
        render(PayloadForm::Identity),
    );
}
