//! The body hasher looks at 64 octets together and gathers 4096 before it hashes: texts that aim at those borders.
use aws_lc_rs::digest::{SHA256, digest};
use signpost_dkim::canonical::{BodyHash, BodyHasher, Canonicalization};

use crate::naive;

/// Octets that the hasher looks at together.
const BLOCK: usize = 64;
/// Octets that it gathers.
const STAGE: usize = 4096;
const KINDS: [u8; 5] = *b"a \t\r\n";

fn canonical(canonicalization: Canonicalization, body: &[u8]) -> Vec<u8> {
    match canonicalization {
        Canonicalization::Simple => naive::simple_body(body),
        Canonicalization::Relaxed => naive::relaxed_body(body),
    }
}

fn expected(canonical: &[u8], limit: Option<usize>) -> BodyHash {
    let hashed = &canonical[..limit.map_or(canonical.len(), |limit| limit.min(canonical.len()))];
    let sha256 = digest(&SHA256, hashed).as_ref().try_into().unwrap();
    BodyHash { sha256, canonical_length: canonical.len() as u64 }
}

fn hash<'c>(
    canonicalization: Canonicalization,
    limit: Option<usize>,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> BodyHash {
    let mut hasher = BodyHasher::new(canonicalization, limit.map(|limit| limit as u64));
    for chunk in chunks {
        hasher.update(chunk);
    }
    hasher.finish()
}

/// Every text of `N` octets of the five kinds.
fn all<const N: usize>() -> impl Iterator<Item = [u8; N]> {
    (0..KINDS.len().pow(N as u32)).map(|mut number| {
        std::array::from_fn(|_| {
            let kind = KINDS[number % KINDS.len()];
            number /= KINDS.len();
            kind
        })
    })
}

#[test]
fn every_combination_around_the_border_of_a_block() {
    for (text, before) in all::<5>().flat_map(|text| (BLOCK - 5..=BLOCK + 1).map(move |before| (text, before))) {
        // Nothing behind; less than a block; a block and more.
        for behind in [0, 1, BLOCK - 2, 2 * BLOCK + 3] {
            let body = [&vec![b'x'; before][..], &text, &vec![b'y'; behind]].concat();
            let expected = expected(&naive::relaxed_body(&body), None);
            let found = hash(Canonicalization::Relaxed, None, [&body[..]]);
            assert_eq!(found, expected, "{text:?} after {before}, {behind} behind");
        }
    }
}

#[test]
fn every_combination_at_the_cut_between_two_chunks() {
    for (text, at) in all::<6>().flat_map(|text| (0..=6).map(move |at| (text, at))) {
        let body = [b"x", &text[..], b"y"].concat();
        let (first, second) = body.split_at(1 + at);
        let expected = expected(&naive::relaxed_body(&body), None);
        assert_eq!(hash(Canonicalization::Relaxed, None, [first, second]), expected, "{first:?} {second:?}");
    }
}

/// Blocks with every pattern of runs that two, three and more changes make.
#[test]
fn a_block_may_change_at_every_second_octet() {
    for pattern in
        [&b"  a"[..], b"\ta", b" \ta", b"\t\ta", b" a", b" \r\n", b"\t\r\n", b"a\r", b"\r\n\ta", b"\r\r\n \n"]
    {
        for offset in 0..BLOCK {
            for count in [20, 21, 22, 43, 64, 65, 200] {
                let body = [&vec![b'x'; offset][..], &pattern.repeat(count), b"z"].concat();
                let expected = expected(&naive::relaxed_body(&body), None);
                let found = hash(Canonicalization::Relaxed, None, [&body[..]]);
                assert_eq!(found, expected, "{offset} octets, then {count} times {pattern:?}");
            }
        }
    }
}

#[test]
fn every_combination_where_the_stage_is_full() {
    // `b  ` is gathered as two octets.
    for pairs in (STAGE - 3 * BLOCK) / 2..=(STAGE + BLOCK) / 2 {
        let full = [&b"b  ".repeat(pairs)[..], b"x"].concat();
        for text in all::<2>() {
            let body = [&full[..], &text, b"  y \t z"].concat();
            let expected = expected(&naive::relaxed_body(&body), None);
            assert_eq!(hash(Canonicalization::Relaxed, None, [&body[..]]), expected, "{pairs} pairs, then {text:?}");
        }
    }
}

/// Clean text is copied if short and hashed where it lies if long; a limit may end in either.
#[test]
fn clean_stretches_of_every_length_between_changes() {
    for length in (0..200).chain(960..1_100).chain(4_030..4_170) {
        let body = [b"a  b", &vec![b'x'; length][..], b"\t\tc", &vec![b'y'; length], b" \r\n \r\nd  \r\n\r\n"].concat();
        let canonical = naive::relaxed_body(&body);
        for limit in [None, Some(length), Some(length + 5), Some(2 * length + 3)] {
            let found = hash(Canonicalization::Relaxed, limit, [&body[..]]);
            assert_eq!(found, expected(&canonical, limit), "{length} octets, limit {limit:?}");
        }
    }
}

/// Numbers that look random (splitmix64) from a seed that a failure names.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }

    fn body(&mut self) -> Vec<u8> {
        let size = [10, 300, 3_000, 20_000][self.below(4)];
        // Some bodies are nearly clean, some nearly all white space.
        let clean = [2, 10, 100, 3_000][self.below(4)];
        let white = [2, 4, 70, 5_000][self.below(4)];
        let mut body = Vec::new();
        while body.len() < size {
            match self.below(8) {
                0 => body.extend(b"\r\n".repeat(1 + self.below(white))),
                1 => (0..self.below(white)).for_each(|_| body.push(b" \t"[self.below(2)])),
                2 => body.extend(vec![b' '; self.below(white)]),
                3 => (0..self.below(4)).for_each(|_| body.push(b"\r\n \t\0\x80\xff"[self.below(7)])),
                4 => body.extend(b"word and word "),
                _ => body.extend(vec![b'a'; self.below(clean)]),
            }
        }
        body
    }

    fn chunks<'b>(&mut self, body: &'b [u8]) -> Vec<&'b [u8]> {
        let longest = [2, 70, 5_000, body.len() + 1][self.below(4)];
        let mut chunks = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(self.below(longest.max(2)).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        chunks
    }
}

#[test]
fn random_bodies_in_random_chunks() {
    for seed in 0..200 {
        let mut numbers = Numbers(seed);
        let body = numbers.body();
        for canonicalization in [Canonicalization::Simple, Canonicalization::Relaxed] {
            let canonical = canonical(canonicalization, &body);
            for _ in 0..4 {
                let limit = (numbers.below(3) == 0).then(|| numbers.below(canonical.len() + 2));
                let found = hash(canonicalization, limit, numbers.chunks(&body));
                assert_eq!(found, expected(&canonical, limit), "seed {seed}, {canonicalization:?}, limit {limit:?}");
            }
        }
    }
}
