use super::stream::{HEAD_TIME, IDLE_TIME};
use super::*;
use crate::arriving::BodyMemory;
use crate::body::read;
use axum::routing::{get, post};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

const LIMIT: u64 = 1_000_000;

/// `/read` reads up to `LIMIT`, `/refuse` answers 404 without reading, `/large` answers 100,000 octets, `/client` the client's address.
fn around_all() -> Router {
    let take =
        |request: Request| async move { read(request.into_body(), LIMIT).await.map(|octets| octets.len().to_string()) };
    let refuse = || async { crate::problem::Problem::not_found("thing") };
    let client = |request: Request| async move { request.extensions().get::<Client>().unwrap().0.to_string() };
    let routes = Router::new()
        .route("/read", post(take))
        .route("/refuse", post(refuse))
        .route("/large", get(|| async { "7".repeat(100_000) }))
        .route("/client", get(client));
    crate::router::around(routes, Arc::new(|| "1".to_owned()), BodyMemory::new(4 * LIMIT))
}

async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
    let router = around_all();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router, Door::default(), shutdown.clone()));
    (address, shutdown, server)
}

/// Sends everything before it reads, like most clients, and gives the first line of the answer.
async fn status_line(address: SocketAddr, head: String, body: Vec<u8>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.contains(&b'\n') {
        let octets = stream.read(&mut chunk).await.unwrap();
        assert!(octets > 0, "closed without an answer");
        answer.extend_from_slice(&chunk[..octets]);
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_gets_the_refusal() {
    let (address, shutdown, server) = start().await;
    for (path, size, expected) in [
        ("/read", 1_000_000, "HTTP/1.1 200 OK"),
        ("/read", 1_000_001, "HTTP/1.1 413 Payload Too Large"),
        ("/read", 40_000_000, "HTTP/1.1 413 Payload Too Large"),
        ("/refuse", 40_000_000, "HTTP/1.1 404 Not Found"),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
        assert_eq!(status_line(address, head, vec![b'a'; size]).await, expected, "{path} {size}");
    }
    let chunk = format!("{:x}\r\n{}\r\n", 2_000_000, "a".repeat(2_000_000));
    let head = "POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let answer = status_line(address, head, format!("{chunk}0\r\n\r\n").into_bytes()).await;
    assert_eq!(answer, "HTTP/1.1 413 Payload Too Large");
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_declared_size_over_the_limit_is_refused_before_any_octet_of_it() {
    let (address, shutdown, server) = start().await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!("POST /read HTTP/1.1\r\nhost: x\r\n{expect}content-length: 99999999999\r\n\r\n");
        assert_eq!(status_line(address, head, Vec::new()).await, "HTTP/1.1 413 Payload Too Large");
    }
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

/// The client's end of a connection in virtual time.
struct Dialed {
    stream: DuplexStream,
    dialed: Instant,
    /// Its end would be the server's shutdown.
    _graceful: GracefulShutdown,
}

const SECOND: Duration = Duration::from_secs(1);
const REQUEST: &[u8] = b"GET /client HTTP/1.1\r\nhost: x\r\n\r\n";

impl Dialed {
    /// `window`: octets that may be on the way.
    fn new(window: usize) -> Self {
        let (stream, theirs) = tokio::io::duplex(window);
        let (busy, graceful) = (Busy::default(), GracefulShutdown::new());
        let paced = Paced::new(theirs, busy.clone(), |_| {});
        let peer = Ipv4Addr::new(198, 51, 100, 1).into();
        tokio::spawn(requests(paced, busy, around_all(), peer, Arc::from([]), graceful.watcher()));
        Self { stream, dialed: Instant::now(), _graceful: graceful }
    }

    async fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    /// Sends so many octets every so many seconds until all is sent or the server closes; how many were sent.
    async fn trickle(&mut self, octets: &[u8], at_once: usize, every: Duration) -> usize {
        let mut sent = 0;
        for chunk in octets.chunks(at_once) {
            sleep(every).await;
            if self.stream.write_all(chunk).await.is_err() {
                break;
            }
            sent += chunk.len();
        }
        sent
    }

    /// The next answer, head and body, which are short.
    async fn answer(&mut self) -> String {
        let mut octets = vec![0; 4_096];
        let read = self.stream.read(&mut octets).await.unwrap();
        String::from_utf8_lossy(&octets[..read]).into_owned()
    }

    /// Waits for the server to close; what it sent before, and how long after dialling.
    async fn closed(mut self) -> (String, Duration) {
        let mut rest = Vec::new();
        // A connection that was given up is an end as good as any.
        let _ = self.stream.read_to_end(&mut rest).await;
        (String::from_utf8_lossy(&rest).into_owned(), self.dialed.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_or_trickles_its_head_is_closed() {
    let silent = Dialed::new(4_096);
    assert_eq!(silent.closed().await.1.as_secs(), HEAD_TIME.as_secs());
    let mut slow = Dialed::new(4_096);
    let sent = slow.trickle(&[b'G'; 100], 1, SECOND).await;
    assert!(sent <= 10, "{sent} octets of a trickled head were taken");
    assert_eq!(slow.closed().await.0, "");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_slowly_but_in_time_is_answered() {
    let mut slow = Dialed::new(4_096);
    assert_eq!(slow.trickle(REQUEST, 5, SECOND).await, REQUEST.len());
    assert!(slow.answer().await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_a_while_and_its_next_head_has_its_own_time() {
    let mut idle = Dialed::new(4_096);
    for _ in 0..3 {
        idle.send(REQUEST).await;
        assert!(idle.answer().await.ends_with("198.51.100.1"));
        sleep(IDLE_TIME - SECOND).await;
    }
    idle.send(b"G").await;
    sleep(HEAD_TIME - SECOND).await;
    idle.send(&REQUEST[1..]).await;
    assert!(idle.answer().await.starts_with("HTTP/1.1 200 OK"));
    let rested = idle.dialed.elapsed();
    let (rest, closed) = idle.closed().await;
    assert_eq!((rest.as_str(), (closed - rested).as_secs()), ("", IDLE_TIME.as_secs()));

    let mut idle = Dialed::new(4_096);
    idle.send(REQUEST).await;
    idle.answer().await;
    assert_eq!(idle.closed().await.1.as_secs(), IDLE_TIME.as_secs());

    let mut idle = Dialed::new(4_096);
    idle.send(REQUEST).await;
    idle.answer().await;
    sleep(SECOND).await;
    idle.send(b"G").await;
    assert_eq!(idle.closed().await.1.as_secs(), 1 + HEAD_TIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_trickled_body_gets_a_408_and_its_connection_is_closed() {
    for (every, head) in [(9, "content-length: 1000"), (1, "content-length: 1000"), (9, "transfer-encoding: chunked")] {
        let mut slow = Dialed::new(4_096);
        slow.send(format!("POST /read HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n").as_bytes()).await;
        let body = if head.starts_with("content") { "a".repeat(1_000) } else { "1\r\na\r\n".repeat(100) };
        let sent = slow.trickle(body.as_bytes(), if body.starts_with('a') { 1 } else { 6 }, every * SECOND).await;
        assert!(sent < 130, "{sent} octets were taken");
        let (answer, _) = slow.closed().await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout"), "{answer}");
        assert!(answer.contains("connection: close") && answer.contains("urn:signpost:problem:timeout"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_poor_line_may_take_its_time_for_a_body() {
    let mut slow = Dialed::new(4_096);
    let body = [b'a'; 100_000];
    slow.send(b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n").await;
    // 1,100 octets a second with a pause of 15 s in the middle.
    assert_eq!(slow.trickle(&body[..50_000], 1_100, SECOND).await, 50_000);
    sleep(15 * SECOND).await;
    assert_eq!(slow.trickle(&body[50_000..], 1_100, SECOND).await, 50_000);
    assert!(slow.answer().await.ends_with("100000"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_given_up_and_one_on_a_poor_line_is_not() {
    for (octets, every, whole) in
        [(1, 1, false), (5, 1, false), (0, 1, false), (500, 1, false), (1_100, 1, true), (15_000, 15, true)]
    {
        // What is on the way counts as taken: little, as with a real send buffer beside a large answer.
        let mut reader = Dialed::new(1_000);
        reader.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let (mut taken, mut chunk) = (0, vec![0; octets]);
        for _ in 0..250 {
            sleep(every * SECOND).await;
            taken += read_up_to(&mut reader.stream, &mut chunk).await;
        }
        let expected = if whole { "all" } else { "a part" };
        let got = if taken > 100_000 { "all" } else { "a part" };
        assert_eq!(got, expected, "{octets} octets every {every} s: {taken} octets");
        if !whole {
            let (rest, _) = reader.closed().await;
            assert!(taken + rest.len() < 100_000, "{octets} octets every {every} s: it was served to the end");
        }
    }
}

/// Fills `chunk` as far as octets are there.
async fn read_up_to(stream: &mut DuplexStream, chunk: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < chunk.len() {
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut chunk[filled..])).await {
            Ok(Ok(read)) if read > 0 => filled += read,
            Ok(Ok(_) | Err(_)) | Err(_) => break,
        }
    }
    filled
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_all_answered() {
    let mut client = Dialed::new(64 * 1_024);
    client.send(&REQUEST.repeat(20)).await;
    sleep(SECOND).await;
    let (answers, _) = client.closed().await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 20);
}
