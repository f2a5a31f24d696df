//! Every octet of the body and of the signed fields, the signature field among them, changed in turn: our verifier says pass
//! where the plain canonicalization sees the same octets, and nowhere else.
use crate::changes::Dice;
use crate::everyday::everyday_letter;
use crate::judging::{Bench, CANONICALIZATIONS, DOMAIN};
use crate::letters::{Letter, letter};
use crate::naive::{self, Form, Parts, Relaxed};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::message::Message;
use signpost_dkim::sign::Policy;
use signpost_dkim::verify::{DkimResult, KeyAnswer, Verifier};
use signpost_it::{MailAuthJudge, TxtRecords};

const LETTERS: usize = 200;

/// Octets of the largest letters taken: each octet is a verification, in an unoptimized build.
fn largest() -> usize {
    if signpost_it::long() { 1_500 } else { 600 }
}

/// Changes that kept the form, and that altered it.
#[derive(Default)]
struct Counts {
    kept: usize,
    altered: usize,
}

/// Case, white space, or one bit: what the octet becomes depends on where it stands.
fn other(octet: u8, at: usize) -> u8 {
    let becomes = match at % 5 {
        0 if octet.is_ascii_alphabetic() => octet ^ 0x20,
        1 => b' ',
        2 => b'\t',
        3 => octet ^ 0x01,
        _ => octet ^ (1 << (at % 8)),
    };
    if becomes == octet { b'\t' ^ octet ^ b' ' } else { becomes }
}

/// Does ours pass? A message that is not read has no signature that does.
fn passes(octets: &[u8], txt: &TxtRecords) -> bool {
    let Ok(message) = Message::parse(octets) else { return false };
    let keys = |name: &str| match txt.get(&name.trim_end_matches('.').to_ascii_lowercase()) {
        Some(text) => KeyAnswer::Text(vec![text.clone()]),
        None => KeyAnswer::Absent,
    };
    Verifier::new(&message).verify(&keys, signpost_it::now()).iter().any(|one| one.result == DkimResult::Pass)
}

/// b= without white space (RFC 6376 3.5); the form leaves it out.
fn signature(message: &Parts) -> Vec<u8> {
    let tags = naive::unfold(naive::value(message.own()));
    let value = tags.split(|&b| b == b';').map(naive::trim).find_map(|tag| tag.strip_prefix(b"b=")).unwrap_or_default();
    value.iter().copied().filter(|&b| !naive::is_wsp(b)).collect()
}

/// Positions of the octets that are signed: whole fields with their names, folds and line ends, and the body.
fn signed_positions(message: &Parts) -> Vec<usize> {
    let names = message.signed_names();
    let mut positions = Vec::new();
    let mut start = 0;
    for (number, field) in message.fields.iter().enumerate() {
        if number == 0 || names.contains(&naive::name(field)) {
            positions.extend(start..start + field.len());
        }
        start += field.len();
    }
    positions.extend(start + 2..start + 2 + message.body.len());
    positions
}

/// Fails where the verifier is wrong about a change.
fn change_each(
    signed: &Parts,
    relaxed: Relaxed,
    other: impl Fn(u8, usize) -> u8,
    passes: impl Fn(&[u8]) -> bool,
    counts: &mut Counts,
) -> Result<(), String> {
    let (form, own_signature): (Form, Vec<u8>) = (signed.form(relaxed), signature(signed));
    let mut octets = signed.octets();
    for at in signed_positions(signed) {
        let before = octets[at];
        octets[at] = other(before, at);
        let message = Parts::of(&octets);
        let is_kept = message.is_signed() && message.form(relaxed) == form && signature(&message) == own_signature;
        if passes(&octets) != is_kept {
            return Err(format!(
                "{relaxed:?}, octet {at} from {before:#04x} to {:#04x}: pass expected: {is_kept}; on b\"{}\"",
                octets[at],
                octets.escape_ascii()
            ));
        }
        *(if is_kept { &mut counts.kept } else { &mut counts.altered }) += 1;
        octets[at] = before;
    }
    Ok(())
}

/// Half of them everyday ones, half odd ones, no larger than `LARGEST`.
fn letters(worker: u64, count: usize) -> Vec<Letter> {
    let octets = [crate::seed(), worker, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &octets);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut letters, largest): (Vec<Letter>, usize) = (Vec::new(), largest());
    while letters.len() < count {
        let made = match letters.len() % 2 {
            0 => everyday_letter().new_tree(&mut runner).unwrap().current(),
            _ => letter().new_tree(&mut runner).unwrap().current(),
        };
        if made.octets().len() <= largest && made.body.is_some() {
            letters.push(made);
        }
    }
    letters
}

fn run(worker: u64, count: usize) -> Counts {
    let (mut bench, mut counts) = (Bench::new(), Counts::default());
    for (number, letter) in letters(worker, count).into_iter().enumerate() {
        let relaxed = CANONICALIZATIONS[number / 2 % 4];
        let algorithm = if number / 8 % 2 == 0 { KeyAlgorithm::Ed25519 } else { KeyAlgorithm::Rsa2048 };
        let signed = bench.sign(&letter.octets(), letter.policy(), relaxed, algorithm, &mut Dice(letter.seed)).unwrap();
        assert!(passes(&signed.octets(), &bench.txt), "{DOMAIN}: {letter:?}");
        let ours = |octets: &[u8]| passes(octets, &bench.txt);
        change_each(&signed, relaxed, other, ours, &mut counts).unwrap();
    }
    counts
}

#[test]
fn every_signed_octet_changed_in_turn_is_seen_and_no_other_is() {
    let mut sum = Counts::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = [10, 11].map(|worker| scope.spawn(move || run(worker, LETTERS / 2))).into();
        for worker in workers {
            let counts = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.kept += counts.kept;
            sum.altered += counts.altered;
        }
    });
    println!("{LETTERS} letters, octets changed in turn: form altered {}, kept {}", sum.altered, sum.kept);
    assert!(sum.altered > 500 * LETTERS && sum.kept > LETTERS, "altered {}, kept {}", sum.altered, sum.kept);
}

/// The proof is one: mail-auth 0.13.3 takes FF for white space (see faults.rs), and does not get through it.
#[test]
fn a_verifier_that_forgives_too_much_is_found_by_changing_each_octet() {
    let mut bench = Bench::new();
    let (octets, relaxed) = (b"From: a@football.test\r\nSubject: two words\r\n\r\nhi\r\n", CANONICALIZATIONS[3]);
    let signed = bench.sign(octets, Policy::default(), relaxed, KeyAlgorithm::Ed25519, &mut Dice(0)).unwrap();
    let mail_auth = MailAuthJudge::new();
    let forgiving = |octets: &[u8]| mail_auth.verify(octets, &bench.txt).iter().any(|(_, _, word)| *word == "pass");
    let form_feed = |_, _| b'\x0c';
    let found = change_each(&signed, relaxed, form_feed, forgiving, &mut Counts::default()).unwrap_err();
    assert!(found.contains("pass expected: false"), "{found}");
    let ours = |octets: &[u8]| passes(octets, &bench.txt);
    change_each(&signed, relaxed, form_feed, ours, &mut Counts::default()).unwrap();
}
