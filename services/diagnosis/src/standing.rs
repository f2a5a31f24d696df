//! What stands at a name now, octet for octet, and which zone holds it, by that zone's own servers: what a program that publishes
//! records must know so that it overwrites nothing.
//!
//! As in `authority`, a recursive resolver is asked for NS and address records only.
use crate::authority;
use crate::check::{Finding, ServerAnswer, Status};
use crate::direct::AskError;
use crate::dns::{Dns, fqdn, name_text};
use crate::questions::Questions;
use crate::{dmarc, spf};
use futures_util::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use signpost_dkim::SigningDomain;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// Questions of one look.
const QUESTIONS_MAX: usize = 400;
/// Servers of one zone that are asked.
const SERVERS_MAX: usize = 13;
/// Servers of one zone that are asked where it is cut: they say the same.
const CUT_SERVERS: usize = 4;
/// Referrals and labels that the search for a cut follows.
const STEPS_MAX: usize = 12;
/// A label that nobody publishes: what it has, a wildcard gave it (RFC 4592 2.1.1).
const PROBE: &str = "_signpost-wildcard-probe";

/// Type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Txt,
    /// Alias.
    Cname,
    /// Mail exchanger.
    Mx,
}

impl Kind {
    /// What is asked: a question for TXT shows a CNAME too, one for CNAME would hide the TXT in its way.
    fn question(self) -> RecordType {
        match self {
            Self::Txt | Self::Cname => RecordType::TXT,
            Self::Mx => RecordType::MX,
        }
    }
}

/// Data of a record. Names are lower case without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// The character-strings, each of at most 255 octets (RFC 1035 3.3.14).
    Txt(Vec<Vec<u8>>),
    /// The canonical name (RFC 1035 3.3.1).
    Cname(String),
    /// RFC 1035 3.3.9.
    Mx {
        /// Lower is tried first.
        preference: u16,
        /// Who takes mail.
        host: String,
    },
}

impl Data {
    /// True for an SPF record (RFC 7208 4.5).
    pub fn is_spf(&self) -> bool {
        self.text().is_some_and(|text| spf::is_spf(&text))
    }

    /// True for what is, or was meant as, a DMARC record (RFC 7489 6.3).
    pub fn is_dmarc(&self) -> bool {
        self.text().is_some_and(|text| dmarc::is_dmarc(&text) || dmarc::is_near_miss(&text))
    }

    /// The strings joined (RFC 7208 3.3), if it is text.
    fn text(&self) -> Option<String> {
        match self {
            Self::Txt(strings) => Some(String::from_utf8_lossy(&strings.concat()).into_owned()),
            Self::Cname(_) | Self::Mx { .. } => None,
        }
    }

    fn read(data: &RData) -> Option<Self> {
        match data {
            RData::TXT(txt) => Some(Self::Txt(txt.txt_data.iter().map(|string| string.to_vec()).collect())),
            RData::CNAME(target) => Some(Self::Cname(name_text(&target.0))),
            RData::MX(mx) => Some(Self::Mx { preference: mx.preference, host: name_text(&mx.exchange) }),
            _ => None,
        }
    }
}

/// A record that stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Seconds.
    pub ttl: u32,
    /// Its data.
    pub data: Data,
}

/// The zone that holds a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneCut {
    /// Without trailing dot.
    pub apex: String,
    /// MNAME of the SOA, the server that takes dynamic updates (RFC 2136 4.3), if it is a host name; and its address where it is
    /// one of the zone's public servers.
    pub primary: Option<(String, Option<SocketAddr>)>,
}

/// A name and what its zone's servers say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `None`: DNS gave no answer.
    pub zone: Option<ZoneCut>,
    /// Each server that was asked and what stands there, or why it did not tell, as a clause.
    pub servers: Vec<(String, Result<Vec<Standing>, String>)>,
    /// Why no server could be asked, as a sentence.
    trouble: Option<String>,
}

impl Place {
    /// What the servers of a zone said.
    pub fn of(zone: ZoneCut, servers: Vec<(String, Result<Vec<Standing>, String>)>) -> Self {
        Self { zone: Some(zone), servers, trouble: None }
    }

    fn unknown(trouble: &str) -> Self {
        Self { zone: None, servers: Vec::new(), trouble: Some(trouble.to_owned()) }
    }

    /// What stands there, if at least one server said it and all that answered say the same. `Err` is a sentence.
    pub fn standing(&self) -> Result<&[Standing], String> {
        let mut answers = self.servers.iter().filter_map(|(_, said)| said.as_deref().ok());
        let Some(first) = answers.next() else { return Err(self.silence()) };
        match answers.all(|other| data_set(other) == data_set(first)) {
            true => Ok(first),
            false => Err("The servers of the zone do not agree about it.".to_owned()),
        }
    }

    fn silence(&self) -> String {
        let failed = self.servers.iter().find_map(|(server, said)| Some((server, said.as_ref().err()?)));
        match (&self.trouble, failed) {
            (Some(trouble), _) => trouble.clone(),
            (None, Some((server, reason))) => format!("No server of the zone answered ({server}: {reason})."),
            (None, None) => "The zone has no server that can be asked.".to_owned(),
        }
    }
}

/// RFC 2181 5: order and TTL make no difference between sets of records.
fn data_set(records: &[Standing]) -> BTreeSet<&Data> {
    records.iter().map(|record| &record.data).collect()
}

/// Looks at names at or below `domain`, within `deadline`; the result has the same order. At a wildcard owner (`*.x`) stands what a name
/// gets that nobody published; elsewhere what comes from a wildcard does not count. Never fails: trouble is in the result.
pub async fn places(dns: &Dns, domain: &SigningDomain, names: &[(String, Kind)], deadline: Duration) -> Vec<Place> {
    let questions = Questions::new(dns, Instant::now() + deadline, QUESTIONS_MAX, SERVERS_MAX);
    let top = match authority::locate_domain(&questions, domain).await {
        Ok(zone) => zone,
        Err(trouble) => return names.iter().map(|_| Place::unknown(&trouble)).collect(),
    };
    let look = Look { questions: &questions };
    join_all(names.iter().map(|(name, kind)| look.at(&top, name, *kind))).await
}

/// The servers of one zone.
#[derive(Debug, Clone)]
struct Cut {
    apex: Name,
    servers: Vec<(String, SocketAddr)>,
    primary: Option<Name>,
}

impl Cut {
    fn of(zone: &authority::Zone) -> Option<Self> {
        let mut servers = zone.servers();
        servers.truncate(SERVERS_MAX);
        Some(Self { apex: fqdn(&zone.apex_text())?, servers, primary: None })
    }

    fn shown(&self) -> ZoneCut {
        let primary = self.primary.as_ref().map(name_text).filter(|host| is_host_name(host)).map(|host| {
            let label = format!("{host} (");
            let mut of_host = self.servers.iter().filter(|(server, _)| server.starts_with(&label));
            let address = of_host.clone().find(|(_, address)| address.is_ipv4()).or_else(|| of_host.next());
            (host, address.map(|(_, address)| *address))
        });
        ZoneCut { apex: name_text(&self.apex), primary }
    }
}

/// What DNS names and a script would repeat: letters, digits, hyphens, dots.
fn is_host_name(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// What the servers of a zone say about the zone of a name.
enum Said {
    /// This is the zone's apex; the SOA's MNAME.
    Apex(Name, Name),
    /// A zone below, and its servers.
    Below(Name, BTreeMap<Name, Vec<IpAddr>>),
    /// The name is an alias, so no apex (RFC 1034 3.6.2): its parent lies in the same zone.
    Alias,
}

struct Look<'a> {
    questions: &'a Questions<'a>,
}

impl Look<'_> {
    async fn at(&self, top: &authority::Zone, name: &str, kind: Kind) -> Place {
        let wildcard = name.strip_prefix("*.").map(|rest| format!("{PROBE}.{rest}"));
        let Some(owner) = fqdn(wildcard.as_deref().unwrap_or(name)).filter(|owner| top.holds(owner)) else {
            return Place::unknown(&format!("{name} is no name of the zone {}.", top.apex_text()));
        };
        let Some(cut) = Cut::of(top) else { return Place::unknown("The zone's name cannot be asked for.") };
        let cut = self.cut(cut, &owner).await;
        let mut servers = self.ask(&cut, &owner, kind).await;
        let parent = owner.base_name();
        let something = servers.iter().any(|(_, said)| said.as_ref().is_ok_and(|found| !found.is_empty()));
        if wildcard.is_none() && something && cut.apex.zone_of(&parent) {
            self.without_wildcard(&cut, &parent, kind, &mut servers).await;
        }
        Place::of(cut.shown(), servers)
    }

    /// RFC 4592 2.2.1: a record published at a name takes it out of the wildcard.
    async fn without_wildcard(
        &self,
        cut: &Cut,
        parent: &Name,
        kind: Kind,
        servers: &mut [(String, Result<Vec<Standing>, String>)],
    ) {
        let Some(sibling) = fqdn(&format!("{PROBE}.{}", name_text(parent))) else { return };
        let probed = self.ask(cut, &sibling, kind).await;
        for (server, said) in servers {
            let Ok(found) = said else { continue };
            let of_wildcard = probed.iter().find(|(other, _)| other == server).and_then(|(_, said)| said.as_ref().ok());
            if of_wildcard.is_some_and(|wild| data_set(wild) == data_set(found)) {
                found.clear();
            }
        }
    }

    /// The zone of a name, from a zone above it or at it on: referrals followed, and zones that the same servers hold told apart.
    async fn cut(&self, start: Cut, owner: &Name) -> Cut {
        let mut cut = start;
        let mut name = owner.clone();
        for _ in 0..STEPS_MAX {
            let Some((server, said)) = self.soa(&cut, &name).await else { break };
            match said {
                Said::Apex(apex, primary) => {
                    if apex != cut.apex {
                        let hosts = self.hosts_of(server, &apex).await;
                        cut = self.child(&cut, apex, hosts).await;
                    }
                    return Cut { primary: Some(primary), ..cut };
                }
                Said::Below(apex, hosts) => cut = self.child(&cut, apex, hosts).await,
                Said::Alias if name != cut.apex => name = name.base_name(),
                Said::Alias => break,
            }
        }
        cut
    }

    /// A zone below; where its servers cannot be told, those that named it.
    async fn child(&self, above: &Cut, apex: Name, hosts: BTreeMap<Name, Vec<IpAddr>>) -> Cut {
        let zone = authority::zone(self.questions, apex.clone(), hosts).await;
        match Cut::of(&zone).filter(|child| !child.servers.is_empty()) {
            Some(child) => child,
            None => Cut { apex, servers: above.servers.clone(), primary: None },
        }
    }

    /// The first usable word about the SOA of a name.
    async fn soa(&self, cut: &Cut, name: &Name) -> Option<(SocketAddr, Said)> {
        let asked = cut.servers.iter().take(CUT_SERVERS).map(|(_, server)| async {
            let reply = self.questions.direct(*server, name, RecordType::SOA).await.ok()?;
            Some((*server, read_soa(&reply, &cut.apex, name)?))
        });
        join_all(asked).await.into_iter().flatten().next()
    }

    /// NS records at the apex of a zone that this server holds, with the addresses it adds.
    async fn hosts_of(&self, server: SocketAddr, apex: &Name) -> BTreeMap<Name, Vec<IpAddr>> {
        match self.questions.direct(server, apex, RecordType::NS).await {
            Ok(reply) => hosts(&reply, reply.answers.iter(), apex),
            Err(AskError::NoRoute | AskError::Failed(_)) => BTreeMap::new(),
        }
    }

    /// What each server says stands at the name.
    async fn ask(&self, cut: &Cut, owner: &Name, kind: Kind) -> Vec<(String, Result<Vec<Standing>, String>)> {
        let asked = cut.servers.iter().map(|(label, server)| async move {
            let said = match self.questions.direct(*server, owner, kind.question()).await {
                Ok(reply) => read_standing(&reply, owner),
                Err(AskError::Failed(reason)) => Err(reason),
                Err(AskError::NoRoute) => return None,
            };
            Some((label.clone(), said))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

fn hosts<'a>(
    reply: &Message,
    records: impl Iterator<Item = &'a hickory_proto::rr::Record>,
    apex: &Name,
) -> BTreeMap<Name, Vec<IpAddr>> {
    let servers = records.filter(|record| record.name == *apex).filter_map(|record| match &record.data {
        RData::NS(ns) => Some(ns.0.to_lowercase()),
        _ => None,
    });
    let glue = |host: &Name| {
        let named = reply.additionals.iter().filter(|record| record.name == *host);
        named.filter_map(|record| record.data.ip_addr()).collect()
    };
    servers.take(SERVERS_MAX).map(|host| (host.clone(), glue(&host))).collect()
}

/// RFC 2308 3: a negative answer carries the SOA of its zone. RFC 1034 4.3.2: a server that holds only the parent refers to the child.
fn read_soa(reply: &Message, apex: &Name, name: &Name) -> Option<Said> {
    if !matches!(reply.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let inside = |cut: &Name| apex.zone_of(cut) && cut.zone_of(name);
    if !reply.metadata.authoritative {
        let cut = reply.authorities.iter().find(|record| record.record_type() == RecordType::NS)?.name.to_lowercase();
        if cut == *apex || !inside(&cut) {
            return None;
        }
        // addresses from outside of the zone are not the server's to tell
        let mut found = hosts(reply, reply.authorities.iter(), &cut);
        found.iter_mut().filter(|(host, _)| !apex.zone_of(host)).for_each(|(_, glue)| glue.clear());
        return Some(Said::Below(cut, found));
    }
    if reply.answers.iter().any(|record| record.record_type() == RecordType::CNAME && record.name == *name) {
        return Some(Said::Alias);
    }
    reply.answers.iter().chain(&reply.authorities).find_map(|record| match &record.data {
        RData::SOA(soa) if inside(&record.name) => {
            Some(Said::Apex(record.name.to_lowercase(), soa.mname.to_lowercase()))
        }
        _ => None,
    })
}

fn read_standing(reply: &Message, owner: &Name) -> Result<Vec<Standing>, String> {
    let code = reply.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(format!("it answered {code}"));
    }
    if !reply.metadata.authoritative {
        return Err("its answer is not authoritative".to_owned());
    }
    let here = reply.answers.iter().filter(|record| record.name == *owner);
    Ok(here.filter_map(|record| Some(Standing { ttl: record.ttl, data: Data::read(&record.data)? })).collect())
}

/// The finding for a record of which exactly this must stand at the name, perhaps among others: an MX, or the TXT by which a report
/// receiver takes reports of others (RFC 7489 7.1), where every spelling of `v=DMARC1` counts.
pub fn compare(name: &str, want: &Data, place: &Place) -> Finding {
    let servers: Vec<ServerAnswer> = place
        .servers
        .iter()
        .map(|(server, said)| ServerAnswer {
            server: server.clone(),
            status: said.as_ref().map_or(Status::Unreachable, |found| compared(want, found)),
        })
        .collect();
    let wrong = [Status::Mismatch, Status::Missing, Status::Ok].into_iter();
    let status = wrong.into_iter().find(|status| servers.iter().any(|server| server.status == *status));
    let mut found: Vec<String> = Vec::new();
    let mut warnings = Vec::new();
    for (server, said) in &place.servers {
        match said {
            Err(reason) => warnings.push(format!("{server}: {reason}.")),
            Ok(records) => {
                for text in records.iter().map(|record| shown(&record.data)) {
                    if !found.contains(&text) {
                        found.push(text);
                    }
                }
            }
        }
    }
    let explanation = match status {
        None => format!("Nothing is known about {name}: {} Check again later.", place.silence()),
        Some(Status::Ok) => {
            if found.len() > 1 && matches!(want, Data::Mx { .. }) {
                warnings.push(format!("other records stand at {name} too; what goes to them does not come here"));
            }
            format!("The record at {name} is in place.")
        }
        Some(Status::Missing) => format!("There is no such record at {name}. Publish `{}`.", shown(want)),
        Some(_) => format!("Something else stands at {name}. Publish `{}` instead.", shown(want)),
    };
    Finding { status: status.unwrap_or(Status::Unreachable), warnings, found, servers, explanation, publish: None }
}

fn compared(want: &Data, found: &[Standing]) -> Status {
    let authorization = |data: &Data| data.text().is_some_and(|text| dmarc::is_dmarc(&text));
    let right = |record: &Standing| record.data == *want || (authorization(want) && authorization(&record.data));
    if found.iter().any(right) {
        return Status::Ok;
    }
    let in_the_way = |record: &Standing| !matches!((want, &record.data), (Data::Txt(_), Data::Txt(_)));
    if found.iter().any(in_the_way) { Status::Mismatch } else { Status::Missing }
}

/// Data for people.
fn shown(data: &Data) -> String {
    match data {
        Data::Txt(_) => data.text().unwrap_or_default(),
        Data::Cname(target) => format!("CNAME {target}"),
        Data::Mx { preference, host } => format!("{preference} {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA, TXT};

    fn name(text: &str) -> Name {
        fqdn(text).unwrap()
    }

    fn reply(authoritative: bool) -> Message {
        let mut reply = Message::new(1, MessageType::Response, OpCode::Query);
        reply.metadata.authoritative = authoritative;
        reply
    }

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 60, data)
    }

    fn soa(owner: &str) -> Record {
        record(owner, RData::SOA(SOA::new(name("ns1.example.com"), name("h.example.com"), 1, 2, 3, 4, 5)))
    }

    fn said(reply: &Message, asked: &str) -> String {
        match read_soa(reply, &name("example.com"), &name(asked)) {
            None => "nothing".to_owned(),
            Some(Said::Apex(apex, primary)) => format!("apex {} by {}", name_text(&apex), name_text(&primary)),
            Some(Said::Below(apex, hosts)) => {
                let hosts: Vec<String> =
                    hosts.iter().map(|(host, glue)| format!("{} {glue:?}", name_text(host))).collect();
                format!("below {}: {}", name_text(&apex), hosts.join(", "))
            }
            Some(Said::Alias) => "alias".to_owned(),
        }
    }

    #[test]
    fn the_zone_of_a_name_is_read_from_answers_and_referrals() {
        let asked = "s._domainkey.example.com";
        let mut negative = reply(true);
        negative.authorities.push(soa("example.com"));
        assert_eq!(said(&negative, asked), "apex example.com by ns1.example.com");
        let mut child = reply(true);
        child.authorities.push(soa("_domainkey.example.com"));
        assert_eq!(said(&child, asked), "apex _domainkey.example.com by ns1.example.com");
        let mut itself = reply(true);
        itself.answers.push(soa("example.com"));
        assert_eq!(said(&itself, "example.com"), "apex example.com by ns1.example.com");
        for foreign in ["com", "other.example.com", "example.net"] {
            let mut reply = reply(true);
            reply.authorities.push(soa(foreign));
            assert_eq!(said(&reply, asked), "nothing", "{foreign}");
        }
        let mut alias = reply(true);
        alias.answers.push(record(asked, RData::CNAME(CNAME(name("x.example.net")))));
        alias.authorities.push(soa("example.com"));
        assert_eq!(said(&alias, asked), "alias");
        let mut refused = negative.clone();
        refused.metadata.response_code = ResponseCode::Refused;
        assert_eq!(said(&refused, asked), "nothing");
    }

    #[test]
    fn a_referral_is_followed_only_downwards_and_with_its_own_addresses() {
        let asked = "s._domainkey.example.com";
        for (cut, expected) in [
            ("_domainkey.example.com", "below _domainkey.example.com: ns.example.com [192.0.2.1], ns.example.net []"),
            ("example.com", "nothing"),
            ("com", "nothing"),
            ("other.example.com", "nothing"),
        ] {
            let mut referral = reply(false);
            for host in ["ns.example.com", "ns.example.net"] {
                referral.authorities.push(record(cut, RData::NS(NS(name(host)))));
                referral.additionals.push(record(host, RData::A(A::new(192, 0, 2, 1))));
            }
            assert_eq!(said(&referral, asked), expected, "{cut}");
        }
    }

    #[test]
    fn what_stands_at_a_name_is_what_authoritative_servers_agree_on() {
        let owner = name("example.com");
        let text = |text: &str| RData::TXT(TXT::new(vec![text.to_owned()]));
        let mut answer = reply(true);
        answer.answers.push(record("example.com", text("b")));
        answer.answers.push(record("example.com", text("a")));
        answer.answers.push(record("elsewhere.example.com", text("c")));
        let found = read_standing(&answer, &owner).unwrap();
        assert_eq!(found.len(), 2);
        assert!(read_standing(&reply(false), &owner).is_err());
        let mut failed = reply(true);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert!(read_standing(&failed, &owner).is_err());

        let cut = || ZoneCut { apex: "example.com".to_owned(), primary: None };
        let mut turned = found.clone();
        turned.reverse();
        let server = |said: Result<Vec<Standing>, String>| ("ns".to_owned(), said);
        let silent = || server(Err("no answer in time".to_owned()));
        let place = Place::of(cut(), vec![server(Ok(found.clone())), silent(), server(Ok(turned))]);
        assert_eq!(place.standing().unwrap(), found);
        assert!(Place::of(cut(), vec![server(Ok(found)), server(Ok(vec![]))]).standing().is_err());
        assert!(Place::of(cut(), vec![silent()]).standing().unwrap_err().contains("no answer in time"));
    }

    #[test]
    fn only_a_plain_host_name_goes_into_a_script() {
        for (text, plain) in [
            ("ns1.example.com", true),
            ("localhost", false),
            ("a b.example", false),
            ("a\\010.example", false),
            ("$(x).example", false),
        ] {
            assert_eq!(is_host_name(text), plain, "{text}");
        }
    }
}
