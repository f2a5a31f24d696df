//! Tag lists (RFC 6376 3.2), as in the signature field and the key record.
use std::ops::Range;

/// One `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag<'t> {
    pub(crate) name: &'t str,
    /// Without the white space around it; inner folds are kept.
    pub(crate) value: &'t str,
    /// From behind the `=` to before the `;` or the end: the value with the white space around it, as octets of the list.
    pub(crate) span: Range<usize>,
}

/// A parsed list, in order, names unique.
#[derive(Debug, Clone)]
pub(crate) struct TagList<'t>(Vec<Tag<'t>>);

/// Why a text is no tag list. No part of the text is repeated, it could be a secret pasted into the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TagError {
    #[error("there is nothing between two semicolons")]
    Empty,
    #[error("a part between semicolons has no =")]
    NoEquals,
    #[error("a tag name is not a letter followed by letters, digits and underscores")]
    Name,
    #[error("the tag {0}= occurs twice")]
    Duplicate(String),
    #[error("the value of {0}= has a character that is not allowed")]
    Value(String),
}

impl<'t> TagList<'t> {
    /// Strict: an empty part is an error except after the last semicolon. Names are case-sensitive, the same name twice makes
    /// the whole list invalid. Printable non-ASCII is let through: RFC 8616 5 allows it in a signature, each tag has its own rules.
    pub(crate) fn parse(text: &'t str) -> Result<Self, TagError> {
        let mut tags: Vec<Tag<'t>> = Vec::new();
        let mut start = 0;
        let mut parts = text.split(';').peekable();
        while let Some(part) = parts.next() {
            let at = start;
            start += part.len() + 1;
            if trim(part).is_empty() && parts.peek().is_none() && !tags.is_empty() {
                break;
            }
            if trim(part).is_empty() {
                return Err(TagError::Empty);
            }
            let (name, value) = part.split_once('=').ok_or(TagError::NoEquals)?;
            let from = at + name.len() + 1;
            // White space around the name is FWS too: a lone LF is none (RFC 6376 2.8).
            let folded_right = is_tag_value(name);
            let name = trim(name);
            if !is_tag_name(name) || !folded_right {
                return Err(TagError::Name);
            }
            // Lists have about a dozen tags; the search is cut off below so that a hostile one stays cheap.
            if tags.iter().any(|t| t.name == name) {
                return Err(TagError::Duplicate(name.to_owned()));
            }
            if !is_tag_value(value) || tags.len() == TAGS_MAX {
                return Err(TagError::Value(name.to_owned()));
            }
            tags.push(Tag { name, value: trim(value), span: from..from + value.len() });
        }
        match tags.is_empty() {
            true => Err(TagError::Empty),
            false => Ok(Self(tags)),
        }
    }

    pub(crate) fn tag(&self, name: &str) -> Option<&Tag<'t>> {
        self.0.iter().find(|t| t.name == name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'t str> {
        self.tag(name).map(|t| t.value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tag<'t>> {
        self.0.iter()
    }
}

/// More tags than any list needs; beyond it a list is refused.
const TAGS_MAX: usize = 64;
const NAME_MAX: usize = 64;

fn is_tag_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// VALCHAR and FWS; a CR or LF only as a fold, a line of nothing but white space included (RFC 6376 2.8).
fn is_tag_value(value: &str) -> bool {
    let octets = value.as_bytes();
    octets.iter().enumerate().all(|(i, &b)| match b {
        b' ' | b'\t' => true,
        b'\r' => octets.get(i + 1) == Some(&b'\n'),
        // A fold at the very end is the white space before `;` or the end of the field.
        b'\n' => i > 0 && octets[i - 1] == b'\r' && matches!(octets.get(i + 1), Some(b' ' | b'\t')),
        _ => b > b' ' && b != 0x7F,
    })
}

/// Without FWS at both ends. Only SP, HTAB and line ends are white space here, never what Unicode adds.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// Without any FWS.
pub(crate) fn without_fws(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).collect()
}

/// Items of a colon-separated list without the FWS around them (RFC 6376 3.5, 3.6.1).
pub(crate) fn colon_list(value: &str) -> impl Iterator<Item = &str> {
    value.split(':').map(trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_value_with_its_white_space() {
        let text = "v=1 ;\r\n b = AB\r\n CD ; x=";
        let list = TagList::parse(text).unwrap();
        let b = list.tag("b").unwrap();
        assert_eq!(b.value, "AB\r\n CD");
        assert_eq!(&text[b.span.clone()], " AB\r\n CD ");
        assert_eq!(list.get("x"), Some(""));
        assert_eq!(list.get("B"), None);
    }

    #[test]
    fn what_is_no_tag_list() {
        for (text, error) in [
            ("", TagError::Empty),
            (";", TagError::Empty),
            ("v=1;;b=2", TagError::Empty),
            ("v=1;b", TagError::NoEquals),
            ("=1", TagError::Name),
            ("1v=1", TagError::Name),
            ("a b=1", TagError::Name),
            ("v=1;v=2", TagError::Duplicate("v".to_owned())),
            ("v=1;V=\u{1}", TagError::Value("V".to_owned())),
            ("v=1\r2", TagError::Value("v".to_owned())),
            ("v=1\n 2", TagError::Value("v".to_owned())),
        ] {
            assert_eq!(TagList::parse(text).unwrap_err(), error, "{text:?}");
        }
        assert!(TagList::parse("v=1; V=2;\r\n ").is_ok());
    }
}
