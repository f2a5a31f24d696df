//! Canonicalization (RFC 6376 3.4), streaming.
//!
//! White space is SP and HTAB only (RFC 6376 2.8); a CR or LF that is not part of a CRLF is an ordinary octet.
use aws_lc_rs::digest::{Context, SHA256};

use crate::white_space::{BLOCK, Changes};

/// Algorithm for header or body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Canonicalization {
    /// RFC 6376 3.4.1 and 3.4.3.
    Simple,
    /// RFC 6376 3.4.2 and 3.4.4.
    #[default]
    Relaxed,
}

impl Canonicalization {
    /// As in c=.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }

    /// The reverse of `as_str`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Simple, Self::Relaxed].into_iter().find(|c| c.as_str() == text)
    }
}

/// Hash of a canonical body. `canonical_length` counts all canonical octets, also those beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// Octets of the canonical body.
    pub canonical_length: u64,
}

/// SHA-256 as an array.
pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(octets);
    finish_sha256(context)
}

fn finish_sha256(context: Context) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Hashes a body that comes in chunks cut anywhere (between CR and LF too). Memory does not grow with the body.
pub struct BodyHasher {
    canonicalization: Canonicalization,
    output: Output,
    /// CRLFs held back: they count only if something follows (RFC 6376 3.4.3, 3.4.4).
    held_line_ends: u64,
    /// A CR was the last octet; whether it begins a CRLF is not known yet.
    held_cr: bool,
    /// Relaxed: white space was seen that is one SP if something follows on the line, else nothing.
    held_space: bool,
}

impl BodyHasher {
    /// `limit` is l= (RFC 6376 3.5): only so many canonical octets are hashed.
    pub fn new(canonicalization: Canonicalization, limit: Option<u64>) -> Self {
        Self { canonicalization, output: Output::new(limit), held_line_ends: 0, held_cr: false, held_space: false }
    }

    /// Next octets of the body.
    pub fn update(&mut self, chunk: &[u8]) {
        let Some(rest) = self.settle_cr(chunk) else { return };
        match self.canonicalization {
            Canonicalization::Simple => self.update_simple(rest),
            Canonicalization::Relaxed => self.update_relaxed(rest),
        }
    }

    /// End of the body.
    pub fn finish(mut self) -> BodyHash {
        if self.held_cr {
            self.put(b"\r");
        }
        match self.canonicalization {
            // RFC 6376 3.4.3: an empty body is one CRLF.
            Canonicalization::Simple => self.output.put(b"\r\n"),
            // RFC 6376 3.4.4: an empty body stays empty.
            Canonicalization::Relaxed if self.output.length() > 0 => self.output.put(b"\r\n"),
            Canonicalization::Relaxed => {}
        }
        self.output.finish()
    }

    /// Decides about a CR at the end of the chunk before. `None` where the chunk is empty and decides nothing.
    fn settle_cr<'c>(&mut self, chunk: &'c [u8]) -> Option<&'c [u8]> {
        let (&first, after) = chunk.split_first()?;
        if !self.held_cr {
            return Some(chunk);
        }
        self.held_cr = false;
        if first == b'\n' {
            self.end_line();
            return Some(after);
        }
        self.put(b"\r");
        Some(chunk)
    }

    /// A CRLF: white space before it is gone.
    fn end_line(&mut self) {
        self.held_space = false;
        self.held_line_ends += 1;
    }

    /// Content of a line; what was held back turns out to count.
    fn put(&mut self, octets: &[u8]) {
        for _ in 0..self.held_line_ends {
            self.output.put(b"\r\n");
        }
        self.held_line_ends = 0;
        if self.held_space {
            self.output.put(b" ");
            self.held_space = false;
        }
        self.output.put(octets);
    }

    /// RFC 6376 3.4.3: only the CRLFs at the end of the body matter.
    fn update_simple(&mut self, chunk: &[u8]) {
        let (mut content, ends_in_cr) = match chunk.strip_suffix(b"\r") {
            Some(content) => (content, true),
            None => (chunk, false),
        };
        let mut line_ends = 0;
        while let Some(shorter) = content.strip_suffix(b"\r\n") {
            content = shorter;
            line_ends += 1;
        }
        if !content.is_empty() {
            self.put(content);
        }
        self.held_line_ends += line_ends;
        self.held_cr = ends_in_cr;
    }

    /// RFC 6376 3.4.4: first white space, line by line, then the empty lines at the end.
    fn update_relaxed(&mut self, chunk: &[u8]) {
        let rest = self.hold(chunk);
        let (content, end) = rest.split_at(content_length(rest));
        if !content.is_empty() {
            // What was held back comes first.
            self.put(b"");
            self.output.put_relaxed(content);
        }
        self.hold(end);
    }

    /// Takes white space and CRLFs from the start: what they are worth depends on what follows. The rest begins with content.
    fn hold<'c>(&mut self, octets: &'c [u8]) -> &'c [u8] {
        let mut rest = octets;
        loop {
            match rest {
                [b' ' | b'\t', after @ ..] => {
                    self.held_space = true;
                    rest = after;
                }
                [b'\r', b'\n', after @ ..] => {
                    self.end_line();
                    rest = after;
                }
                [b'\r'] => {
                    self.held_cr = true;
                    return &[];
                }
                _ => return rest,
            }
        }
    }
}

/// Octets before the white space and CRLFs at the end, and before a CR that may begin a CRLF.
fn content_length(octets: &[u8]) -> usize {
    let mut content = octets.strip_suffix(b"\r").unwrap_or(octets);
    while let [before @ .., b' ' | b'\t'] | [before @ .., b'\r', b'\n'] = content {
        content = before;
    }
    content.len()
}

/// Octets from the start that relaxed leaves as they are: no CR, no HTAB, and each SP alone between two others.
fn plain_run(octets: &[u8]) -> usize {
    let mut end = 0;
    while let Some(&b) = octets.get(end) {
        let stays = match b {
            b'\r' | b'\t' => false,
            b' ' => octets.get(end + 1).is_some_and(|next| !matches!(next, b' ' | b'\t' | b'\r')),
            _ => true,
        };
        if !stays {
            break;
        }
        end += 1;
    }
    end
}

trait TrimWsp {
    /// Without the SP and HTAB at the start.
    fn trim_ascii_start_wsp(&self) -> &[u8];
}

impl TrimWsp for [u8] {
    fn trim_ascii_start_wsp(&self) -> &[u8] {
        let end = self.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(self.len());
        &self[end..]
    }
}

/// The hash with its limit. Small pieces are gathered first: a digest call costs more than a copy.
struct Output {
    context: Context,
    gathered: Box<[u8; GATHER]>,
    /// Octets in `gathered`.
    filled: usize,
    /// Canonical octets behind us, hashed or beyond the limit.
    settled: u64,
    /// Octets still to be hashed under l=.
    left: Option<u64>,
}

/// Octets gathered before they are hashed.
const GATHER: usize = 4096;
/// A longer piece is hashed where it lies.
const COPIED: usize = 1024;

impl Output {
    fn new(limit: Option<u64>) -> Self {
        Self { context: Context::new(&SHA256), gathered: Box::new([0; GATHER]), filled: 0, settled: 0, left: limit }
    }

    /// Canonical octets so far.
    fn length(&self) -> u64 {
        self.settled + self.filled as u64
    }

    fn put(&mut self, octets: &[u8]) {
        if octets.len() > COPIED {
            self.flush();
            self.settled += octets.len() as u64;
            hash_within(&mut self.left, &mut self.context, octets);
            return;
        }
        self.make_room(octets.len());
        self.gathered[self.filled..self.filled + octets.len()].copy_from_slice(octets);
        self.filled += octets.len();
    }

    /// Text that begins and ends with content: everything in it is followed by something, so nothing needs to be held back.
    ///
    /// A long stretch without changes is hashed where it lies. A short one between changes is copied a block at a time, which
    /// costs less than a copy whose length a processor cannot guess.
    fn put_relaxed(&mut self, content: &[u8]) {
        let mut padded = [0; 2 * BLOCK];
        // Where a stretch begins that will be hashed in place; `None` while blocks are copied.
        let mut in_place = Some(0);
        let mut copied = 0;
        let mut start = 0;
        while start < content.len() {
            let rest = &content[start..];
            let text = rest.first_chunk().unwrap_or_else(|| {
                padded = [0; 2 * BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            });
            let changes = Changes::of(text);
            let length = rest.len().min(BLOCK);
            if changes != Changes::default() {
                if let Some(from) = in_place.take() {
                    self.put(&content[from..start]);
                }
                self.put_changed(text, length, changes);
                copied = 0;
            } else if in_place.is_none() {
                if copied < COPIED {
                    self.put_unchanged(text, length);
                    copied += BLOCK;
                } else {
                    in_place = Some(start);
                }
            }
            start += length;
        }
        if let Some(from) = in_place {
            self.put(&content[from..]);
        }
    }

    /// The first `length` octets of `text`, at most a block.
    #[inline]
    fn put_unchanged(&mut self, text: &[u8; 2 * BLOCK], length: usize) {
        self.make_room(2 * BLOCK);
        self.gathered[self.filled..self.filled + BLOCK].copy_from_slice(&text[..BLOCK]);
        self.filled += length;
    }

    /// The first `length` octets of `text`, at most a block. Copying always 64 octets and counting fewer is several times as fast
    /// as copying only those that count.
    #[inline]
    fn put_changed(&mut self, text: &[u8; 2 * BLOCK], length: usize, changes: Changes) {
        self.make_room(2 * BLOCK);
        let out = &mut self.gathered[self.filled..self.filled + 2 * BLOCK];
        let mut changed = changes.gone | changes.spaces;
        let (mut from, mut to) = (0, 0);
        while changed != 0 {
            // Two at a time, the second perhaps of no length: the number of changes is what a processor cannot guess.
            for _ in 0..2 {
                let behind = changed.wrapping_add(changed & changed.wrapping_neg());
                let run = changed & !behind;
                let first = changed.trailing_zeros() as usize;
                out[to..to + BLOCK].copy_from_slice(&text[from..from + BLOCK]);
                to += first - from;
                // Only the last octet of a run can become a SP.
                out[to] = b' ';
                to += usize::from(changes.spaces & run != 0);
                from = behind.trailing_zeros() as usize;
                changed &= behind;
            }
        }
        out[to..to + BLOCK].copy_from_slice(&text[from..from + BLOCK]);
        self.filled += to + length - from;
    }

    fn make_room(&mut self, length: usize) {
        if self.filled + length > GATHER {
            self.flush_blocks();
        }
    }

    /// Hashes whole blocks of SHA-256 and keeps the rest: a digest call that ends inside a block costs two copies of it.
    #[inline(never)]
    fn flush_blocks(&mut self) {
        let whole = self.filled / BLOCK * BLOCK;
        hash_within(&mut self.left, &mut self.context, &self.gathered[..whole]);
        self.gathered.copy_within(whole..self.filled, 0);
        self.settled += whole as u64;
        self.filled -= whole;
    }

    #[inline(never)]
    fn flush(&mut self) {
        self.settled += self.filled as u64;
        hash_within(&mut self.left, &mut self.context, &self.gathered[..self.filled]);
        self.filled = 0;
    }

    fn finish(mut self) -> BodyHash {
        self.flush();
        BodyHash { sha256: finish_sha256(self.context), canonical_length: self.settled }
    }
}

/// RFC 6376 3.5 l=: what is beyond the limit is not hashed.
fn hash_within(left: &mut Option<u64>, context: &mut Context, octets: &[u8]) {
    let count = left.map_or(octets.len(), |left| usize::try_from(left).unwrap_or(usize::MAX).min(octets.len()));
    if let Some(left) = left {
        *left -= count as u64;
    }
    context.update(&octets[..count]);
}

/// Canonical form of one field, `raw` being all its octets with the final CRLF; the result ends in CRLF.
/// A final CRLF that is missing is added.
pub fn canonical_field(canonicalization: Canonicalization, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 2);
    append_canonical_field(canonicalization, raw, &mut out);
    out
}

/// As `canonical_field`, at the end of `out`.
pub(crate) fn append_canonical_field(canonicalization: Canonicalization, raw: &[u8], out: &mut Vec<u8>) {
    let field = raw.strip_suffix(b"\r\n").unwrap_or(raw);
    match canonicalization {
        // RFC 6376 3.4.1.
        Canonicalization::Simple => out.extend_from_slice(field),
        Canonicalization::Relaxed => append_relaxed_field(field, out),
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 6376 3.4.2.
fn append_relaxed_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = field.iter().position(|&b| b == b':').unwrap_or(field.len());
    let (name, value) = field.split_at(colon);
    let name_end = name.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
    out.extend(name[..name_end].iter().map(u8::to_ascii_lowercase));
    let Some((_, value)) = value.split_first() else { return };
    out.push(b':');
    let start = out.len();
    let mut space = false;
    let mut rest = value;
    while let Some(&first) = rest.first() {
        if matches!(first, b' ' | b'\t') {
            space = true;
            rest = rest.trim_ascii_start_wsp();
        } else if rest.starts_with(b"\r\n") {
            rest = &rest[2..];
        } else {
            // A space at the start of the value goes, as does one at its end.
            if space && out.len() > start {
                out.push(b' ');
            }
            space = false;
            // A CR without LF is content and stands alone.
            let run = plain_run(rest).max(1);
            out.extend_from_slice(&rest[..run]);
            rest = &rest[run..];
        }
    }
}
