//! Somebody between two who passes on what they say: changed, or as it is.
use crate::Port;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A relay of connections. Dropped: takes no further ones.
pub struct Meddler {
    port: Port,
    over: Arc<AtomicBool>,
}

/// One text for another.
#[derive(Clone, Copy)]
struct Change(&'static str, &'static str);

/// Another keyword, which no client knows: what is encrypted cannot be changed.
const NO_TLS: Change = Change("STARTTLS", "XSTRTTLS");

impl Meddler {
    /// Before an SMTP server on 127.0.0.1: puts `to` for `from`, which lies within one line, in what the client says.
    pub fn before_smtp(server: u16, from: &'static str, to: &'static str) -> Self {
        Self::start(Port::reserve(), server, Some(Change(from, to)), Some(NO_TLS))
    }

    /// From this port to a server on 127.0.0.1, changing nothing: the server comes to where nobody listened.
    pub fn faithful(port: Port, server: u16) -> Self {
        Self::start(port, server, None, None)
    }

    fn start(port: Port, server: u16, of_client: Option<Change>, of_server: Option<Change>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
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
                std::thread::spawn(move || pass_on(from_client, server, of_client));
                std::thread::spawn(move || pass_on(from_server, client, of_server));
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

/// Ends with the connection, however that ends.
fn pass_on(mut source: TcpStream, mut target: TcpStream, change: Option<Change>) {
    let _ = match change {
        Some(change) => pass_on_changed(source, &mut target, change),
        None => std::io::copy(&mut source, &mut target).map(drop),
    };
    let _ = target.shutdown(Shutdown::Write);
}

/// Line by line, so that a text cut by the network is changed all the same.
fn pass_on_changed(source: TcpStream, target: &mut TcpStream, Change(from, to): Change) -> std::io::Result<()> {
    let mut lines = BufReader::new(source);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        target.write_all(&replaced(&line, from.as_bytes(), to.as_bytes()))?;
        line.clear();
    }
    Ok(())
}

fn replaced(line: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match line.windows(from.len()).position(|window| window == from) {
        Some(at) => [&line[..at], to, &line[at + from.len()..]].concat(),
        None => line.to_vec(),
    }
}
