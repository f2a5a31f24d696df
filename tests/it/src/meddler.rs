//! Somebody between the sender and the receiver who changes what passes.
use crate::Port;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An SMTP relay that changes one text in what the client says, and hides STARTTLS, so that it can. Dropped: takes no further
/// connections.
pub struct Meddler {
    port: Port,
    over: Arc<AtomicBool>,
}

impl Meddler {
    /// Between its own port and the server's on 127.0.0.1; `from` lies within one line.
    pub fn start(server: u16, from: &'static str, to: &'static str) -> Self {
        let (port, over) = (Port::reserve(), Arc::new(AtomicBool::new(false)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        let ends = over.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let client = client.unwrap();
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
                let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass_on(from_client, server, from, to));
                // Another keyword, which no client knows.
                std::thread::spawn(move || pass_on(from_server, client, "STARTTLS", "XSTRTTLS"));
            }
        });
        Self { port, over }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener; where that fails there is none any more.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

/// Line by line, so that a text cut by the network is changed all the same. Ends with the connection, however that ends.
fn pass_on(source: TcpStream, mut target: TcpStream, from: &str, to: &str) {
    let mut lines = BufReader::new(source);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if target.write_all(&replaced(&line, from.as_bytes(), to.as_bytes())).is_err() {
            break;
        }
        line.clear();
    }
    let _ = target.shutdown(Shutdown::Write);
}

fn replaced(line: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match line.windows(from.len()).position(|window| window == from) {
        Some(at) => [&line[..at], to, &line[at + from.len()..]].concat(),
        None => line.to_vec(),
    }
}
