//! Messages as odd as RFC 5322 with its obsolete forms lets them be, and some that are odder: white space, folds, controls and
//! 8-bit octets everywhere, names of any characters, empty values, repeated fields, lines up to 998 octets, every kind of end.
use proptest::prelude::*;
use proptest::sample::{Index, select};
use signpost_dkim::sign::Policy;

/// A message, and what is to be done with it.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) fields: Vec<Field>,
    /// `None`: the message ends with the header, without the empty line.
    pub(crate) body: Option<Vec<u8>>,
    /// The last field of a message without a body has its CRLF.
    pub(crate) is_terminated: bool,
    /// Fields of unusual names are signed too, as often as present (or, if so, once more).
    pub(crate) signs_odd_names: Option<bool>,
    /// Seed of the changes and of the chunk cuts.
    pub(crate) seed: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// White space before the colon (RFC 5322 4.5.8).
    pub(crate) gap: &'static str,
    /// After the colon, without the final CRLF.
    pub(crate) value: Vec<u8>,
    pub(crate) is_odd: bool,
}

impl Letter {
    pub(crate) fn octets(&self) -> Vec<u8> {
        let fields: Vec<Vec<u8>> = self
            .fields
            .iter()
            .map(|f| [f.name.as_bytes(), f.gap.as_bytes(), b":", &f.value, b"\r\n"].concat())
            .collect();
        let mut octets = fields.concat();
        match &self.body {
            Some(body) => {
                octets.extend_from_slice(b"\r\n");
                octets.extend_from_slice(body);
            }
            None if self.is_terminated => {}
            None => octets.truncate(octets.len() - 2),
        }
        octets
    }

    /// What is odd about it. Every one of `FEATURES` has to come up.
    pub(crate) fn features(&self) -> Vec<&'static str> {
        let octets = self.octets();
        let body = self.body.as_deref().unwrap_or_default();
        let has = |octets: &[u8], part: &[u8]| octets.windows(part.len()).any(|window| window == part);
        let spellings = |name: &str| self.fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count();
        let any_value = |test: &dyn Fn(&[u8]) -> bool| self.fields.iter().any(|f| test(&f.value));
        let is_there = [
            octets.split(|&b| b == b'\n').any(|line| line.len() == LINE + 1),
            self.fields.iter().any(|f| spellings(&f.name) > 1),
            spellings("From") > 1,
            self.fields.iter().any(|f| f.is_odd && self.signs_odd_names.is_some()),
            self.fields.iter().any(|f| !f.gap.is_empty()),
            any_value(&<[u8]>::is_empty),
            any_value(&|value| has(value, b"\r\n")),
            any_value(&|value| value.starts_with(b"\r\n")),
            any_value(&|value| value.contains(&b'\t')),
            any_value(&|value| !value.is_ascii()),
            any_value(&|value| value.contains(&b'\x0c')),
            any_value(&|value| has(value, b"=?")),
            self.body.is_none(),
            !self.is_terminated,
            self.body.as_ref().is_some_and(Vec::is_empty),
            !body.is_empty() && !body.ends_with(b"\r\n"),
            body.ends_with(b"\r\n\r\n"),
            body.ends_with(b" \r\n") || body.ends_with(b"\t\r\n"),
            has(body, "\u{a0}".as_bytes()),
            body.contains(&b'\x0c'),
            !body.is_ascii(),
            has(body, b"\r\n.\r\n"),
            has(body, b"\r\n--b\r\n"),
            body.len() > 8_000,
        ];
        FEATURES.into_iter().zip(is_there).filter_map(|(feature, is_there)| is_there.then_some(feature)).collect()
    }

    /// The default policy, with the unusual names where they are to be signed.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let odd = self.fields.iter().filter(|f| f.is_odd).map(|f| f.name.clone());
        match self.signs_odd_names {
            Some(true) => policy.oversigned.extend(odd),
            Some(false) => policy.signed.extend(odd),
            None => {}
        }
        policy
    }
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (octets, odd, seed) = (self.octets(), self.signs_odd_names, self.seed);
        write!(f, "b\"{}\" (odd names signed: {odd:?}, seed of changes: {seed})", octets.escape_ascii())
    }
}

pub(crate) const FEATURES: [&str; 24] = [
    "a line of 998 octets",
    "a repeated field",
    "a repeated From",
    "an unusual name signed",
    "white space before a colon",
    "an empty value",
    "a fold",
    "a fold at the start of a value",
    "a tab in a value",
    "8-bit octets in a value",
    "a form feed in a value",
    "an encoded-word",
    "no empty line",
    "no CRLF after the last field",
    "an empty body",
    "a body without its last CRLF",
    "empty lines at the end",
    "white space at the end",
    "U+00A0 in the body",
    "a form feed in the body",
    "an 8-bit body",
    "a line that is a dot",
    "MIME parts",
    "a body over 8,000 octets",
];

/// Octets of a line without its CRLF (RFC 5322 2.1.1).
const LINE: usize = 998;

/// One in seven letters has one of these; rare, since a judge errs on each of them (see faults.rs).
#[derive(Debug, Clone, Copy)]
enum Oddity {
    None,
    SpaceBeforeColon,
    FormFeedInside,
    FormFeedAtEnd,
    VerticalTabAtStart,
    NoBody,
    NoBodyNoLineEnd,
}

pub(crate) fn letter() -> impl Strategy<Value = Letter> {
    let oddity = prop_oneof![
        36 => Just(Oddity::None),
        1 => Just(Oddity::SpaceBeforeColon),
        1 => Just(Oddity::FormFeedInside),
        1 => Just(Oddity::FormFeedAtEnd),
        1 => Just(Oddity::VerticalTabAtStart),
        1 => Just(Oddity::NoBody),
        1 => Just(Oddity::NoBodyNoLineEnd),
    ];
    let fields = prop::collection::vec(field(), 0..22);
    let author = (name_as(vec!["From".to_owned()]), value());
    let odd_names = select(vec![None, Some(false), Some(true)]);
    (fields, author, body(), oddity, any::<Index>(), odd_names, any::<u64>().no_shrink()).prop_map(
        |(mut fields, (name, value), body, oddity, at, signs_odd_names, seed)| {
            if !fields.iter().any(|f| f.name.eq_ignore_ascii_case("from")) {
                fields.insert(at.index(fields.len() + 1), Field { name, gap: "", value, is_odd: false });
            }
            let mut letter = Letter { fields, body: Some(body), is_terminated: true, signs_odd_names, seed };
            make_odd(&mut letter, oddity, at);
            letter
        },
    )
}

fn make_odd(letter: &mut Letter, oddity: Oddity, at: Index) {
    let at = at.index(letter.fields.len());
    let field = &mut letter.fields[at];
    match oddity {
        Oddity::None => {}
        Oddity::SpaceBeforeColon => {
            let line = field.name.len() + 1 + field.value.iter().position(|&b| b == b'\r').unwrap_or(field.value.len());
            let gap = [" ", "\t", "  \t"][at % 3];
            field.gap = if line + gap.len() <= LINE { gap } else { "" };
        }
        Oddity::FormFeedInside => field.value.extend_from_slice(b"\r\n a\x0cb \x0c c"),
        Oddity::FormFeedAtEnd => field.value.extend_from_slice(b"\r\n a \x0c "),
        Oddity::VerticalTabAtStart => field.value.splice(0..0, *b" \x0bx\r\n ").for_each(drop),
        Oddity::NoBody => letter.body = None,
        Oddity::NoBodyNoLineEnd => {
            letter.body = None;
            letter.is_terminated = false;
        }
    }
}

fn field() -> impl Strategy<Value = Field> {
    let signed = Policy::default();
    let unsigned =
        ["Received", "Return-Path", "X-Mailer", "Authentication-Results", "Comments", "ARC-Seal", "Resent-From"];
    let usual = prop_oneof![
        6 => name_as(signed.oversigned),
        3 => name_as(signed.signed),
        2 => name_as(unsigned.map(str::to_owned).to_vec()),
    ];
    let other_signature = b" v=1; a=rsa-sha256; c=relaxed/relaxed; d=other.test; s=o;\r\n h=From:To; bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=; b=AAAA";
    prop_oneof![
        30 => (usual, value()).prop_map(|(name, value)| Field { name, gap: "", value, is_odd: false }),
        5 => (odd_name(), value()).prop_map(|(name, value)| Field { name, gap: "", value, is_odd: true }),
        2 => name_as(vec!["Subject".to_owned(), "X-Long".to_owned()]).prop_map(|name| {
            let value = [b" ", "x".repeat(LINE - name.len() - 2).as_bytes()].concat();
            Field { name, gap: "", value, is_odd: false }
        }),
        1 => Just(Field {
            name: "DKIM-Signature".to_owned(), gap: "", value: other_signature.to_vec(), is_odd: false,
        }),
    ]
}

/// One of these, in some spelling.
fn name_as(names: Vec<String>) -> impl Strategy<Value = String> {
    (select(names), 0..6_u8, any::<u64>()).prop_map(|(name, spelling, bits)| match spelling {
        0 => name.to_ascii_uppercase(),
        1 => name.to_ascii_lowercase(),
        2 => name
            .char_indices()
            .map(|(i, c)| if bits >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect(),
        _ => name,
    })
}

/// RFC 5322 3.6.8: any printable but the colon. A semicolon cannot stand in h=.
fn odd_name() -> impl Strategy<Value = String> {
    let octets: Vec<u8> = (0x21..=0x7e).filter(|b| !b":;".contains(b)).collect();
    prop_oneof![4 => 1..12_usize, 1 => 60..77_usize]
        .prop_flat_map(move |length| prop::collection::vec(select(octets.clone()), length))
        .prop_map(|octets| String::from_utf8(octets).unwrap())
}

fn word(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0x21..=0x7e_u8, length)
}

fn white_space() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(b" ".to_vec()), 1 => Just(b"\t".to_vec()), 2 => prop::collection::vec(select(b" \t".to_vec()), 1..5)]
}

/// Not NUL, CR, LF, and no white space of any kind.
fn control() -> impl Strategy<Value = Vec<u8>> {
    select((1..=0x1f_u8).filter(|b| !(9..=13).contains(b)).chain([0x7f]).collect::<Vec<u8>>()).prop_map(|b| vec![b])
}

/// NO-BREAK SPACE and others that a Unicode-minded trim would take away; octets that are no UTF-8.
fn eight_bit() -> impl Strategy<Value = Vec<u8>> {
    select(vec![
        "\u{a0}".as_bytes(),
        "ü".as_bytes(),
        "日本".as_bytes(),
        "\u{2003}".as_bytes(),
        "\u{85}".as_bytes(),
        b"\xa0",
        b"\xff",
    ])
    .prop_map(<[u8]>::to_vec)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let snippets = [
        "=?utf-8?q?J=C3=B6?=",
        "=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=",
        "Jo <jo@football.test>",
        "\"a \\\" b\"",
        "(a (b) c)",
        ";",
        ":",
        "=",
        "; b=abc;",
        " b=",
        "bh=x",
        "h=From",
        "\\",
        "<>",
        ",",
        "%20",
        "a@b",
        "v=1",
        ".",
    ];
    let piece = prop_oneof![
        30 => word(1..14),
        30 => white_space(),
        12 => white_space().prop_map(|wsp| [b"\r\n".as_slice(), &wsp].concat()),
        8 => select(snippets.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        2 => word(80..900),
        1 => control(),
        1 => eight_bit(),
    ];
    (prop::bool::weighted(0.9), prop::collection::vec(piece, 0..14)).prop_map(|(has_space, pieces)| {
        let start = if has_space && !pieces.is_empty() { b" ".as_slice() } else { b"" };
        // Names have 77 octets at most.
        join(start, &pieces, 80, b"\r\n ")
    })
}

/// Pieces one after the other, `break_` where a line would be too long; the first line begins in `column`.
fn join(start: &[u8], pieces: &[Vec<u8>], mut column: usize, break_: &[u8]) -> Vec<u8> {
    let mut octets = start.to_vec();
    for piece in pieces {
        if piece.starts_with(b"\r\n") {
            column = 0;
        } else if column + octets.len().min(1) + piece.len() > LINE {
            octets.extend_from_slice(break_);
            column = break_.len();
        }
        octets.extend_from_slice(piece);
        column += piece.len();
    }
    octets
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        20 => word(1..14),
        14 => white_space(),
        2 => eight_bit(),
        2 => select(vec![b"\x0b".to_vec(), b"\x0c".to_vec()]),
        1 => control(),
        1 => word(80..900),
    ];
    let usual = [
        ".",
        "..",
        ".x",
        " .",
        "From x",
        ">From x",
        "--b",
        "--b--",
        "Content-Type: text/plain; charset=utf-8",
        "=20=C3=BC=",
        "a=",
        "YWJj",
        "\u{a0}",
        " \u{a0} \t",
        "-- ",
        "\x0c",
        " \x0c ",
        "日本 ü",
        "DKIM-Signature: v=1",
        ".\t",
    ];
    prop_oneof![
        12 => prop::collection::vec(piece, 0..10).prop_map(|pieces| join(b"", &pieces, 0, b"\r\n")),
        6 => select(usual.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        3 => Just(Vec::new()),
        2 => white_space(),
        1 => (word(LINE..LINE + 1), white_space()).prop_map(|(word, wsp)| [&word[..LINE - wsp.len()], &wsp].concat()),
        1 => word(LINE..LINE + 1),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::collection::vec(prop::collection::vec(line(), 0..6), 1..4).prop_map(|parts| {
        let mut lines = vec![b"This is MIME.".to_vec()];
        for part in parts {
            lines.extend([
                b"--b".to_vec(),
                b"Content-Type: text/plain; charset=utf-8".to_vec(),
                b"Content-Transfer-Encoding: 8bit".to_vec(),
            ]);
            lines.push(Vec::new());
            lines.extend(part);
        }
        lines.push(b"--b--".to_vec());
        lines
    });
    let lines = prop_oneof![
        1 => Just(Vec::new()),
        2 => parts,
        8 => prop::collection::vec(line(), 0..12),
        1 => prop::collection::vec(line(), 80..120),
    ];
    let end = prop_oneof![
        8 => Just(Vec::new()),
        3 => (1..5_usize).prop_map(|count| vec![Vec::new(); count]),
        1 => prop::collection::vec(prop_oneof![Just(Vec::new()), white_space()], 1..4),
    ];
    (lines, end, prop::bool::weighted(0.8)).prop_map(|(mut lines, end, is_terminated)| {
        lines.extend(end);
        let mut octets = lines.join(b"\r\n".as_slice());
        if is_terminated && !lines.is_empty() {
            octets.extend_from_slice(b"\r\n");
        }
        octets
    })
}
