//! Benchmarks: every number stands beside its reference, measured in the same run. They print and judge nothing.
//!
//! `signpost-load [ROUNDS [PART]]`, PART being `rsa`, `ed25519` or `bodies`; `tests/load/run` builds it and says on what machine it runs.
mod body_hash;
mod meter;
mod report;
mod signing;
mod texts;

/// What the parts return; the text goes to the reader.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(5), |text| text.parse());
    let Ok(rounds @ 1..) = rounds else { return Err("ROUNDS must be a number from 1".into()) };
    match arguments.next().as_deref() {
        None => {
            signing::rsa(rounds)?;
            signing::ed25519(rounds)?;
            body_hash::compare(rounds)
        }
        Some("rsa") => signing::rsa(rounds),
        Some("ed25519") => signing::ed25519(rounds),
        Some("bodies") => body_hash::compare(rounds),
        Some(other) => Err(format!("PART must be rsa, ed25519 or bodies, not {other:?}").into()),
    }
}
