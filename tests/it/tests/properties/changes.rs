//! One random change to a signed message. Whether it alters what is signed is not decided here.
use crate::naive::{self, Parts};

/// A small generator (SplitMix64), so that a letter's changes depend on its seed alone.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// An octet other than `not`, mostly printable; no CR, LF or NUL.
    fn octet(&mut self, not: Option<u8>) -> u8 {
        loop {
            let octet = match self.below(10) {
                0 => self.pick(b" \t"),
                1 => u8::try_from(self.below(256)).unwrap(),
                _ => u8::try_from(0x21 + self.below(0x5e)).unwrap(),
            };
            if !b"\r\n\0".contains(&octet) && Some(octet) != not {
                return octet;
            }
        }
    }
}

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// An octet of a signed field's value replaced, put in or taken out.
    FieldOctet,
    /// The same in the body.
    BodyOctet,
    /// One more field of that name above all others.
    OneMoreAbove(&'static str),
    /// One more field of that name below all others.
    OneMoreBelow(&'static str),
    /// Runs of white space and folds in a signed field or in the signature field, made other runs and folds.
    FieldWhiteSpace,
    /// A signed field or the signature field on one line.
    Unfolded,
    NameCase,
    SpaceBeforeColon,
    BodyWhiteSpace,
    SpaceAtLineEnds,
    EmptyLinesAtEnd,
    BlankLinesAtEnd,
    NoLineEndsAtEnd,
    UnsignedField,
    /// Fields of different names change places; those of one name keep their order.
    OtherOrder,
}

impl Change {
    /// Those that may alter the canonical form or not, as the canonicalization has it.
    pub(crate) const FORMAL: [Self; 11] = [
        Self::FieldWhiteSpace,
        Self::Unfolded,
        Self::NameCase,
        Self::SpaceBeforeColon,
        Self::BodyWhiteSpace,
        Self::SpaceAtLineEnds,
        Self::EmptyLinesAtEnd,
        Self::BlankLinesAtEnd,
        Self::NoLineEndsAtEnd,
        Self::UnsignedField,
        Self::OtherOrder,
    ];

    /// `None` where the message has nothing to be changed so.
    pub(crate) fn apply(self, message: &Parts, dice: &mut Dice) -> Option<Vec<u8>> {
        let mut changed =
            Parts { fields: message.fields.clone(), is_separated: message.is_separated, body: message.body.clone() };
        match self {
            Self::FieldOctet => {
                let field = &mut changed.fields[any_signed(message, dice)];
                change_value_octet(field, dice);
            }
            Self::BodyOctet => {
                changed.is_separated = true;
                // A last field without its CRLF has nothing behind it.
                terminate(&mut changed.fields);
                change_body_octet(&mut changed.body, dice);
            }
            Self::OneMoreAbove(name) => changed.fields.insert(0, one_more(name, message, dice)),
            Self::OneMoreBelow(name) => {
                terminate(&mut changed.fields);
                changed.fields.push(one_more(name, message, dice));
            }
            Self::FieldWhiteSpace => {
                let field = &mut changed.fields[any_signed_or_own(message, dice)];
                respace_value(field, dice);
            }
            Self::Unfolded => {
                let field = &mut changed.fields[any_signed_or_own(message, dice)];
                let content = field.strip_suffix(b"\r\n")?;
                *field = [&naive::unfold(content), b"\r\n".as_slice()].concat();
            }
            Self::NameCase => {
                let field = &mut changed.fields[any_signed_or_own(message, dice)];
                let colon = field.iter().position(|&b| b == b':')?;
                for octet in field[..colon].iter_mut().filter(|b| b.is_ascii_alphabetic()) {
                    *octet ^= if dice.coin() { 0x20 } else { 0 };
                }
            }
            Self::SpaceBeforeColon => {
                let field = &mut changed.fields[any_signed(message, dice)];
                let colon = field.iter().position(|&b| b == b':')?;
                field.insert(colon, dice.pick(b" \t"));
            }
            Self::BodyWhiteSpace => changed.body = respaced_body(&message.body, dice)?,
            Self::SpaceAtLineEnds => changed.body = space_at_line_ends(&message.body, dice)?,
            Self::EmptyLinesAtEnd => {
                changed.is_separated.then_some(())?;
                changed.body.extend(b"\r\n".repeat(1 + dice.below(4)));
            }
            Self::BlankLinesAtEnd => {
                changed.is_separated.then_some(())?;
                changed.body.extend_from_slice(dice.pick(&[b"\r\n ".as_slice(), b" \r\n\t\r\n", b"\r\n\t\t\r\n\r\n"]));
            }
            Self::NoLineEndsAtEnd => {
                while changed.body.ends_with(b"\r\n") {
                    changed.body.truncate(changed.body.len() - 2);
                }
            }
            Self::UnsignedField => {
                let at = dice.below(changed.fields.len());
                let names = ["Received", "X-Spam-Status", "Authentication-Results", "ARC-Seal", "Return-Path"];
                changed.fields.insert(at, format!("{}: by\r\n\tmx;  x\r\n", dice.pick(&names)).into_bytes());
            }
            Self::OtherOrder => {
                terminate(&mut changed.fields);
                for _ in 0..40 {
                    let at = dice.below(changed.fields.len() - 1);
                    if naive::name(&changed.fields[at]) != naive::name(&changed.fields[at + 1]) {
                        changed.fields.swap(at, at + 1);
                    }
                }
            }
        }
        let octets = changed.octets();
        (octets != message.octets()).then_some(octets)
    }
}

fn terminate(fields: &mut [Vec<u8>]) {
    if let Some(last) = fields.last_mut().filter(|last| !last.ends_with(b"\r\n")) {
        last.extend_from_slice(b"\r\n");
    }
}

fn any_signed(message: &Parts, dice: &mut Dice) -> usize {
    let names = message.signed_names();
    let signed: Vec<usize> =
        (0..message.fields.len()).filter(|&i| names.contains(&naive::name(&message.fields[i]))).collect();
    dice.pick(&signed)
}

fn any_signed_or_own(message: &Parts, dice: &mut Dice) -> usize {
    match dice.below(4) {
        0 => message.fields.iter().position(|field| naive::name(field) == b"dkim-signature").unwrap(),
        _ => any_signed(message, dice),
    }
}

/// Inside the lines only: CRLFs and the white space that makes a continuation line stay.
fn change_value_octet(field: &mut Vec<u8>, dice: &mut Dice) {
    let start = field.len() - naive::value(field).len();
    let end = field.len() - if field.ends_with(b"\r\n") { 2 } else { 0 };
    let is_free = |at: usize| !b"\r\n".contains(&field[at]) && field[at - 1] != b'\n';
    let octets: Vec<usize> = (start..end).filter(|&at| is_free(at)).collect();
    let gaps: Vec<usize> = (start..=end).filter(|&at| !b"\r\n".contains(&field[at - 1])).collect();
    match dice.below(3) {
        0 if !octets.is_empty() => {
            let at = dice.pick(&octets);
            field[at] = dice.octet(Some(field[at]));
        }
        1 if !octets.is_empty() => {
            field.remove(dice.pick(&octets));
        }
        _ => field.insert(dice.pick(&gaps), dice.octet(None)),
    }
}

fn change_body_octet(body: &mut Vec<u8>, dice: &mut Dice) {
    let octets: Vec<usize> = (0..body.len()).filter(|&at| !b"\r\n".contains(&body[at])).collect();
    let gaps: Vec<usize> = (0..=body.len()).filter(|&at| at == 0 || body[at - 1] != b'\r').collect();
    match dice.below(3) {
        0 if !octets.is_empty() => {
            let at = dice.pick(&octets);
            body[at] = dice.octet(Some(body[at]));
        }
        1 if !octets.is_empty() => {
            body.remove(dice.pick(&octets));
        }
        _ => body.insert(dice.pick(&gaps), dice.octet(None)),
    }
}

/// A copy of a field that is there already, or a new one.
fn one_more(name: &str, message: &Parts, dice: &mut Dice) -> Vec<u8> {
    let there: Vec<&Vec<u8>> = message
        .fields
        .iter()
        .filter(|f| f.ends_with(b"\r\n") && naive::name(f).eq_ignore_ascii_case(name.as_bytes()))
        .collect();
    match there.is_empty() || dice.coin() {
        true => format!("{name}:{}\r\n", dice.pick(&["", " ", " x", " Eve <eve@evil.test>", "\r\n x"])).into_bytes(),
        false => dice.pick(&there).to_vec(),
    }
}

const RUNS: [&[u8]; 8] = [b" ", b"\t", b"  ", b" \t ", b"\r\n ", b"\r\n\t", b" \r\n  ", b"\t\r\n \r\n "];

/// Half of the runs of white space become others; at the ends they may go or come.
fn respace_value(field: &mut Vec<u8>, dice: &mut Dice) {
    let start = field.len() - naive::value(field).len();
    let content = field.strip_suffix(b"\r\n").unwrap_or(field);
    let mut octets = content[..start].to_vec();
    let mut rest = &content[start..];
    loop {
        let is_at_end = octets.len() == start;
        let run = rest.iter().position(|b| !b" \t\r\n".contains(b)).unwrap_or(rest.len());
        let (white, after) = rest.split_at(run);
        let may_vanish = is_at_end || after.is_empty();
        match dice.below(4) {
            0 | 1 if !white.is_empty() || may_vanish => octets.extend_from_slice(dice.pick(&RUNS)),
            2 if may_vanish => {}
            _ => octets.extend_from_slice(white),
        }
        if after.is_empty() {
            break;
        }
        let text = after.iter().position(|b| b" \t\r\n".contains(b)).unwrap_or(after.len());
        octets.extend_from_slice(&after[..text]);
        rest = &after[text..];
    }
    octets.extend_from_slice(b"\r\n");
    *field = octets;
}

/// Half of the runs within lines become others.
fn respaced_body(body: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    body.iter().any(|&b| naive::is_wsp(b)).then_some(())?;
    let mut octets = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.iter().position(|&b| naive::is_wsp(b)) {
        let run = rest[at..].iter().position(|&b| !naive::is_wsp(b)).unwrap_or(rest.len() - at);
        octets.extend_from_slice(&rest[..at]);
        octets.extend_from_slice(if dice.coin() { dice.pick(&RUNS[..4]) } else { &rest[at..at + run] });
        rest = &rest[at + run..];
    }
    octets.extend_from_slice(rest);
    Some(octets)
}

/// More white space at the end of one line in three that have their CRLF.
fn space_at_line_ends(body: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = naive::lines(body).into_iter().map(<[u8]>::to_vec).collect();
    let last = lines.pop()?;
    for line in &mut lines {
        if !line.is_empty() && dice.below(3) == 0 {
            line.extend_from_slice(dice.pick(&RUNS[..4]));
        }
    }
    lines.push(last);
    Some(lines.join(b"\r\n".as_slice()))
}
