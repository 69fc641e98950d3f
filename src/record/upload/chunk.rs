//! Events packed into requests: JSON arrays under gzip, no larger than the service takes. How well events pack is
//! learned from the last request.

use std::{collections::VecDeque, io::Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::{Event, event::shorten};

/// Smallest limit that a refusal leads to: where not even this is taken, size is not what is wrong.
const MIN_LIMIT: usize = 512;

/// Bytes of events to a byte of the request: at first, and at most.
const FIRST_RATIO: usize = 4;
const MAX_RATIO: usize = 32;

/// One request.
#[derive(Debug)]
pub struct Chunk {
    body: Bytes,
    events: Vec<Event>,
    /// What its events weighed when they were taken.
    before: usize,
}

impl Chunk {
    /// What is to be sent, compressed.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// How many events are in it.
    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn weight(&self) -> usize {
        weight(&self.events)
    }

    /// How much heavier it has become while it was packed, which is lighter where something had to be left out.
    pub(super) fn growth(&self) -> isize {
        self.weight().cast_signed() - self.before.cast_signed()
    }

    pub(super) fn events(self) -> impl DoubleEndedIterator<Item = Event> {
        self.events.into_iter()
    }
}

/// How much goes into a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Packing {
    /// Largest request in bytes.
    limit: usize,
    /// Bytes of events to a byte of the request, as far as is known.
    ratio: usize,
}

impl Packing {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, ratio: FIRST_RATIO }
    }

    /// Takes as many events as will probably fit, and at least one.
    pub(super) fn take(&self, events: &mut VecDeque<Event>) -> Vec<Event> {
        let room = self.limit.saturating_mul(self.ratio);
        let mut bytes = 0;
        let fits = events.iter().take_while(|event| {
            bytes += event.json.len() + 1;
            bytes <= room
        });
        let count = fits.count().max(1).min(events.len());
        events.drain(..count).collect()
    }

    /// A request of as many of `events` as fit, and the others. One that does not fit alone loses what may be left out;
    /// where that is not enough, its weight is returned.
    pub(super) fn pack(&self, mut events: Vec<Event>) -> (Result<Chunk, usize>, Vec<Event>) {
        let mut rest = Vec::new();
        let mut before = weight(&events);
        loop {
            let body = compress(&events);
            if body.len() <= self.limit {
                return (Ok(Chunk { body: body.into(), events, before }), rest);
            }
            match events.as_mut_slice() {
                [alone] => match shorten(&alone.json) {
                    Some(shorter) => alone.json = shorter,
                    None => return (Err(before), rest),
                },
                _ => {
                    let mut half = events.split_off(events.len() / 2);
                    half.append(&mut rest);
                    rest = half;
                    before = weight(&events);
                }
            }
        }
    }

    /// Takes note of how well events packed. A tenth is left for those that pack less well.
    pub(super) fn learn(&mut self, chunk: &Chunk) {
        let ratio = chunk.weight() * 9 / 10 / chunk.body.len().max(1);
        self.ratio = ratio.clamp(1, MAX_RATIO);
    }

    /// The service does not take requests as large as this one.
    pub(super) fn lower(&mut self, chunk: &Chunk) {
        self.limit = (chunk.body.len() / 2).clamp(MIN_LIMIT.min(self.limit), self.limit);
    }
}

fn weight(events: &[Event]) -> usize {
    events.iter().map(|event| event.json.len()).sum()
}

fn compress(events: &[Event]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut open = b"[";
    for event in events {
        // Writing to memory does not fail.
        let _ = encoder.write_all(open).and_then(|()| encoder.write_all(&event.json));
        open = b",";
    }
    if events.is_empty() {
        let _ = encoder.write_all(open);
    }
    let _ = encoder.write_all(b"]");
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Now;

    fn event(id: usize, input: &str) -> Event {
        let json = json!({"decision_id": id.to_string(), "input": {"parsed_body": input}, "nd_builtin_cache": {"a": {}}});
        Event { at: Now::from_seconds(1), json: serde_json::to_vec(&json).unwrap() }
    }

    fn unpacked(chunk: &Chunk) -> Vec<Value> {
        let mut text = String::new();
        GzDecoder::new(&*chunk.body()).read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Text that does not compress.
    fn noise(bytes: usize) -> String {
        let mut random = fastrand::Rng::with_seed(7);
        (0..bytes).map(|_| random.alphanumeric()).collect()
    }

    #[test]
    fn requests_stay_below_the_limit_and_keep_the_order() {
        for limit in [1024, 4096, 32 * 1024] {
            let mut waiting: VecDeque<_> = (0..200).map(|id| event(id, &noise(id * 3))).collect();
            let mut packing = Packing::new(limit);
            let (mut ids, mut requests) = (Vec::new(), 0);
            while !waiting.is_empty() {
                let (chunk, rest) = packing.pack(packing.take(&mut waiting));
                rest.into_iter().rev().for_each(|event| waiting.push_front(event));
                let chunk = chunk.unwrap();
                assert!(chunk.body().len() <= limit);
                packing.learn(&chunk);
                ids.extend(unpacked(&chunk).into_iter().map(|event| event["decision_id"].as_str().unwrap().to_owned()));
                requests += 1;
            }
            assert_eq!(ids, (0..200).map(|id| id.to_string()).collect::<Vec<_>>());
            assert!(requests < 200, "{requests} requests of {limit} bytes");
        }
    }

    #[test]
    fn an_event_that_does_not_fit_loses_its_input_and_is_not_lost() {
        let (chunk, rest) = Packing::new(1024).pack(vec![event(1, &noise(8000))]);
        let chunk = chunk.unwrap();
        assert!(rest.is_empty() && chunk.growth() < 0);
        let events = unpacked(&chunk);
        assert_eq!(events[0]["decision_id"], "1");
        assert_eq!(events[0]["erased"], json!(["/nd_builtin_cache", "/input/parsed_body"]));
        let hopeless = Event { at: Now::from_seconds(1), json: serde_json::to_vec(&json!({"labels": noise(9000)})).unwrap() };
        let weight = hopeless.json.len();
        assert_eq!(Packing::new(1024).pack(vec![hopeless]).0.unwrap_err(), weight);
    }

    #[test]
    fn a_refusal_lowers_the_limit_and_no_further_than_makes_sense() {
        let mut packing = Packing::new(32 * 1024);
        let (chunk, _) = packing.pack(vec![event(1, &noise(5000))]);
        let chunk = chunk.unwrap();
        packing.lower(&chunk);
        assert_eq!(packing.limit, chunk.body.len() / 2);
        (0..9).for_each(|_| packing.lower(&chunk));
        let (small, _) = packing.pack(vec![event(1, "")]);
        packing.lower(&small.unwrap());
        assert_eq!(packing.limit, MIN_LIMIT);
    }
}
