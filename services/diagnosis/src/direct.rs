//! One question to one server, authoritative or recursive: UDP with EDNS, TCP where the answer is truncated (RFC 1035 4.2, RFC 6891, RFC 7766).
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

/// The size that passes every path unfragmented (RFC 9715 4).
const EDNS_PAYLOAD: u16 = 1232;
/// Larger than any answer a server may send after that offer.
const RECEIVE_BUFFER: usize = 4096;
const UDP_ATTEMPTS: u32 = 2;
const UDP_TIMEOUT: Duration = Duration::from_millis(1200);
const TCP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a server gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskError {
    /// This host has no route for the address family; the server may be fine.
    NoRoute,
    /// No usable reply, as a clause: `no answer within ...`.
    Failed(String),
}

impl AskError {
    fn from_io(error: &io::Error) -> Self {
        /// The kernel was built or started without the address family.
        const EAFNOSUPPORT: i32 = 97;
        match error.kind() {
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Self::NoRoute,
            _ if error.raw_os_error() == Some(EAFNOSUPPORT) => Self::NoRoute,
            io::ErrorKind::ConnectionRefused => Self::Failed("nothing listens there (connection refused)".to_owned()),
            _ => Self::Failed(error.to_string()),
        }
    }

    fn silent() -> Self {
        Self::Failed("no answer in time".to_owned())
    }
}

/// How a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Of an authoritative server: without recursion.
    Authority,
    /// Of a recursive resolver, as everybody asks it.
    Resolver,
    /// Of a recursive resolver that shall not validate: CD=1 (RFC 4035 3.2.2).
    Unchecked,
}

/// What is asked of a server, and how.
#[derive(Clone, Copy)]
struct Ask<'a> {
    name: &'a Name,
    kind: RecordType,
    manner: Manner,
}

/// Asks an authoritative server, without recursion. A reply of any response code is `Ok`, the caller judges it.
pub(crate) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    until: Instant,
) -> Result<Message, AskError> {
    ask_in(server, Ask { name, kind, manner: Manner::Authority }, until).await
}

/// Asks a recursive resolver, with or without validation. A reply of any response code is `Ok`, the caller judges it.
pub(crate) async fn ask_resolver(
    resolver: SocketAddr,
    name: &Name,
    kind: RecordType,
    manner: Manner,
    until: Instant,
) -> Result<Message, AskError> {
    ask_in(resolver, Ask { name, kind, manner }, until).await
}

async fn ask_in(server: SocketAddr, ask: Ask<'_>, until: Instant) -> Result<Message, AskError> {
    let reply = ask_udp(server, ask, true, until).await?;
    // RFC 6891 7: a server that does not know EDNS says FORMERR or NOTIMP.
    let reply = match reply.metadata.response_code {
        ResponseCode::FormErr | ResponseCode::NotImp => ask_udp(server, ask, false, until).await?,
        _ => reply,
    };
    if reply.metadata.truncation {
        // RFC 7766 5: what was cut is never used.
        return ask_tcp(server, ask, until).await;
    }
    Ok(reply)
}

/// A question with a random id (hickory takes it from a cryptographic generator).
fn question(ask: Ask<'_>, edns: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = ask.manner != Manner::Authority;
    message.metadata.checking_disabled = ask.manner == Manner::Unchecked;
    message.add_query(Query::query(ask.name.clone(), ask.kind));
    if edns {
        let mut offer = Edns::new();
        offer.set_max_payload(EDNS_PAYLOAD);
        message.set_edns(offer);
    }
    message
}

fn encode(message: &Message) -> Result<Vec<u8>, AskError> {
    message.to_vec().map_err(|error| AskError::Failed(format!("the question cannot be encoded: {error}")))
}

/// RFC 5452 9.1: an answer counts only with our id and our question (and, by the connected socket, from the address asked).
fn matching_reply(octets: &[u8], question: &Message) -> Option<Message> {
    let reply = Message::from_vec(octets).ok()?;
    let matches = reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == question.metadata.id
        && (reply.queries == question.queries || reply.queries.is_empty() && is_header_only_error(&reply));
    matches.then_some(reply)
}

/// Some servers refuse without repeating the question.
fn is_header_only_error(reply: &Message) -> bool {
    reply.metadata.response_code != ResponseCode::NoError && reply.metadata.response_code != ResponseCode::NXDomain
}

async fn ask_udp(server: SocketAddr, ask: Ask<'_>, edns: bool, until: Instant) -> Result<Message, AskError> {
    let mut last = AskError::silent();
    for _ in 0..UDP_ATTEMPTS {
        let attempt_until = until.min(Instant::now() + UDP_TIMEOUT);
        match timeout_at(attempt_until, udp_exchange(server, &question(ask, edns))).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(AskError::NoRoute)) => return Err(AskError::NoRoute),
            Ok(Err(error)) => last = error,
            Err(_) => last = AskError::silent(),
        }
    }
    Err(last)
}

/// A socket of its own for each question, so that the source port is as random as the kernel makes it (RFC 5452 9.2).
async fn udp_exchange(server: SocketAddr, question: &Message) -> Result<Message, AskError> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let io_error = |error: io::Error| AskError::from_io(&error);
    let socket = UdpSocket::bind(local).await.map_err(io_error)?;
    socket.connect(server).await.map_err(io_error)?;
    socket.send(&encode(question)?).await.map_err(io_error)?;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(io_error)?;
        if let Some(reply) = buffer.get(..length).and_then(|octets| matching_reply(octets, question)) {
            return Ok(reply);
        }
    }
}

async fn ask_tcp(server: SocketAddr, ask: Ask<'_>, until: Instant) -> Result<Message, AskError> {
    let until = until.min(Instant::now() + TCP_TIMEOUT);
    match timeout_at(until, tcp_exchange(server, &question(ask, true))).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(AskError::NoRoute)) => Err(AskError::NoRoute),
        Ok(Err(AskError::Failed(reason))) => {
            Err(AskError::Failed(format!("the answer is too long for UDP and over TCP: {reason}")))
        }
        Err(_) => Err(AskError::Failed(
            "the answer is too long for UDP and there is no answer over TCP; open port 53/tcp".to_owned(),
        )),
    }
}

/// RFC 1035 4.2.2: two octets of length before each message.
async fn tcp_exchange(server: SocketAddr, question: &Message) -> Result<Message, AskError> {
    let io_error = |error: io::Error| AskError::from_io(&error);
    let octets = encode(question)?;
    let length = u16::try_from(octets.len()).map_err(|_| AskError::Failed("the question is too long".to_owned()))?;
    let mut stream = TcpStream::connect(server).await.map_err(io_error)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &octets].concat()).await.map_err(io_error)?;
    let length = stream.read_u16().await.map_err(io_error)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(io_error)?;
    matching_reply(&buffer, question)
        .ok_or_else(|| AskError::Failed("the reply does not match the question".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fqdn;

    #[test]
    fn only_a_reply_with_our_id_and_question_counts() {
        let name = fqdn("s1._domainkey.example.test").unwrap();
        let asked = question(Ask { name: &name, kind: RecordType::TXT, manner: Manner::Authority }, true);
        let reply = |change: &dyn Fn(&mut Message)| {
            let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
            reply.queries = asked.queries.clone();
            change(&mut reply);
            matching_reply(&reply.to_vec().unwrap(), &asked).is_some()
        };
        assert!(reply(&|_| {}));
        assert!(!reply(&|r| r.metadata.id = r.metadata.id.wrapping_add(1)));
        assert!(!reply(&|r| r.metadata.message_type = MessageType::Query));
        assert!(!reply(&|r| r.queries = vec![Query::query(fqdn("other.test").unwrap(), RecordType::TXT)]));
        assert!(!reply(&|r| r.queries.clear()));
        assert!(reply(&|r| {
            r.queries.clear();
            r.metadata.response_code = ResponseCode::Refused;
        }));
        assert!(matching_reply(&[0, 1, 2], &asked).is_none());
    }
    #[test]
    fn only_resolvers_are_asked_for_recursion_and_only_for_a_proof_without_validation() {
        let name = fqdn("s1._domainkey.example.test").unwrap();
        for (manner, recursion, checking_disabled) in
            [(Manner::Authority, false, false), (Manner::Resolver, true, false), (Manner::Unchecked, true, true)]
        {
            let asked = question(Ask { name: &name, kind: RecordType::TXT, manner }, true).metadata;
            assert_eq!((asked.recursion_desired, asked.checking_disabled), (recursion, checking_disabled));
        }
    }
}
