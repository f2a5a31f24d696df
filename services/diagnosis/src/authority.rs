//! The authoritative servers of a zone, and what each of them says about a TXT name: referrals and CNAMEs followed.
//!
//! A recursive resolver is asked only for the NS and address records of zones, never for the name in question: it would keep
//! "does not exist" for up to a day (RFC 2308 5).
use crate::direct::AskError;
use crate::dns::{Dns, LookupError, fqdn, join_strings, name_text};
use crate::questions::Questions;
use crate::suffix::organizational_domain;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use psl::Psl;
use signpost_dkim::SigningDomain;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// CNAMEs and referrals followed for one name, each at most so many.
const HOPS_MAX: usize = 8;
/// Name servers of one zone; real zones have at most 13.
const HOSTS_MAX: usize = 13;
/// Addresses of one name server.
const ADDRESSES_MAX: usize = 4;
/// Addresses asked of one zone.
pub(crate) const SERVERS_MAX: usize = 32;
/// NS records of one referral that are looked at.
const REFERRED_MAX: usize = 100;
/// Replies for one name, of all zones that referrals and CNAMEs lead to.
const REPLIES_MAX: usize = 100;

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    label: String,
    address: SocketAddr,
}

/// A zone cut and the servers behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    apex: Name,
    servers: Vec<Server>,
    /// Servers that cannot be asked, and why.
    failed: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Zone {
    /// True if this zone, or one delegated from it, holds the name.
    pub(crate) fn holds(&self, name: &Name) -> bool {
        self.apex.zone_of(name)
    }

    /// Label (for people) and address of each server that can be asked.
    pub(crate) fn servers(&self) -> Vec<(String, SocketAddr)> {
        self.servers.iter().map(|server| (server.label.clone(), server.address)).collect()
    }

    /// The apex without trailing dot.
    pub(crate) fn apex_text(&self) -> String {
        name_text(&self.apex)
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// TXT records, the strings of each joined.
    Texts(Vec<String>),
    /// NXDOMAIN, or no TXT: in both cases there is nothing at the name.
    Nothing,
    /// A chain of CNAMEs that leads nowhere; why, as a clause.
    BrokenAlias(String),
    /// No authoritative answer; why, as a clause.
    Failed(String),
}

/// The last word of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Name and address, for people.
    pub(crate) server: String,
    pub(crate) outcome: Outcome,
    /// Names that the CNAMEs led to, in order; empty without CNAME.
    pub(crate) aliases: Vec<Name>,
    /// Who answered, and the apex of the zone that it answered from.
    pub(crate) origin: Option<(SocketAddr, Name)>,
}

/// All replies for one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replies {
    pub(crate) list: Vec<Reply>,
    pub(crate) warnings: BTreeSet<String>,
}

/// The zone of a domain, found from its organizational domain: referrals lead down from there, so that the resolver is not asked for a
/// subdomain which does not exist yet. `Err` is a sentence.
pub(crate) async fn locate_domain(questions: &Questions<'_>, domain: &SigningDomain) -> Result<Zone, String> {
    let organizational = organizational_domain(domain).unwrap_or_else(|| domain.clone());
    let Some(top) = fqdn(organizational.as_str()) else {
        return Err(format!("{organizational} is not a domain name."));
    };
    let below: Vec<Name> = domain
        .self_and_ancestors()
        .iter()
        .filter(|name| **name != organizational && name.is_at_or_below(&organizational))
        .filter_map(|name| fqdn(name.as_str()))
        .collect();
    locate(questions, top, below).await
}

/// The zone of a name outside the tenant's zone, such as the target of a CNAME: from its organizational domain on, so that the resolver
/// is asked neither for it nor for a name above it that may not exist yet (RFC 8020: what is below such a name does not exist either).
pub(crate) async fn locate_target(questions: &Questions<'_>, target: &Name) -> Result<Zone, String> {
    let registrable = psl::List
        .domain(name_text(target).as_bytes())
        .and_then(|domain| fqdn(std::str::from_utf8(domain.as_bytes()).ok()?));
    locate(questions, registrable.unwrap_or_else(|| target.base_name()), Vec::new()).await
}

/// Asks the resolver for NS at `start`, then at each parent. The `fallback` names are asked only if there was no answer for `start`.
async fn locate(questions: &Questions<'_>, start: Name, fallback: Vec<Name>) -> Result<Zone, String> {
    let mut trouble = None;
    let mut candidates = std::collections::VecDeque::from([start.clone()]);
    candidates.extend(fallback);
    let mut parent = start.base_name();
    while !parent.is_root() {
        candidates.push_back(parent.clone());
        parent = parent.base_name();
    }
    let mut skip_below_start = false;
    while let Some(candidate) = candidates.pop_front() {
        if candidate.is_root() || (skip_below_start && candidate != start && start.zone_of(&candidate)) {
            continue;
        }
        match questions.name_servers(&candidate).await {
            Ok(hosts) => {
                let hosts = hosts.into_iter().map(|host| (host, Vec::new())).collect();
                return Ok(zone(questions, candidate, hosts).await);
            }
            // An answer: no zone cut here.
            Err(LookupError::NoName | LookupError::NoData) => skip_below_start = true,
            Err(LookupError::Temporary(reason)) => {
                trouble.get_or_insert(format!("{}: {reason}", name_text(&candidate)));
                if questions.are_over() {
                    break;
                }
            }
        }
    }
    Err(match trouble {
        Some(trouble) => format!("The resolver gave no name servers ({trouble})."),
        None => format!("No name servers were found for {} or above.", name_text(&start)),
    })
}

/// Resolves and judges the servers of a zone. `hosts` carry glue addresses; those without are resolved.
pub(crate) async fn zone(questions: &Questions<'_>, apex: Name, hosts: BTreeMap<Name, Vec<IpAddr>>) -> Zone {
    let mut zone = Zone { apex, servers: Vec::new(), failed: Vec::new(), warnings: Vec::new() };
    if hosts.len() > HOSTS_MAX {
        zone.warnings.push(format!("Only {HOSTS_MAX} of {} name servers were asked.", hosts.len()));
    }
    let lookups = hosts.into_iter().take(HOSTS_MAX).map(|(host, glue)| async move {
        let found = match glue.is_empty() {
            true => questions.addresses(&host).await.map_err(|error| error.to_string()),
            false => Ok(glue),
        };
        (name_text(&host), found)
    });
    for (host, found) in join_all(lookups).await {
        match found {
            Ok(addresses) => zone.add(questions.dns(), &host, addresses),
            Err(reason) => zone.failed.push((host.clone(), format!("its address cannot be found ({reason})"))),
        }
    }
    if zone.servers.len() > SERVERS_MAX {
        zone.warnings.push(format!("Only {SERVERS_MAX} of {} server addresses were asked.", zone.servers.len()));
        zone.servers.truncate(SERVERS_MAX);
    }
    zone
}

impl Zone {
    fn add(&mut self, dns: &Dns, host: &str, addresses: Vec<IpAddr>) {
        if addresses.len() > ADDRESSES_MAX {
            self.warnings.push(format!("Only {ADDRESSES_MAX} of {} addresses of {host} were asked.", addresses.len()));
        }
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let label = format!("{host} ({address})");
            let socket = SocketAddr::new(address, dns.authority_port());
            if !dns.guard().permits(address) {
                self.failed.push((
                    label,
                    "its address is not public and is not asked; if it is meant to be, the operator allows it with \
                     SIGNPOST_DANGEROUS_ALLOW_TARGETS"
                        .to_owned(),
                ));
            } else if !self.servers.iter().any(|server| server.address == socket) {
                self.servers.push(Server { label, address: socket });
            }
        }
    }
}

/// Asks the servers of the zone for TXT at `name`, all at once: every one, or as many as the questions allow for.
pub(crate) async fn txt(questions: &Questions<'_>, zone: &Zone, name: &Name) -> Replies {
    follow(Walk { questions, zone: zone.clone(), name: name.clone(), aliases: Vec::new(), hops: 0 }).await
}

struct Walk<'a> {
    questions: &'a Questions<'a>,
    zone: Zone,
    /// The name to ask for now.
    name: Name,
    aliases: Vec<Name>,
    hops: usize,
}

/// What one reply leads to.
enum Step {
    Done(Outcome, Vec<Name>),
    Referral { apex: Name, hosts: BTreeMap<Name, Vec<IpAddr>> },
    Alias(Vec<Name>),
}

fn follow(walk: Walk<'_>) -> BoxFuture<'_, Replies> {
    async move {
        let mut replies = Replies::default();
        replies.warnings.extend(walk.zone.warnings.iter().cloned());
        for (server, reason) in &walk.zone.failed {
            replies.failed(server.clone(), reason.clone(), &walk.aliases);
        }
        // where fewer are asked than there are, they are spread, since the addresses of one host stand together
        let step = walk.zone.servers.len().div_ceil(walk.questions.servers()).max(1);
        let servers: Vec<&Server> = walk.zone.servers.iter().step_by(step).collect();
        let answers = join_all(servers.iter().map(|server| ask_server(server, &walk))).await;
        let mut referrals: BTreeMap<Name, BTreeMap<Name, Vec<IpAddr>>> = BTreeMap::new();
        let mut targets: BTreeMap<Vec<Name>, String> = BTreeMap::new();
        for (server, answer) in servers.into_iter().zip(answers) {
            match answer.map(|message| read(&message, &walk)) {
                Ok(Step::Done(outcome, aliases)) => {
                    let origin = Some((server.address, walk.zone.apex.clone()));
                    replies.add(Reply { server: server.label.clone(), outcome, aliases, origin });
                }
                Ok(Step::Referral { apex, hosts }) => referrals.entry(apex).or_default().extend(hosts),
                Ok(Step::Alias(aliases)) => {
                    targets.entry(aliases).or_insert_with(|| server.label.clone());
                }
                Err(AskError::Failed(reason)) => replies.failed(server.label.clone(), reason, &walk.aliases),
                Err(AskError::NoRoute) => {
                    replies.warnings.insert(format!(
                        "{} was not asked: this host has no route for its address family.",
                        server.label
                    ));
                }
            }
        }
        for (apex, hosts) in referrals {
            let next = zone(walk.questions, apex, hosts).await;
            replies.merge(descend(&walk, next, walk.name.clone(), walk.aliases.clone()).await);
        }
        for (aliases, server) in targets {
            replies.merge(chase(&walk, aliases, server).await);
        }
        replies
    }
    .boxed()
}

/// Some servers fail on a TXT question where CNAMEs form a loop; the CNAME itself they do tell.
async fn ask_server(server: &Server, walk: &Walk<'_>) -> Result<Message, AskError> {
    let reply = walk.questions.direct(server.address, &walk.name, RecordType::TXT).await?;
    if reply.metadata.response_code != ResponseCode::ServFail {
        return Ok(reply);
    }
    match walk.questions.direct(server.address, &walk.name, RecordType::CNAME).await {
        Ok(alias) if alias.answers.iter().any(|record| record.record_type() == RecordType::CNAME) => Ok(alias),
        Ok(_) | Err(_) => Ok(reply),
    }
}

/// Asks the next zone, unless the way there is too long.
async fn descend(walk: &Walk<'_>, next: Zone, name: Name, aliases: Vec<Name>) -> Replies {
    if walk.hops >= HOPS_MAX {
        let mut replies = Replies::default();
        let reason = format!("more than {HOPS_MAX} referrals and aliases had to be followed");
        replies.failed(next.apex_text(), reason, &aliases);
        return replies;
    }
    follow(Walk { questions: walk.questions, zone: next, name, aliases, hops: walk.hops + 1 }).await
}

/// Finds the zone of a CNAME's target and asks there. `server` is who named the target.
async fn chase(walk: &Walk<'_>, aliases: Vec<Name>, server: String) -> Replies {
    let Some(target) = aliases.last().cloned() else { return Replies::default() };
    let located =
        if walk.zone.holds(&target) { Ok(walk.zone.clone()) } else { locate_target(walk.questions, &target).await };
    match located {
        Ok(next) => descend(walk, next, target, aliases).await,
        Err(reason) => {
            let mut replies = Replies::default();
            replies.failed(server, format!("its CNAME leads to {}: {reason}", name_text(&target)), &aliases);
            replies
        }
    }
}

impl Replies {
    fn failed(&mut self, server: String, reason: String, aliases: &[Name]) {
        self.add(Reply { server, outcome: Outcome::Failed(reason), aliases: aliases.to_vec(), origin: None });
    }

    fn add(&mut self, reply: Reply) {
        if self.list.len() < REPLIES_MAX {
            self.list.push(reply);
        } else {
            self.warnings.insert(format!("Only the first {REPLIES_MAX} replies were judged."));
        }
    }

    fn merge(&mut self, other: Self) {
        other.list.into_iter().for_each(|reply| self.add(reply));
        self.warnings.extend(other.warnings);
    }
}

/// RFC 1034 4.3.1, RFC 2308 2: an answer, nothing, a referral, or an error.
fn read(message: &Message, walk: &Walk<'_>) -> Step {
    let done = |outcome| Step::Done(outcome, walk.aliases.clone());
    let code = message.metadata.response_code;
    if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
        return done(Outcome::Failed(format!("it answered {code}")));
    }
    if !message.metadata.authoritative {
        return match referral(message, walk) {
            Some((apex, hosts)) => Step::Referral { apex, hosts },
            None => done(Outcome::Failed(format!(
                "it does not serve the zone {} (its answer is not authoritative)",
                walk.zone.apex_text()
            ))),
        };
    }
    read_chain(message, walk)
}

/// RFC 1034 3.6.2: the CNAMEs in the answer, as far as this zone's servers may speak for the names.
fn read_chain(message: &Message, walk: &Walk<'_>) -> Step {
    let mut name = walk.name.clone();
    let mut aliases = walk.aliases.clone();
    loop {
        let here = |kind: RecordType| {
            message.answers.iter().filter(move |r| r.record_type() == kind).filter(|r| r.name == name)
        };
        let mut texts: Vec<String> = here(RecordType::TXT)
            .filter_map(|r| if let RData::TXT(txt) = &r.data { Some(join_strings(txt)) } else { None })
            .collect();
        if !texts.is_empty() {
            // servers deal them out in changing order
            texts.sort();
            return Step::Done(Outcome::Texts(texts), aliases);
        }
        let target = here(RecordType::CNAME)
            .find_map(|r| if let RData::CNAME(to) = &r.data { Some(to.0.to_lowercase()) } else { None });
        let Some(target) = target else { break };
        if target == walk.name || aliases.contains(&target) {
            aliases.push(target);
            return Step::Done(Outcome::BrokenAlias("the CNAME records form a loop".to_owned()), aliases);
        }
        aliases.push(target.clone());
        if aliases.len() > HOPS_MAX {
            return Step::Done(
                Outcome::BrokenAlias(format!("more than {HOPS_MAX} CNAME records follow one another")),
                aliases,
            );
        }
        if !walk.zone.holds(&target) {
            return Step::Alias(aliases);
        }
        name = target;
    }
    let has_soa = message.authorities.iter().any(|r| r.record_type() == RecordType::SOA);
    let final_word = name == walk.name || message.metadata.response_code == ResponseCode::NXDomain || has_soa;
    if final_word { Step::Done(Outcome::Nothing, aliases) } else { Step::Alias(aliases) }
}

/// NS records of a zone below this one that the name lies in, with glue from inside this zone.
fn referral(message: &Message, walk: &Walk<'_>) -> Option<(Name, BTreeMap<Name, Vec<IpAddr>>)> {
    if !message.answers.is_empty() || message.metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let cut = message.authorities.iter().find(|r| r.record_type() == RecordType::NS)?.name.to_lowercase();
    if cut == walk.zone.apex || !walk.zone.holds(&cut) || !cut.zone_of(&walk.name) {
        return None;
    }
    let hosts = message.authorities.iter().filter(|r| r.name == cut).filter_map(|r| match &r.data {
        RData::NS(ns) => Some(ns.0.to_lowercase()),
        _ => None,
    });
    let glue = |host: &Name| -> Vec<IpAddr> {
        if !walk.zone.holds(host) {
            return Vec::new();
        }
        let all = message.additionals.iter().filter(|r| r.name == *host).filter_map(|r| r.data.ip_addr());
        all.take(ADDRESSES_MAX).collect()
    };
    let hosts: BTreeSet<Name> = hosts.take(REFERRED_MAX).collect();
    Some((cut.clone(), hosts.iter().map(|host| (host.clone(), glue(host))).collect()))
}
