//! Where a judge is wrong itself: for each fault what the RFC says, and exactly the messages on which it shows. Such a verdict
//! is not taken from that judge; that it is really wrong there, and only there, is tested as well.
use crate::naive::{self, Parts, Relaxed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Judge {
    DkimPy,
    MailAuth,
    Ours,
    Rspamd,
    OpenDkim,
}

impl Judge {
    /// Those that take any octets for a message. The others stand in mail servers and are given what one carries.
    pub(crate) const OF_LETTERS: [Self; 3] = [Self::DkimPy, Self::MailAuth, Self::Ours];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// dkimpy 1.1.8 takes `Name :` for no header field and refuses the message, or skips the line if it begins with `From `.
    /// RFC 5322 4.5.8 allows white space there, and RFC 6376 3.4.2 says what becomes of it: "Delete any WSP characters
    /// remaining before and after the colon separating the header field name from the header field value."
    DkimPySpaceBeforeColon,
    /// dkimpy 1.1.8 takes VT and FF away at both ends of a relaxed value.
    /// RFC 6376 3.4.2 deletes WSP, and RFC 6376 2.8: "WSP represents simple whitespace, i.e., a space or a tab character".
    DkimPyVerticalSpace,
    /// dkimpy 1.1.8 leaves one SP of the white space at the end of a relaxed body that lacks its last CRLF.
    /// RFC 6376 3.4.4: "Ignore all whitespace at the end of lines." With its reading a signature would break when SMTP, where
    /// every line has its CRLF, carries the message.
    DkimPyUnterminatedLine,
    /// mail-auth 0.13.3 compares h= with `Name ` and so takes the signed field for one that is not there. RFC 5322 4.5.8.
    MailAuthSpaceBeforeColon,
    /// mail-auth 0.13.3 takes FF for white space in relaxed values. RFC 6376 2.8, as above.
    MailAuthFormFeed,
    /// mail-auth 0.13.3 (mended in 0.15.0) counts white-space-only lines at the end of a relaxed body.
    /// RFC 6376 3.4.4: white space at the end of lines goes first, then "Ignore all empty lines at the end of the message body."
    MailAuthBlankLines,
    /// mail-auth 0.13.3 does not see the last field of a message that ends in the header without CRLF.
    /// No RFC obliges it to; ours reads it as a field whose CRLF is still to come.
    MailAuthUnterminatedField,
    /// rspamd 3.4 does not find the relaxed body empty whose lines are all blank and whose first one has white space.
    /// RFC 6376 3.4.4: white space at the end of lines goes first, then "Ignore all empty lines at the end of the message body."
    RspamdBlankBody,
    /// rspamd 3.4 takes FF for white space in relaxed values and bodies.
    /// RFC 6376 2.8: "WSP represents simple whitespace, i.e., a space or a tab character".
    RspamdFormFeed,
    /// OpenDKIM 2.11's test mode takes the field apart into name and value as a milter is given them, and puts one SP between:
    /// under simple, a signed field with other white space behind its colon is not what was signed. RFC 6376 3.4.1.
    OpenDkimSpaceAfterColon,
    /// OpenDKIM 2.11 takes VT and FF for white space in relaxed values.
    /// RFC 6376 2.8: "WSP represents simple whitespace, i.e., a space or a tab character".
    OpenDkimVerticalSpace,
}

impl Fault {
    pub(crate) const ALL: [Self; 11] = [
        Self::DkimPySpaceBeforeColon,
        Self::DkimPyVerticalSpace,
        Self::DkimPyUnterminatedLine,
        Self::MailAuthSpaceBeforeColon,
        Self::MailAuthFormFeed,
        Self::MailAuthBlankLines,
        Self::MailAuthUnterminatedField,
        Self::RspamdBlankBody,
        Self::RspamdFormFeed,
        Self::OpenDkimSpaceAfterColon,
        Self::OpenDkimVerticalSpace,
    ];

    pub(crate) fn judge(self) -> Judge {
        match self {
            Self::DkimPySpaceBeforeColon | Self::DkimPyVerticalSpace | Self::DkimPyUnterminatedLine => Judge::DkimPy,
            Self::MailAuthSpaceBeforeColon
            | Self::MailAuthFormFeed
            | Self::MailAuthBlankLines
            | Self::MailAuthUnterminatedField => Judge::MailAuth,
            Self::RspamdBlankBody | Self::RspamdFormFeed => Judge::Rspamd,
            Self::OpenDkimSpaceAfterColon | Self::OpenDkimVerticalSpace => Judge::OpenDkim,
        }
    }

    /// Faults by which the judge does not see an octet that was added or changed, so that it may also pass what it should not.
    pub(crate) fn hides_changes(self) -> bool {
        match self {
            Self::DkimPySpaceBeforeColon
            | Self::DkimPyVerticalSpace
            | Self::MailAuthSpaceBeforeColon
            | Self::MailAuthFormFeed
            // One more field of that name takes the place of the one that it does not see.
            | Self::MailAuthUnterminatedField
            | Self::RspamdFormFeed
            | Self::OpenDkimSpaceAfterColon
            | Self::OpenDkimVerticalSpace => true,
            Self::DkimPyUnterminatedLine | Self::MailAuthBlankLines | Self::RspamdBlankBody => false,
        }
    }

    /// True if the judge canonicalizes this message wrongly.
    pub(crate) fn shows_in(self, message: &Parts, relaxed: Relaxed) -> bool {
        let names = message.signed_names();
        let is_signed = |field: &[u8]| names.contains(&naive::name(field)) || std::ptr::eq(field, message.own());
        let mut signed = message.fields.iter().filter(|field| is_signed(field));
        let body_lines = naive::lines(&message.body);
        match self {
            Self::DkimPySpaceBeforeColon => message.fields.iter().any(|field| has_space_before_colon(field)),
            Self::DkimPyVerticalSpace => {
                relaxed.header
                    && signed.any(|field| {
                        let value = naive::unfold(naive::value(field));
                        let value = naive::trim(&value);
                        [value.first(), value.last()].into_iter().flatten().any(|b| b"\x0b\x0c".contains(b))
                    })
            }
            Self::DkimPyUnterminatedLine => {
                relaxed.body && body_lines.last().is_some_and(|line| line.last().is_some_and(|&b| naive::is_wsp(b)))
            }
            Self::MailAuthSpaceBeforeColon => signed.any(|field| has_space_before_colon(field)),
            Self::MailAuthFormFeed => relaxed.header && signed.any(|field| naive::value(field).contains(&b'\x0c')),
            Self::RspamdFormFeed => {
                (relaxed.header && signed.any(|field| naive::value(field).contains(&b'\x0c')))
                    || (relaxed.body && message.body.contains(&b'\x0c'))
            }
            Self::MailAuthBlankLines => {
                relaxed.body
                    && body_lines
                        .iter()
                        .rev()
                        .take_while(|line| naive::trim(line).is_empty())
                        .any(|line| !line.is_empty())
            }
            Self::MailAuthUnterminatedField => {
                !message.is_separated
                    && message.fields.last().is_some_and(|last| !last.ends_with(b"\r\n") && is_signed(last))
            }
            Self::RspamdBlankBody => {
                relaxed.body
                    && body_lines.iter().all(|line| naive::trim(line).is_empty())
                    && body_lines.first().is_some_and(|line| !line.is_empty())
            }
            Self::OpenDkimSpaceAfterColon => !relaxed.header && signed.any(|field| !begins_with_one_space(field)),
            Self::OpenDkimVerticalSpace => {
                relaxed.header && signed.any(|field| naive::value(field).iter().any(|b| b"\x0b\x0c".contains(b)))
            }
        }
    }
}

fn has_space_before_colon(field: &[u8]) -> bool {
    field.split(|&b| b == b':').next().unwrap().last().is_some_and(|&b| naive::is_wsp(b))
}

/// One SP behind the colon, and then text or the end.
fn begins_with_one_space(field: &[u8]) -> bool {
    let value = naive::value(field);
    match value.strip_suffix(b"\r\n").unwrap_or(value) {
        [b' ', next, ..] => !b" \t\r\n".contains(next),
        content => content == b" ",
    }
}
