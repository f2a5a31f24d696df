//! A server that can be away: a port in front of it that lets through, hangs, or breaks off.
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

const OPEN: u8 = 0;
const HANGS: u8 = 1;
const BREAKS_OFF: u8 = 2;

/// A TCP port of 127.0.0.1 before a server; open at first.
pub struct Gate {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    arrivals: Arc<AtomicUsize>,
}

impl Gate {
    /// In front of `server`.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, arrivals) = (Arc::new(AtomicU8::new(OPEN)), Arc::new(AtomicUsize::new(0)));
        let (seen, counted) = (Arc::clone(&mode), Arc::clone(&arrivals));
        // Lives as long as the test process.
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for client in listener.incoming().flatten() {
                let mode = seen.load(Ordering::SeqCst);
                match mode {
                    OPEN => forward(client, server),
                    HANGS => held.push(client),
                    _ => drop(client),
                }
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, mode, arrivals }
    }

    /// Where clients are to go.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.mode.store(OPEN, Ordering::SeqCst);
    }

    /// Takes connections and says nothing on them.
    pub fn hang(&self) {
        self.mode.store(HANGS, Ordering::SeqCst);
    }

    /// Takes connections and ends them.
    pub fn break_off(&self) {
        self.mode.store(BREAKS_OFF, Ordering::SeqCst);
    }

    /// Connections so far.
    pub fn arrivals(&self) -> usize {
        self.arrivals.load(Ordering::SeqCst)
    }
}

fn forward(client: TcpStream, server: SocketAddr) {
    let Ok(server) = TcpStream::connect(server) else { return };
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
