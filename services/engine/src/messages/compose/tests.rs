use super::*;
use crate::messages::cases::{NOW_MS, Sequence, assert_signature_verifies, context, places, read};
use crate::messages::request::{AddressInput, AttachmentInput};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Addr, MessageParser, MimeHeaders, PartType};
use serde::Deserialize;
use signpost_dkim::message::{Message, check_sendable};
use std::sync::Mutex;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    rfc: String,
    input: Input,
    expect: Expect,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Address {
    Text(String),
    Parts(Parts),
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Parts {
    email: String,
    name: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct File {
    filename: Option<String>,
    content_type: String,
    content: String,
    content_id: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Input {
    from: Address,
    #[serde(default)]
    to: Vec<Address>,
    #[serde(default)]
    cc: Vec<Address>,
    #[serde(default)]
    bcc: Vec<Address>,
    #[serde(default)]
    reply_to: Vec<Address>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    #[serde(default)]
    headers: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    attachments: Vec<File>,
    list_unsubscribe: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    send_at: Option<String>,
    mail_from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// Pointers; the message is refused.
    faults: Option<Vec<String>>,
    from: Option<(Option<String>, String)>,
    to: Option<Vec<(Option<String>, String)>>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    /// File name, media type, content in base64.
    attachments: Option<Vec<(Option<String>, String, String)>>,
    structure: Option<String>,
    recipients: Option<Vec<String>>,
    /// Texts that the octets hold, or do not hold.
    #[serde(default)]
    contains: Vec<String>,
    #[serde(default)]
    lacks: Vec<String>,
    /// One text for each warning.
    warnings: Option<Vec<String>>,
    max_header_line: Option<usize>,
    header_utf8: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    send_at_ms: Option<Option<i64>>,
    mail_from: Option<String>,
}

fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn pairs(map: &serde_json::Map<String, serde_json::Value>) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

impl From<&Input> for MessageRequest {
    fn from(input: &Input) -> Self {
        let input = input.clone();
        let address = |address: Address| match address {
            Address::Text(text) => AddressInput::Text(text),
            Address::Parts(Parts { email, name }) => AddressInput::Parts { email, name },
        };
        let list = |list: Vec<Address>| list.into_iter().map(address).collect();
        let file = |f: File| AttachmentInput {
            filename: f.filename,
            content_type: f.content_type,
            content: f.content,
            content_id: f.content_id,
        };
        Self {
            from: address(input.from),
            to: list(input.to),
            cc: list(input.cc),
            bcc: list(input.bcc),
            reply_to: list(input.reply_to),
            subject: input.subject,
            text: input.text,
            html: input.html,
            headers: pairs(&input.headers),
            attachments: input.attachments.into_iter().map(file).collect(),
            list_unsubscribe: input.list_unsubscribe,
            tags: input.tags,
            metadata: pairs(&input.metadata),
            send_at: input.send_at,
            mail_from: input.mail_from,
        }
    }
}

/// What holds for everything we build.
fn assert_well_formed(id: &str, prepared: &Prepared) {
    let raw = &prepared.raw;
    assert!(raw.ends_with(b"\r\n"), "{id}");
    let message = Message::parse(raw).unwrap();
    assert!(message.body.is_ascii(), "{id}");
    if raw.is_ascii() {
        check_sendable(raw).unwrap();
    }
    for name in ["Date", "From", "Subject", "Message-ID", "MIME-Version", "Content-Type"] {
        assert_eq!(message.all(name).count(), 1, "{id}: {name}");
    }
    for name in ["Bcc", "Return-Path", "Sender"] {
        assert_eq!(message.all(name).count(), 0, "{id}: {name}");
    }
    let lines = |octets: &[u8]| -> Vec<String> {
        String::from_utf8(octets.to_vec()).unwrap().split("\r\n").map(str::to_owned).collect()
    };
    for line in lines(&raw[..message.body_offset]) {
        assert!(!line.contains(['\r', '\n']) && line.len() <= 998, "{id}: {line}");
        // a line over 78 is one word that cannot be folded
        let words = line.trim_start().split_once(": ").map_or(line.trim_start(), |(_, value)| value);
        assert!(line.len() <= 78 || !words.contains(' '), "{id}: {line}");
        assert!(line.len() <= 76 || !line.contains("=?utf-8?"), "{id}: {line}");
        assert!(!line.trim().is_empty() || line.is_empty(), "{id}: a line of white space in the header");
    }
    for line in lines(message.body) {
        assert!(!line.contains(['\r', '\n']), "{id}: bare CR or LF");
        let is_field = line.starts_with("Content-") || line.starts_with(' ');
        assert!(line.len() <= if is_field { 90 } else { 76 }, "{id}: {line}");
    }
}

fn shown(address: &Addr<'_>) -> (Option<String>, String) {
    (address.name.as_deref().map(str::to_owned), address.address.as_deref().unwrap_or_default().to_owned())
}

fn structure(message: &mail_parser::Message<'_>, part: u32) -> String {
    let part = message.part(part).unwrap();
    let kind = part.content_type().unwrap();
    let children = |ids: &[u32]| ids.iter().map(|id| structure(message, *id)).collect::<Vec<_>>().join(",");
    match &part.body {
        PartType::Multipart(ids) => format!("{}({})", kind.subtype().unwrap(), children(ids)),
        _ => format!("{}/{}", kind.ctype(), kind.subtype().unwrap()),
    }
}

/// Decoded text of the first part of that subtype.
fn text_of(message: &mail_parser::Message<'_>, subtype: &str) -> Option<String> {
    message
        .parts
        .iter()
        .find(|part| part.content_type().is_some_and(|t| t.ctype() == "text" && t.subtype() == Some(subtype)))
        .map(|part| String::from_utf8(part.contents().to_vec()).unwrap())
}

fn check_parsed(id: &str, expect: &Expect, prepared: &Prepared) {
    let message = MessageParser::default().parse(&prepared.raw).unwrap();
    if let Some(from) = &expect.from {
        assert_eq!(&shown(message.from().unwrap().first().unwrap()), from, "{id}");
    }
    if let Some(to) = &expect.to {
        assert_eq!(&message.to().unwrap().iter().map(shown).collect::<Vec<_>>(), to, "{id}");
    }
    if let Some(subject) = &expect.subject {
        assert_eq!(message.subject().unwrap_or_default(), subject, "{id}");
        assert_eq!(&prepared.subject, subject, "{id}");
    }
    if let Some(text) = &expect.text {
        assert_eq!(text_of(&message, "plain").as_ref(), Some(text), "{id}");
    }
    if let Some(html) = &expect.html {
        let decoded = text_of(&message, "html").unwrap();
        assert_eq!(decoded.strip_suffix("\r\n").unwrap_or(&decoded), html, "{id}");
    }
    if let Some(wanted) = &expect.structure {
        assert_eq!(&structure(&message, 0), wanted, "{id}");
    }
    if let Some(attachments) = &expect.attachments {
        let found: Vec<_> = message
            .parts
            .iter()
            .filter(|part| part.content_disposition().is_some())
            .map(|part| {
                let kind = part.content_type().unwrap();
                let name = part.attachment_name().map(str::to_owned);
                let by_type = kind.attribute("name").map(str::to_owned);
                assert_eq!(name, by_type, "{id}: filename and name differ");
                (name, format!("{}/{}", kind.ctype(), kind.subtype().unwrap()), STANDARD.encode(part.contents()))
            })
            .collect();
        assert_eq!(&found, attachments, "{id}");
    }
}

fn check(case: &Case) {
    let id = format!("{}: {} ({})", case.id, case.title, case.rfc);
    let random = Sequence::new(3);
    let result = compose(MessageRequest::from(&case.input), &context(&random));
    let prepared = match (result, &case.expect.faults) {
        (Err(error), Some(faults)) => return assert_eq!(&places(&error), faults, "{id}"),
        (Ok(prepared), None) => prepared,
        (result, _) => panic!("{id}: {result:?}"),
    };
    assert_well_formed(&id, &prepared);
    check_parsed(&id, &case.expect, &prepared);
    assert_signature_verifies(&id, &prepared.raw);
    let raw = String::from_utf8(prepared.raw.clone()).unwrap();
    for text in &case.expect.contains {
        assert!(raw.contains(text), "{id}: lacks {text:?}\n{raw}");
    }
    for text in &case.expect.lacks {
        assert!(!raw.contains(text), "{id}: holds {text:?}\n{raw}");
    }
    if let Some(recipients) = &case.expect.recipients {
        assert_eq!(&prepared.recipients.iter().map(Mailbox::address).collect::<Vec<_>>(), recipients, "{id}");
    }
    if let Some(warnings) = &case.expect.warnings {
        assert_eq!(warnings.len(), prepared.warnings.len(), "{id}: {:?}", prepared.warnings);
        assert!(warnings.iter().zip(&prepared.warnings).all(|(text, warning)| warning.contains(text)), "{id}");
    }
    if let Some(max) = case.expect.max_header_line {
        let header = raw.split("\r\n\r\n").next().unwrap();
        assert!(header.split("\r\n").all(|line| line.len() <= max), "{id}\n{header}");
    }
    if let Some(send_at_ms) = case.expect.send_at_ms {
        assert_eq!(prepared.send_at_ms, send_at_ms, "{id}");
    }
    assert_eq!(!raw.is_ascii(), case.expect.header_utf8.unwrap_or(false), "{id}");
    assert_eq!(prepared.mail_from.as_ref().map(Mailbox::address), case.expect.mail_from, "{id}");
}

#[test]
fn compose_cases() {
    let cases: Vec<Case> = read(include_str!("../../../../../tests/cases/mime/compose.jsonl"));
    assert!(cases.len() > 100);
    let failed: Vec<_> = cases
        .iter()
        .filter_map(|case| std::panic::catch_unwind(|| check(case)).err().map(|_| case.id.as_str()))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

fn request(subject: &str, text: &str) -> MessageRequest {
    MessageRequest {
        from: AddressInput::Text("a@example.com".to_owned()),
        to: vec![AddressInput::Text("b@example.net".to_owned())],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        subject: subject.to_owned(),
        text: Some(text.to_owned()),
        html: None,
        headers: Vec::new(),
        attachments: Vec::new(),
        list_unsubscribe: None,
        tags: Vec::new(),
        metadata: Vec::new(),
        send_at: None,
        mail_from: None,
    }
}

/// Pieces that have broken encoders: multi-octet characters, marks, joiners, specials, long runs, blanks.
const PIECES: [&str; 24] = [
    "a",
    "Z9",
    " ",
    "  ",
    "\t",
    "é",
    "ß",
    "件名",
    "👩‍👩‍👧‍👦",
    "e\u{301}\u{327}",
    "שלום",
    "\u{202e}مرحبا\u{202c}",
    "=?utf-8?Q?x?=",
    "=",
    "?=",
    "_",
    "\"",
    "\\",
    ",",
    "<b@x.y>",
    "From ",
    ".",
    "\u{feff}",
    "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww",
];

fn nasty(random: &Sequence, extra: &[&str]) -> String {
    let count = random.below(40);
    (0..count)
        .map(|_| {
            let index = random.below(PIECES.len() + extra.len());
            PIECES.get(index).or_else(|| extra.get(index - PIECES.len())).copied().unwrap()
        })
        .collect()
}

#[test]
fn whatever_is_posted_is_what_a_reader_decodes() {
    for seed in 0..2_000 {
        let random = Sequence::new(seed);
        let subject = nasty(&random, &[]);
        let text = nasty(&random, &["\r", "\n", "\r\n", "\u{1}", "\u{7f}"]);
        let html = nasty(&random, &["\n", "<p>", "&amp;"]);
        let name = nasty(&random, &[]).replace('\t', "");
        let filename: String = nasty(&random, &[]).replace('\t', "").chars().take(254).chain(['x']).collect();
        let mut request = request(&subject, &text);
        request.html = (seed % 2 == 0).then(|| html.clone());
        request.to = vec![AddressInput::Parts { email: "b@example.net".to_owned(), name: Some(name.clone()) }];
        // a value that looks encoded is taken as encoded, and kept
        let value = nasty(&random, &[]).replace("=?", "");
        request.headers = vec![("X-Nasty".to_owned(), value.clone())];
        request.attachments = vec![AttachmentInput {
            filename: Some(filename.clone()),
            content_type: "application/x-nasty".to_owned(),
            content: STANDARD.encode(&text),
            content_id: None,
        }];
        let prepared = compose(request.clone(), &context(&random)).unwrap();
        assert_well_formed(&format!("seed {seed}"), &prepared);

        let message = MessageParser::default().parse(&prepared.raw).unwrap();
        let unix = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(message.subject().unwrap_or_default(), without_bom(&subject), "seed {seed}");
        assert_eq!(unix(&text_of(&message, "plain").unwrap()), unix(without_bom(&text)), "seed {seed}");
        if let Some(html) = &request.html {
            assert_eq!(unix(&text_of(&message, "html").unwrap()), unix(without_bom(html)), "seed {seed}");
        }
        let to = message.to().unwrap().first().unwrap().clone();
        assert_eq!(to.address.as_deref(), Some("b@example.net"), "seed {seed}");
        assert_eq!(to.name.as_deref().unwrap_or_default(), name.trim(), "seed {seed}");
        let shown = message.header_as("X-Nasty", mail_parser::HeaderForm::Text);
        let shown = shown.first().and_then(|value| value.as_text()).unwrap_or_default();
        // this reader makes one space of a fold (RFC 5322 2.2.3 keeps the white space); encoded text it leaves alone
        let blanks = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match value.is_ascii() {
            true => assert_eq!(blanks(shown), blanks(&value), "seed {seed}"),
            false => assert_eq!(shown, value.trim_matches([' ', '\t']), "seed {seed}"),
        }
        let file = message.attachment(0).unwrap();
        assert_eq!(file.attachment_name(), Some(without_bom(&filename)), "seed {seed}");
        assert_eq!(file.contents(), text.as_bytes(), "seed {seed}");
    }
}

/// Gives the octets it is told first, then a sequence.
struct Rigged(Mutex<Vec<u8>>, Sequence);

impl signpost_keys::Random for Rigged {
    fn fill(&self, dest: &mut [u8]) {
        match self.0.lock().unwrap().pop() {
            Some(octet) => dest.fill(octet),
            None => self.1.fill(dest),
        }
    }
}

#[test]
fn a_boundary_that_the_content_holds_is_not_taken() {
    let clash = format!("=_{}", "c".repeat(27));
    let mut request = request("t", &format!("before\n--{clash}\nafter"));
    request.html = Some("<p>".to_owned());
    // Message-ID, then the boundary that clashes
    let random = Rigged(Mutex::new(vec![2, 1]), Sequence::new(1));
    let prepared = compose(request.clone(), &context(&random)).unwrap();
    assert_eq!(prepared.message_id, format!("<{}@example.com>", "b".repeat(27)));
    let raw = String::from_utf8(prepared.raw).unwrap();
    assert!(!raw.contains(&format!("boundary=\"{clash}\"")), "{raw}");
    assert_eq!(raw.matches(&format!("--{clash}")).count(), 1, "{raw}");
    let message = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(structure(&message, 0), "alternative(text/plain,text/html)");

    let broken = Rigged(Mutex::new(vec![2; 50]), Sequence::new(1));
    assert!(matches!(compose(request.clone(), &context(&broken)), Err(Error::Internal(_))));
}

#[test]
fn boundaries_and_message_ids_have_128_random_bits_and_differ() {
    let mut seen = std::collections::HashSet::new();
    let random = Sequence::new(1);
    for _ in 0..100 {
        let mut request = request("t", "x");
        request.html = Some("<p>".to_owned());
        let prepared = compose(request.clone(), &context(&random)).unwrap();
        let raw = String::from_utf8(prepared.raw).unwrap();
        let boundary = raw.split("boundary=\"=_").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert!(boundary.len() * 5 >= 128);
        assert!(seen.insert(boundary));
        assert!(seen.insert(prepared.message_id));
    }
}

#[test]
fn a_message_over_the_limit_is_too_large_and_one_far_over_is_never_built() {
    let random = Sequence::new(1);
    let mut request = request("t", "x");
    request.attachments = vec![AttachmentInput {
        filename: None,
        content_type: "application/pdf".to_owned(),
        content: "A".repeat(4_000),
        content_id: None,
    }];
    let size = compose(request.clone(), &context(&random)).unwrap().raw.len() as u64;
    for (max_message, fits) in [(100, false), (size - 1, false), (size, true)] {
        let result = compose(request.clone(), &ComposeContext { now_ms: NOW_MS, random: &random, max_message });
        assert_eq!(matches!(result, Err(Error::TooLarge { limit }) if limit == max_message), !fits, "{max_message}");
    }
    request.attachments[0].content = "!".repeat(4_000);
    let result = compose(request.clone(), &ComposeContext { now_ms: NOW_MS, random: &random, max_message: 1_000 });
    assert!(matches!(result, Err(Error::TooLarge { .. })), "size comes before content");
}

/// The texts of the faults with their pointers, for a request that is refused.
fn refused(request: &MessageRequest) -> Vec<(String, String)> {
    match compose(request.clone(), &context(&Sequence::new(1))) {
        Err(Error::Invalid(faults)) => {
            faults.into_iter().map(|fault| (fault.pointer.unwrap_or_default(), fault.detail)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists_over_their_limit_are_one_fault_and_not_looked_through() {
    let mut many = request("t", "x");
    many.tags = vec!["\0".to_owned(); 11];
    many.metadata = (0..51).map(|_| ("same".to_owned(), "\0".to_owned())).collect();
    many.headers = (0..101).map(|_| ("From".to_owned(), "\0".to_owned())).collect();
    let faults: Vec<String> = refused(&many).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(faults, ["/headers", "/tags", "/metadata"]);
}

#[test]
fn a_huge_name_or_address_is_not_repeated_in_its_fault() {
    let huge = "\u{1}".repeat(100_000);
    let mut request = request("t", "x");
    request.headers = vec![(huge.clone(), "v".to_owned())];
    request.metadata = vec![(huge.clone(), "v".to_owned())];
    request.to = vec![AddressInput::Text(format!("{} <b@example.net>", "a ".repeat(100_000)))];
    request.cc = vec![AddressInput::Parts { email: "c@example.net".to_owned(), name: Some(huge) }];
    let faults = refused(&request);
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/to/0", "/cc/0/name", "/headers", "/metadata"]);
    assert!(faults.iter().all(|(_, detail)| detail.len() < 1_000), "{faults:?}");
}

#[test]
fn warnings_are_few_whatever_the_html_refers_to() {
    let mut request = request("t", "x");
    request.html = Some((0..50_000).map(|n| format!("<img src=\"cid:{n}\">")).collect());
    let prepared = compose(request.clone(), &context(&Sequence::new(1))).unwrap();
    assert_eq!(prepared.warnings.len(), 21);
    assert!(prepared.warnings[0].contains("cid:0,"), "{:?}", prepared.warnings);
    assert_eq!(prepared.warnings[20], "and 49980 more");
}

/// Read as one URL after another, each to its end, this would take quadratic time and memory: terabytes.
#[test]
fn a_cid_url_inside_a_cid_url_is_part_of_it() {
    let mut request = request("t", "x");
    request.html = Some("=cid:".repeat(600_000));
    let prepared = compose(request.clone(), &context(&Sequence::new(1))).unwrap();
    assert_eq!(prepared.warnings.len(), 1);
    assert!(prepared.warnings[0].len() < 300, "{}", prepared.warnings[0].len());
}

#[test]
fn too_many_attachments_are_not_decoded_and_a_huge_media_type_is_refused() {
    let file = |content_type: &str| AttachmentInput {
        filename: None,
        content_type: content_type.to_owned(),
        content: "!".to_owned(),
        content_id: None,
    };
    let mut request = request("t", "x");
    request.attachments = vec![file("x"); 501];
    assert_eq!(refused(&request), [("/attachments".to_owned(), "more than 500 attachments".to_owned())]);
    request.attachments = vec![file(&format!("text/plain; a=\"{}\"", "b".repeat(100_000)))];
    request.attachments[0].content = String::new();
    let faults = refused(&request);
    assert_eq!((faults.len(), faults[0].0.as_str()), (1, "/attachments/0/content_type"));
}
