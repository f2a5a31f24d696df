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
use signpost_dkim::verify::{DkimResult, KeyAnswer, Verifier};
use signpost_it::TxtRecords;

const LETTERS: usize = 200;
/// Larger ones take minutes in an unoptimized build, and have no octet of another kind.
const LARGEST: usize = 1_500;

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

fn change_each(signed: &Parts, relaxed: Relaxed, txt: &TxtRecords, counts: &mut Counts) {
    let (form, own_signature): (Form, Vec<u8>) = (signed.form(relaxed), signature(signed));
    let mut octets = signed.octets();
    for at in signed_positions(signed) {
        let before = octets[at];
        octets[at] = other(before, at);
        let message = Parts::of(&octets);
        let is_kept = message.is_signed() && message.form(relaxed) == form && signature(&message) == own_signature;
        assert_eq!(
            passes(&octets, txt),
            is_kept,
            "{relaxed:?}, octet {at} from {before:#04x} to {:#04x}: pass expected: {is_kept}; on b\"{}\"",
            octets[at],
            octets.escape_ascii()
        );
        *(if is_kept { &mut counts.kept } else { &mut counts.altered }) += 1;
        octets[at] = before;
    }
}

/// Half of them everyday ones, half odd ones, no larger than `LARGEST`.
fn letters(worker: u64, count: usize) -> Vec<Letter> {
    let octets = [crate::seed(), worker, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &octets);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut letters: Vec<Letter> = Vec::new();
    while letters.len() < count {
        let made = match letters.len() % 2 {
            0 => everyday_letter().new_tree(&mut runner).unwrap().current(),
            _ => letter().new_tree(&mut runner).unwrap().current(),
        };
        if made.octets().len() <= LARGEST && made.body.is_some() {
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
        change_each(&signed, relaxed, &bench.txt, &mut counts);
    }
    counts
}

#[test]
fn every_signed_octet_changed_in_turn_is_seen_and_no_other_is() {
    let count = if signpost_it::long() { LETTERS } else { LETTERS / 10 };
    let mut sum = Counts::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = [10, 11].map(|worker| scope.spawn(move || run(worker, count / 2))).into();
        for worker in workers {
            let counts = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.kept += counts.kept;
            sum.altered += counts.altered;
        }
    });
    println!("{count} letters, octets changed in turn: form altered {}, kept {}", sum.altered, sum.kept);
    assert!(sum.altered > 500 * count && sum.kept > count, "altered {}, kept {}", sum.altered, sum.kept);
}
