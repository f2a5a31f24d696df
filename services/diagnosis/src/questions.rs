//! What one check may ask: until when, how many questions, of how many servers. DNS is the tenant's: without these bounds a zone
//! could make us ask thousands of questions and open as many sockets.
use crate::direct::{self, AskError, Manner};
use crate::dns::{Dns, LookupError, is_servfail, name_text};
use crate::recursive;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// The questions of one check; shared by all its records.
pub(crate) struct Questions<'a> {
    dns: &'a Dns,
    until: Instant,
    limit: usize,
    left: AtomicUsize,
    servers: usize,
    /// Longest TTL of the TXT and CNAME records that were answered, in seconds.
    longest_ttl: AtomicU32,
    /// Whether there were any.
    answered: AtomicBool,
}

impl<'a> Questions<'a> {
    /// At most `limit` questions until `until`, for a TXT name at most `servers` servers of a zone.
    pub(crate) fn new(dns: &'a Dns, until: Instant, limit: usize, servers: usize) -> Self {
        let (longest_ttl, answered) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { dns, until, limit, left: AtomicUsize::new(limit), servers, longest_ttl, answered }
    }

    /// The longest TTL in seconds of all TXT and CNAME records that authoritative servers answered with so far.
    pub(crate) fn longest_ttl(&self) -> Option<u32> {
        self.answered.load(Ordering::Relaxed).then(|| self.longest_ttl.load(Ordering::Relaxed))
    }

    pub(crate) fn dns(&self) -> &'a Dns {
        self.dns
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Servers of one zone to ask.
    pub(crate) fn servers(&self) -> usize {
        self.servers
    }

    /// True once nothing more can be asked.
    pub(crate) fn are_over(&self) -> bool {
        Instant::now() >= self.until || self.left.load(Ordering::Relaxed) == 0
    }

    /// Counts so many questions. `Err` is the reason why they may not be asked, as a clause.
    pub(crate) fn spend(&self, count: usize) -> Result<(), String> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
        spent
            .map(drop)
            .map_err(|_| format!("it was not asked, since this check has asked its {} questions already", self.limit))
    }

    /// Counts a question and waits for the sockets that it needs.
    async fn admit(&self, sockets: u32) -> Result<SemaphorePermit<'a>, String> {
        self.spend(1)?;
        match timeout_at(self.until, self.dns.sockets().acquire_many(sockets)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err("it was not asked in time, since too many checks are running".to_owned()),
        }
    }

    /// One question to an authoritative server.
    pub(crate) async fn direct(&self, server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, AskError> {
        let _sockets = self.admit(1).await.map_err(AskError::Failed)?;
        let reply = direct::ask(server, name, kind, self.until).await?;
        for record in reply.answers.iter().filter(|r| matches!(r.record_type(), RecordType::TXT | RecordType::CNAME)) {
            self.longest_ttl.fetch_max(record.ttl, Ordering::Relaxed);
            self.answered.store(true, Ordering::Relaxed);
        }
        Ok(reply)
    }

    /// One question to a recursive resolver.
    pub(crate) async fn resolver(
        &self,
        resolver: SocketAddr,
        name: &Name,
        kind: RecordType,
        manner: Manner,
    ) -> Result<Message, AskError> {
        let _sockets = self.admit(1).await.map_err(AskError::Failed)?;
        direct::ask_resolver(resolver, name, kind, manner, self.until).await
    }

    /// NS of the recursive resolver.
    ///
    /// Here and for addresses: what does not validate is taken all the same, or a zone with broken DNSSEC could not be looked at. It
    /// proves nothing by that: a record that is right there is `dnssec_bogus`.
    pub(crate) async fn name_servers(&self, zone: &Name) -> Result<Vec<Name>, LookupError> {
        let found = {
            let _sockets = self.admit(1).await.map_err(LookupError::Temporary)?;
            in_time(timeout_at(self.until, self.dns.name_servers(zone)).await)
        };
        match found {
            Err(error) if is_servfail(&error) => recursive::unchecked_name_servers(self, zone).await.ok_or(error),
            found => found,
        }
    }

    /// A and AAAA of the recursive resolver.
    pub(crate) async fn addresses(&self, host: &Name) -> Result<Vec<IpAddr>, LookupError> {
        let found = {
            let _sockets = self.admit(2).await.map_err(LookupError::Temporary)?;
            in_time(timeout_at(self.until, self.dns.addresses(&name_text(host))).await)
        };
        match found {
            Err(error) if is_servfail(&error) => recursive::unchecked_addresses(self, host).await.ok_or(error),
            found => found,
        }
    }
}

fn in_time<T, E>(result: Result<Result<T, LookupError>, E>) -> Result<T, LookupError> {
    result.unwrap_or_else(|_| Err(LookupError::Temporary("no answer in time".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{DnsSettings, fqdn};
    use crate::guard::Guard;
    use std::time::Duration;

    fn dns() -> Dns {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        Dns::new(DnsSettings { resolvers: vec![nobody], authority_port: 9, guard: Guard::default() }).unwrap()
    }

    #[tokio::test]
    async fn a_question_over_the_limit_is_not_asked_and_says_so() {
        let dns = dns();
        let questions = Questions::new(&dns, Instant::now() + Duration::from_secs(10), 2, 1);
        assert!(!questions.are_over());
        questions.spend(2).unwrap();
        assert!(questions.are_over());
        let name = fqdn("example.test").unwrap();
        let server = SocketAddr::from(([127, 0, 0, 1], 9));
        let refused = questions.direct(server, &name, RecordType::TXT).await.unwrap_err();
        assert!(matches!(&refused, AskError::Failed(reason) if reason.contains("its 2 questions")), "{refused:?}");
        let refused = questions.addresses(&name).await.unwrap_err();
        assert!(refused.to_string().contains("its 2 questions"), "{refused}");
    }

    #[tokio::test]
    async fn without_a_free_socket_nothing_is_asked() {
        let dns = dns();
        let all = u32::try_from(dns.sockets().available_permits()).unwrap();
        let _taken = dns.sockets().acquire_many(all).await.unwrap();
        let questions = Questions::new(&dns, Instant::now(), 10, 1);
        let refused = questions.name_servers(&fqdn("example.test").unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("too many checks"), "{refused}");
    }
}
