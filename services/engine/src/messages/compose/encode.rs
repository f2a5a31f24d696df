//! Header fields: encoded-words (RFC 2047), parameters (RFC 2231), folding (RFC 5322 2.2.3). Everything here ends in CRLF and is
//! final before anything is signed.
use super::quoted::{base64, escape};
use signpost_dkim::Mailbox;

/// Octets of a line without CRLF: hard limit (RFC 5322 2.1.1).
pub(super) const MAX_LINE: usize = 998;
/// What a line should keep below (RFC 5322 2.1.1).
const FOLD_AT: usize = 78;
/// The same for a line with an encoded-word, and the longest encoded-word (RFC 2047 2).
const FOLD_WORDS_AT: usize = 76;
const MAX_WORD: usize = 75;
const WORD_OVERHEAD: usize = "=?utf-8?Q??=".len();
/// Below that it is better to begin a new line than to squeeze an encoded-word in.
const LEAST_WORD: usize = WORD_OVERHEAD + 12;
/// Longer plain words do not fit in a line of 78.
const LONG_TOKEN: usize = 70;
/// Longer runs of white space are encoded, since they would make a line by themselves.
const LONG_GAP: usize = 30;

/// What becomes of a word that no line of 78 holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LongToken {
    /// People read it: encoded-words can be folded.
    Encode,
    /// Programs read it: it stays as it is.
    Keep,
}

/// One header field under construction. Lines are broken only before a gap.
struct Field {
    out: String,
    column: usize,
    /// Something stands on this line that a fold may follow.
    filled: bool,
    /// An encoded-word stands on this line.
    has_word: bool,
}

impl Field {
    fn new(name: &str) -> Self {
        Self { out: format!("{name}: "), column: name.len() + 2, filled: false, has_word: false }
    }

    /// White space, folded before where `length` more octets would not fit.
    fn gap(&mut self, gap: &str, length: usize, limit: usize) {
        let limit = if self.has_word { FOLD_WORDS_AT } else { limit };
        if self.filled && !gap.is_empty() && self.column + gap.len() + length > limit {
            self.out.push_str("\r\n");
            (self.column, self.has_word) = (0, false);
        }
        self.out.push_str(gap);
        self.column += gap.len();
    }

    fn atom(&mut self, gap: &str, atom: &str) {
        // The first word of a field that fits in a line of its own only: the fold stands behind the colon.
        if !self.filled && gap.is_empty() && self.column + atom.len() > FOLD_AT && atom.len() < FOLD_AT {
            self.out.truncate(self.out.trim_end().len());
            self.out.push_str("\r\n ");
            self.column = 1;
        }
        self.gap(gap, atom.len(), FOLD_AT);
        self.out.push_str(atom);
        self.column += atom.len();
        self.filled = true;
    }

    /// `text` as encoded-words of one encoding, the shorter one; white space between them is dropped by readers (RFC 2047 6.2).
    fn words(&mut self, gap: &str, text: &str) {
        let encoding = Encoding::shorter(text);
        let mut rest = text;
        let mut gap = gap;
        while !rest.is_empty() {
            let room = FOLD_WORDS_AT.saturating_sub(self.column + gap.len());
            // all of `rest` where it is short; more is not needed, and to measure it for every word would take quadratic time
            let whole = WORD_OVERHEAD + encoding.length(beginning(rest, LEAST_WORD));
            let fold = room < whole.min(LEAST_WORD);
            if fold && (self.filled || gap.is_empty()) {
                // before the first word too, where the field's name is long: `Name:` CRLF SP is a valid fold
                self.out.push_str("\r\n");
                self.column = 0;
                gap = if gap.is_empty() { " " } else { gap };
            }
            self.out.push_str(gap);
            self.column += gap.len();
            let room = FOLD_WORDS_AT.saturating_sub(self.column).min(MAX_WORD) - WORD_OVERHEAD;
            let (piece, tail) = rest.split_at(encoding.fitting(rest, room));
            let word = encoding.word(piece);
            self.column += word.len();
            self.out.push_str(&word);
            (self.filled, self.has_word) = (true, true);
            (rest, gap) = (tail, " ");
        }
    }

    fn finish(mut self) -> String {
        self.out.push_str("\r\n");
        self.out
    }
}

/// The first `characters` of the text.
fn beginning(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

#[derive(Clone, Copy)]
enum Encoding {
    B,
    Q,
}

impl Encoding {
    fn shorter(text: &str) -> Self {
        if Self::Q.length(text) <= Self::B.length(text) { Self::Q } else { Self::B }
    }

    fn length(self, text: &str) -> usize {
        match self {
            Self::B => text.len().div_ceil(3) * 4,
            Self::Q => text.chars().map(q_length).sum(),
        }
    }

    /// Octets of `text`, whole characters and at least one, whose encoding has at most `room` octets. Combining marks and joiners
    /// stay with what they belong to where that fits.
    fn fitting(self, text: &str, room: usize) -> usize {
        let (mut taken, mut length, mut last_base) = (0, 0, 0);
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            length = match self {
                Self::B => end.div_ceil(3) * 4,
                Self::Q => length + q_length(c),
            };
            if !joins(c) && !text[..at].ends_with('\u{200D}') {
                last_base = at;
            }
            if length > room && taken > 0 {
                return if last_base > 0 { last_base } else { taken };
            }
            taken = end;
        }
        taken
    }

    fn word(self, text: &str) -> String {
        match self {
            Self::B => format!("=?utf-8?B?{}?=", base64(text)),
            Self::Q => {
                let mut out = String::from("=?utf-8?Q?");
                for c in text.chars() {
                    match c {
                        ' ' => out.push('_'),
                        c if is_q_literal(c) => out.push(c),
                        c => escape(&mut out, c),
                    }
                }
                out.push_str("?=");
                out
            }
        }
    }
}

/// RFC 2047 5 rule 3, the strictest place; used everywhere.
fn is_q_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!*+-/".contains(c)
}

fn q_length(c: char) -> usize {
    if c == ' ' || is_q_literal(c) { 1 } else { 3 * c.len_utf8() }
}

/// Characters that change the one before them: common combining marks, joiner, variation selectors, emoji modifiers.
fn joins(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}' | '\u{591}'..='\u{5C7}' | '\u{64B}'..='\u{65F}' | '\u{200D}' | '\u{20D0}'..='\u{20FF}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{1F3FB}'..='\u{1F3FF}')
}

fn is_wsp(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// Each run of white space and the word after it.
fn words(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (gap, after) = rest.split_at(rest.find(|c| !is_wsp(c)).unwrap_or(rest.len()));
        let (word, tail) = after.split_at(after.find(is_wsp).unwrap_or(after.len()));
        found.push((gap, word));
        rest = tail;
    }
    found
}

/// The same, parted at single spaces only: readers change any other white space at a fold or beside an encoded-word.
fn exact_words(text: &str) -> Vec<(&str, &str)> {
    let octets = text.as_bytes();
    let is_blank = |at: Option<usize>| at.and_then(|at| octets.get(at)).is_none_or(|o| is_wsp(char::from(*o)));
    let mut found = Vec::new();
    let mut start = 0;
    let parting = |at: &usize| octets[*at] == b' ' && !is_blank(at.checked_sub(1)) && !is_blank(Some(at + 1));
    for at in (0..octets.len()).filter(parting).chain([octets.len()]) {
        found.push((if start == 0 { "" } else { " " }, &text[start..at]));
        start = at + 1;
    }
    found
}

/// An unstructured field (RFC 5322 3.2.5). Words that need it become encoded-words, from the first such word to the last, the white
/// space between them included; the rest stays readable.
pub(super) fn unstructured(name: &str, text: &str, long: LongToken) -> String {
    let mut field = Field::new(name);
    let is_exact = long == LongToken::Encode || !text.is_ascii() || words(text).iter().any(|(g, _)| g.len() > LONG_GAP);
    let words = if is_exact { exact_words(text) } else { words(text) };
    let needs = |word: &str| {
        !word.is_ascii()
            || word.contains("=?")
            || word.starts_with(is_wsp)
            || word.ends_with(is_wsp)
            || (word.len() > LONG_TOKEN && (long == LongToken::Encode || word.contains(is_wsp)))
    };
    let first = words.iter().position(|(_, word)| is_exact && needs(word));
    let last = words.iter().rposition(|(_, word)| is_exact && needs(word));
    let (Some(first), Some(last)) = (first, last) else {
        words.iter().for_each(|(gap, word)| field.atom(gap, word));
        return field.finish();
    };
    words[..first].iter().for_each(|(gap, word)| field.atom(gap, word));
    let span: String = words[first..=last].iter().flat_map(|(gap, word)| [*gap, *word]).collect();
    let gap = words[first].0;
    field.words(gap, &span[gap.len()..]);
    words[last + 1..].iter().for_each(|(gap, word)| field.atom(gap, word));
    field.finish()
}

/// A list of mailboxes (RFC 5322 3.4), folded after commas where a mailbox fits in a line.
pub(super) fn address_list(name: &str, mailboxes: &[Mailbox]) -> String {
    let mut field = Field::new(name);
    for (index, mailbox) in mailboxes.iter().enumerate() {
        let gap = if index == 0 { "" } else { " " };
        let comma = if index + 1 < mailboxes.len() { "," } else { "" };
        let Some(name) = mailbox.name().filter(|name| !name.is_empty()) else {
            field.atom(gap, &format!("{}{comma}", mailbox.address()));
            continue;
        };
        let address = format!("<{}>{comma}", mailbox.address());
        match plain_phrase(name) {
            Some(phrase) if phrase.len() + 1 + address.len() < FOLD_AT => {
                field.atom(gap, &format!("{phrase} {address}"));
            }
            Some(phrase) => {
                field.atom(gap, &phrase);
                field.atom(" ", &address);
            }
            None => {
                field.words(gap, name);
                field.atom(" ", &address);
            }
        }
    }
    field.finish()
}

/// A display name as atoms or as a quoted string (RFC 5322 3.2.5); `None` where it must be encoded-words, which never stand in
/// quotes (RFC 2047 5 rule 3).
fn plain_phrase(name: &str) -> Option<String> {
    if !name.bytes().all(|b| matches!(b, b' '..=b'~')) || name.contains("=?") {
        return None;
    }
    let is_atom = |word: &str| !word.is_empty() && word.bytes().all(is_atext);
    let phrase = if name.split(' ').all(is_atom) { name.to_owned() } else { quoted_string(name) };
    (phrase.len() <= LONG_TOKEN).then_some(phrase)
}

/// RFC 5322 3.2.3.
fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

fn quoted_string(text: &str) -> String {
    format!("\"{}\"", quoted_content(text))
}

/// RFC 5322 3.2.1: quoted pairs.
fn quoted_content(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A token of RFC 2045 5.1.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
}

/// The value of a MIME field with parameters, folded after `;`, without field name and final CRLF.
pub(super) fn parameters(field: &str, value: &str, parameters: &[(String, String)]) -> String {
    let mut out = value.to_owned();
    let mut column = field.len() + 2 + value.len();
    let pieces: Vec<String> = parameters.iter().flat_map(|(name, value)| parameter(name, value)).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let tail = usize::from(index + 1 < pieces.len());
        if column + 2 + piece.len() + tail > FOLD_AT {
            out.push_str(";\r\n ");
            column = 1;
        } else {
            out.push_str("; ");
            column += 2;
        }
        out.push_str(piece);
        column += piece.len();
    }
    out
}

/// Longest piece of a parameter: with the space before and the `;` after it a line has 78.
const MAX_PIECE: usize = 76;

/// One parameter in as many pieces as it takes (RFC 2231 3, 4). Non-ASCII values come first as `name*=` and then, where that is one
/// piece, as ASCII for readers that know no RFC 2231: first, because readers that know both but keep the first must get the right one.
fn parameter(name: &str, value: &str) -> Vec<String> {
    let is_plain = value.bytes().all(|b| matches!(b, b' '..=b'~')) && !value.contains("=?");
    if !is_plain {
        let units: Vec<String> = value.chars().map(percent_encoded).collect();
        let whole = format!("{name}*=utf-8''{}", units.concat());
        if whole.len() > MAX_PIECE {
            return continuations(name, "*", "utf-8''", &units, "");
        }
        return vec![whole, format!("{name}={}", quoted_string(&ascii_fallback(value)))];
    }
    let whole = if is_token(value) { format!("{name}={value}") } else { format!("{name}={}", quoted_string(value)) };
    if whole.len() <= MAX_PIECE {
        return vec![whole];
    }
    let units: Vec<String> = value.chars().map(|c| quoted_content(&c.to_string())).collect();
    continuations(name, "", "", &units, "\"")
}

/// RFC 2231 3 (and 4.1 with `mark` = `*`): `name*0=`, `name*1=`, ...; no unit is split.
fn continuations(name: &str, mark: &str, prefix: &str, units: &[String], quote: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut piece = String::new();
    for unit in units {
        if piece.is_empty() {
            let prefix = if pieces.is_empty() { prefix } else { "" };
            piece = format!("{name}*{}{mark}={quote}{prefix}", pieces.len());
        }
        piece.push_str(unit);
        if piece.len() + quote.len() + MAX_UNIT > MAX_PIECE {
            pieces.push(std::mem::take(&mut piece) + quote);
        }
    }
    if !piece.is_empty() {
        pieces.push(piece + quote);
    }
    pieces
}

/// The longest unit: four octets as `%XX`.
const MAX_UNIT: usize = 12;

/// RFC 2231 7 attribute-char, the letters, digits and marks of it that no reader stumbles over.
fn percent_encoded(c: char) -> String {
    if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
        return c.to_string();
    }
    c.encode_utf8(&mut [0; 4]).bytes().map(|octet| format!("%{octet:02X}")).collect()
}

/// The same length in characters, readable for those who read only ASCII.
fn ascii_fallback(value: &str) -> String {
    value
        .chars()
        .map(|c| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '?' | '%') { c } else { '_' })
        .collect()
}
