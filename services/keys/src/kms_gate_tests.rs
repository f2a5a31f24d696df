//! The gate with calls that a test steers, on a paused clock.
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARN: &str = "arn:aws:kms:us-east-1:123456789012:key/1";

fn gate(rate: u32) -> Gate {
    Gate::new(NonZeroU32::new(rate).unwrap())
}

async fn succeeds() -> Result<(), Fault> {
    Ok(())
}

fn answered(code: &str) -> Fault {
    Fault::Answered(code.to_owned())
}

#[test]
fn a_quota_is_of_an_account_a_region_and_a_kind_of_work() {
    let place = Place::signing(ARN);
    assert_eq!((place.region.as_str(), place.account.as_str()), ("us-east-1", "123456789012"));
    assert_eq!(place, Place::signing("arn:aws:kms:us-east-1:123456789012:key/2"));
    for other in [
        Place::signing("arn:aws:kms:eu-west-1:123456789012:key/1"),
        Place::signing("arn:aws:kms:us-east-1:210987654321:key/1"),
        Place::signing("arn:"),
        Place::unwrapping(),
    ] {
        assert_ne!(place, other);
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_at_once_the_next_wait_a_moment_and_the_rest_is_sent_away_unasked() {
    let gate = Arc::new(gate(40));
    let asked = Arc::new(AtomicUsize::new(0));
    let calls = (0..100).map(|_| {
        let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
        tokio::spawn(async move {
            let call = || async {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            gate.pass(&Place::signing(ARN), "a", call).await
        })
    });
    let began = Instant::now();
    let results = futures_util::future::join_all(calls).await;
    assert!(began.elapsed() <= Duration::from_millis(260), "{:?}", began.elapsed());
    let went = results.iter().filter(|result| matches!(result, Ok(Ok(())))).count();
    // 10 of the burst, and 10 that come in in 250 ms, as the moments fall.
    assert!((19..=20).contains(&went), "{went}");
    assert_eq!(asked.load(Ordering::SeqCst), went);
    assert!(results.iter().all(|result| matches!(result, Ok(Ok(()) | Err(Fault::Paced(_))))));
    // Another account is another quota.
    gate.pass(&Place::signing("arn:aws:kms:us-east-1:2:key/1"), "a", succeeds).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_while_it_waits_costs_nobody_a_call() {
    let gate = Arc::new(gate(4));
    gate.pass(&Place::signing(ARN), "a", succeeds).await.unwrap();
    let waits = |tenant: &'static str| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.pass(&Place::signing(ARN), tenant, succeeds).await })
    };
    let gone = waits("gone");
    tokio::task::yield_now().await;
    let stays = waits("stays");
    tokio::task::yield_now().await;
    gone.abort();
    stays.await.unwrap().unwrap();
    let counter = gate.counter(&Place::signing(ARN));
    assert!(counter.desk().waiting.is_empty());
    assert_eq!(counter.desk().budget.next_at(0), None);
}

#[tokio::test(start_paused = true)]
async fn throttling_slows_down_whoever_asks_that_account_and_nobody_else() {
    let gate = gate(800);
    let throttled = || async { Err::<(), _>(answered("ThrottlingException")) };
    for _ in 0..12 {
        // Not asked is fine too: the bucket was emptied.
        let _ = gate.pass(&Place::signing(ARN), "a", throttled).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let went_in_a_second = async |place: Place| {
        let began = Instant::now();
        let mut went = 0;
        while began.elapsed() < Duration::from_secs(1) {
            went += usize::from(gate.pass(&place, "a", succeeds).await.is_ok());
        }
        went
    };
    assert!(went_in_a_second(Place::signing(ARN)).await <= 110);
    assert!(went_in_a_second(Place::unwrapping()).await >= 700);
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_asked_again_at_once_while_it_is_rare() {
    let gate = gate(800);
    let place = Place::signing(ARN);
    for (fault, again) in [("KMSInternalException", true), ("ThrottlingException", false), ("DisabledException", false)]
    {
        for _ in 0..20 {
            gate.pass(&place, "a", succeeds).await.unwrap();
        }
        let asked = AtomicUsize::new(0);
        let fails_once =
            || async { if asked.fetch_add(1, Ordering::SeqCst) == 0 { Err(answered(fault)) } else { Ok(()) } };
        assert_eq!(gate.pass(&place, "a", fails_once).await.is_ok(), again, "{fault}");
        assert_eq!(asked.load(Ordering::SeqCst), if again { 2 } else { 1 }, "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_late_is_not_asked_again_at_once() {
    let gate = gate(800);
    for _ in 0..50 {
        gate.pass(&Place::signing(ARN), "a", succeeds).await.unwrap();
    }
    let asked = AtomicUsize::new(0);
    let slow = || async {
        asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(2)).await;
        Err::<(), _>(Fault::Broken("reset"))
    };
    assert!(gate.pass(&Place::signing(ARN), "a", slow).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
