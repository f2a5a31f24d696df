//! A real BIND as authoritative server of zones below `test`.
use crate::{DEADLINE, Port, Process, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const TSIG_NAME: &str = "signpost-tests";
const TSIG_SECRET: &str = "dGVzdHMgb25seSwgbm90IGEgc2VjcmV0IGF0IGFsbCE=";
/// The user that named (which gives up root's right to read foreign files anyway) and judges run as where the tests run as root.
const NOBODY: u32 = 65_534;

/// What the server shall hold; see [`Named::with`].
#[derive(Default)]
pub struct NamedBuilder {
    zones: BTreeMap<String, String>,
    addresses: Vec<String>,
    transfers: bool,
    negative_ttl: Option<u32>,
}

/// A running BIND, changed through nsupdate. Dropped: killed.
pub struct Named {
    _process: Process,
    _folder: TempDir,
    port: Port,
    zones: Vec<String>,
}

impl NamedBuilder {
    /// A zone below `test` with these lines in zone-file form; SOA, NS, `ns` and the delegation from `test` are added.
    pub fn zone(mut self, name: &str, lines: &str) -> Self {
        self.zones.insert(name.to_owned(), lines.to_owned());
        self
    }

    /// A further address to listen on, for example 127.0.0.2; it becomes a second name server of every zone.
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// Hands its zones out to who has the key of [`Named::update_setting`].
    pub fn transfers(mut self) -> Self {
        self.transfers = true;
        self
    }

    /// So many seconds resolvers keep that a name does not exist (RFC 2308 5); 1 unless said.
    pub fn negative_ttl(mut self, seconds: u32) -> Self {
        self.negative_ttl = Some(seconds);
        self
    }

    /// Starts it as one more server, on the port of the first one and at that other loopback address, which must be an `address` of
    /// both. BIND listens only at addresses of interfaces, so a forwarder stands there in front of it.
    pub fn start_beside(self, first: &Named, address: &str) -> Named {
        let named = self.start();
        let from = SocketAddr::new(address.parse().unwrap(), first.address().port());
        forward(from, named.address());
        named
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Named {
        let server = find("named", "bind9");
        let port = Port::reserve();
        let folder = tempfile::Builder::new().prefix("signpost-named-").tempdir().unwrap();
        let zones = self.write_files(folder.path(), port.number());
        // Debian's AppArmor profile is tied to the path /usr/sbin/named and forbids folders like ours: run a copy.
        let program = folder.path().join("named");
        std::fs::copy(server, &program).unwrap();
        give_to_nobody(folder.path());
        let (log, config) = (folder.path().join("log"), folder.path().join("named.conf"));
        let mut process = Process::start("named", &program, &log, |command| {
            command.arg("-c").arg(&config).args(["-f", "-g", "-n", "1"]).current_dir(folder.path());
            hand_over(command);
        });
        wait_for("named runs", DEADLINE, || {
            process.assert_running();
            process.output().lines().any(|line| line.ends_with(" running")).then_some(())
        });
        Named { _process: process, _folder: folder, port, zones }
    }

    fn write_files(&self, folder: &Path, port: u16) -> Vec<String> {
        let mut zones = self.zones.clone();
        let mut parent = zones.remove("test").unwrap_or_default();
        for name in zones.keys() {
            let below = name.strip_suffix(".test").expect("zones lie below `test`");
            parent.push_str(&self.delegation(below));
        }
        zones.insert("test".to_owned(), parent);
        let listen: String = std::iter::once("127.0.0.1").chain(self.addresses.iter().map(String::as_str)).fold(
            String::new(),
            |mut out, a| {
                let _ = write!(out, "{a}; ");
                out
            },
        );
        let transfers = if self.transfers { format!("key \"{TSIG_NAME}\"") } else { "none".to_owned() };
        let mut config = format!(
            "key \"{TSIG_NAME}\" {{ algorithm hmac-sha256; secret \"{TSIG_SECRET}\"; }};\n\
             controls {{ }};\n\
             options {{ directory \"{at}\"; pid-file \"{at}/named.pid\"; session-keyfile \"{at}/session.key\";\n\
             managed-keys-directory \"{at}\"; listen-on port {port} {{ {listen}}}; listen-on-v6 {{ none; }};\n\
             recursion no; allow-query {{ 127.0.0.0/8; }}; allow-transfer {{ {transfers}; }}; notify no;\n\
             dnssec-validation no; minimal-responses yes; check-names primary ignore; }};\n",
            at = folder.display()
        );
        for (name, lines) in &zones {
            let _ = writeln!(
                config,
                "zone \"{name}\" {{ type primary; file \"{name}.zone\"; check-names ignore; allow-update {{ key \"{TSIG_NAME}\"; }}; }};"
            );
            let own = self.delegation("@").replace(".@", "");
            let (ttl, negative) = (1, self.negative_ttl.unwrap_or(1));
            let soa = format!("@ {negative} IN SOA ns1 hostmaster ( 1 60 60 600 {negative} )");
            let zone = format!("$TTL {ttl}\n{soa}\n{own}{lines}\n");
            std::fs::write(folder.join(format!("{name}.zone")), zone).unwrap();
        }
        std::fs::write(folder.join("named.conf"), config).unwrap();
        zones.into_keys().collect()
    }

    /// NS and address records of the child `below` (or the zone itself, `@`).
    fn delegation(&self, below: &str) -> String {
        let mut lines = String::new();
        let addresses = std::iter::once("127.0.0.1").chain(self.addresses.iter().map(String::as_str));
        for (number, address) in addresses.enumerate() {
            let host = format!("ns{}.{below}", number + 1);
            let _ = write!(lines, "{below} IN NS {host}\n{host} IN A {address}\n");
        }
        lines
    }
}

impl Named {
    /// A server to be given its zones.
    pub fn with() -> NamedBuilder {
        NamedBuilder::default()
    }

    /// Address and port of the first listener.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// The value of SIGNPOST_DNS_UPDATE for this server, if it is reached at that port of 127.0.0.1.
    pub fn update_setting_at(&self, port: u16) -> String {
        format!("{TSIG_NAME}:hmac-sha256:{TSIG_SECRET}@127.0.0.1:{port}")
    }

    /// The value of SIGNPOST_DNS_UPDATE for this server.
    pub fn update_setting(&self) -> String {
        self.update_setting_at(self.port.number())
    }

    /// The secret in it.
    pub fn update_secret(&self) -> &'static str {
        TSIG_SECRET
    }

    /// Puts the TXT records of that name in place of those that are there, each given as one text and cut as RFC 1035 3.3 asks.
    pub fn publish_txt(&self, name: &str, values: &[&str]) {
        let values: Vec<Vec<String>> = values
            .iter()
            .map(|v| v.as_bytes().chunks(255).map(|c| String::from_utf8(c.to_vec()).unwrap()).collect())
            .collect();
        self.replace_txt(name, &values);
    }

    /// Publishes a Record of the API as it says itself (its `chunks`), whatever else is at the name being replaced.
    pub fn publish(&self, record: &Value) {
        if record["type"] == "CNAME" {
            return self.publish_cname(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
        }
        assert_eq!(record["type"], "TXT", "only TXT and CNAME records are published by the tests: {record}");
        let chunks = record["chunks"].as_array().unwrap_or_else(|| panic!("a Record without chunks: {record}"));
        let chunks: Vec<String> = chunks.iter().map(|c| c.as_str().unwrap().to_owned()).collect();
        self.replace_txt(record["name"].as_str().unwrap(), &[chunks]);
    }

    /// An alias, whatever else is at the name being replaced.
    pub fn publish_cname(&self, name: &str, target: &str) {
        self.update(name, &format!("update delete {name}.\nupdate add {name}. 1 CNAME {target}.\n"));
    }

    /// Removes the TXT records of that name.
    pub fn withdraw_txt(&self, name: &str) {
        self.replace_txt(name, &[]);
    }

    fn replace_txt(&self, name: &str, values: &[Vec<String>]) {
        let mut update = format!("update delete {name}. TXT\n");
        for chunks in values {
            let quoted: Vec<String> =
                chunks.iter().map(|c| format!("\"{}\"", c.replace('\\', "\\\\").replace('"', "\\\""))).collect();
            let _ = writeln!(update, "update add {name}. 1 TXT {}", quoted.join(" "));
        }
        self.update(name, &update);
    }

    /// Any nsupdate commands for the zone that holds `name`.
    pub fn update(&self, name: &str, commands: &str) {
        let zone = self
            .zones
            .iter()
            .filter(|zone| name == zone.as_str() || name.ends_with(&format!(".{zone}")))
            .max_by_key(|zone| zone.len())
            .unwrap_or_else(|| panic!("no zone for {name}"));
        self.nsupdate(&format!("server 127.0.0.1 {}\nzone {zone}.\n{commands}send\n", self.port.number()));
    }

    /// Runs a script of nsupdate as it is, with the key that may update every zone. Fails where nsupdate does.
    pub fn nsupdate(&self, script: &str) {
        let output = self.try_nsupdate(script);
        assert!(output.status.success(), "nsupdate: {}\n{script}", String::from_utf8_lossy(&output.stderr));
    }

    /// The same; what nsupdate said.
    pub fn try_nsupdate(&self, script: &str) -> Output {
        let mut child = Command::new(find("nsupdate", "dnsutils"))
            .arg("-y")
            .arg(format!("hmac-sha256:{TSIG_NAME}:{TSIG_SECRET}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Records of a name in presentation form as the server gives them, sorted.
    pub fn records(&self, name: &str, kind: &str) -> Vec<String> {
        let output = Command::new(find("dig", "dnsutils"))
            .args(["@127.0.0.1", "-p", &self.port.number().to_string(), "+short", "+norecurse", name, kind])
            .output()
            .unwrap();
        assert!(output.status.success(), "dig: {}", String::from_utf8_lossy(&output.stdout));
        let mut records: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        records.sort();
        records
    }

    /// TXT records of a name as the server gives them, strings joined.
    pub fn txt(&self, name: &str) -> Vec<String> {
        let output = Command::new(find("dig", "dnsutils"))
            .args(["@127.0.0.1", "-p", &self.port.number().to_string(), "+short", "+norecurse", name, "TXT"])
            .output()
            .unwrap();
        assert!(output.status.success(), "dig: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.trim_matches('"').replace("\" \"", "").replace("\\\"", "\"").replace("\\;", ";"))
            .collect()
    }
}

/// Passes UDP and TCP on, for as long as the test's process lives.
fn forward(from: SocketAddr, to: SocketAddr) {
    let udp = UdpSocket::bind(from).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let (udp, question) = (udp.try_clone().unwrap(), buffer[..length].to_vec());
            std::thread::spawn(move || {
                let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
                upstream.set_read_timeout(Some(DEADLINE)).unwrap();
                upstream.send_to(&question, to).unwrap();
                let mut reply = [0; 4096];
                // A server that the test has ended says nothing any more.
                if let Ok(length) = upstream.recv(&mut reply) {
                    udp.send_to(&reply[..length], peer).unwrap();
                }
            });
        }
    });
    let tcp = TcpListener::bind(from).unwrap();
    std::thread::spawn(move || {
        for client in tcp.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(to) else { continue };
            for (mut one, mut other) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || std::io::copy(&mut one, &mut other));
            }
        }
    });
}

/// A recursive resolver (unbound) of everything below `test`, with a cache, asking one BIND. Dropped: killed.
pub struct Unbound {
    _process: Process,
    _folder: TempDir,
    port: Port,
}

impl Unbound {
    /// Validates what lies below the anchors, each a DNSKEY or DS record in zone-file form.
    pub fn start(authority: &Named, anchors: &[&str]) -> Self {
        let program = find("unbound", "unbound");
        let port = Port::reserve();
        let folder = tempfile::Builder::new().prefix("signpost-unbound-").tempdir().unwrap();
        let anchors: String = anchors.iter().fold(String::new(), |mut out, anchor| {
            let _ = writeln!(out, " trust-anchor: \"{anchor}\"");
            out
        });
        let config = format!(
            "server:\n interface: 127.0.0.1@{number}\n port: {number}\n do-daemonize: no\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n \
             chroot: \"\"\n username: \"\"\n pidfile: \"\"\n directory: \"{folder}\"\n do-ip6: no\n do-not-query-localhost: no\n \
             module-config: \"validator iterator\"\n local-zone: \"test.\" transparent\n cache-max-negative-ttl: 86400\n{anchors}\
             remote-control:\n control-enable: no\n\
             forward-zone:\n name: \"test.\"\n forward-addr: 127.0.0.1@{authority}\n",
            number = port.number(),
            folder = folder.path().display(),
            authority = authority.port.number()
        );
        let (log, file) = (folder.path().join("log"), folder.path().join("unbound.conf"));
        std::fs::write(&file, config).unwrap();
        give_to_nobody(folder.path());
        let mut process = Process::start("unbound", &program, &log, |command| {
            command.arg("-dd").arg("-c").arg(&file);
            hand_over(command);
        });
        wait_for("unbound runs", DEADLINE, || {
            process.assert_running();
            process.output().contains("start of service").then_some(())
        });
        Self { _process: process, _folder: folder, port }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Asks for TXT as anybody would; for how many seconds the answer will be kept, if there is one.
    pub fn txt_ttl(&self, name: &str) -> Option<u32> {
        let output = Command::new(find("dig", "dnsutils"))
            .args(["@127.0.0.1", "-p", &self.port.number().to_string(), "+noall", "+answer", name, "TXT"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).split_whitespace().nth(1)?.parse().ok()
    }

    /// Asks for TXT as anybody would; gives the response code, such as NXDOMAIN.
    pub fn ask_txt(&self, name: &str) -> String {
        let output = Command::new(find("dig", "dnsutils"))
            .args(["@127.0.0.1", "-p", &self.port.number().to_string(), name, "TXT"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
        status.unwrap_or_else(|| panic!("dig: {text}")).to_owned()
    }
}

/// Where a program of a Debian package lies; its sbin is not in everybody's PATH.
pub(crate) fn find(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed: run tests/run, or apt-get install {package}"))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Where the tests run as root, what they start does not.
pub(crate) fn hand_over(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// The folder and what lies in it, for a program that `hand_over` gives another user.
pub(crate) fn give_to_nobody(folder: &Path) {
    if !is_root() {
        return;
    }
    std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
}
