//! Processes that may die, on one database, and who looks after them.
use crate::judges::python;
use crate::{
    Api, App, AppBuilder, Arrival, Client, DEADLINE, Death, Dice, Domain, Ledger, Named, PostgresServer, Sink, Tenant,
    World, enabled_domain, repetitions, repetitions_by_others, repository, wait_for,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Deliveries in flight per process: the most that one death may send twice.
const IN_FLIGHT: usize = 16;
const CLIENTS: usize = 8;
/// The queue may take so many times its patience, however much arrives.
const LONGEST_DRAIN: u32 = 10;
/// The statuses of what is still to be done.
const UNDER_WAY: [&str; 6] = ["scheduled", "awaiting_signature", "held", "queued", "deferred", "sending"];

/// Which database.
pub enum Database {
    /// In the data folder of the one process.
    Sqlite,
    /// A server, and the address of the database on it.
    Postgres(PostgresServer, String),
}

/// Processes on one database, each start of one under an EHLO name of its own; a receiver; two domains (RSA and Ed25519).
pub struct Site {
    processes: Vec<Process>,
    /// The receiver.
    pub sink: Sink,
    /// The sender.
    pub tenant: Tenant,
    /// Its domains.
    pub domains: Vec<Domain>,
    /// The database goes away meanwhile.
    pub may_refuse: bool,
    /// Deaths so far.
    pub deaths: Vec<Death>,
    database: Database,
    _named: Named,
}

struct Process {
    app: App,
    number: usize,
    boots: usize,
}

impl Process {
    fn helo(&self) -> String {
        format!("p{}b{}.signpost.test", self.number, self.boots)
    }

    fn next_boot(&mut self) {
        self.boots += 1;
        let helo = self.helo();
        self.app.set("SIGNPOST_HOSTNAME", helo);
    }
}

impl Site {
    /// One process on SQLite.
    pub fn sqlite(sink: Sink) -> Self {
        Self::start(sink, Database::Sqlite, 1)
    }

    /// Several processes on PostgreSQL.
    pub fn postgres(sink: Sink, processes: usize) -> Self {
        let server = PostgresServer::start();
        let url = server.database();
        Self::start(sink, Database::Postgres(server, url), processes)
    }

    fn start(sink: Sink, database: Database, count: usize) -> Self {
        let named = World::zones().start();
        let mut processes: Vec<Process> = Vec::new();
        for number in 0..count {
            let mut settings = settings(&named, &sink);
            if let Database::Postgres(_, url) = &database {
                settings = settings.env("SIGNPOST_DATABASE_URL", url.as_str());
            }
            if let Some(first) = processes.first() {
                settings = settings.env("SIGNPOST_MASTER_KEY_FILE", first.app.master_key_file().display().to_string());
            }
            let mut process = Process { app: settings.prepare(), number, boots: 0 };
            process.next_boot();
            process.app.start();
            processes.push(process);
        }
        let tenant = processes[0].app.tenant("Ann");
        let domains = [("example.test", "rsa-2048"), ("other.test", "ed25519")]
            .map(|(name, algorithm)| enabled_domain(&tenant, &named, name, algorithm))
            .into();
        Self { processes, sink, tenant, domains, may_refuse: false, deaths: Vec::new(), database, _named: named }
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.processes.len()
    }

    /// One of the processes.
    pub fn app(&self, process: usize) -> &App {
        &self.processes[process].app
    }

    /// The EHLO name of a process since its last start.
    pub fn helo(&self, process: usize) -> String {
        self.processes[process].helo()
    }

    /// The database server.
    pub fn server(&mut self) -> &mut PostgresServer {
        match &mut self.database {
            Database::Postgres(server, _) => server,
            Database::Sqlite => panic!("SQLite has no server"),
        }
    }

    /// The tenant at each process. These callers do not keep what was answered.
    pub fn apis(&self) -> Vec<Api> {
        let addresses = self.processes.iter().map(|process| process.app.address());
        addresses.map(|address| Api::new(address).with_token(&self.tenant.token)).collect()
    }

    /// Recipients that are being sent to, or were when their worker died.
    pub fn sending(&self) -> BTreeSet<String> {
        let text = "SELECT address FROM recipients WHERE status = 'sending'";
        let rows = match &self.database {
            Database::Sqlite => sqlite_rows(&self.processes[0].app.data_folder().join("signpost.db"), text),
            Database::Postgres(server, url) => server.sql(url, text),
        };
        rows.lines().map(str::to_owned).collect()
    }

    /// kill -9, and a new start. Now and then it is killed again while it starts.
    pub fn kill(&mut self, process: usize, dice: &mut Dice) {
        self.processes[process].app.kill();
        self.note_death(process);
        while dice.below(4) == 0 {
            self.processes[process].next_boot();
            self.processes[process].app.start_only();
            std::thread::sleep(dice.duration(Duration::from_millis(400)));
            self.processes[process].app.kill();
            self.note_death(process);
        }
        self.processes[process].next_boot();
        self.processes[process].app.start();
    }

    /// Stands still until others have taken its lease, and goes on.
    pub fn freeze_for_longer_than_a_lease(&mut self, process: usize) {
        self.processes[process].app.freeze();
        self.note(process, true);
        let others = (self.size() - 1).to_string();
        let Database::Postgres(server, url) = &self.database else { panic!("on SQLite there is nobody to take it") };
        let leases = "SELECT COUNT(*) FROM workers WHERE lease_until IS NOT NULL";
        wait_for("the lease is taken", DEADLINE * 2, || (server.sql(url, leases) == others).then_some(()));
        self.processes[process].app.thaw();
    }

    /// What was under way when that process was killed or stood still.
    pub fn note_death(&mut self, process: usize) {
        self.note(process, false);
    }

    fn note(&mut self, process: usize, goes_on: bool) {
        let death = Death { helo: self.helo(process), sending: self.sending(), goes_on };
        self.deaths.push(death);
    }

    /// Waits until nothing is left to be done; says what is. A long queue may take its time, as long as mail arrives.
    fn drain(&self) -> Option<String> {
        let api = &self.apis()[0];
        let (mut arrived, mut waited_since) = (0, std::time::Instant::now());
        let drains_until = waited_since + patience() * LONGEST_DRAIN;
        loop {
            let left: Vec<&str> = UNDER_WAY
                .into_iter()
                .filter(|status| {
                    let page = api.get(&format!("/v1/messages?status={status}&limit=1")).expect(200).json();
                    !page["data"].as_array().unwrap().is_empty()
                })
                .collect();
            if left.is_empty() {
                return None;
            }
            let now = self.sink.count();
            if now > arrived {
                (arrived, waited_since) = (now, std::time::Instant::now());
            }
            if waited_since.elapsed() > patience() || std::time::Instant::now() > drains_until {
                return Some(format!("stuck: {left:?} messages are left"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Load while `deaths` are died; then the queue drains, and everything is counted. Fails with every fault.
    pub fn survive(mut self, dice: &mut Dice, deaths: impl FnOnce(&mut Self, &Ledger, &mut Dice)) {
        let (ledger, stop) = (Ledger::default(), AtomicBool::new(false));
        let (apis, domains) = (self.apis(), self.domains.clone());
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let client = Client {
                        number,
                        dice: dice.fork(),
                        apis: apis.clone(),
                        domains: &domains,
                        may_be_refused: self.may_refuse,
                        ledger: &ledger,
                    };
                    let stop = &stop;
                    scope.spawn(move || client.run(stop))
                })
                .collect();
            let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deaths(&mut self, &ledger, dice)));
            stop.store(true, Ordering::SeqCst);
            clients.into_iter().for_each(|client| client.join().unwrap());
            died.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        self.assert_kept(&ledger);
    }

    /// The queue drains, and everything is counted. Fails with every fault.
    pub fn assert_kept(mut self, ledger: &Ledger) {
        let mut faults: Vec<String> = self.drain().into_iter().collect();
        faults.extend(self.not_delivered(ledger));
        self.processes.iter_mut().for_each(|process| process.app.stop());
        let arrivals = self.sink.arrivals();
        faults.extend(ledger.faults(&arrivals, &self.deaths, &self.domains));
        let in_flight = in_flight(&arrivals, &self.deaths);
        let repeated = repetitions(&arrivals);
        eprintln!(
            "{} posted, {} acknowledgements, {} refusals, {} arrivals, of them {repeated} repeated ({} by a sender that stood still between); {} deaths with {in_flight} deliveries in flight",
            ledger.posted().len(),
            ledger.acknowledgements(),
            ledger.refusals(),
            arrivals.len(),
            repeated - repetitions_by_others(&arrivals),
            self.deaths.len(),
        );
        if repeated > in_flight.min(self.deaths.len() * IN_FLIGHT) {
            faults.push(format!("repeated: {repeated} copies, and {in_flight} deliveries were in flight"));
        }
        assert!(faults.is_empty(), "{} faults, among them:\n{}", faults.len(), some_of_each_kind(&faults));
    }

    /// What the API says of everything acknowledged.
    fn not_delivered(&self, ledger: &Ledger) -> Vec<String> {
        let api = &self.apis()[0];
        let posted = ledger.posted();
        let ids = posted.values().flat_map(|posted| &posted.acknowledged);
        ids.filter_map(|id| {
            let answer = api.get(&format!("/v1/messages/{id}"));
            let status = if answer.status == 200 { answer.json()["status"].to_string() } else { answer.text() };
            (status != "\"delivered\"").then(|| format!("status: {id} was acknowledged and is {status}"))
        })
        .collect()
    }
}

/// How long nothing may arrive while mail is queued: a lease (20 s) and some.
fn patience() -> Duration {
    DEADLINE * 2
}

/// Deliveries that were in flight at a death: arrived from the process that died, and not noted as sent.
fn in_flight(arrivals: &[Arrival], deaths: &[Death]) -> usize {
    let of_death = |death: &Death| {
        let arrived = arrivals.iter().filter(|arrival| arrival.helo == death.helo);
        arrived.filter(|arrival| arrival.rcpt.iter().any(|address| death.sending.contains(address))).count()
    };
    deaths.iter().map(of_death).sum()
}

fn some_of_each_kind(faults: &[String]) -> String {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for fault in faults {
        let of_kind = kinds.entry(fault.split(':').next().unwrap()).or_default();
        if of_kind.len() < 5 {
            of_kind.push(fault);
        }
    }
    kinds.into_values().flatten().collect::<Vec<_>>().join("\n")
}

fn settings(named: &Named, sink: &Sink) -> AppBuilder {
    App::with()
        .dns(named)
        .env("SIGNPOST_SMTP_RELAY", format!("smtp://127.0.0.1:{}", sink.port()))
        .env("SIGNPOST_SMTP_IN_FLIGHT", IN_FLIGHT.to_string())
        .env("SIGNPOST_LOG", "info")
}

fn sqlite_rows(file: &Path, text: &str) -> String {
    let tool: PathBuf = repository().join("tests/tools/sqlite_rows.py");
    let output = Command::new(python()).arg(tool).arg(file).arg(text).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
