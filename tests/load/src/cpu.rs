//! What processes cost: CPU time and memory, from /proc.
use std::time::Duration;

use crate::Result;

/// A tick of /proc/PID/stat: 10 ms for every program on Linux (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process so far, all its threads, also those that ended; zero once it is gone.
pub(crate) fn of_process(pid: u32) -> Duration {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(Duration::ZERO, |text| of_stat(&text))
}

/// CPU time of the threads of a process whose name begins so.
pub(crate) fn of_threads(pid: u32, name: &str) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
        .filter(|text| text.split_once('(').is_some_and(|(_, rest)| rest.starts_with(name)))
        .map(|text| of_stat(&text))
        .sum()
}

/// CPU time of a process and of its children, as they are now and as they ended.
pub(crate) fn of_family(parent: u32) -> Duration {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat_fields(&stat).nth(1).is_some_and(|field| field == parent.to_string())
    };
    let ended = std::fs::read_to_string(format!("/proc/{parent}/stat")).map_or(Duration::ZERO, |text| {
        stat_fields(&text).skip(13).take(2).filter_map(|field| field.parse::<u32>().ok()).map(|n| TICK * n).sum()
    });
    of_process(parent) + ended + pids.filter(is_child).map(of_process).sum::<Duration>()
}

/// Fields behind the name, which may hold anything: state, parent, ... (proc(5), from field 3 on).
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

/// utime and stime.
fn of_stat(stat: &str) -> Duration {
    stat_fields(stat).skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).map(|ticks| TICK * ticks).sum()
}

/// Octets that a process has in memory now.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most octets that it had since `forget_peak`.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// The peak begins anew with what is resident now.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn status(pid: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| format!("no {name} in the status of process {pid}"))? * 1024)
}
