//! Benchmarks: every number stands beside its reference, measured in the same run. They print and judge nothing.
//!
//! `signpost-load [ROUNDS [PART]]`, PART being one of `PARTS`; `tests/load/run` builds it and says on what machine it runs.
mod body_hash;
mod client;
mod cpu;
mod custody;
mod memory;
mod messages;
mod meter;
mod report;
mod server;
mod sign_call;
mod signing;
mod slow;
mod texts;

/// What the parts return; the text goes to the reader.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Takes the number of rounds.
type Part = fn(usize) -> Result<()>;

const PARTS: [(&str, Part); 8] = [
    ("rsa", signing::rsa),
    ("ed25519", signing::ed25519),
    ("bodies", body_hash::compare),
    ("custody", custody::compare),
    ("sign", sign_call::compare),
    ("messages", messages::compare),
    ("memory", memory::compare),
    ("slow", slow::compare),
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(5), |text| text.parse());
    let Ok(rounds @ 1..) = rounds else { return Err("ROUNDS must be a number from 1".into()) };
    let wanted = arguments.next();
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|w| w == *name)).collect();
    if parts.is_empty() {
        return Err(format!("PART must be one of {:?}", PARTS.map(|(name, _)| name)).into());
    }
    for (_, part) in parts {
        part(rounds)?;
    }
    Ok(())
}
