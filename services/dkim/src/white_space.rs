//! Finds the white space that relaxed body canonicalization changes (RFC 6376 3.4.4), 64 octets at a time.
//!
//! Of a run of white space the last octet stays, as SP, unless a CRLF follows; all others go. Seen so, an octet's fate depends
//! on the two octets behind it and on nothing before it. For 64 octets at once that is arithmetic on masks with one bit per
//! octet, and text without anything to change, which is most text, costs a few instructions for every 64 octets.
use wide::u8x16;

/// Octets looked at together.
pub(crate) const BLOCK: usize = 64;

/// What happens to the octets of a block; the lowest bit speaks of the first octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    /// Octets that go.
    pub(crate) gone: u64,
    /// HTABs that become SP. No octet that goes follows one of them directly.
    pub(crate) spaces: u64,
}

impl Changes {
    /// For the first block of `text`; the second one is what follows it, with octets that are neither white space nor CR or LF
    /// where nothing does.
    #[inline]
    pub(crate) fn of(text: &[u8; 2 * BLOCK]) -> Self {
        let (octets, next) = (load(text, 0), load(text, 1));
        let (sp, tab) = (marks(octets, b' '), marks(octets, b'\t'));
        let white: [u8x16; 4] = std::array::from_fn(|i| sp[i] | tab[i]);
        if !any(white) {
            return Self::default();
        }
        // Nothing changes but HTABs and white space before white space, CR or LF. Those are what text has up to SP; another
        // control octet would cost time only.
        let following = next.map(|quarter| quarter.min(u8x16::splat(b' ')).simd_eq(quarter));
        if !any(std::array::from_fn(|i| (white[i] & following[i]) | tab[i])) {
            return Self::default();
        }
        let (next_sp, next_tab, cr) = (marks(next, b' '), marks(next, b'\t'), marks(next, b'\r'));
        let lf = marks(load(text, 2), b'\n');
        let gone = bits(std::array::from_fn(|i| white[i] & (next_sp[i] | next_tab[i] | (cr[i] & lf[i]))));
        let spaces = if any(tab) { bits(tab) & !gone } else { 0 };
        Self { gone, spaces }
    }
}

/// The 64 octets from `start`.
#[inline]
fn load(text: &[u8; 2 * BLOCK], start: usize) -> [u8x16; 4] {
    let (quarters, _) = text[start..start + BLOCK].as_chunks::<16>();
    std::array::from_fn(|i| u8x16::new(quarters[i]))
}

/// All ones where the octet stands.
#[inline]
fn marks(block: [u8x16; 4], octet: u8) -> [u8x16; 4] {
    block.map(|quarter| quarter.simd_eq(u8x16::splat(octet)))
}

#[inline]
fn any([a, b, c, d]: [u8x16; 4]) -> bool {
    (a | b | c | d).to_bitmask() != 0
}

/// One bit for each octet that is marked.
#[inline]
fn bits(marks: [u8x16; 4]) -> u64 {
    marks.into_iter().rev().fold(0, |bits, quarter| (bits << 16) | u64::from(quarter.to_bitmask()))
}
