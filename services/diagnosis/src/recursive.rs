//! What recursive resolvers say: of a record once the authoritative servers have answered right (before, the question would plant
//! "does not exist" for up to a day, RFC 2308 5), and of zones that do not validate.
use crate::authority::{Outcome, Reply};
use crate::direct::{AskError, Manner};
use crate::dns::join_strings;
use crate::questions::Questions;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Resolvers tried until one answers.
const RESOLVERS_MAX: usize = 3;
/// CNAMEs followed in an answer.
const HOPS_MAX: usize = 16;

/// The word of the first resolver that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// The resolver, for people.
    pub(crate) resolver: String,
    pub(crate) word: Word,
}

/// What a resolver says of a TXT name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// An answer, and for how many more seconds it will be given if the resolver keeps it.
    Answer { reply: Reply, ttl: Option<u32> },
    /// SERVFAIL where it validates, an answer where it does not (RFC 4035 5.5, 3.2.2).
    Bogus,
}

/// Asks for TXT at `name`. `Err`: none answered; why, a clause for each, naming it.
pub(crate) async fn txt(questions: &Questions<'_>, name: &Name) -> Result<Told, Vec<String>> {
    let mut silent = Vec::new();
    for resolver in questions.dns().resolvers().iter().take(RESOLVERS_MAX) {
        let label = format!("resolver ({})", resolver.ip());
        match word(questions, *resolver, &label, name).await {
            Ok(word) => return Ok(Told { resolver: label, word }),
            Err(reason) => silent.push(format!("{label}: {reason}")),
        }
    }
    Err(silent)
}

async fn word(questions: &Questions<'_>, resolver: SocketAddr, label: &str, name: &Name) -> Result<Word, String> {
    let ask = |manner| questions.resolver(resolver, name, RecordType::TXT, manner);
    let mut reply = ask(Manner::Resolver).await.map_err(reason)?;
    if reply.metadata.response_code == ResponseCode::ServFail {
        let unchecked = ask(Manner::Unchecked).await.map_err(reason)?;
        if has_answer(&unchecked) {
            // A resolver that was only too slow the first time knows by now.
            reply = ask(Manner::Resolver).await.map_err(reason)?;
            if reply.metadata.response_code == ResponseCode::ServFail {
                return Ok(Word::Bogus);
            }
        }
    }
    let (outcome, aliases, ttl) = read(&reply, name)?;
    Ok(Word::Answer { reply: Reply { server: label.to_owned(), outcome, aliases, origin: None }, ttl })
}

fn reason(error: AskError) -> String {
    match error {
        AskError::Failed(reason) => reason,
        AskError::NoRoute => "this host has no route for its address family".to_owned(),
    }
}

fn has_answer(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::NoError && !message.answers.is_empty()
}

/// RFC 1034 5.3.3, RFC 2308 2: the record at the end of the CNAMEs, or that there is none.
fn read(message: &Message, name: &Name) -> Result<(Outcome, Vec<Name>, Option<u32>), String> {
    let code = message.metadata.response_code;
    if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
        return Err(format!("it answered {code}"));
    }
    let mut aliases: Vec<Name> = Vec::new();
    let mut ttls = Vec::new();
    loop {
        let end = aliases.last().unwrap_or(name);
        let mut texts = Vec::new();
        let mut next = None;
        for record in message.answers.iter().filter(|record| record.name == *end) {
            match &record.data {
                RData::TXT(txt) => texts.push(join_strings(txt)),
                RData::CNAME(target) => next = Some(target.0.to_lowercase()),
                _ => continue,
            }
            ttls.push(record.ttl);
        }
        if !texts.is_empty() {
            texts.sort();
            return Ok((Outcome::Texts(texts), aliases, ttls.into_iter().min()));
        }
        match next {
            Some(target) if aliases.len() < HOPS_MAX && target != *name && !aliases.contains(&target) => {
                aliases.push(target);
            }
            Some(_) => return Err("its CNAME records form a loop".to_owned()),
            None => break,
        }
    }
    // RFC 2308 5: so long the absence is kept.
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let is_final = code == ResponseCode::NXDomain || negative.is_some() || message.metadata.recursion_available;
    match is_final {
        true => Ok((Outcome::Nothing, aliases, negative)),
        false => {
            Err("it gave a referral instead of an answer, so it is no recursive resolver for this name".to_owned())
        }
    }
}

/// The first answer that a resolver gives without validating.
async fn unchecked(questions: &Questions<'_>, name: &Name, kind: RecordType) -> Option<Message> {
    for resolver in questions.dns().resolvers().iter().take(RESOLVERS_MAX) {
        match questions.resolver(*resolver, name, kind, Manner::Unchecked).await {
            Ok(reply) if has_answer(&reply) => return Some(reply),
            Ok(_) | Err(AskError::Failed(_) | AskError::NoRoute) => {}
        }
    }
    None
}

/// Host names of the NS records at exactly this name, validated or not; `None` without any.
pub(crate) async fn unchecked_name_servers(questions: &Questions<'_>, zone: &Name) -> Option<Vec<Name>> {
    let reply = unchecked(questions, zone, RecordType::NS).await?;
    let hosts: BTreeSet<Name> = reply
        .answers
        .iter()
        .filter(|record| record.name == *zone)
        .filter_map(|record| if let RData::NS(ns) = &record.data { Some(ns.0.to_lowercase()) } else { None })
        .collect();
    (!hosts.is_empty()).then(|| hosts.into_iter().collect())
}

/// A and AAAA, validated or not; `None` without any.
pub(crate) async fn unchecked_addresses(questions: &Questions<'_>, host: &Name) -> Option<Vec<IpAddr>> {
    let (v4, v6) =
        tokio::join!(unchecked(questions, host, RecordType::A), unchecked(questions, host, RecordType::AAAA));
    let found: BTreeSet<IpAddr> =
        [v4, v6].iter().flatten().flat_map(|reply| reply.answers.iter().filter_map(|r| r.data.ip_addr())).collect();
    (!found.is_empty()).then(|| found.into_iter().collect())
}
