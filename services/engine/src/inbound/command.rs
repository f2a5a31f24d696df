//! Commands of a client (RFC 5321 4.1). smtp-proto reads verbs and parameters; the path is read here, as it must be kept
//! exactly as sent, with its quoting.
use smtp_proto::{MAIL_BODY_BINARYMIME, MAIL_SMTPUTF8, Request};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Ehlo(String),
    Helo(String),
    StartTls,
    Mail {
        path: String,
        size: u64,
        smtputf8: bool,
    },
    Rcpt {
        path: String,
    },
    Data,
    Rset,
    Noop,
    Vrfy,
    Quit,
    /// The reply to what is no command, or none that we take.
    Refused(&'static str),
}

const UNKNOWN: Command = Command::Refused("500 5.5.2 command not recognized");
const NOT_IMPLEMENTED: Command = Command::Refused("502 5.5.1 command not implemented");
const BAD_PATH: Command = Command::Refused("501 5.1.7 the address is not valid; write it as <local@domain>");
const BAD_PARAMETERS: Command = Command::Refused("555 5.5.4 parameter not recognized or not implemented");
const BAD_SYNTAX: Command = Command::Refused("501 5.5.4 syntax error in the arguments");

/// From a line without CRLF.
pub(super) fn parse(line: &[u8]) -> Command {
    let Ok(text) = std::str::from_utf8(line) else { return UNKNOWN };
    if text.chars().any(char::is_control) {
        return BAD_SYNTAX;
    }
    let whole = format!("{text}\r\n");
    match Request::parse(&mut whole.as_bytes().iter()) {
        Ok(request) => known(request, text),
        Err(smtp_proto::Error::UnknownCommand) => UNKNOWN,
        Err(smtp_proto::Error::InvalidSenderAddress | smtp_proto::Error::InvalidRecipientAddress) => BAD_PATH,
        Err(smtp_proto::Error::UnsupportedParameter { .. } | smtp_proto::Error::InvalidParameter { .. }) => {
            BAD_PARAMETERS
        }
        Err(
            smtp_proto::Error::SyntaxError { .. }
            | smtp_proto::Error::NeedsMoreData { .. }
            | smtp_proto::Error::ResponseTooLong
            | smtp_proto::Error::InvalidResponse { .. },
        ) => BAD_SYNTAX,
    }
}

fn known(request: Request<std::borrow::Cow<'_, str>>, line: &str) -> Command {
    match request {
        Request::Ehlo { host } => Command::Ehlo(host.into_owned()),
        Request::Helo { host } => Command::Helo(host.into_owned()),
        Request::StartTls => Command::StartTls,
        Request::Mail { from } if from.flags & MAIL_BODY_BINARYMIME != 0 => BAD_PARAMETERS,
        Request::Mail { from } => match path(line) {
            Some(path) => Command::Mail {
                path,
                size: u64::try_from(from.size).unwrap_or(u64::MAX),
                smtputf8: from.flags & MAIL_SMTPUTF8 != 0,
            },
            None => BAD_PATH,
        },
        Request::Rcpt { .. } => match path(line) {
            Some(path) if !path.is_empty() => Command::Rcpt { path },
            Some(_) | None => BAD_PATH,
        },
        Request::Data => Command::Data,
        Request::Rset => Command::Rset,
        Request::Noop { .. } => Command::Noop,
        Request::Vrfy { .. } => Command::Vrfy,
        Request::Quit => Command::Quit,
        Request::Lhlo { .. }
        | Request::Bdat { .. }
        | Request::Auth { .. }
        | Request::Expn { .. }
        | Request::Help { .. }
        | Request::Etrn { .. }
        | Request::Atrn { .. }
        | Request::Burl { .. } => NOT_IMPLEMENTED,
    }
}

/// RFC 5321 4.1.2 Path, without angle brackets and source route, quoting kept; empty for `<>`. `None` if it is none.
fn path(line: &str) -> Option<String> {
    let inner = line.split_once('<')?.1;
    let mut quoted = false;
    let mut escaped = false;
    let mut end = None;
    for (index, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                end = Some(index);
                break;
            }
            _ => {}
        }
    }
    let path = inner.get(..end?)?;
    // RFC 5321 4.1.1.3, appendix C: a source route is accepted and ignored.
    let mailbox = if path.starts_with('@') { path.split_once(':')?.1 } else { path };
    (mailbox.len() <= 254 + 64).then(|| mailbox.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(path: &str) -> Command {
        Command::Mail { path: path.to_owned(), size: 0, smtputf8: false }
    }

    #[test]
    fn commands() {
        let rcpt = |path: &str| Command::Rcpt { path: path.to_owned() };
        let table = [
            ("EHLO client.example", Command::Ehlo("client.example".to_owned())),
            ("ehlo [192.0.2.1]", Command::Ehlo("[192.0.2.1]".to_owned())),
            ("HELO c", Command::Helo("c".to_owned())),
            ("EHLO", BAD_SYNTAX),
            ("MAIL FROM:<a@example.com>", mail("a@example.com")),
            ("mail from:<>", mail("")),
            ("MAIL FROM: <a@example.com>", mail("a@example.com")),
            (
                "MAIL FROM:<a@example.com> SIZE=12 BODY=8BITMIME SMTPUTF8",
                Command::Mail { path: "a@example.com".to_owned(), size: 12, smtputf8: true },
            ),
            ("MAIL FROM:<a@example.com> BODY=BINARYMIME", BAD_PARAMETERS),
            ("MAIL FROM:<a@example.com> FOO=1", BAD_PARAMETERS),
            ("MAIL FROM:a@example.com", BAD_SYNTAX),
            ("RCPT TO:<b@example.net>", rcpt("b@example.net")),
            ("RCPT TO:<\"a b>@c\"@example.net>", rcpt("\"a b>@c\"@example.net")),
            ("RCPT TO:<\"a\\\"b\"@example.net>", rcpt("\"a\\\"b\"@example.net")),
            ("RCPT TO:<@relay.example:b@example.net>", rcpt("b@example.net")),
            ("RCPT TO:<grüße@xn--bcher-kva.example>", rcpt("grüße@xn--bcher-kva.example")),
            ("RCPT TO:<>", BAD_PATH),
            ("RCPT TO:<b>", BAD_PATH),
            ("DATA", Command::Data),
            ("RSET", Command::Rset),
            ("NOOP anything", Command::Noop),
            ("VRFY b", Command::Vrfy),
            ("QUIT", Command::Quit),
            ("STARTTLS", Command::StartTls),
            ("EXPN list", NOT_IMPLEMENTED),
            ("BDAT 5 LAST", NOT_IMPLEMENTED),
            ("", UNKNOWN),
            ("GET / HTTP/1.1", UNKNOWN),
            ("NO\u{0}OP", BAD_SYNTAX),
        ];
        for (line, command) in table {
            assert_eq!(parse(line.as_bytes()), command, "{line:?}");
        }
        assert_eq!(parse(b"NOOP \xff"), UNKNOWN);
    }
}
