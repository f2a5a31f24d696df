//! Raw submissions: made safe or refused (DESIGN: Raw mail).
use super::request::{ComposeContext, Prepared};
use crate::Error;

/// What beside the octets a raw submission names.
#[derive(Debug, Clone, Default)]
pub struct RawEnvelope {
    /// Envelope recipients; `None`: To + Cc + Bcc of the message.
    pub rcpt: Option<Vec<String>>,
    /// Envelope sender.
    pub mail_from: Option<String>,
}

/// POST /messages/raw. LF becomes CRLF; Return-Path, Bcc, Resent-Bcc removed; missing Date and Message-ID added; the rest kept or refused.
pub fn prepare_raw(_raw: Vec<u8>, _envelope: &RawEnvelope, _context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    todo!()
}

/// POST /sign: nothing is changed; what would have to be changed is an error.
pub fn prepare_for_sign(_raw: Vec<u8>, _context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    todo!()
}

/// Replaces Date (the one field) by `now_ms`; for scheduled and held mail at its release.
pub fn redate(_raw: &[u8], _now_ms: i64) -> Vec<u8> {
    todo!()
}

/// RFC 5322 3.3 date-time in UTC: `Wed, 25 Nov 2026 01:00:00 +0000`.
pub fn date_field(_now_ms: i64) -> String {
    todo!()
}
