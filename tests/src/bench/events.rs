//! What is published: documented examples of the seed systems, with new random ids in each event.
use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use std::collections::HashMap;

/// CloudEvents in structured mode; `<ANY_NAME>` stands for a UUID, the same wherever the event has that name.
const EXAMPLES: [&str; 3] = [
    include_str!("examples/chat.update.json"),
    include_str!("examples/ConversationProcessed.json"),
    include_str!("examples/ConversationSummaryUpdated.json"),
];
/// Takes the time of publishing, in microseconds since 1970; 16 digits until the year 2286.
pub(super) const STAMP: &str = "\"publishedMicros\":";
const STAMP_DIGITS: usize = 16;

pub(super) struct Event {
    /// Its type.
    pub(super) kind: &'static str,
    pub(super) id: String,
    /// It, in structured mode.
    pub(super) json: Bytes,
}

/// So many events, in the examples' turn.
pub(super) fn make(count: usize) -> Result<Vec<Event>> {
    let examples = EXAMPLES.iter().map(|example| Example::parse(example)).collect::<Result<Vec<_>>>()?;
    Ok((0..count).map(|number| examples[number % examples.len()].event()).collect())
}

/// The types of what is made.
pub(super) fn types() -> Result<Vec<&'static str>> {
    EXAMPLES.iter().map(|example| Ok(Example::parse(example)?.kind)).collect()
}

pub(super) fn mean_bytes(events: &[Event]) -> usize {
    events.iter().map(|event| event.json.len()).sum::<usize>() / events.len().max(1)
}

impl Event {
    /// It with the time now as the first of its `data`.
    pub(super) fn stamped(&self, micros: u64) -> Result<Bytes> {
        const DATA: &[u8] = b"\"data\":{";
        let at =
            self.json.windows(DATA.len()).position(|found| found == DATA).context("`data` is no object")? + DATA.len();
        let mut json = BytesMut::with_capacity(self.json.len() + STAMP.len() + STAMP_DIGITS + 1);
        json.extend_from_slice(&self.json[..at]);
        json.extend_from_slice(STAMP.as_bytes());
        json.extend_from_slice(format!("{micros:016},").as_bytes());
        json.extend_from_slice(&self.json[at..]);
        Ok(json.freeze())
    }
}

/// The time a body was stamped with.
pub(super) fn stamp(body: &[u8]) -> Option<u64> {
    let at = body.windows(STAMP.len()).position(|found| found == STAMP.as_bytes())? + STAMP.len();
    std::str::from_utf8(body.get(at..at + STAMP_DIGITS)?).ok()?.parse().ok()
}

struct Example {
    kind: &'static str,
    pieces: Vec<Piece>,
    /// How many different ids it has; the first is the event's.
    ids: usize,
}

enum Piece {
    Text(String),
    Id(usize),
}

impl Example {
    fn parse(example: &'static str) -> Result<Self> {
        let json: Value = serde_json::from_str(example)?;
        let kind = example.split("\"type\": \"").nth(1).and_then(|rest| rest.split('"').next());
        let kind = kind.context("the example has no `type`")?;
        ensure!(json["type"] == kind && json["id"] == "<EVENT_ID>", "the example's `type` and `id` come first");
        let (mut pieces, mut ids) = (Vec::new(), HashMap::from([("EVENT_ID".to_owned(), 0)]));
        let compact = json.to_string();
        let mut rest = compact.as_str();
        while let Some((text, (name, after))) =
            rest.split_once('<').and_then(|(text, rest)| Some((text, rest.split_once('>')?)))
        {
            let next = ids.len();
            pieces.extend([Piece::Text(text.into()), Piece::Id(*ids.entry(name.to_owned()).or_insert(next))]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self { kind, pieces, ids: ids.len() })
    }

    fn event(&self) -> Event {
        let mut ids: Vec<String> = (0..self.ids).map(|_| uuid()).collect();
        let mut json = String::with_capacity(1_536);
        for piece in &self.pieces {
            json.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Id(number) => &ids[*number],
            });
        }
        Event { kind: self.kind, id: ids.swap_remove(0), json: json.into() }
    }
}

/// A random one, version 4.
fn uuid() -> String {
    let random = rand::random::<u128>();
    let bits = |from: u32, count: u32| (random >> from) & ((1 << count) - 1);
    let variant = 0x8000 | bits(48, 14);
    format!("{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}", bits(96, 32), bits(80, 16), bits(64, 12), bits(0, 48))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_examples_with_ids_of_their_own() {
        let events = make(6).unwrap();
        assert_eq!(types().unwrap(), ["chat.update", "ConversationProcessed", "ConversationSummaryUpdated"]);
        let ids: std::collections::HashSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids.len(), 6);
        for event in &events {
            let json: Value = serde_json::from_slice(&event.json).unwrap();
            assert_eq!((json["type"].as_str(), json["id"].as_str()), (Some(event.kind), Some(event.id.as_str())));
            assert!(!json.to_string().contains('<'));
            assert!((900..1_400).contains(&event.json.len()), "{} bytes", event.json.len());
        }
        let chat: Value = serde_json::from_slice(&events[0].json).unwrap();
        assert_eq!(chat["requestid"], chat["data"]["context"]["request_id"]);
        assert_ne!(chat["requestid"], chat["botid"]);
    }

    #[test]
    fn a_stamp_is_read_back() {
        for event in make(3).unwrap() {
            let stamped = event.stamped(1_700_000_000_123_456).unwrap();
            assert_eq!(stamp(&stamped), Some(1_700_000_000_123_456));
            let json: Value = serde_json::from_slice(&stamped).unwrap();
            assert_eq!(json["data"]["publishedMicros"], 1_700_000_000_123_456_u64);
            assert_eq!(stamp(&event.json), None);
        }
    }
}
