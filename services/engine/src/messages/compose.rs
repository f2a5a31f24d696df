//! MIME from a JSON request (mail-builder), 7-bit clean, encoded lines of 76 or less.
use super::request::{ComposeContext, MessageRequest, Prepared};
use crate::Error;

/// Validates every field (all faults at once, each with its JSON pointer) and builds the message.
/// `Error::Invalid` or `Error::TooLarge`.
pub fn compose(_request: &MessageRequest, _context: &ComposeContext<'_>) -> Result<Prepared, Error> {
    todo!()
}
