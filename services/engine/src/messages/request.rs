//! What a caller asks to send, and what becomes of it before it is signed.
use signpost_dkim::Mailbox;

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
    /// Base64 (RFC 4648 section 4, padding required, no line breaks... tolerant of none).
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
    /// Release time, where the request asks for a later one.
    pub send_at_ms: Option<i64>,
    /// True if the body has octets above 127: it must only go to hosts that offer 8BITMIME.
    pub eight_bit: bool,
    /// Things worth telling that are no errors.
    pub warnings: Vec<String>,
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
