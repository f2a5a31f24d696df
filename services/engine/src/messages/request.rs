//! What a caller asks to send, and what becomes of it before it is signed.
use crate::{Error, FieldError};
use signpost_dkim::Mailbox;
use std::collections::HashSet;

/// Recipients of one message, at most (DESIGN: Envelope).
pub const MAX_RECIPIENTS: usize = 50;

/// An address as JSON gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressInput {
    /// `"Ann <ann@example.com>"` or `"ann@example.com"`.
    Text(String),
    /// `{"email","name"}`.
    Parts {
        /// The bare address.
        email: String,
        /// Display name.
        name: Option<String>,
    },
}

/// An attachment as JSON gives it.
#[derive(Debug, Clone)]
pub struct AttachmentInput {
    /// File name.
    pub filename: Option<String>,
    /// Media type.
    pub content_type: String,
    /// Base64 in the standard alphabet with padding and nothing else, no white space either (RFC 4648 3.1, 3.2, 4).
    pub content: String,
    /// Makes it an inline part that `cid:` URLs refer to (RFC 2392).
    pub content_id: Option<String>,
}

/// POST /messages.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN")]
pub struct MessageRequest {
    pub from: AddressInput,
    pub to: Vec<AddressInput>,
    pub cc: Vec<AddressInput>,
    pub bcc: Vec<AddressInput>,
    pub reply_to: Vec<AddressInput>,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    /// In the order of the request.
    pub headers: Vec<(String, String)>,
    pub attachments: Vec<AttachmentInput>,
    pub list_unsubscribe: Option<String>,
    pub tags: Vec<String>,
    /// Name and value; values are strings.
    pub metadata: Vec<(String, String)>,
    /// RFC 3339.
    pub send_at: Option<String>,
    pub mail_from: Option<String>,
}

impl MessageRequest {
    /// Octets of its texts and attachments: what the work on it grows with.
    pub fn octets(&self) -> usize {
        let texts = self.text.as_ref().map_or(0, String::len) + self.html.as_ref().map_or(0, String::len);
        texts + self.attachments.iter().map(|attachment| attachment.content.len()).sum::<usize>()
    }
}

/// A message ready to be authorized and signed: complete header, CRLF line ends, no Bcc, no Return-Path.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The octets.
    pub raw: Vec<u8>,
    /// The one mailbox of From.
    pub from: Mailbox,
    /// Sender, where the message has one.
    pub sender: Option<Mailbox>,
    /// Envelope recipients without duplicates, at most 50, at least 1 (none for /sign).
    pub recipients: Vec<Mailbox>,
    /// Envelope sender that the request named.
    pub mail_from: Option<Mailbox>,
    /// With angle brackets; empty only for /sign of a message without one.
    pub message_id: String,
    /// Decoded, for lists.
    pub subject: String,
    /// Things worth telling that are no errors.
    pub warnings: Vec<String>,
    /// When to send, milliseconds since the epoch; `None`: now.
    pub send_at_ms: Option<i64>,
}

/// What composing needs beside the request.
pub struct ComposeContext<'a> {
    /// Milliseconds since the epoch (Date).
    pub now_ms: i64,
    /// Message-ID and boundaries (at least 128 bits each).
    pub random: &'a dyn signpost_keys::Random,
    /// Limit of the built message in octets.
    pub max_message: u64,
}

/// Faults found so far: one answer names them all, up to a number that a caller can still read.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<FieldError>,
    left_off: usize,
}

impl Faults {
    const SHOWN: usize = 100;

    pub(crate) fn push(&mut self, fault: FieldError) {
        if self.list.len() < Self::SHOWN {
            self.list.push(fault);
        } else {
            self.left_off += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len() + self.left_off
    }

    /// `Error::Invalid` if there is any.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if self.left_off > 0 {
            self.list.push(FieldError::in_message(None, format!("and {} more faults", self.left_off)));
        }
        if self.list.is_empty() { Ok(()) } else { Err(Error::Invalid(self.list)) }
    }
}

/// Warnings, each once, up to a number that a caller can still read: they are stored and shown with the message.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    list: Vec<String>,
    left_off: usize,
}

impl Warnings {
    const SHOWN: usize = 20;

    pub(crate) fn push(&mut self, warning: String) {
        if self.list.contains(&warning) {
            return;
        }
        if self.list.len() < Self::SHOWN {
            self.list.push(warning);
        } else {
            self.left_off += 1;
        }
    }

    pub(crate) fn finish(mut self) -> Vec<String> {
        if self.left_off > 0 {
            self.list.push(format!("and {} more", self.left_off));
        }
        self.list
    }
}

/// The same mailboxes without duplicates, first come first. Local parts are compared exactly (RFC 5321 2.4), domains are lower-case.
pub(crate) fn without_duplicates(mailboxes: Vec<Mailbox>) -> Vec<Mailbox> {
    let mut seen = HashSet::new();
    mailboxes.into_iter().filter(|m| seen.insert((m.local().to_owned(), m.domain().clone()))).collect()
}

/// `Error::TooLarge` where `octets` is over `limit`.
pub(crate) fn check_size(octets: usize, limit: u64) -> Result<(), Error> {
    if u64::try_from(octets).is_ok_and(|n| n <= limit) { Ok(()) } else { Err(Error::TooLarge { limit }) }
}

/// A fresh Message-ID with angle brackets: 135 random bits at the From domain (RFC 5322 3.6.4).
pub(crate) fn fresh_message_id(context: &ComposeContext<'_>, from: &Mailbox) -> String {
    format!("<{}@{}>", crate::ids::random_text(context.random, 27), from.domain())
}

/// Text for lists: no control characters, whatever an encoded-word held.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
