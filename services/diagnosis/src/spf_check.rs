//! The verdict on an SPF record: evaluated for the addresses that mail leaves from, with the record to publish instead.
use crate::check::Status;
use crate::evaluate::{SpfResult, Transaction};
use crate::judge::Verdict;
use crate::questions::Questions;
use crate::spf;
use futures_util::future::join_all;
use std::net::IpAddr;
use tokio::time::timeout_at;

/// Lookups of one evaluation (RFC 7208 4.6.4).
const LOOKUPS: usize = 10;

/// What the evaluation needs.
pub(crate) struct SpfCheck<'a> {
    pub(crate) questions: &'a Questions<'a>,
}

impl SpfCheck<'_> {
    /// RFC 7208: one record, and a pass for every address that mail leaves from.
    pub(crate) async fn verdict(&self, name: &str, egress: &[IpAddr], texts: &[String]) -> Verdict {
        let records: Vec<String> = texts.iter().filter(|text| spf::is_spf(text)).cloned().collect();
        match records.as_slice() {
            [] => missing(name, texts),
            [found] => self.single(name, egress, found).await,
            several => {
                let merged = self.suggestion(name, &spf::merge(several), egress).await;
                Verdict::new(
                    Status::Duplicate,
                    format!("There are {} SPF records at {name}; only one is allowed, receivers then say permerror (RFC 7208 4.5). Replace them by one: `{merged}`.", several.len()),
                )
                .publish(merged)
            }
        }
    }

    async fn single(&self, name: &str, egress: &[IpAddr], found: &str) -> Verdict {
        let hints = spf::suspicious_terms(found);
        if let Some(fault) = spf::syntax_fault(found) {
            return Verdict::new(
                Status::Malformed,
                format!("The SPF record at {name} is wrong, receivers say permerror: {fault}."),
            )
            .warn(hints);
        }
        let results = join_all(egress.iter().map(|ip| self.result(name, found, *ip))).await;
        let not_passed: Vec<IpAddr> = egress
            .iter()
            .zip(&results)
            .filter(|(_, (result, _))| *result != SpfResult::Pass)
            .map(|(ip, _)| *ip)
            .collect();
        let Some((_, reason)) = results.iter().find(|(result, _)| *result != SpfResult::Pass) else {
            return Verdict::new(Status::Ok, format!("The SPF record at {name} lets our servers send.")).warn(hints);
        };
        let reason = reason.clone().unwrap_or_default();
        if results.iter().all(|(result, _)| matches!(result, SpfResult::Pass | SpfResult::Temperror)) {
            return Verdict::new(Status::Unreachable, format!("its SPF record could not be evaluated ({reason})"))
                .warn(hints);
        }
        let suggestion = self.suggestion(name, found, &not_passed).await;
        let explanation =
            format!("The SPF record at {name} does not let our servers send: {reason}. Replace it by `{suggestion}`.");
        Verdict::new(Status::Mismatch, explanation).warn(hints).publish(suggestion)
    }

    async fn result(&self, name: &str, found: &str, ip: IpAddr) -> (SpfResult, Option<String>) {
        let mail_from = format!("postmaster@{name}");
        let transaction = Transaction { ip: Some(ip), helo: name, mail_from: &mail_from };
        if let Err(reason) = self.questions.spend(LOOKUPS) {
            return (SpfResult::Temperror, Some(reason));
        }
        timeout_at(self.questions.until(), spf::evaluate_record(self.questions.dns(), name, found, ip, &transaction))
            .await
            .unwrap_or_else(|_| (SpfResult::Temperror, Some("the DNS lookups took too long".to_owned())))
    }

    /// The record with the addresses before `all` or, where that would not make them pass, in front of everything.
    async fn suggestion(&self, name: &str, found: &str, addresses: &[IpAddr]) -> String {
        let results = join_all(addresses.iter().map(|ip| self.result(name, found, *ip))).await;
        let lacking: Vec<IpAddr> = addresses
            .iter()
            .zip(results)
            .filter(|(_, (result, _))| *result != SpfResult::Pass)
            .map(|(ip, _)| *ip)
            .collect();
        let usual = spf::authorize(found, &lacking);
        let checks = join_all(lacking.iter().map(|ip| self.result(name, &usual, *ip))).await;
        if checks.iter().any(|(result, _)| !matches!(result, SpfResult::Pass | SpfResult::Temperror)) {
            return spf::authorize_first(found, &lacking);
        }
        usual
    }
}

fn missing(name: &str, texts: &[String]) -> Verdict {
    let near_miss =
        texts.iter().find(|text| text.to_ascii_lowercase().replace(['"', ' ', '\\'], "").starts_with("v=spf"));
    match near_miss {
        Some(text) if !text.to_ascii_lowercase().starts_with("v=spf2.0") => Verdict::new(
            Status::Malformed,
            format!(
                "The TXT record at {name} is not an SPF record for receivers: it must begin with exactly `v=spf1` and a space (RFC 7208 4.5)."
            ),
        ),
        Some(_) | None => {
            Verdict::new(Status::Missing, format!("There is no SPF record at {name}. Publish the one shown."))
        }
    }
}
