//! An SMTP receiver inside the test process: fast, records what arrives and from whom, and can keep a dialogue open at the
//! place where its outcome is unknown.
use crate::{DEADLINE, Port, wait_for};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A message whose last octet has arrived. Its reply may be still to come, and may never reach the sender.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The name that the sender gave in EHLO.
    pub helo: String,
    /// RCPT addresses.
    pub rcpt: Vec<String>,
    /// The data, dots unstuffed.
    pub octets: Vec<u8>,
}

/// How a dialogue that was kept open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// 250.
    Taken,
    /// The connection is closed without a reply.
    Dropped,
}

/// A running receiver on 127.0.0.1.
pub struct Sink {
    port: Port,
    state: Arc<State>,
}

struct State {
    journal: Mutex<Journal>,
    ended: Condvar,
    /// Longest time between the end of a message and its reply, in microseconds.
    slowness: u64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Journal {
    arrivals: Vec<Arrival>,
    /// By address: how the copies that are kept open end, in the order of their arrival.
    kept: BTreeMap<String, Vec<Option<Ending>>>,
}

impl Sink {
    /// `slowness`: the reply to a message takes up to this long, so that there is always something in flight.
    pub fn start(slowness: Duration) -> Self {
        let port = Port::reserve();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        let state = Arc::new(State {
            journal: Mutex::default(),
            ended: Condvar::new(),
            slowness: u64::try_from(slowness.as_micros()).unwrap(),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&serving);
                // A sender that went away is no trouble of the receiver.
                std::thread::spawn(move || stream.and_then(|stream| Dialogue::with(stream, &state)?.hold()));
            }
        });
        Self { port, state }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// From now on no message for this address is answered before `end`.
    pub fn keep_open(&self, address: &str) {
        self.state.journal.lock().unwrap().kept.insert(address.to_owned(), Vec::new());
    }

    /// Ends the dialogue of the copy with that number, from 0.
    pub fn end(&self, address: &str, copy: usize, ending: Ending) {
        self.state.journal.lock().unwrap().kept.get_mut(address).unwrap()[copy] = Some(ending);
        self.state.ended.notify_all();
    }

    /// Everything that has arrived, in order.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.journal.lock().unwrap().arrivals.clone()
    }

    /// How many messages have arrived.
    pub fn count(&self) -> usize {
        self.state.journal.lock().unwrap().arrivals.len()
    }

    /// Copies for that address.
    pub fn copies(&self, address: &str) -> Vec<Arrival> {
        let journal = self.state.journal.lock().unwrap();
        journal.arrivals.iter().filter(|arrival| arrival.rcpt.iter().any(|rcpt| rcpt == address)).cloned().collect()
    }

    /// Waits for that many copies.
    pub fn wait_for_copies(&self, address: &str, count: usize) -> Vec<Arrival> {
        wait_for(&format!("{count} copies for {address}"), DEADLINE * 2, || {
            let copies = self.copies(address);
            (copies.len() >= count).then_some(copies)
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        // The listening thread looks at the flag when somebody comes.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

impl State {
    /// Notes the arrival, then says how its dialogue ends: at once, or when the test says so.
    fn arrived(&self, arrival: Arrival) -> Ending {
        let mut journal = self.journal.lock().unwrap();
        let number = journal.arrivals.len();
        let address = arrival.rcpt.first().cloned().unwrap_or_default();
        journal.arrivals.push(arrival);
        let Some(kept) = journal.kept.get_mut(&address) else {
            drop(journal);
            // Uneven, but the same in each run: a walk through the residues.
            let step = u64::try_from(number).unwrap().wrapping_mul(7919) % 97;
            std::thread::sleep(Duration::from_micros(self.slowness * step / 97));
            return Ending::Taken;
        };
        kept.push(None);
        let copy = kept.len() - 1;
        loop {
            if let Some(ending) = journal.kept.get(&address).and_then(|kept| kept[copy]) {
                return ending;
            }
            journal = self.ended.wait(journal).unwrap();
        }
    }
}

struct Dialogue<'a> {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    state: &'a State,
    helo: String,
    rcpt: Vec<String>,
}

impl<'a> Dialogue<'a> {
    fn with(stream: TcpStream, state: &'a State) -> std::io::Result<Self> {
        let writer = stream.try_clone()?;
        writer.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), writer, state, helo: String::new(), rcpt: Vec::new() })
    }

    fn hold(mut self) -> std::io::Result<()> {
        self.say("220 mx.receiver.test ESMTP")?;
        while let Some(line) = self.line()? {
            let line = String::from_utf8_lossy(&line).into_owned();
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "HELO" => {
                    self.helo = line[4..].trim().to_owned();
                    self.say("250-mx.receiver.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 64000000")?;
                }
                "MAIL" | "RSET" => {
                    self.rcpt.clear();
                    self.say("250 2.1.0 fine")?;
                }
                "RCPT" => {
                    let address = line.split(['<', '>']).nth(1).unwrap_or_default();
                    self.rcpt.push(address.to_owned());
                    self.say("250 2.1.5 fine")?;
                }
                "DATA" => {
                    self.say("354 go on")?;
                    let Some(octets) = self.data()? else { return Ok(()) };
                    let arrival = Arrival { helo: self.helo.clone(), rcpt: std::mem::take(&mut self.rcpt), octets };
                    match self.state.arrived(arrival) {
                        Ending::Taken => self.say("250 2.0.0 taken")?,
                        Ending::Dropped => return self.writer.shutdown(std::net::Shutdown::Both),
                    }
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                "NOOP" => self.say("250 2.0.0 fine")?,
                _ => self.say("500 5.5.2 what?")?,
            }
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.writer.write_all(format!("{text}\r\n").as_bytes())
    }

    /// A line with its end; `None` at the end of the connection, also in the middle of a line.
    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        Ok(line.ends_with(b"\n").then_some(line))
    }

    /// RFC 5321 4.5.2; `None` if the sender broke off before the final dot.
    fn data(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut octets = Vec::new();
        while let Some(line) = self.line()? {
            if line == b".\r\n" {
                return Ok(Some(octets));
            }
            octets.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        Ok(None)
    }
}
