//! What was posted and what was answered, beside what the receiver got: the judge of the durable queue.
use crate::{Arrival, DkimPy, Domain, MailAuthJudge, TxtRecords, our_verdict, signature_fields, unfolded_field};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// What the body was posted as.
#[derive(Debug, Clone)]
pub enum Content {
    /// `text` of a JSON message.
    Text(String),
    /// A whole message.
    Raw(Vec<u8>),
}

/// One message of the load: its recipient is its name, no two have the same.
#[derive(Debug, Clone)]
pub struct Posted {
    /// What was posted.
    pub content: Content,
    /// Domain that has to sign.
    pub domain: String,
    /// Sent under an Idempotency-Key.
    pub keyed: bool,
    /// Ids that a 202 named.
    pub acknowledged: BTreeSet<String>,
}

/// A process that was killed, or stood still for longer than its lease.
#[derive(Debug, Clone)]
pub struct Death {
    /// Its EHLO name; each start of a process has its own.
    pub helo: String,
    /// Recipients that some worker was sending to then, from outside: the database, right after the death.
    pub sending: BTreeSet<String>,
    /// It stood still and goes on, with the same EHLO name: what was taken from it may come to it again, under its next lease.
    pub goes_on: bool,
}

/// Everything that was posted.
#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
    changed: Condvar,
}

#[derive(Default)]
struct Book {
    posted: BTreeMap<String, Posted>,
    acknowledgements: usize,
    refusals: usize,
    troubles: Vec<String>,
}

impl Ledger {
    /// Before it is posted for the first time.
    pub fn post(&self, address: &str, posted: Posted) {
        let before = self.book.lock().unwrap().posted.insert(address.to_owned(), posted);
        assert!(before.is_none(), "{address} is used twice");
    }

    /// A 202.
    pub fn acknowledge(&self, address: &str, id: &str) {
        let mut book = self.book.lock().unwrap();
        book.acknowledgements += 1;
        book.posted.get_mut(address).unwrap().acknowledged.insert(id.to_owned());
        drop(book);
        self.changed.notify_all();
    }

    /// A 503: the database is away.
    pub fn refuse(&self) {
        self.book.lock().unwrap().refusals += 1;
    }

    /// How many 503 there were.
    pub fn refusals(&self) -> usize {
        self.book.lock().unwrap().refusals
    }

    /// An answer that should not have been.
    pub fn trouble(&self, what: String) {
        self.book.lock().unwrap().troubles.push(what);
        self.changed.notify_all();
    }

    /// How many 202 there were.
    pub fn acknowledgements(&self) -> usize {
        self.book.lock().unwrap().acknowledgements
    }

    /// Waits for further 202; returns without them where something went wrong or none came for so long.
    pub fn wait_for_more(&self, count: usize, deadline: Duration) {
        let book = self.book.lock().unwrap();
        let wanted = book.acknowledgements + count;
        let waited = self
            .changed
            .wait_timeout_while(book, deadline, |book| book.acknowledgements < wanted && book.troubles.is_empty());
        if waited.unwrap().1.timed_out() {
            self.trouble(format!("silence: no {count} further messages were accepted within {deadline:?}"));
        }
    }

    /// True once something went wrong.
    pub fn is_in_trouble(&self) -> bool {
        !self.book.lock().unwrap().troubles.is_empty()
    }

    /// Everything that was posted, by recipient.
    pub fn posted(&self) -> BTreeMap<String, Posted> {
        self.book.lock().unwrap().posted.clone()
    }

    /// Every fault; each begins with a word for its kind:
    ///
    /// - `lost`: acknowledged and never arrived
    /// - `invented`: arrived and never posted
    /// - `unsigned`: a copy without a signature that all judges pass
    /// - `changed`: a copy with another body than was posted, or two copies that differ
    /// - `doubled`: one post became two messages
    /// - `repeated`: a copy more than the deaths explain: a copy may be followed by another one only if its sender died while
    ///   it was sending to that recipient, and one sender sends one copy (one that stood still, one more for each time)
    /// - whatever `trouble` was told
    pub fn faults(&self, arrivals: &[Arrival], deaths: &[Death], domains: &[Domain]) -> Vec<String> {
        let posted = self.posted();
        let mut faults = self.book.lock().unwrap().troubles.clone();
        let mut judges = Judges::new(domains);
        let mut copies: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
        for arrival in arrivals {
            for address in &arrival.rcpt {
                copies.entry(address).or_default().push(arrival);
            }
        }
        for (address, copies) in &copies {
            let Some(posted) = posted.get(*address) else {
                faults.push(format!("invented: {address} got {} messages that nobody posted", copies.len()));
                continue;
            };
            let first = copies[0];
            faults.extend(judges.fault(address, posted, first));
            if copies
                .iter()
                .any(|copy| unfolded_field(&copy.octets, "Message-ID") != unfolded_field(&first.octets, "Message-ID"))
            {
                faults.push(format!("doubled: {address} got messages of different Message-IDs"));
            } else if copies.iter().any(|copy| copy.octets != first.octets) {
                faults.push(format!("changed: {address} got copies that differ"));
            }
            faults.extend(repeated(address, copies, deaths));
        }
        for (address, posted) in &posted {
            if !posted.acknowledged.is_empty() && !copies.contains_key(address.as_str()) {
                faults.push(format!("lost: {address} was acknowledged as {:?} and never arrived", posted.acknowledged));
            }
            if posted.acknowledged.len() > 1 {
                faults.push(format!("doubled: {address} was acknowledged as {:?}", posted.acknowledged));
            }
        }
        faults
    }
}

/// The copies beyond the first, if something else than deaths must have caused them.
fn repeated(address: &str, copies: &[&Arrival], deaths: &[Death]) -> Option<String> {
    let senders: BTreeSet<&str> = copies.iter().map(|copy| copy.helo.as_str()).collect();
    let died = |helo: &str| deaths.iter().any(|death| death.helo == helo && death.sending.contains(address));
    let survivors = senders.iter().filter(|helo| !died(helo)).count();
    let may_send = |helo: &str| {
        1 + deaths.iter().filter(|death| death.goes_on && death.helo == helo && death.sending.contains(address)).count()
    };
    let helos: Vec<&str> = copies.iter().map(|copy| copy.helo.as_str()).collect();
    let sent = |helo: &str| helos.iter().filter(|other| **other == helo).count();
    let explained = senders.iter().all(|helo| sent(helo) <= may_send(helo)) && survivors <= 1;
    (!explained).then(|| format!("repeated: {address} got copies from {helos:?} without a death that explains them"))
}

/// Copies beyond the first of each recipient.
pub fn repetitions(arrivals: &[Arrival]) -> usize {
    let all: Vec<&String> = arrivals.iter().flat_map(|arrival| &arrival.rcpt).collect();
    let different: BTreeSet<&&String> = all.iter().collect();
    all.len() - different.len()
}

/// Those of them that came from another sender than the first.
pub fn repetitions_by_others(arrivals: &[Arrival]) -> usize {
    let all: BTreeSet<(&String, &String)> =
        arrivals.iter().flat_map(|arrival| arrival.rcpt.iter().map(|address| (address, &arrival.helo))).collect();
    let different: BTreeSet<&String> = all.iter().map(|(address, _)| *address).collect();
    all.len() - different.len()
}

struct Judges {
    txt: TxtRecords,
    dkimpy: DkimPy,
    mail_auth: MailAuthJudge,
}

impl Judges {
    fn new(domains: &[Domain]) -> Self {
        let txt = domains.iter().flat_map(|domain| domain.txt.clone()).collect();
        Self { txt, dkimpy: DkimPy::start(), mail_auth: MailAuthJudge::new() }
    }

    fn fault(&mut self, address: &str, posted: &Posted, arrival: &Arrival) -> Option<String> {
        let octets = &arrival.octets;
        let signers: Vec<String> = signature_fields(octets).iter().map(|tags| tags["d"].clone()).collect();
        let dkimpy = self.dkimpy.verify(octets, &self.txt);
        let ours: Vec<&str> = our_verdict(octets, &self.txt).iter().map(|verdict| verdict.result.as_str()).collect();
        let mail_auth: Vec<&str> = self.mail_auth.verify(octets, &self.txt).iter().map(|(.., word)| *word).collect();
        if signers != [posted.domain.as_str()] || dkimpy != [true] || ours != ["pass"] || mail_auth != ["pass"] {
            return Some(format!(
                "unsigned: {address}: d={signers:?}, dkimpy {dkimpy:?}, ours {ours:?}, mail-auth {mail_auth:?}"
            ));
        }
        let same = match &posted.content {
            // What is sent is fields of ours and then what was posted.
            Content::Raw(raw) => octets.ends_with(raw),
            Content::Text(text) => {
                let decoded = self.dkimpy.decode(octets);
                decoded.defects.is_empty() && decoded.text.as_deref().is_some_and(|found| found == text)
            }
        };
        (!same).then(|| format!("changed: {address} got another body: {:?}", String::from_utf8_lossy(octets)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Death, repeated};

    #[test]
    fn copies_are_explained_by_deaths_and_by_nothing_else() {
        let copy = |helo: &str| Arrival { helo: helo.to_owned(), rcpt: vec!["a".to_owned()], octets: Vec::new() };
        let death = |helo: &str, sending: &[&str]| Death {
            helo: helo.to_owned(),
            sending: sending.iter().map(|address| (*address).to_owned()).collect(),
            goes_on: false,
        };
        let still = |helo: &str, sending: &[&str]| Death { goes_on: true, ..death(helo, sending) };
        let deaths = [
            death("p1", &["a", "b"]),
            death("p2", &["b"]),
            death("p3", &["a"]),
            still("p6", &["a"]),
            still("p7", &["b"]),
        ];
        let table: [(&[&str], bool); 12] = [
            (&["p6", "p6"], true),
            (&["p6", "p4"], true),
            (&["p6", "p6", "p6"], false),
            (&["p7", "p7"], false),
            (&["p1"], true),
            (&["p4"], true),
            (&["p1", "p4"], true),
            (&["p1", "p3", "p4"], true),
            (&["p4", "p4"], false),
            (&["p1", "p1"], false),
            (&["p4", "p5"], false),
            (&["p2", "p4"], false),
        ];
        for (helos, explained) in table {
            let copies: Vec<Arrival> = helos.iter().map(|helo| copy(helo)).collect();
            let copies: Vec<&Arrival> = copies.iter().collect();
            assert_eq!(repeated("a", &copies, &deaths).is_none(), explained, "{helos:?}");
        }
    }
}
