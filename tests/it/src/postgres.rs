//! A PostgreSQL server of the test's own: on a Unix socket, in memory where there is room, gone with the test process.
//!
//! This file needs nothing but std and tempfile; the tests of the store take it in as well.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const DEFAULT_PORT: u16 = 5432;

/// Runs the server until its standard input ends, which is when the test process does, however it does. `-QUIT` is the
/// shutdown `-m immediate`: no checkpoint, recovery at the next start. `-INT` is `-m fast`. To be killed it is stopped first,
/// so that it makes no further child meanwhile.
const KEEPER: &str = r#"
bin=$1 data=$2; shift 2
start() { "$bin/postgres" -D "$data" -k "$data" -c listen_addresses= "$@" >>"$data/log" 2>&1 & server=$!; }
end() { kill -QUIT $server; wait $server; }
fast() { kill -INT $server; wait $server; }
murder() {
  kill -STOP $server
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    set -- ${line##*) }
    if [ "$2" = "$server" ]; then pid=${stat#/proc/}; kill -KILL "${pid%/stat}"; fi
  done
  kill -KILL $server
  wait $server
} 2>>"$data/log"
start "$@"
while read -r command; do
  case $command in stop) end ;; fast) fast ;; kill) murder ;; start) start "$@" ;; esac
  echo done
done
end 2>>"$data/log"
rm -rf "$data"
"#;

/// A running server. Dropped, or when the process ends: shut down, and its data folder removed.
pub struct PostgresServer {
    bin: PathBuf,
    data: PathBuf,
    /// In the name of the socket as well.
    port: u16,
    keeper: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl PostgresServer {
    /// A server with defaults that are safe but unkind: another collation than by code point, lazy commits.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further settings, `name=value`.
    pub fn start_with(settings: &[&str]) -> Self {
        let root = ["/dev/shm", "/tmp"].into_iter().map(Path::new).find(|folder| folder.is_dir()).unwrap();
        Self::start_in(root, DEFAULT_PORT, settings)
    }

    /// On this port of 127.0.0.1 as well, with its data on the disk of `root`.
    pub fn start_on_tcp(root: &Path, port: u16, settings: &[&str]) -> Self {
        let port_setting = format!("port={port}");
        let settings = [&["listen_addresses=127.0.0.1", &port_setting], settings].concat();
        Self::start_in(root, port, &settings)
    }

    fn start_in(root: &Path, port: u16, settings: &[&str]) -> Self {
        let bin = binaries();
        let data = tempfile::Builder::new().prefix("signpost-pg-").tempdir_in(root).unwrap().keep();
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(&data));
        }
        let locale = ["-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"];
        run(unprivileged(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "--no-sync"])
            .args(locale));
        let mut command = unprivileged(Path::new("sh"));
        command.args(["-c", KEEPER, "keeper"]).arg(&bin).arg(&data);
        for setting in ["max_connections=400", "shared_buffers=64MB", "synchronous_commit=off"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let mut keeper =
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh does not start");
        let (input, output) = (keeper.stdin.take(), BufReader::new(keeper.stdout.take().unwrap()));
        let server = Self { bin, data, port, keeper, input, output };
        server.wait_until_ready();
        server
    }

    /// Makes an empty database; returns its address.
    pub fn database(&self) -> String {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("test{}", LAST.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// Address of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://localhost/{database}?host={}&user=postgres", self.data.display())
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.data
    }

    /// Runs SQL beside the product; returns the rows, columns parted by `|`. `database` may be an address of ours.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let name = database_name(database);
        let mut command = Command::new(self.bin.join("psql"));
        command.env_clear().arg("-h").arg(&self.data).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            name,
        ]);
        let output = command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text]).output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// As `pg_ctl stop -m immediate`; returns when it is gone.
    pub fn stop(&mut self) {
        self.tell("stop");
    }

    /// As `pg_ctl stop -m fast`: sessions are broken off, everything is written, then it is gone.
    pub fn stop_fast(&mut self) {
        self.tell("fast");
    }

    /// kill -9 of the server and all its processes.
    pub fn kill(&mut self) {
        self.tell("kill");
    }

    /// After one of these; returns when it answers.
    pub fn start_again(&mut self) {
        self.tell("start");
        self.wait_until_ready();
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{}", self.log());
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        loop {
            let mut asked = Command::new(self.bin.join("pg_isready"));
            if asked.args(["-q", "-p", &self.port.to_string(), "-h"]).arg(&self.data).status().unwrap().success() {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "PostgreSQL does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("log")).unwrap_or_default()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.keeper.wait();
    }
}

fn database_name(address: &str) -> &str {
    let name = address.rsplit_once("localhost/").map_or(address, |(_, name)| name);
    name.split('?').next().unwrap()
}

/// Where `initdb` and `postgres` are: Debian keeps them out of PATH.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.expect("PostgreSQL 15 or newer is needed: apt-get install postgresql (tests/run does it)")
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// PostgreSQL refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
