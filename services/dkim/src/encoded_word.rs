//! Encoded-words in display names (RFC 2047).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Decodes one whole encoded-word `=?charset?encoding?text?=`; `None` if `word` is not one, or is of a charset that we do not read.
/// UTF-8, US-ASCII and the Western single-octet sets are read; other text stays as it is, which is legible enough for a name.
pub(crate) fn decode(word: &str) -> Option<String> {
    let inner = word.strip_prefix("=?")?.strip_suffix("?=")?;
    let mut parts = inner.splitn(3, '?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    if text.contains('?') {
        return None;
    }
    let octets = if encoding.eq_ignore_ascii_case("q") {
        decode_q(text)?
    } else if encoding.eq_ignore_ascii_case("b") {
        STANDARD.decode(text).ok()?
    } else {
        return None;
    };
    // RFC 2231 5: a language may follow the charset.
    let charset = charset.split('*').next().unwrap_or(charset);
    to_text(charset, octets)
}

/// RFC 2047 4.2.
fn decode_q(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        match b {
            b'_' => octets.push(b' '),
            b'=' => octets.push(hex(rest.next()?)? << 4 | hex(rest.next()?)?),
            _ => octets.push(b),
        }
    }
    Some(octets)
}

/// Value of a hexadecimal digit in any case.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn to_text(charset: &str, octets: Vec<u8>) -> Option<String> {
    if charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii") {
        return String::from_utf8(octets).ok();
    }
    // What calls itself ISO 8859-1 is read as Windows-1252, as every mail program does: 0x80-0x9F are no controls there.
    if ["iso-8859-1", "windows-1252"].iter().any(|c| charset.eq_ignore_ascii_case(c)) {
        return Some(octets.into_iter().map(windows_1252).collect());
    }
    None
}

fn windows_1252(octet: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{FFFD}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{FFFD}', 'Ž', '\u{FFFD}',
        '\u{FFFD}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{FFFD}', 'ž', 'Ÿ',
    ];
    match octet {
        0x80..=0x9F => HIGH[usize::from(octet - 0x80)],
        _ => char::from(octet),
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn both_encodings_and_the_charsets_we_read() {
        for (word, text) in [
            ("=?utf-8?q?a=40example=2Ecom?=", Some("a@example.com")),
            ("=?UTF-8?Q?M=C3=BCller=2C_Uwe?=", Some("Müller, Uwe")),
            ("=?utf-8*de?B?TcO8bGxlcg==?=", Some("Müller")),
            ("=?iso-8859-1?q?gr=FC=DFe_=80?=", Some("grüße €")),
            ("=?iso-2022-jp?b?GyRCJCIbKEI=?=", None),
            ("=?utf-8?q?=F?=", None),
            ("=?utf-8?q?=ff?=", None),
            ("=?utf-8?x?a?=", None),
            ("=??=", None),
            ("plain", None),
        ] {
            assert_eq!(decode(word).as_deref(), text, "{word}");
        }
    }
}
