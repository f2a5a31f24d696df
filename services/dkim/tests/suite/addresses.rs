//! Names and addresses: case file, and inputs too large for one.
use serde::Deserialize;
use signpost_dkim::address::{Address, parse_address_list, parse_single_mailbox};
use signpost_dkim::{Mailbox, Selector, SigningDomain};

use crate::case_file;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    /// Which parser: `domain`, `selector`, `mailbox` (a JSON string), `bare`, `single` (From), `list` (To).
    parse: String,
    input: String,
    /// What comes out, as `render` writes it, or `error`.
    expect: String,
    /// A part of the error.
    says: Option<String>,
}

fn render_mailbox(mailbox: &Mailbox) -> String {
    let address = mailbox.address();
    // What is written must read as the same mailbox.
    let again = Mailbox::parse_address(&address).unwrap_or_else(|e| panic!("{address}: {e}"));
    assert_eq!((again.local(), again.domain()), (mailbox.local(), mailbox.domain()));
    match mailbox.name() {
        Some(name) => format!("[{name}] {address}"),
        None => address,
    }
}

fn render_list(list: &[Address]) -> String {
    let entries: Vec<String> = list
        .iter()
        .map(|entry| match entry {
            Address::Mailbox(mailbox) => render_mailbox(mailbox),
            Address::Group { name, members } => {
                let members: Vec<String> = members.iter().map(render_mailbox).collect();
                format!("{name}: {{{}}}", members.join(", "))
            }
        })
        .collect();
    entries.join(" | ")
}

fn parse(parser: &str, input: &str) -> Result<String, String> {
    let text = |e: signpost_dkim::NameError| e.to_string();
    match parser {
        "domain" => SigningDomain::parse(input).map(|d| d.to_string()).map_err(text),
        "selector" => Selector::parse(input).map(|s| s.to_string()).map_err(text),
        "mailbox" => Mailbox::parse(input).map(|m| render_mailbox(&m)).map_err(text),
        "bare" => Mailbox::parse_address(input).map(|m| render_mailbox(&m)).map_err(text),
        "single" => parse_single_mailbox(input).map(|m| render_mailbox(&m)).map_err(text),
        "list" => parse_address_list(input).map(|l| render_list(&l)).map_err(text),
        other => panic!("no parser {other}"),
    }
}

#[test]
fn names_and_addresses_of_the_case_file() {
    for case in case_file::read::<Case>("addresses") {
        match parse(&case.parse, &case.input) {
            Ok(found) => assert_eq!(found, case.expect, "{}", case.id),
            Err(why) => {
                assert_eq!(case.expect, "error", "{}: {why}", case.id);
                assert!(case.says.as_ref().is_none_or(|part| why.contains(part)), "{}: {why}", case.id);
                assert!(!why.chars().any(char::is_control), "{}: {why:?}", case.id);
            }
        }
    }
}

#[test]
fn domains_are_compared_by_labels() {
    let domain = |text| SigningDomain::parse(text).unwrap();
    let base = domain("example.com");
    for (name, below) in [
        ("example.com", true),
        ("EXAMPLE.com.", true),
        ("news.example.com", true),
        ("badexample.com", false),
        ("example.com.example.net", false),
        ("ample.com", false),
    ] {
        assert_eq!(domain(name).is_at_or_below(&base), below, "{name}");
    }
    let names: Vec<String> = domain("a.b.example.com").self_and_ancestors().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.b.example.com", "b.example.com", "example.com"]);
}

#[test]
fn a_record_name_is_selector_domainkey_domain() {
    let name = Selector::parse("S1.eu").unwrap().record_name(&SigningDomain::parse("bücher.example").unwrap());
    assert_eq!(name, "s1.eu._domainkey.xn--bcher-kva.example");
}

#[test]
fn a_u_label_and_its_a_label_are_one_domain() {
    let u = Mailbox::parse("a@bücher.example").unwrap();
    assert_eq!(u.domain(), &SigningDomain::parse("XN--BCHER-KVA.example").unwrap());
    assert!(!u.needs_smtputf8(), "an internationalized domain alone goes out as A-label");
    assert!(Mailbox::parse("grüße@bücher.example").unwrap().needs_smtputf8());
}

#[test]
fn control_characters_are_refused_everywhere() {
    let domain = SigningDomain::parse("example.com").unwrap();
    for c in ('\0'..' ').chain(['\u{7f}', '\u{85}']) {
        for text in [
            format!("a{c}b@example.com"),
            format!("\"a{c}b\"@example.com"),
            format!("a@exam{c}ple.com"),
            format!("\"a\\{c}b\"@example.com"),
        ] {
            assert!(Mailbox::parse(&text).is_err(), "{text:?}");
            assert!(Mailbox::parse_address(&text).is_err(), "{text:?}");
        }
        // A tab is white space between words, never part of an address.
        assert!(c == '\t' || Mailbox::parse(&format!("A{c}B <a@example.com>")).is_err(), "{c:?}");
        assert!(Mailbox::new(Some(&format!("Hi{c}")), "a", domain.clone()).is_err(), "{c:?}");
        assert!(Mailbox::new(Some(&format!("Hi{c}Bcc: x@example.org")), "a", domain.clone()).is_err(), "{c:?}");
        assert!(Mailbox::new(None, &format!("a{c}"), domain.clone()).is_err(), "{c:?}");
        assert!(SigningDomain::parse(&format!("a{c}.example.com")).is_err(), "{c:?}");
        assert!(Selector::parse(&format!("a{c}")).is_err(), "{c:?}");
    }
}

/// Recursion would overflow the stack, a second look at each octet would not end in time.
#[test]
fn deep_nesting_and_long_lists_are_read_in_one_pass() {
    let deep = 1_000_000;
    assert!(parse_address_list(&format!("{}{} a@example.com", "(".repeat(deep), ")".repeat(deep))).is_ok());
    assert!(parse_address_list(&"(".repeat(deep)).is_err());
    assert!(parse_address_list(&"\"".repeat(deep)).is_err());
    assert!(parse_address_list(&"<".repeat(deep)).is_err());
    assert!(parse_address_list(&"a:".repeat(deep)).is_err());
    assert!(parse_address_list(&"a ".repeat(deep)).is_err());
    assert_eq!(parse_address_list(&",".repeat(deep)), Ok(Vec::new()));
    assert_eq!(parse_address_list(&"a@example.com,".repeat(100_000)).map(|l| l.len()), Ok(100_000));
    assert!(SigningDomain::parse(&"a.".repeat(deep)).is_err());
    assert!(SigningDomain::parse(&"ü".repeat(deep)).is_err());
}
