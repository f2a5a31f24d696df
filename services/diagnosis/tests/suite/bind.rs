//! A throw-away BIND with the zones that a test gives. It is authoritative, and plays the recursive resolver for the same zones.
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

const NAMED: &str = "/usr/sbin/named";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One zone: its name and zone-file lines (relative names, one record a line).
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    name: String,
    lines: Vec<String>,
}

impl Zone {
    /// With SOA, and the one name server ns1 at 127.0.0.1.
    pub(crate) fn new(name: &str, records: &[&str]) -> Self {
        Self::served_by(name, &["127.0.0.1"], records)
    }

    /// With SOA, and a name server ns1, ns2, ... for each address.
    pub(crate) fn served_by(name: &str, servers: &[&str], records: &[&str]) -> Self {
        let mut lines = vec!["@ IN SOA ns1 hostmaster 1 3600 600 86400 1".to_owned()];
        for (number, address) in servers.iter().enumerate() {
            let kind = if address.contains(':') { "AAAA" } else { "A" };
            lines.push(format!("@ IN NS ns{}", number + 1));
            lines.push(format!("ns{} IN {kind} {address}", number + 1));
        }
        lines.extend(records.iter().map(|record| (*record).to_owned()));
        Self { name: name.to_owned(), lines }
    }

    /// The same with this serial.
    pub(crate) fn serial(mut self, serial: u32) -> Self {
        self.lines[0] = format!("@ IN SOA ns1 hostmaster {serial} 3600 600 86400 1");
        self
    }

    /// The whole as a zone file.
    pub(crate) fn text(&self) -> String {
        format!("$TTL 1\n{}\n", self.lines.join("\n"))
    }

    /// From a whole zone file.
    pub(crate) fn from_text(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), lines: text.lines().map(str::to_owned).collect() }
    }
}

/// A running named; ended when dropped.
pub(crate) struct Bind {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Bind {
    /// On a free port of 127.0.0.1.
    pub(crate) fn start(zones: &[Zone]) -> Self {
        Self::start_at(SocketAddr::new(LOOPBACK, free_port()), zones)
    }

    /// At exactly this address. BIND listens only on addresses of interfaces, which of 127.0.0.0/8 is 127.0.0.1 alone: behind
    /// another one a forwarder on the test's runtime stands in.
    pub(crate) fn start_at(address: SocketAddr, zones: &[Zone]) -> Self {
        if address.ip() == LOOPBACK {
            return Self::launch(address, zones);
        }
        let mut bind = Self::launch(SocketAddr::new(LOOPBACK, free_port()), zones);
        forward(address, bind.address);
        bind.address = address;
        bind
    }

    fn launch(address: SocketAddr, zones: &[Zone]) -> Self {
        assert!(
            Path::new(NAMED).exists(),
            "{NAMED} is missing; install it: apt-get install -y --no-install-recommends bind9"
        );
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), address, zones);
        let mut child = Command::new(NAMED)
            .args(["-g", "-n", "1", "-c"])
            .arg(folder.path().join("named.conf"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            let Some(Ok(line)) = lines.next() else { panic!("named ended:\n{}", said.join("\n")) };
            let running = line.ends_with(" running");
            assert!(!line.contains("not loaded due to errors"), "{}\n{line}", said.join("\n"));
            said.push(line);
            if running {
                break;
            }
        }
        let log = Arc::new(Mutex::new(said));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| sink.lock().unwrap().push(line)));
        Self { child, log, address, _folder: folder }
    }

    /// Waits until the question for `name` is in the log; all TXT questions up to then.
    pub(crate) async fn txt_questions_up_to(&self, name: &str) -> Vec<String> {
        for _ in 0..500 {
            let questions = self.txt_questions();
            if questions.iter().any(|question| question == name) {
                return questions;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("no question for {name} in the log after 10 s: {:?}", self.txt_questions());
    }

    /// Names of TXT questions so far. Each question is logged before it is answered.
    pub(crate) fn txt_questions(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter(|line| line.contains(" IN TXT "))
            .filter_map(|line| Some(line.split(" query: ").nth(1)?.split(' ').next()?.to_owned()))
            .collect()
    }

    /// Asks this server for everything, loopback allowed as target.
    pub(crate) fn dns(&self) -> Dns {
        self.dns_with(Guard { allow: vec!["127.0.0.0/8".parse().unwrap()] })
    }

    pub(crate) fn dns_with(&self, guard: Guard) -> Dns {
        Dns::new(DnsSettings { resolvers: vec![self.address], authority_port: self.address.port(), guard }).unwrap()
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports given out by this process, so that no two tests get the same one before they use it.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free on the first loopback addresses, for UDP and TCP.
pub(crate) fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let others = [1, 2, 3].map(|last| SocketAddr::new([127, 0, 0, last].into(), port));
        let tcp_free = others[1..].iter().all(|address| TcpListener::bind(address).is_ok());
        let udp_free = others.iter().all(|address| UdpSocket::bind(address).is_ok());
        if tcp_free && udp_free && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

fn write_files(folder: &Path, address: SocketAddr, zones: &[Zone]) {
    let (ip, port, folder_text) = (address.ip(), address.port(), folder.display());
    let mut config = format!(
        "options {{ directory \"{folder_text}\"; pid-file none; session-keyfile \"{folder_text}/session.key\"; \
         managed-keys-directory \"{folder_text}\"; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; recursion no; \
         allow-query {{ any; }}; allow-transfer {{ none; }}; notify no; dnssec-validation no; minimal-responses yes; querylog yes; }};\n\
         controls {{ }};\n"
    );
    for zone in zones {
        let name = &zone.name;
        config.push_str(&format!("zone \"{name}\" {{ type master; file \"{name}.zone\"; check-names ignore; }};\n"));
        std::fs::write(folder.join(format!("{name}.zone")), zone.text()).unwrap();
    }
    std::fs::write(folder.join("named.conf"), config).unwrap();
}

/// Passes UDP and TCP on, until the runtime ends.
fn forward(from: SocketAddr, to: SocketAddr) {
    let udp = UdpSocket::bind(from).unwrap();
    udp.set_nonblocking(true).unwrap();
    let udp = Arc::new(tokio::net::UdpSocket::from_std(udp).unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
            tokio::spawn(exchange(Arc::clone(&udp), buffer[..length].to_vec(), peer, to));
        }
    });
    let tcp = TcpListener::bind(from).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = tcp.accept().await {
            let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
}

async fn exchange(udp: Arc<tokio::net::UdpSocket>, question: Vec<u8>, peer: SocketAddr, to: SocketAddr) {
    let upstream = tokio::net::UdpSocket::bind(SocketAddr::new(LOOPBACK, 0)).await.unwrap();
    upstream.send_to(&question, to).await.unwrap();
    let mut buffer = [0; 4096];
    let length = upstream.recv(&mut buffer).await.unwrap();
    udp.send_to(&buffer[..length], peer).await.unwrap();
}
