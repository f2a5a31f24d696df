//! Relaxed bodies of 5 MB in chunks of 64 KB against SHA-256 over the same octets.
use std::hint::black_box;

use aws_lc_rs::digest::{Context, SHA256};
use mail_auth::common::crypto::{HashContext as _, HashImpl as _, Sha256};
use mail_auth::dkim::canonicalize::BodyHasher as MailAuthHasher;
use signpost_dkim::canonical::{BodyHasher, Canonicalization};

use crate::Result;
use crate::meter::speeds;
use crate::report::Comparison;
use crate::texts;

const SIZE: usize = 5_000_000;
const CHUNK: usize = 64 * 1024;

pub(crate) fn compare(rounds: usize) -> Result<()> {
    let kinds: [(&str, Vec<u8>, f64); 4] = [
        ("base64 lines", texts::base64_lines(SIZE), 0.90),
        ("prose, single spaces", texts::prose(SIZE), 0.80),
        ("space-indented HTML", texts::indented_html(SIZE), 0.75),
        ("runs and trailing spaces", texts::runs_and_trailing_spaces(SIZE), 0.65),
    ];
    for (name, body, goal) in &kinds {
        if ours(body)[..] != mail_auth(body)[..] {
            return Err(format!("{name}: two canonicalizers disagree").into());
        }
        let mut results = Vec::new();
        for _ in 0..rounds {
            let speeds = speeds(&mut [&mut || repeat(ours, body), &mut || repeat(plain, body), &mut || {
                repeat(mail_auth, body)
            }])?;
            results.push(speeds.iter().map(|bodies| bodies * body.len() as f64 / 1e6).collect());
        }
        Comparison {
            title: &format!("(b) relaxed body of 5 MB in chunks of 64 KB, {name}; MB a second of CPU time"),
            columns: &["signpost", "plain SHA-256", "mail-auth"],
            reference: 1,
            goal: *goal,
            digits: 0,
        }
        .print(&results)?;
    }
    Ok(())
}

fn repeat<T>(hash: impl Fn(&[u8]) -> T, body: &[u8]) -> Result<()> {
    black_box(hash(black_box(body)));
    Ok(())
}

fn ours(body: &[u8]) -> [u8; 32] {
    let mut hasher = BodyHasher::new(Canonicalization::Relaxed, None);
    for chunk in body.chunks(CHUNK) {
        hasher.update(chunk);
    }
    hasher.finish().sha256
}

fn plain(body: &[u8]) -> aws_lc_rs::digest::Digest {
    let mut context = Context::new(&SHA256);
    for chunk in body.chunks(CHUNK) {
        context.update(chunk);
    }
    context.finish()
}

fn mail_auth(body: &[u8]) -> Vec<u8> {
    let mut hasher = MailAuthHasher::new(Sha256::hasher(), mail_auth::dkim::Canonicalization::Relaxed, 0);
    for chunk in body.chunks(CHUNK) {
        hasher.write(chunk);
    }
    hasher.finish().0.complete().as_ref().to_vec()
}
