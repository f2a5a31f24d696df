//! `signpost verify FILE`: the answer of POST /v1/verify without a server.
use crate::config::{DnsArgs, host_name, parse_size};
use crate::{Outcome, print};
use clap::Args;
use signpost_diagnosis::dns::Dns;
use signpost_engine::verify::{DmarcResult, Evaluation, Session, VerifiedMessage, verify_message};
use signpost_engine::{Clock as _, SystemClock};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit status where DMARC did not say pass.
const NOT_PASSED: u8 = 1;
/// Exit status where nothing could be concluded; clap's own for wrong arguments.
const TROUBLE: u8 = 2;

/// `signpost verify`.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 if DMARC passes, 1 if it does not (no record included), 2 if FILE is no message or cannot be read."
)]
pub(crate) struct VerifyArgs {
    /// The message as it was received; `-` reads standard input
    file: PathBuf,
    /// Print the answer of POST /v1/verify as one JSON object
    #[arg(long)]
    json: bool,
    /// Address of the SMTP client; without it SPF is not evaluated
    #[arg(long)]
    ip: Option<String>,
    /// Its EHLO name
    #[arg(long)]
    helo: Option<String>,
    /// Envelope sender; empty or absent is the null one
    #[arg(long)]
    mail_from: Option<String>,
    #[command(flatten)]
    dns: DnsArgs,
    /// Who judges, in Authentication-Results; default: the system's host name
    #[arg(long, env = "SIGNPOST_HOSTNAME")]
    hostname: Option<String>,
    /// Largest message, for example `25MB` (25,000,000 octets)
    #[arg(long, env = "SIGNPOST_MAX_MESSAGE", default_value = "25MB", value_parser = parse_size)]
    max_message: u64,
}

/// Prints what was concluded; the exit status says whether DMARC passed.
pub(crate) async fn run(args: VerifyArgs) -> ExitCode {
    match verify(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_PASSED),
        Err(error) => {
            crate::fail(error.as_ref());
            ExitCode::from(TROUBLE)
        }
    }
}

async fn verify(args: &VerifyArgs) -> Outcome<bool> {
    let session = Session::parse(args.ip.as_deref(), args.helo.as_deref(), args.mail_from.as_deref())
        .map_err(|fault| format!("--{} is {}", fault.name.replace('_', "-"), fault.detail))?;
    let authserv_id = host_name(args.hostname.as_deref())?;
    let raw = read_message(&args.file, args.max_message)?;
    let dns = Dns::new(args.dns.settings())?;
    let verified = verify_message(&dns, &authserv_id, raw, &session, SystemClock.now_s()).await?;
    let passed = verified.evaluation.dmarc == DmarcResult::Pass;
    if args.json {
        print(&String::from_utf8(signpost_http::verification_json(verified))?)?;
    } else {
        print(&for_people(&verified))?;
    }
    Ok(passed)
}

/// At most `limit` octets of a file or of standard input.
fn read_message(file: &Path, limit: u64) -> Outcome<Vec<u8>> {
    let mut raw = Vec::new();
    let shown = file.display();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit.saturating_add(1)).read_to_end(&mut raw)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit.saturating_add(1)).read_to_end(&mut raw))
    };
    let length = read.map_err(|error| format!("{shown}: {error}"))?;
    if length as u64 > limit {
        return Err(format!("{shown}: larger than {limit} octets (SIGNPOST_MAX_MESSAGE)").into());
    }
    Ok(raw)
}

/// A line for each result.
fn for_people(verified: &VerifiedMessage) -> String {
    let found = &verified.evaluation;
    let mut lines: Vec<String> = found
        .dkim
        .iter()
        .map(|one| {
            let name = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            let who = format!("d={} s={} a={}", name(&one.domain), name(&one.selector), name(&one.algorithm));
            line("dkim", one.result.as_str(), &who, one.reason.as_deref())
        })
        .collect();
    if lines.is_empty() {
        lines.push(line("dkim", "none", "the message has no DKIM-Signature", None));
    }
    lines.push(line("spf", found.spf.as_str(), &found.spf_domain, found.spf_reason.as_deref()));
    lines.push(line("dmarc", found.dmarc.as_str(), &policy(found), Some(&found.dmarc_reason)));
    lines.push(format!("Authentication-Results: {}", verified.authentication_results));
    lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
}

fn policy(found: &Evaluation) -> String {
    match (found.dmarc_policy, found.dmarc_policy_source, &found.dmarc_policy_domain) {
        (Some(policy), Some(source), Some(domain)) => {
            format!("{}={} at _dmarc.{domain}", source.as_str(), policy.as_str())
        }
        (_, _, _) => found.from_domain.clone().unwrap_or_default(),
    }
}

fn line(what: &str, result: &str, who: &str, reason: Option<&str>) -> String {
    let mut text = format!("{what:<5} {result:<9} {who}");
    if let Some(reason) = reason {
        let colon = if who.is_empty() { "" } else { ": " };
        text.push_str(&format!("{colon}{reason}"));
    }
    text.trim_end().to_owned()
}

/// What a sender controls must not steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_up_to_the_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"From: a\n").unwrap();
        assert_eq!(read_message(file.path(), 8).unwrap(), b"From: a\n");
        assert!(read_message(file.path(), 7).unwrap_err().to_string().contains("7 octets"));
        assert!(read_message(Path::new("/nonexistent/file"), 7).unwrap_err().to_string().contains("/nonexistent/file"));
    }

    #[test]
    fn lines_are_for_people_and_hold_no_control_characters() {
        assert_eq!(line("dkim", "pass", "d=example.com", None), "dkim  pass      d=example.com");
        assert_eq!(line("spf", "none", "", Some("no name")), "spf   none      no name");
        assert_eq!(plain("a\u{1b}[2Jb\r\n"), "a?[2Jb??");
    }
}
