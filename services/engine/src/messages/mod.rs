//! Messages: compose or accept raw, authorize, sign, commit.
#[cfg(test)]
mod cases;
pub mod compose;
pub mod raw;
pub mod request;
pub mod signing;

use crate::rows::{Begin, EventRow, IdempotencyScope, MessageRow, Page, RecipientRow, SignatureRow, StoredAnswer};
use crate::{Caller, Engine, Error};
use raw::RawEnvelope;
use request::MessageRequest;

/// A message with its recipients.
pub type MessageView = (MessageRow, Vec<RecipientRow>);

/// The idempotency row that acceptance completes in its own transaction. `render` gives the answer that is frozen and sent.
pub struct Idempotency<'a> {
    /// Tenant, method, path, key.
    pub scope: IdempotencyScope,
    /// The 202 for a message.
    pub render: &'a (dyn Fn(&MessageView) -> StoredAnswer + Send + Sync),
}

/// POST /sign.
#[derive(Debug, Clone)]
pub struct SignedMessage {
    /// Fields to prepend, each with folds and final CRLF.
    pub prepend: Vec<String>,
    /// The same as data.
    pub signatures: Vec<SignatureRow>,
    /// The message as it came in.
    pub raw: Vec<u8>,
}

impl Engine {
    /// POST /messages. Scope messages:send.
    pub async fn send(
        &self,
        _caller: &Caller,
        _request: &MessageRequest,
        _idempotency: Option<Idempotency<'_>>,
    ) -> Result<MessageView, Error> {
        todo!()
    }
    /// POST /messages/raw. Scope messages:send.
    pub async fn send_raw(
        &self,
        _caller: &Caller,
        _raw: Vec<u8>,
        _envelope: &RawEnvelope,
        _idempotency: Option<Idempotency<'_>>,
    ) -> Result<MessageView, Error> {
        todo!()
    }
    /// POST /sign. Scope sign.
    pub async fn sign(&self, _caller: &Caller, _raw: Vec<u8>) -> Result<SignedMessage, Error> {
        todo!()
    }
    /// Scope messages:read.
    pub async fn message(&self, _caller: &Caller, _id: &str) -> Result<MessageView, Error> {
        todo!()
    }
    /// Newest first, optional status. Scope messages:read.
    pub async fn messages(
        &self,
        _caller: &Caller,
        _status: Option<&str>,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<MessageView>, Error> {
        todo!()
    }
    /// The octets as sent. Scope messages:read.
    pub async fn message_raw(&self, _caller: &Caller, _id: &str) -> Result<Vec<u8>, Error> {
        todo!()
    }
    /// Oldest first. Scope messages:read.
    pub async fn message_events(
        &self,
        _caller: &Caller,
        _id: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<EventRow>, Error> {
        todo!()
    }
    /// Starts an idempotent request; `body` is the raw request body.
    pub async fn begin_idempotent(&self, _scope: &IdempotencyScope, _body: &[u8]) -> Result<Begin, Error> {
        todo!()
    }
    /// Freezes a 4xx.
    pub async fn finish_idempotent(&self, _scope: &IdempotencyScope, _answer: &StoredAnswer) -> Result<(), Error> {
        todo!()
    }
    /// After a 5xx.
    pub async fn abandon_idempotent(&self, _scope: &IdempotencyScope) -> Result<(), Error> {
        todo!()
    }
}
