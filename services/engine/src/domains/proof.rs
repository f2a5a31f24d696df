//! The last question of a check: does a signature by the key verify with the record that DNS returned? It finds what a comparison of
//! public keys cannot, a custody that holds another private key.
use super::records::Listed;
use crate::custody::waiting_reason;
use crate::messages::signers::key_parts;
use crate::{Engine, Error};
use futures_util::future::join_all;
use signpost_diagnosis::check::{Finding, Status};
use signpost_dkim::message::Message;
use signpost_dkim::record;
use signpost_dkim::sign::{self, Policy};
use signpost_dkim::verify::{DkimResult, KeyAnswer, Verifier};
use signpost_keys::CustodyKind;
use signpost_store::KeyRow;
use tokio::time::{Instant, timeout_at};

/// What came of it.
enum Proof {
    /// It verifies.
    Holds,
    /// There is no signature now; why, as a clause. Says nothing about the record.
    NotMade(String),
    /// It does not verify; why, as a clause.
    Fails(String),
}

impl Engine {
    /// Signs with every key whose record was found right, all at the same time, until the deadline. A record whose proof fails becomes
    /// a mismatch; a custody that is away is a warning, no fault of DNS.
    pub(super) async fn prove_keys(
        &self,
        keys: &[KeyRow],
        listed: &[Listed],
        findings: &mut [Finding],
        until: Instant,
    ) -> Result<(), Error> {
        let proofs = listed.iter().zip(findings.iter_mut()).filter_map(|(listed, finding)| {
            let key = keys.iter().find(|key| Some(&key.id) == listed.key_id.as_ref())?;
            (finding.status == Status::Ok).then_some((key, finding))
        });
        let proven = join_all(proofs.map(|(key, finding)| async {
            let proof = self.prove(key, &finding.found, until).await?;
            weigh(key, finding, proof);
            Ok::<_, Error>(())
        }));
        proven.await.into_iter().collect()
    }

    /// A message signed as mail is, and verified as a receiver does.
    async fn prove(&self, key: &KeyRow, texts: &[String], until: Instant) -> Result<Proof, Error> {
        // A record is shown shortened where it is huge; what is left of it may not be a key any more.
        let texts: Vec<&String> = texts.iter().filter(|text| record::parse(text).is_ok()).collect();
        if texts.is_empty() {
            return Ok(Proof::NotMade("the record is too long to try a signature with".into()));
        }
        if let Some(reason) = self.inner.outages.reason(&key.id) {
            return Ok(Proof::NotMade(reason));
        }
        let (binding, stored, signer) = key_parts(key)?;
        let internal = |error: &dyn std::fmt::Display| Error::Internal(format!("the proof of a key: {error}"));
        let text =
            format!("From: postmaster@{}\r\nSubject: Check of a key\r\n\r\nSigned by Signpost.\r\n", signer.domain);
        let message = Message::parse(text.as_bytes()).map_err(|error| internal(&error))?;
        let now = self.inner.clock.now_s();
        let draft = sign::prepare(&message, &signer, &Policy::default(), now).map_err(|error| internal(&error))?;
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| Error::Internal(format!("stored custody {:?}", key.custody)))?;
        let custody = match self.custody(kind) {
            Ok(custody) => custody,
            Err(error) => return Ok(Proof::NotMade(waiting_reason(key, error))),
        };
        let signature = match timeout_at(until, custody.sign(&binding, &stored, draft.digest())).await {
            Ok(Ok(signature)) => signature,
            Ok(Err(error)) => return Ok(Proof::NotMade(waiting_reason(key, error))),
            Err(_) => return Ok(Proof::NotMade("it did not answer in time".into())),
        };
        let signed = format!("{}{text}", draft.finish(&signature));
        let signed = Message::parse(signed.as_bytes()).map_err(|error| internal(&error))?;
        let verifier = Verifier::new(&signed);
        let failed = texts.into_iter().find_map(|text| {
            let results = verifier.verify(&|_| KeyAnswer::Text(vec![text.clone()]), now);
            match results.as_slice() {
                [one] if one.result == DkimResult::Pass => None,
                [one] => Some(one.reason.clone().unwrap_or_else(|| one.result.as_str().into())),
                _ => Some("the signature was not found".into()),
            }
        });
        Ok(failed.map_or(Proof::Holds, Proof::Fails))
    }
}

fn weigh(key: &KeyRow, finding: &mut Finding, proof: Proof) {
    let name = format!("{}._domainkey.{}", key.selector, key.domain_name);
    match proof {
        Proof::Holds => {}
        Proof::NotMade(reason) => finding.warnings.push(format!(
            "No signature was tried with the record at {name}, the key could not be used: {reason}. The record itself is right."
        )),
        Proof::Fails(reason) => {
            tracing::error!(key = %key.id, domain = %key.domain_name, reason, "a trial signature does not verify with the published record");
            finding.status = Status::Mismatch;
            finding.explanation = format!(
                "The record at {name} is the one shown, but a signature made with the key now does not verify with it: {reason}. The custody \
                 ({}) signs with another private key, so receivers would refuse all mail. This is no fault of DNS: make a new key for the \
                 domain and publish its record, and tell the operator.",
                key.custody
            );
        }
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
