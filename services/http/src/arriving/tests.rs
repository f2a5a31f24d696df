use super::*;
use crate::body::read;
use axum::Router;
use axum::routing::{any, post};
use futures_util::stream;
use std::convert::Infallible;
use tower::ServiceExt;

/// Bodies of `/hold` stay here until `Notify`; those of `/read` go at once.
fn routes(memory: u64) -> (Router, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let waits = Arc::clone(&release);
    let hold = move |request: Request| {
        let waits = Arc::clone(&waits);
        async move {
            let octets = read(request.into_body(), u64::MAX).await?;
            waits.notified().await;
            Ok::<_, Problem>(octets.len().to_string())
        }
    };
    let take = |request: Request| async { read(request.into_body(), u64::MAX).await.map(|o| o.len().to_string()) };
    let never = any(|| std::future::pending::<String>());
    let routes = Router::new().route("/hold", post(hold)).route("/read", post(take)).route("/never", never);
    (crate::router::around(routes, Arc::new(|| "1".to_owned()), BodyMemory::new(memory)), release)
}

/// A body in pieces of 1,000 octets, its size not announced.
fn body(octets: usize) -> Body {
    let pieces = (0..octets / 1_000).map(|_| Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1_000])));
    Body::from_stream(stream::iter(pieces))
}

async fn call(router: &Router, path: &str, body: Body) -> Response {
    let request = Request::builder().method("POST").uri(path).body(body).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn bodies_beyond_the_memory_are_refused_until_others_are_done_and_small_ones_never() {
    let (router, release) = routes(1_000_000);
    let holder = router.clone();
    let first = tokio::spawn(async move { call(&holder, "/hold", body(900_000)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = call(&router, "/read", body(200_000)).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    for _ in 0..1_000 {
        assert_eq!(call(&router, "/read", body(16_000)).await.status(), 200);
    }
    // A refused body is forgotten: what it took before it was refused is free again.
    assert_eq!(call(&router, "/read", body(100_000)).await.status(), 200);
    release.notify_one();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(call(&router, "/read", body(1_000_000)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_no_memory_taken() {
    let (router, _release) = routes(1_000_000);
    for _ in 0..5 {
        let gone = tokio::time::timeout(Duration::from_secs(1), call(&router, "/hold", body(900_000))).await;
        assert!(gone.is_err());
    }
    assert_eq!(call(&router, "/read", body(1_000_000)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn work_without_an_end_is_answered_in_time_and_the_body_has_its_own() {
    let (router, _release) = routes(1_000_000);
    let begun = Instant::now();
    let empty = call(&router, "/never", Body::empty()).await;
    assert_eq!((empty.status().as_u16(), begun.elapsed()), (503, WORK));
    assert_eq!(empty.headers()["retry-after"], "5");
    // 1,000 octets every half second for 100 s, then the work.
    let slow = stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (sent < 200).then(|| (Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 1_000])), sent + 1))
    });
    let (begun, slow) = (Instant::now(), Body::from_stream(slow));
    assert_eq!(call(&router, "/hold", slow).await.status(), 503);
    assert!(begun.elapsed() > WORK + Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_408_however_steadily_it_comes() {
    let (router, _release) = routes(u64::MAX);
    let endless = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(&[b'a'; 2_000])), ()))
    });
    let begun = Instant::now();
    let answer = call(&router, "/read", Body::from_stream(endless)).await;
    assert_eq!((answer.status().as_u16(), begun.elapsed()), (408, WHOLE_BODY));
}
