//! Clients that post without a pause, and remember what they were told.
use crate::{Answer, Api, Content, DEADLINE, Domain, Ledger, Posted, app::random_octets, wait_for};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A small random generator (SplitMix64) whose seed can be given.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From SIGNPOST_SEED, else a new seed; it is printed.
    pub fn from_environment() -> Self {
        let given = std::env::var("SIGNPOST_SEED").ok().map(|text| text.parse().expect("SIGNPOST_SEED is a number"));
        let seed = given.unwrap_or_else(|| {
            let octets = random_octets();
            u64::from_le_bytes(octets[..8].try_into().unwrap())
        });
        eprintln!("SIGNPOST_SEED={seed}");
        Self(seed)
    }

    /// Another one, that goes on independently.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// Shorter than `bound`.
    pub fn duration(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.next() % u64::try_from(bound.as_micros()).unwrap())
    }
}

/// One client. What it posts alternates: JSON and raw, the signing domains, with an Idempotency-Key and without.
pub struct Client<'a> {
    /// Its number.
    pub number: usize,
    /// Its choices.
    pub dice: Dice,
    /// One per process.
    pub apis: Vec<Api>,
    /// Domains to send from.
    pub domains: &'a [Domain],
    /// The database may be away: 503 with Retry-After is an answer, too.
    pub may_be_refused: bool,
    /// Where it writes what happened.
    pub ledger: &'a Ledger,
}

struct Request {
    address: String,
    key: Option<String>,
    content_type: &'static str,
    path: &'static str,
    body: Vec<u8>,
}

/// What an answer, or none, means for the client.
enum Told {
    Accepted,
    /// Nothing is known: the process went away, or is not there, or it has no database.
    Nothing,
    /// The first request under the key is still being worked on, or its process died.
    InFlight,
    Trouble,
}

impl Client<'_> {
    /// Posts until `stop`. Where no answer came, what has a key is posted again until there is one.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut open = Vec::new();
        for n in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let request = self.request(n);
            loop {
                match self.send(&request) {
                    Told::Accepted => {}
                    Told::Trouble => return,
                    Told::Nothing => {
                        // Who is not there is not asked in a busy loop.
                        std::thread::sleep(Duration::from_millis(5));
                        if request.key.is_some() && !stop.load(Ordering::SeqCst) {
                            continue;
                        }
                        open.extend(request.key.is_some().then_some(request));
                    }
                    Told::InFlight => open.push(request),
                }
                break;
            }
        }
        for request in open {
            wait_for(&format!("an answer for {}", request.address), DEADLINE * 2, || match self.send(&request) {
                Told::Accepted | Told::Trouble => Some(()),
                Told::Nothing | Told::InFlight => None,
            });
        }
    }

    fn send(&mut self, request: &Request) -> Told {
        let mut api = self.apis[self.dice.below(self.apis.len())].clone();
        if let Some(key) = &request.key {
            api = api.with_header("Idempotency-Key", key);
        }
        let Ok(answer) = api.try_call("POST", request.path, Some(request.content_type), request.body.clone()) else {
            return Told::Nothing;
        };
        match answer.status {
            202 => {
                self.ledger.acknowledge(&request.address, answer.json()["id"].as_str().unwrap());
                Told::Accepted
            }
            409 if is_in_flight(&answer) && request.key.is_some() => Told::InFlight,
            503 if self.may_be_refused => {
                answer.problem(503, "store-unavailable");
                assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{:?}", answer.headers);
                self.ledger.refuse();
                Told::Nothing
            }
            status => {
                self.ledger.trouble(format!("answer: {} was answered {status}: {}", request.address, answer.text()));
                Told::Trouble
            }
        }
    }

    /// The next message; it is in the ledger from then on.
    fn request(&mut self, n: usize) -> Request {
        let address = format!("c{}n{n}@receiver.test", self.number);
        let domain = &self.domains[n % self.domains.len()];
        let (raw, keyed) = (n / 2 % 2 == 1, n.is_multiple_of(3));
        let text = self.text(&address);
        let (content_type, path, body, content) = if raw {
            let octets = raw_message(&domain.name, &address, &text);
            ("message/rfc822", "/v1/messages/raw", octets.clone(), Content::Raw(octets))
        } else {
            let message = json!({
                "from": format!("ann@{}", domain.name), "to": [address], "subject": format!("To {address}"), "text": text,
            });
            ("application/json", "/v1/messages", message.to_string().into_bytes(), Content::Text(text))
        };
        let posted = Posted { content, domain: domain.name.clone(), keyed, acknowledged: BTreeSet::new() };
        self.ledger.post(&address, posted);
        let key = keyed.then(|| format!("key-{address}"));
        Request { address, key, content_type, path, body }
    }

    /// Lines that no other message has, some of them awkward: a leading dot, space at the end, an empty one.
    fn text(&mut self, address: &str) -> String {
        let mut text = format!("This is for {address} alone.\n.\n..dots \n\n");
        for _ in 0..self.dice.below(20) {
            let octets: Vec<u8> =
                (0..self.dice.below(45)).map(|_| u8::try_from(self.dice.below(256)).unwrap()).collect();
            text += &STANDARD.encode(octets);
            text += ["\n", " \n", "  x\n"][self.dice.below(3)];
        }
        text + "end\n"
    }
}

fn is_in_flight(answer: &Answer) -> bool {
    answer.json()["type"] == "urn:signpost:problem:idempotency-in-flight"
}

/// Complete, so that nothing is added to it but what goes in front.
fn raw_message(domain: &str, address: &str, text: &str) -> Vec<u8> {
    let local = address.split('@').next().unwrap();
    let fields = format!(
        "From: Ann <ann@{domain}>\r\nTo: {address}\r\nSubject: To {address}\r\n\
         Date: Mon, 01 Jun 2026 10:00:00 +0000\r\nMessage-ID: <{local}@{domain}>\r\n\r\n"
    );
    (fields + &text.replace('\n', "\r\n")).into_bytes()
}
