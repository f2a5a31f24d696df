//! How a valid key record differs from the one that we give out, where receivers read both alike.
use crate::record;
use crate::tags::{self, TagList};

/// Tags of a key record in the order in which they are usually written (RFC 6376 3.6.1), with the obsolete g= (RFC 4871).
const KNOWN: [&str; 8] = ["v", "h", "k", "n", "p", "s", "t", "g"];

/// Harmless differences between a record that `record::parse` accepts and the text that `record::build` gives, as clauses.
/// Empty for any other text, and for tags that say more than ours, such as t= or n=.
pub fn spelling(text: &str) -> Vec<String> {
    let (Ok(found), Ok(list)) = (record::parse(text), TagList::parse(text)) else { return Vec::new() };
    let mut clauses = Vec::new();
    let mut differs = |clause: String| clauses.push(clause);
    if list.get("v").is_none() {
        differs("it has no v= (RFC 6376 3.6.1 recommends v=DKIM1)".to_owned());
    }
    if list.get("k").is_none() {
        differs("it has no k=, which means rsa".to_owned());
    }
    if blanks_around_tags(text) {
        differs("it has blanks around its tags".to_owned());
    }
    let p = list.get("p").unwrap_or_default();
    if p.contains([' ', '\t', '\r', '\n']) {
        differs("it has blanks inside p=".to_owned());
    }
    if tags::without_fws(p) != found.key.to_p() {
        differs("p= is a bare RSAPublicKey instead of a SubjectPublicKeyInfo (RFC 6376 erratum 3017)".to_owned());
    }
    let place = |name: &str| list.iter().position(|tag| tag.name == name);
    if place("k").is_some_and(|k| place("p").is_some_and(|p| p < k)) {
        differs("its tags stand in another order".to_owned());
    }
    let unknown: Vec<&str> = list.iter().map(|tag| tag.name).filter(|name| !KNOWN.contains(name)).collect();
    if !unknown.is_empty() {
        differs(format!("it has tags that DKIM does not know ({}=), which are ignored", unknown.join("=, ")));
    }
    clauses
}

/// RFC 6376 3.2 allows white space around names, `=` and `;`; ours has one blank after each semicolon.
fn blanks_around_tags(text: &str) -> bool {
    let blank = [' ', '\t', '\r', '\n'];
    text.starts_with(blank)
        || text.ends_with(blank)
        || text.split(';').filter(|tag| !tags::trim(tag).is_empty()).any(|tag| {
            let (name, value) = tag.split_once('=').unwrap_or((tag, ""));
            name.strip_prefix(' ').unwrap_or(name).contains(blank) || value.starts_with(blank) || value.ends_with(blank)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{PublicKey, build};

    #[test]
    fn each_harmless_difference_is_named() {
        let key = PublicKey::from_ed25519(&[7; 32]).unwrap();
        let (p, ours) = (key.to_p(), build(&key));
        let (head, tail) = p.split_at(9);
        for (text, expected) in [
            (ours.clone(), vec![]),
            (format!("{ours};"), vec![]),
            (format!("v=DKIM1;k=ed25519;p={p}"), vec![]),
            (format!("v=DKIM1; k=ed25519; t=s; n=note; p={p}"), vec![]),
            (format!("k=ed25519; p={p}"), vec!["no v="]),
            (format!("v=DKIM1 ; k=ed25519; p={p}"), vec!["around its tags"]),
            (format!("v=DKIM1; k = ed25519; p={p} "), vec!["around its tags"]),
            (format!("v=DKIM1; k=ed25519; p={head} {tail}"), vec!["inside p="]),
            (format!("v=DKIM1; p={p}; k=ed25519"), vec!["another order"]),
            (format!("p={p}; k=ed25519; x=1; y2=z"), vec!["no v=", "another order", "(x=, y2=)"]),
            (format!("v=DKIM1; k=ed25519; p={head}"), vec![]),
        ] {
            let found = spelling(&text);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            for (clause, part) in found.iter().zip(expected) {
                assert!(clause.contains(part), "{text}: {found:?}");
            }
        }
    }
}
