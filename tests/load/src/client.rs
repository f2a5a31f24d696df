//! The load generator: kept connections, one request at a time on each, the same octets every time. It shares the cores with
//! what it measures, so it does as little as it can: it makes no objects of answers, it reads their status and their length.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// A request to be repeated, and the status of its right answer.
pub(crate) struct Call {
    octets: Vec<u8>,
    status: u16,
}

impl Call {
    /// POST with a body.
    pub(crate) fn post(path: &str, token: &str, content_type: &str, body: &[u8], status: u16) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\
             content-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self { octets: [head.as_bytes(), body].concat(), status }
    }
}

/// What a run saw.
pub(crate) struct Run {
    /// Right answers.
    pub(crate) answers: u64,
    /// Wrong ones, with the first one's text.
    pub(crate) wrong: Option<String>,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// How long each answer took.
    pub(crate) latencies: Vec<Duration>,
}

impl Run {
    /// Right answers a second; an error if there was a wrong one.
    pub(crate) fn speed(&self) -> Result<f64> {
        match &self.wrong {
            Some(text) => Err(format!("a wrong answer: {text}").into()),
            None => Ok(self.answers as f64 / self.elapsed.as_secs_f64()),
        }
    }

    /// The latency that so many hundredths of the answers kept to, in milliseconds.
    pub(crate) fn percentile(&self, hundredths: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(f64::NAN, Duration::as_secs_f64) * 1e3
    }
}

/// Repeats the call for so long on so many connections, from one thread. `pace`: each connection begins a request so often;
/// without one, as soon as it has its answer.
pub(crate) fn repeat(
    address: SocketAddr,
    call: &Call,
    connections: usize,
    length: Duration,
    pace: Option<Duration>,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let (octets, status) = (std::rc::Rc::new(call.octets.clone()), call.status);
        let began = Instant::now();
        let end = began + length;
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::task::spawn_local(one(stream, octets.clone(), status, end, pace)))
            .collect();
        let mut run = Run { answers: 0, wrong: None, elapsed: Duration::ZERO, latencies: Vec::new() };
        for task in tasks {
            let (latencies, wrong) = task.await??;
            run.answers += latencies.len() as u64;
            run.latencies.extend(latencies);
            run.wrong = run.wrong.or(wrong);
        }
        run.elapsed = began.elapsed();
        Ok(run)
    }))
}

type Seen = (Vec<Duration>, Option<String>);

async fn one(
    mut stream: TcpStream,
    octets: std::rc::Rc<Vec<u8>>,
    status: u16,
    end: Instant,
    pace: Option<Duration>,
) -> std::io::Result<Seen> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut latencies = Vec::new();
    let mut ticks = pace.map(tokio::time::interval);
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let began = Instant::now();
        if began >= end {
            return Ok((latencies, None));
        }
        stream.write_all(&octets).await?;
        let seen = answer(&mut stream, &mut buffer).await?;
        if seen != status {
            return Ok((latencies, Some(String::from_utf8_lossy(&buffer).into_owned())));
        }
        latencies.push(began.elapsed());
    }
}

/// Reads one answer into `buffer` and gives its status.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<u16> {
    buffer.clear();
    let mut whole = None;
    loop {
        if whole.is_none() {
            whole = buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4 + content_length(&buffer[..at]));
        }
        if whole.is_some_and(|whole| buffer.len() >= whole) {
            let status = buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            return status.ok_or_else(|| std::io::Error::other("an answer without a status"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::Error::other("closed without an answer"));
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    String::from_utf8_lossy(head)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
