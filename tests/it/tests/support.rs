//! The support code itself: a harness that cannot tell right from wrong proves nothing.
#![cfg(test)]

use signpost_it::{DEADLINE, DkimPy, MailAuthJudge, Named, Receiver, TxtRecords, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// RFC 8463 appendix A.3, the Ed25519 signature of the two; and its key record.
const SIGNED: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\nFrom: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
const KEY: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const KEY_NAME: &str = "brisbane._domainkey.football.example.com";

fn key() -> TxtRecords {
    TxtRecords::from([(KEY_NAME.to_owned(), KEY.to_owned())])
}

#[test]
fn dkimpy_tells_a_good_signature_from_a_bad_one() {
    let mut dkimpy = DkimPy::start();
    assert_eq!(dkimpy.verify(SIGNED.as_bytes(), &key()), [true]);
    assert_eq!(dkimpy.verify(SIGNED.replace("hungry", "thirsty").as_bytes(), &key()), [false]);
    assert_eq!(dkimpy.verify(SIGNED.replace("dinner", "supper").as_bytes(), &key()), [false]);
    assert_eq!(dkimpy.verify(SIGNED.as_bytes(), &TxtRecords::new()), [false]);
    assert_eq!(dkimpy.verify(b"From: a@example.com\r\n\r\nunsigned\r\n", &key()), [] as [bool; 0]);
}

#[test]
fn mail_auth_tells_a_good_signature_from_a_bad_one() {
    let judge = MailAuthJudge::new();
    let word = |message: &str, txt: &TxtRecords| {
        let results = judge.verify(message.as_bytes(), txt);
        assert_eq!(results.len(), 1, "{results:?}");
        assert_eq!((results[0].0.as_str(), results[0].1.as_str()), ("football.example.com", "brisbane"));
        results[0].2
    };
    assert_eq!(word(SIGNED, &key()), "pass");
    // A fault of mail-auth 0.13: RFC 8601 calls a changed body `fail`.
    assert_eq!(word(&SIGNED.replace("hungry", "thirsty"), &key()), "neutral");
    assert_eq!(word(&SIGNED.replace("dinner", "supper"), &key()), "fail");
    assert_ne!(word(SIGNED, &TxtRecords::new()), "pass");
}

#[test]
fn bind_serves_what_was_published_last() {
    let named = Named::with().zone("football.test", "@ IN TXT \"there from the start\"\n").address("127.0.0.2").start();
    assert_eq!(named.txt("football.test"), ["there from the start"]);
    let long = format!("v=DKIM1; k=rsa; p={}", "A".repeat(400));
    named.publish_txt("s1._domainkey.football.test", &[&long]);
    assert_eq!(named.txt("s1._domainkey.football.test"), [long]);
    named.publish_txt("s1._domainkey.football.test", &["a \"quoted\" \\ text; with all"]);
    assert_eq!(named.txt("s1._domainkey.football.test").len(), 1);
    named.withdraw_txt("s1._domainkey.football.test");
    assert_eq!(named.txt("s1._domainkey.football.test"), [] as [&str; 0]);
}

#[test]
fn python_decodes_what_a_reader_sees() {
    let message = "From: =?utf-8?q?J=C3=B6?= <jo@example.com>\r\nSubject: =?utf-8?b?5pel5pys?=\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n--c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>hi</p>\r\n--c--\r\n--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A4.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nYWJj\r\n--b--\r\n";
    let decoded = DkimPy::start().decode(message.as_bytes());
    assert_eq!(decoded.header("subject"), "日本");
    assert_eq!(decoded.header("From"), "Jö <jo@example.com>");
    assert_eq!(decoded.text.as_deref(), Some("Grüße"));
    assert_eq!(decoded.html.as_deref(), Some("<p>hi</p>"));
    assert_eq!(decoded.attachments.len(), 1);
    assert_eq!(decoded.attachments[0].filename.as_deref(), Some("ä.pdf"));
    assert_eq!(decoded.attachments[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn the_receiver_behaves_as_the_recipient_says_and_records() {
    let receiver = Receiver::start();
    let mut session = Session::open(receiver.port());
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@example.test>", "250");
    session.say("RCPT TO:<permfail@receiver.test>", "550");
    session.say("RCPT TO:<tempfail+x@receiver.test>", "451");
    session.say("RCPT TO:<greylist@receiver.test>", "451");
    session.say("RCPT TO:<bob@receiver.test>", "250");
    session.say("DATA", "354");
    session.say("Subject: x\r\n\r\n..dot\r\n.", "250");
    let messages = receiver.wait_for(1);
    assert_eq!(messages[0].octets, b"Subject: x\r\n\r\n.dot\r\n");
    assert_eq!(messages[0].mail_from, "a@example.test");
    assert_eq!(messages[0].rcpt, ["bob@receiver.test"]);
    assert_eq!(messages[0].ehlo, "client.test");
    session.say("MAIL FROM:<a@example.test>", "250");
    session.say("RCPT TO:<gate@receiver.test>", "250");
    session.say("DATA", "354");
    session.send("Subject: y\r\n\r\n.");
    receiver.wait_until_gate_is_reached();
    assert_eq!(receiver.messages().len(), 1);
    receiver.open_gate();
    session.expect("250");
    assert_eq!(receiver.messages().len(), 2);
    session.say("MAIL FROM:<a@example.test>", "250");
    session.say("RCPT TO:<drop@receiver.test>", "250");
    session.say("DATA", "354");
    session.send("Subject: z\r\n\r\n.");
    assert!(session.is_closed());
    wait_for("the dropped message is recorded", DEADLINE, || (receiver.messages().len() == 3).then_some(()));
}

/// A client by hand.
struct Session {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Session {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut session = Self { lines: BufReader::new(stream.try_clone().unwrap()), stream };
        session.expect("220");
        session
    }
    fn send(&mut self, text: &str) {
        write!(self.stream, "{text}\r\n").unwrap();
    }
    fn say(&mut self, text: &str, code: &str) {
        self.send(text);
        self.expect(code);
    }
    fn expect(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "{line:?} instead of {code}");
            if line.as_bytes()[3] == b' ' {
                return;
            }
        }
    }
    fn is_closed(&mut self) -> bool {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_or(true, |octets| octets == 0)
    }
}
