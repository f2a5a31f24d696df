//! Made-up messages and bodies; the same ones in every run.
use std::ops::RangeInclusive;

/// Numbers that look random (xorshift), from a fixed start.
struct Numbers(u64);

impl Numbers {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> usize {
        let count = range.end() - range.start() + 1;
        usize::try_from(range.start() + self.next() % count).unwrap_or(usize::MAX)
    }

    /// True once in `n`.
    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn word(&mut self) -> String {
        let length = self.within(2..=9);
        (0..length).map(|_| char::from(b"etaoinshrdlcumwfgypb"[self.within(0..=19)])).collect()
    }

    /// Words up to the width of a line, with what `gap` puts between two.
    fn line(&mut self, mut gap: impl FnMut(&mut Self) -> &'static str) -> String {
        let mut line = self.word();
        while line.len() < 65 {
            line.push_str(gap(self));
            line.push_str(&self.word());
        }
        line
    }
}

fn lines(size: usize, mut line: impl FnMut(&mut Numbers) -> String) -> Vec<u8> {
    let mut numbers = Numbers::new();
    let mut text = Vec::with_capacity(size + 200);
    while text.len() < size {
        text.extend(line(&mut numbers).as_bytes());
        text.extend(b"\r\n");
    }
    text
}

/// Lines of 76 characters, as an attachment has.
pub(crate) fn base64_lines(size: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    lines(size, |numbers| (0..76).map(|_| char::from(DIGITS[numbers.within(0..=63)])).collect())
}

/// Words with one space between them, now and then an empty line.
pub(crate) fn prose(size: usize) -> Vec<u8> {
    lines(size, |numbers| if numbers.one_in(8) { String::new() } else { numbers.line(|_| " ") })
}

/// Markup whose nesting is shown by up to 20 spaces at the start of a line.
pub(crate) fn indented_html(size: usize) -> Vec<u8> {
    lines(size, |numbers| {
        let indent = " ".repeat(2 * numbers.within(0..=10));
        match numbers.within(0..=2) {
            0 => format!("{indent}<td class=\"{}\" style=\"padding: {}px\">", numbers.word(), numbers.within(1..=30)),
            1 => format!("{indent}<p>{} {} {}</p>", numbers.word(), numbers.word(), numbers.line(|_| " ")),
            _ => format!("{indent}</{}>", numbers.word()),
        }
    })
}

/// Words with two spaces or a tab between every sixth pair of them, and spaces at the end of every third line.
pub(crate) fn runs_and_trailing_spaces(size: usize) -> Vec<u8> {
    lines(size, |numbers| {
        let mut line = numbers.line(|numbers| match numbers.within(0..=11) {
            0 => "  ",
            1 => "\t",
            _ => " ",
        });
        if numbers.one_in(3) {
            line.push_str(&" ".repeat(numbers.within(1..=3)));
        }
        line
    })
}

/// A message of 2 KB as a sender of bulk mail makes it.
pub(crate) fn message_2_kb() -> Vec<u8> {
    let header = "From: \"Example Shop\" <orders@example.com>\r\n\
        To: Ada Example <ada@example.org>\r\n\
        Subject: Your order 4711 is on its way\r\n\
        Date: Mon, 16 Jun 2025 09:12:44 +0000\r\n\
        Message-ID: <0197b6f4a3d27c1e9c1d5a0c8f0e2b11@example.com>\r\n\
        Reply-To: help@example.com\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        List-Unsubscribe: <https://example.com/unsubscribe/0197b6f4a3d27c1e9c1d5a0c8f0e2b11>,\r\n\
        \x20<mailto:unsubscribe@example.com?subject=0197b6f4a3d27c1e9c1d5a0c8f0e2b11>\r\n\
        List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
        Feedback-ID: 4711:orders:example\r\n\
        \r\n";
    let mut message = header.as_bytes().to_vec();
    message.extend(prose(2_048 - message.len() - 2));
    message.truncate(2_046);
    message.extend(b"\r\n");
    message
}
