//! Signing: draft, custody, self-check against the published key; and again before delivery.
use crate::{Engine, Error};
use signpost_store::{Delivery, MessageBody, SignatureRow};

/// What the worker must know before an attempt.
#[derive(Debug)]
pub enum Readiness {
    /// Every signature's key is active or retiring: send as it is.
    Good,
    /// The signature was replaced by one of the active key: store (`Store::resign`), then send.
    Resigned {
        /// New prefix (Received and DKIM-Signature fields).
        prefix: Vec<u8>,
        /// New signatures.
        signatures: Vec<SignatureRow>,
    },
    /// No key can sign now: `Store::hold` with this status and reason.
    Wait {
        /// `held` or `awaiting_signature`.
        status: &'static str,
        /// Why.
        reason: String,
    },
    /// The domain was deleted: cancel.
    Cancelled,
}

impl Engine {
    /// DESIGN "Revoked or replaced keys": looked at before every attempt.
    pub async fn ready_to_send(&self, _delivery: &Delivery, _body: &MessageBody) -> Result<Readiness, Error> {
        todo!()
    }
    /// One pass over messages that wait (scheduled and due, held, awaiting_signature): signs and queues what can go. Returns how many moved.
    pub async fn release_waiting(&self, _fence: &signpost_store::Fence) -> Result<usize, Error> {
        todo!()
    }
}
