//! Records that Signpost publishes itself: dynamic update (RFC 2136) of the operator's zone on its primary server, authenticated
//! by TSIG (RFC 8945), over TCP. What stands there is asked the same way, so that answers are as good as the key.
use crate::dns::{Dns, LookupError, fqdn, join_strings, name_text};
use futures_util::StreamExt;
use hickory_proto::op::update_message::UpdateMessage;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigVerifier, TSigner};
use signpost_dkim::record;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// TTL of what is published, in seconds: how long a key that was withdrawn may still be believed.
pub const PUBLISHED_TTL: u32 = 300;

/// Changes of one update: every one holds at most a key of 4096 bits, and a message 65,535 octets.
pub const CHANGES_MAX: usize = 50;

/// RFC 8945 10: how far the clocks may be apart, in seconds.
const FUDGE: u16 = 300;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A zone transfer as a whole.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);
/// Names that are kept of a transfer; a larger zone is asked name by name.
const TRANSFER_NAMES: usize = 500_000;
/// Connections and questions on each where many names are asked for.
const READERS: usize = 4;
const NAMES_A_CONNECTION: usize = 100;

/// SIGNPOST_DNS_UPDATE. Without Debug: it holds a secret.
#[derive(Clone)]
pub struct UpdateSettings {
    host: String,
    port: u16,
    key_name: Name,
    algorithm: TsigAlgorithm,
    secret: Vec<u8>,
}

impl UpdateSettings {
    /// `tsig-name:algorithm:secret@host:port`; the secret is base64, the port 53 unless given, an IPv6 address in brackets.
    /// `Err` says what is needed and never repeats the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        use base64::Engine as _;
        let (key, server) = text.rsplit_once('@').ok_or("`tsig-name:algorithm:secret@host:port` is needed")?;
        let mut parts = key.splitn(3, ':');
        let (Some(name), Some(algorithm), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("`tsig-name:algorithm:secret@host:port` is needed; the part before `@` lacks a `:`".to_owned());
        };
        let key_name = fqdn(name).ok_or("the name of the TSIG key is no domain name")?;
        let algorithm = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err("the algorithm of the TSIG key is one of hmac-sha256, hmac-sha384, hmac-sha512".to_owned()),
        };
        let secret = base64::engine::general_purpose::STANDARD
            .decode(secret)
            .ok()
            .filter(|secret| !secret.is_empty())
            .ok_or("the secret of the TSIG key is not base64")?;
        let (host, port) = host_and_port(server).ok_or("the server is `host:port`, or `[IPv6 address]:port`")?;
        Ok(Self { host, port, key_name, algorithm, secret })
    }
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => 53,
    };
    let is_host = host.parse::<IpAddr>().is_ok() || fqdn(host).is_some();
    is_host.then(|| (host.to_owned(), port))
}

/// Why the server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Temporary: no connection, no answer, or it cannot now.
    #[error("the DNS update server does not answer: {0}")]
    Unavailable(String),
    /// Permanent, until the operator mends one side.
    #[error("the DNS update server refuses: {0}")]
    Refused(String),
}

/// A zone as its primary has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneState {
    /// Its name, without trailing dot.
    pub apex: String,
    /// Moves with every change (RFC 1035 3.3.13).
    pub serial: u32,
    /// For how many seconds others remember that a name does not exist (RFC 2308 4).
    pub negative_ttl: u32,
}

/// What shall stand at a name: one TXT record with this value, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameChange {
    /// Full name, without trailing dot.
    pub name: String,
    /// Value, cut into strings by us.
    pub text: Option<String>,
}

/// The operator's primary server; cheap to clone.
#[derive(Clone)]
pub struct DnsUpdate {
    dns: Dns,
    host: String,
    port: u16,
    signer: TSigner,
}

impl DnsUpdate {
    /// Asks nothing yet. `dns` finds the server's address where it has a name.
    ///
    /// # Errors
    /// `Refused` if the key cannot be used.
    pub fn new(settings: UpdateSettings, dns: Dns) -> Result<Self, UpdateError> {
        let signer = TSigner::new(settings.secret, settings.algorithm, settings.key_name, FUDGE)
            .map_err(|_| UpdateError::Refused("its TSIG key cannot be used".to_owned()))?;
        Ok(Self { dns, host: settings.host, port: settings.port, signer })
    }

    /// The zone on that server which holds `name`; `now` in seconds since the epoch.
    ///
    /// # Errors
    /// `Refused` if the server has none.
    pub async fn zone_of(&self, name: &str, now: u64) -> Result<ZoneState, UpdateError> {
        let owner = absolute(name)?;
        let answer = self.connect().await?.exchange(question(&owner, RecordType::SOA), now).await?;
        accept(&answer, &[ResponseCode::NoError, ResponseCode::NXDomain])?;
        // RFC 2308 2.1: a name without SOA is answered with that of its zone.
        let found = answer.answers.iter().chain(&answer.authorities).find_map(|record| match &record.data {
            RData::SOA(soa) if record.name.zone_of(&owner) => Some((record, soa)),
            _ => None,
        });
        match found {
            Some((record, soa)) if answer.metadata.authoritative => Ok(ZoneState {
                apex: name_text(&record.name),
                serial: soa.serial,
                negative_ttl: soa.minimum.min(record.ttl),
            }),
            Some(_) | None => Err(UpdateError::Refused(format!("it serves no zone that holds {name}"))),
        }
    }

    /// Makes what stands at the names as told, all or nothing; whatever else is there goes. At most [`CHANGES_MAX`] at a time.
    /// `zone` is the apex that [`Self::zone_of`] gave.
    pub async fn replace(&self, zone: &str, changes: &[NameChange], now: u64) -> Result<(), UpdateError> {
        let message = update(zone, changes)?;
        let answer = self.connect().await?.exchange(message, now).await?;
        accept(&answer, &[ResponseCode::NoError])
    }

    /// The TXT records at each of the names, in the order asked. An alias is told as `CNAME <target>`.
    pub async fn read(&self, names: &[String], now: u64) -> Result<Vec<Vec<String>>, UpdateError> {
        let parts: Vec<Vec<String>> = names.chunks(NAMES_A_CONNECTION).map(<[String]>::to_vec).collect();
        let reads = parts.into_iter().map(|part| async move {
            let mut session = self.connect().await?;
            let mut found = Vec::with_capacity(part.len());
            for name in &part {
                let owner = absolute(name)?;
                let answer = session.exchange(question(&owner, RecordType::TXT), now).await?;
                accept(&answer, &[ResponseCode::NoError, ResponseCode::NXDomain])?;
                // From a cache, or a referral: nothing of it is what the server publishes.
                if !answer.metadata.authoritative {
                    return Err(UpdateError::Refused(format!("it serves no zone that holds {name}")));
                }
                let here = answer.answers.iter().filter(|record| record.name == owner);
                found.push(here.filter_map(text_of).collect::<Vec<_>>());
            }
            Ok::<_, UpdateError>(found)
        });
        let parts: Vec<_> = futures_util::stream::iter(reads).buffered(READERS).collect().await;
        let mut all = Vec::with_capacity(names.len());
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }

    /// Every name below `below` that holds TXT or CNAME records, by zone transfer (RFC 5936).
    ///
    /// # Errors
    /// `Refused` if the server does not let this key transfer the zone, signs only a part of the messages, or holds more than
    /// we take.
    pub async fn transfer(
        &self,
        zone: &str,
        below: &str,
        now: u64,
    ) -> Result<BTreeMap<String, Vec<String>>, UpdateError> {
        let whole = async {
            let (apex, below) = (absolute(zone)?, absolute(below)?);
            let mut session = self.connect().await?;
            let mut verifier = session.send(question(&apex, RecordType::AXFR), now).await?;
            let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut ends = 0;
            // RFC 5936 2.2: it begins and ends with the SOA.
            while ends < 2 {
                let answer = session.receive(&mut verifier).await?;
                accept(&answer, &[ResponseCode::NoError])?;
                if answer.answers.is_empty() {
                    return Err(UpdateError::Refused("its zone transfer is empty".to_owned()));
                }
                for record in &answer.answers {
                    match record.record_type() {
                        RecordType::SOA => ends += 1,
                        RecordType::TXT | RecordType::CNAME if below.zone_of(&record.name) && record.name != below => {
                            found.entry(name_text(&record.name)).or_default().extend(text_of(record));
                        }
                        _ => {}
                    }
                }
                if found.len() > TRANSFER_NAMES {
                    return Err(UpdateError::Refused(format!(
                        "there are more than {TRANSFER_NAMES} names below {below}"
                    )));
                }
            }
            Ok(found)
        };
        timeout(TRANSFER_TIMEOUT, whole)
            .await
            .unwrap_or_else(|_| Err(UpdateError::Unavailable("the zone transfer takes too long".to_owned())))
    }

    async fn connect(&self) -> Result<Session<'_>, UpdateError> {
        let addresses: Vec<IpAddr> = match self.host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.dns.addresses(&self.host).await.map_err(|error| match error {
                LookupError::NoName | LookupError::NoData => {
                    UpdateError::Refused(format!("{} has no address ({error})", self.host))
                }
                LookupError::Temporary(_) => UpdateError::Unavailable(format!("{}: {error}", self.host)),
            })?,
        };
        let mut last = "it has no address".to_owned();
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(address, self.port))).await {
                Ok(Ok(stream)) => return Ok(Session { update: self, stream, asked: 0 }),
                Ok(Err(error)) => last = format!("{address} port {}: {error}", self.port),
                Err(_) => last = format!("{address} port {}: no connection in time", self.port),
            }
        }
        Err(UpdateError::Unavailable(last))
    }
}

/// One connection, one message at a time.
struct Session<'a> {
    update: &'a DnsUpdate,
    stream: TcpStream,
    /// Id of the message that was sent last.
    asked: u16,
}

impl Session<'_> {
    async fn exchange(&mut self, message: Message, now: u64) -> Result<Message, UpdateError> {
        let mut verifier = self.send(message, now).await?;
        self.receive(&mut verifier).await
    }

    /// RFC 8945 5.1: signed, then RFC 1035 4.2.2: behind two octets of length.
    async fn send(&mut self, mut message: Message, now: u64) -> Result<TSigVerifier, UpdateError> {
        let unusable =
            |error: &dyn std::fmt::Display| UpdateError::Refused(format!("the message cannot be built: {error}"));
        self.asked = message.metadata.id;
        let verifier = message.finalize(&self.update.signer, now).map_err(|error| unusable(&error))?;
        let verifier = verifier.ok_or_else(|| unusable(&"no signature was made"))?;
        let octets = message.to_vec().map_err(|error| unusable(&error))?;
        let length = u16::try_from(octets.len()).map_err(|error| unusable(&error))?;
        let framed = [length.to_be_bytes().as_slice(), &octets].concat();
        in_time(timeout(ANSWER_TIMEOUT, self.stream.write_all(&framed)).await)?;
        Ok(verifier)
    }

    /// RFC 8945 5.3: an answer counts only with a signature over it and over what was asked.
    async fn receive(&mut self, verifier: &mut TSigVerifier) -> Result<Message, UpdateError> {
        let octets = in_time(timeout(ANSWER_TIMEOUT, self.read_message()).await)?;
        let verified = verifier.verify(&octets).map(|answer| answer.into_message());
        let answer = match verified {
            Ok(answer) => answer,
            Err(_) => return Err(self.unverified(&octets)),
        };
        if answer.metadata.id != self.asked || answer.metadata.message_type != MessageType::Response {
            return Err(UpdateError::Unavailable("its answer belongs to another question".to_owned()));
        }
        Ok(answer)
    }

    async fn read_message(&mut self) -> std::io::Result<Vec<u8>> {
        let length = self.stream.read_u16().await?;
        let mut octets = vec![0; usize::from(length)];
        self.stream.read_exact(&mut octets).await?;
        Ok(octets)
    }

    /// RFC 8945 5.3.2: errors about the key come unsigned. They are told, and believed only as far as nothing was done.
    fn unverified(&self, octets: &[u8]) -> UpdateError {
        let Ok(answer) = Message::from_vec(octets) else {
            return UpdateError::Unavailable("its answer is no DNS message".to_owned());
        };
        let key = name_text(self.update.signer.signer_name());
        match answer.signature.as_ref().and_then(|signature| signature.data.error) {
            Some(TsigError::BadKey) => UpdateError::Refused(format!("it has no TSIG key {key} with this algorithm")),
            Some(TsigError::BadSig) => {
                UpdateError::Refused(format!("the secret of the TSIG key {key} is another one there"))
            }
            Some(TsigError::BadTime) => {
                UpdateError::Refused("its clock and ours are more than 5 minutes apart".to_owned())
            }
            Some(TsigError::BadTrunc | TsigError::Unknown(_)) | None => UpdateError::Refused(format!(
                "its answer ({}) is not signed with the TSIG key {key}",
                answer.metadata.response_code
            )),
        }
    }
}

fn in_time<T>(result: Result<std::io::Result<T>, tokio::time::error::Elapsed>) -> Result<T, UpdateError> {
    match result {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(UpdateError::Unavailable(error.to_string())),
        Err(_) => Err(UpdateError::Unavailable("no answer in time".to_owned())),
    }
}

/// RFC 2136 2.2: what the response code of a signed answer means.
fn accept(answer: &Message, good: &[ResponseCode]) -> Result<(), UpdateError> {
    let code = answer.metadata.response_code;
    if good.contains(&code) {
        return Ok(());
    }
    let bad_time = answer.signature.as_ref().is_some_and(|s| s.data.error == Some(TsigError::BadTime));
    Err(match code {
        _ if bad_time => UpdateError::Refused("its clock and ours are more than 5 minutes apart".to_owned()),
        ResponseCode::ServFail => UpdateError::Unavailable("it answered SERVFAIL".to_owned()),
        ResponseCode::Refused => {
            UpdateError::Refused("it answered REFUSED: the TSIG key may not do this there".to_owned())
        }
        ResponseCode::NotAuth => {
            UpdateError::Refused("it answered NOTAUTH: it is not the primary server of the zone".to_owned())
        }
        other => UpdateError::Refused(format!("it answered {other}")),
    })
}

fn absolute(name: &str) -> Result<Name, UpdateError> {
    fqdn(name).ok_or_else(|| UpdateError::Refused(format!("{name} cannot be a name in the DNS")))
}

fn question(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name.clone(), kind));
    message
}

fn text_of(record: &Record) -> Option<String> {
    match &record.data {
        RData::TXT(txt) => Some(join_strings(txt)),
        RData::CNAME(target) => Some(format!("CNAME {}", name_text(&target.0))),
        _ => None,
    }
}

/// RFC 2136 2.5.3, 2.5.1: everything at each name goes, then the record comes.
fn update(zone: &str, changes: &[NameChange]) -> Result<Message, UpdateError> {
    let apex = absolute(zone)?;
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    // RFC 2136 2.3: the zone section is a question for its SOA.
    message.add_zone(Query::query(apex.clone(), RecordType::SOA));
    for change in changes {
        let name = absolute(&change.name)?;
        if !apex.zone_of(&name) || name == apex {
            return Err(UpdateError::Refused(format!("{} is not below the zone {zone}", change.name)));
        }
        let mut everything = Record::update0(name.clone(), 0, RecordType::ANY);
        everything.dns_class = DNSClass::ANY;
        message.add_update(everything);
        if let Some(text) = &change.text {
            message.add_update(Record::from_rdata(name, PUBLISHED_TTL, RData::TXT(TXT::new(record::chunk(text)))));
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_their_faults_told_without_the_secret() {
        for (text, host, port) in [
            ("k:hmac-sha256:c2VjcmV0@127.0.0.1:5300", "127.0.0.1", 5300),
            ("key.example.com:HMAC-SHA512.:c2VjcmV0@ns1.example.com", "ns1.example.com", 53),
            ("k:hmac-sha384:c2Vj/+V0@[2001:db8::1]:53", "2001:db8::1", 53),
            ("k:hmac-sha384:c2VjcmV0@[::1]", "::1", 53),
        ] {
            let settings = UpdateSettings::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((settings.host.as_str(), settings.port), (host, port), "{text}");
        }
        for (text, told) in [
            ("", "is needed"),
            ("k:hmac-sha256:c2VjcmV0", "is needed"),
            ("hmac-sha256:c2VjcmV0@h", "lacks a `:`"),
            ("a..b:hmac-sha256:c2VjcmV0@h", "name of the TSIG key"),
            ("k:hmac-md5:c2VjcmV0@h", "hmac-sha256"),
            ("k:hmac-sha1:c2VjcmV0@h", "hmac-sha256"),
            ("k:hmac-sha256:@h", "base64"),
            ("k:hmac-sha256:s3cr3t!@h", "base64"),
            ("k:hmac-sha256:c2VjcmV0@", "host:port"),
            ("k:hmac-sha256:c2VjcmV0@h:0", "host:port"),
            ("k:hmac-sha256:c2VjcmV0@h:dns", "host:port"),
            ("k:hmac-sha256:c2VjcmV0@[::1", "host:port"),
            ("k:hmac-sha256:c2VjcmV0@[::1]53", "host:port"),
            ("k:hmac-sha256:c2VjcmV0@h:1:2", "host:port"),
        ] {
            let Err(error) = UpdateSettings::parse(text) else { panic!("{text} was taken") };
            assert!(error.contains(told), "{text}: {error}");
            assert!(!error.contains("c2VjcmV0") && !error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn an_update_replaces_all_that_is_at_the_name() {
        let changes = [
            NameChange { name: "a.dkim.example.com".to_owned(), text: Some("x".repeat(300)) },
            NameChange { name: "b.dkim.example.com".to_owned(), text: None },
        ];
        let message = Message::from_vec(&update("example.com", &changes).unwrap().to_vec().unwrap()).unwrap();
        assert_eq!(message.metadata.op_code, OpCode::Update);
        assert_eq!(message.zones(), [Query::query(fqdn("example.com").unwrap(), RecordType::SOA)]);
        let told: Vec<String> = message
            .updates()
            .iter()
            .map(|r| format!("{} {} {} {}", name_text(&r.name), r.dns_class, r.ttl, r.record_type()))
            .collect();
        assert_eq!(
            told,
            ["a.dkim.example.com ANY 0 ANY", "a.dkim.example.com IN 300 TXT", "b.dkim.example.com ANY 0 ANY",]
        );
        let RData::TXT(txt) = &message.updates()[1].data else { panic!("{message}") };
        assert_eq!(txt.txt_data.iter().map(|string| string.len()).collect::<Vec<_>>(), [255, 45]);
    }

    #[test]
    fn nothing_outside_of_the_zone_and_not_its_apex_is_touched() {
        for name in ["example.net", "a.example.net", "example.com", "a..example.com"] {
            let change = NameChange { name: name.to_owned(), text: None };
            assert!(matches!(update("example.com", &[change]), Err(UpdateError::Refused(_))), "{name}");
        }
    }

    #[test]
    fn a_full_update_of_the_longest_keys_is_a_message() {
        let changes: Vec<NameChange> = (0..CHANGES_MAX)
            .map(|n| NameChange { name: format!("{n:026}.dkim.a-long-name.example.com"), text: Some("p".repeat(760)) })
            .collect();
        assert!(update("example.com", &changes).unwrap().to_vec().unwrap().len() < 60_000);
    }
}
