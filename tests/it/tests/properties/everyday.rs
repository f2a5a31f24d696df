//! Messages as RFC 5322 has them without its obsolete forms, every line ended by CRLF as SMTP carries it: what a mail server
//! gives to a verifier. Varied in all that canonicalization looks at: spelling of names, white space, folds, ends, 8-bit bodies.
use crate::letters::{Field, Letter};
use proptest::prelude::*;
use proptest::sample::select;

/// RFC 5322 2.1.1: octets of a line without its CRLF.
const LINE: usize = 998;

pub(crate) fn everyday_letter() -> impl Strategy<Value = Letter> {
    let fields = prop::collection::vec(optional_field(), 0..14);
    (author(), fields, any::<u64>(), body(), any::<u64>().no_shrink()).prop_map(
        |(author, others, order, body, seed)| {
            let mut fields: Vec<Field> = Vec::new();
            for field in others {
                // RFC 5322 3.6: most fields may be there once.
                let may_repeat =
                    field.name.starts_with("X-") || ["Received", "Comments"].contains(&field.name.as_str());
                if may_repeat || !fields.iter().any(|f| f.name.eq_ignore_ascii_case(&field.name)) {
                    fields.push(field);
                }
            }
            let at = usize::try_from(order % (fields.len() as u64 + 1)).unwrap();
            fields.insert(at, author);
            Letter { fields, body: Some(body), is_terminated: true, signs_odd_names: None, seed }
        },
    )
}

fn author() -> impl Strategy<Value = Field> {
    (spelled("From"), space(), mailbox()).prop_map(|(name, space, mailbox)| field(name, [space, mailbox].concat()))
}

fn optional_field() -> impl Strategy<Value = Field> {
    let addresses = (select(vec!["To", "Cc", "Reply-To"]), prop::collection::vec(mailbox(), 1..5)).prop_flat_map(
        |(name, mailboxes)| (spelled(name), space(), select(vec![", ", ",\r\n ", ",\r\n\t", ","]), Just(mailboxes)),
    );
    let addresses = addresses.prop_map(|(name, space, comma, boxes)| field(name, space + &boxes.join(comma)));
    let text = (select(vec!["Subject", "Comments", "X-Mailer", "X-Long-Name-Of-A-Field"]), space(), text())
        .prop_flat_map(|(name, space, text)| (spelled(name), Just([space, text].concat())))
        .prop_map(|(name, value)| field(name, value));
    let fixed = select(vec![
        ("Date", "Tue, 14 Nov 2023 22:13:20 +0000"),
        ("Date", "Tue, 14 Nov 2023\r\n 22:13:20  +0000 (UTC)"),
        ("Message-ID", "<1@football.test>"),
        ("Message-ID", "<a.long+one=for-once_42@mail.football.test>"),
        ("In-Reply-To", "<0@receiver.test>"),
        ("References", "<0@receiver.test>\r\n <1@receiver.test>\t<2@receiver.test>"),
        ("MIME-Version", "1.0"),
        ("MIME-Version", "1.0 (by hand)"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Type", "text/html;\r\n\tcharset=\"utf-8\";  format=flowed"),
        ("Content-Transfer-Encoding", "8bit"),
        ("List-Unsubscribe", "<https://football.test/u?a=b%20c>,\r\n <mailto:u@football.test>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("Received", "from a.test (a.test [192.0.2.7])\r\n\tby b.test;  Tue, 14 Nov 2023 22:13:20 +0000"),
    ]);
    let fixed = (fixed, space()).prop_flat_map(|((name, value), space)| (spelled(name), Just(space + value)));
    prop_oneof![3 => addresses, 3 => text, 6 => fixed.prop_map(|(name, value)| field(name, value))]
}

fn field(name: String, value: String) -> Field {
    Field { name, gap: "", value: value.into_bytes(), is_odd: false }
}

fn spelled(name: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(name.to_owned()), 1 => Just(name.to_ascii_uppercase()), 1 => Just(name.to_ascii_lowercase())]
}

/// Behind the colon.
fn space() -> impl Strategy<Value = String> {
    prop_oneof![40 => Just(" "), 1 => Just(""), 1 => Just("  "), 1 => Just("\t")].prop_map(str::to_owned)
}

fn mailbox() -> impl Strategy<Value = String> {
    let domain = select(vec!["football.test", "receiver.test", "mail.a-b.test"]);
    let name = select(vec![
        "",
        "Jo ",
        "Jo  Doe\t",
        "\"Doe, Jo\" ",
        "\"a \\\" b\"\r\n ",
        "=?utf-8?q?J=C3=B6?= ",
        "=?utf-8?b?5pel5pys?=\r\n\t",
    ]);
    ("[a-z0-9][a-z0-9+_-]{0,12}(\\.[a-z0-9]{1,8})?", domain, name).prop_map(|(local, domain, name)| match name {
        "" => format!("{local}@{domain}"),
        name => format!("{name}<{local}@{domain}>"),
    })
}

/// Words with white space between, folded where a line would grow too long, and elsewhere.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        12 => "[!-~]{1,14}",
        2 => select(vec!["=?utf-8?q?caf=C3=A9?=", "b=abc;", "h=From", "(a (b))", ";", ":"]).prop_map(str::to_owned),
        1 => "[!-~]{80,600}",
    ];
    let gap = select(vec![" ", " ", " ", "  ", "\t", " \t ", "\r\n ", "\r\n\t", " \r\n  "]);
    (prop::collection::vec((word, gap), 0..12), prop::bool::weighted(0.1)).prop_map(|(words, has_space_at_end)| {
        let mut text = String::new();
        // Names and the space behind the colon have 24 octets at most.
        let mut column = 24;
        for (number, (word, gap)) in words.iter().enumerate() {
            if number > 0 {
                let gap = if column + gap.len() + word.len() > LINE { "\r\n " } else { gap };
                column = gap.rsplit_once('\n').map_or(column + gap.len(), |(_, after)| after.len());
                text.push_str(gap);
            }
            text.push_str(word);
            column += word.len();
        }
        if has_space_at_end && !text.is_empty() && column < LINE {
            text.push(' ');
        }
        text
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        12 => "[!-~]{1,12}",
        2 => select(vec!["ü", "日本", "\u{a0}", "\u{2003}", "😀"]).prop_map(str::to_owned),
    ];
    let gap = select(vec![" ", " ", " ", "  ", "\t", "   \t"]);
    let prose =
        (prop::collection::vec((word, gap), 0..16), prop::bool::weighted(0.2)).prop_map(|(words, ends_in_gap)| {
            let mut line: String = words.iter().map(|(word, gap)| format!("{word}{gap}")).collect();
            if !ends_in_gap {
                line.truncate(line.trim_end_matches([' ', '\t']).len());
            }
            line
        });
    let special = select(vec![
        ".",
        "..",
        ".x",
        " .",
        "From x",
        "--b",
        "--b--",
        "-- ",
        "=20=C3=BC=",
        "a=",
        "YWJj",
        "\u{a0}",
        " ",
        "\t",
        "  \t",
        "DKIM-Signature: v=1",
        "<p>  </p>",
    ]);
    let line = prop_oneof![
        12 => prose,
        4 => special.prop_map(str::to_owned),
        3 => Just(String::new()),
        1 => Just("x".repeat(LINE)),
        1 => Just("x ".repeat(LINE / 2)),
    ];
    let lines = prop_oneof![
        1 => Just(Vec::new()),
        10 => prop::collection::vec(line.clone(), 1..16),
        1 => prop::collection::vec(line, 80..120),
    ];
    (lines, prop_oneof![4 => Just(0), 1 => 1..5_usize]).prop_map(|(mut lines, empty)| {
        lines.extend(vec![String::new(); empty]);
        lines.iter().map(|line| format!("{line}\r\n")).collect::<String>().into_bytes()
    })
}
