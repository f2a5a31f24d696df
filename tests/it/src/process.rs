//! Children: in a process group of their own, output in a file, dead when the test is.
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Asks again and again until there is an answer; fails with `what` at the deadline.
pub fn wait_for<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// A running child. Dropped: killed with its whole process group.
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, prepared by `prepare`; standard output and error are appended to `log`.
    ///
    /// Started through setpriv, so that the kernel kills it when the thread that started it ends: also where the test is
    /// killed and no destructor runs.
    pub fn start(what: &str, program: &Path, log: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        let output = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Self::tied_to_us(program);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        prepare(&mut command);
        let child = command.spawn().unwrap_or_else(|e| panic!("{what} ({}) does not start: {e}", program.display()));
        Self { child, what: what.to_owned(), log: log.to_owned() }
    }

    /// A command whose process ends with the thread that spawns it, in a process group of its own.
    pub fn tied_to_us(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
        command
    }

    /// Its id: setpriv becomes the program, it does not stay its parent.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Fails the test if it has ended already.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}; it printed:\n{}", self.what, self.output());
        }
    }

    /// SIGTERM, then its exit status; fails the test if it does not end within `deadline`.
    pub fn terminate(mut self, deadline: Duration) -> ExitStatus {
        self.terminate_signal();
        wait_for(&format!("{} ends after SIGTERM", self.what), deadline, || self.child.try_wait().unwrap())
    }

    /// SIGTERM only.
    pub fn terminate_signal(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Any signal, to its whole group.
    pub fn signal(&self, signal: rustix::process::Signal) {
        // A group that is gone already is what is wanted.
        let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}
