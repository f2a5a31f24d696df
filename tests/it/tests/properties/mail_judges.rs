//! The judges that stand in mail servers, rspamd and OpenDKIM, beside the other three: every generated message that such a
//! server can be given verifies with all five, and one whose signed octets were changed with none.
use crate::changes::{Change, Dice};
use crate::everyday::everyday_letter;
use crate::faults::{Fault, Judge};
use crate::judging::{Bench, CANONICALIZATIONS, DOMAIN};
use crate::letters::Letter;
use crate::naive::{Parts, Relaxed};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::sign::Policy;
use signpost_it::{Dialogue, Named, OpenDkim, Rspamd};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A message before these judges.
struct Case {
    octets: Vec<u8>,
    relaxed: Relaxed,
    algorithm: KeyAlgorithm,
    must_pass: bool,
}

struct Servers {
    bench: Bench,
    rspamd: Rspamd,
    opendkim: OpenDkim,
    _named: Named,
    /// By judge: messages that had to pass, that did, and altered ones that did not.
    counts: BTreeMap<Judge, [usize; 3]>,
    /// Messages on which a judge erred, as is known of it.
    errors: BTreeMap<Fault, usize>,
}

impl Servers {
    fn start() -> Self {
        let bench = Bench::new();
        let named = Named::with().zone(DOMAIN, "").start();
        for (name, text) in &bench.txt {
            named.publish_txt(name, &[text]);
        }
        let (rspamd, opendkim) = (Rspamd::start(named.address()), OpenDkim::new(named.address()));
        Self { bench, rspamd, opendkim, _named: named, counts: BTreeMap::new(), errors: BTreeMap::new() }
    }

    /// For each case and judge that knows its algorithm: does ours pass, and its words.
    fn ask(&mut self, cases: &[Case]) -> Vec<(usize, Judge, bool, String)> {
        let mut answers = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let symbols = self.rspamd.check(&case.octets, &Dialogue::default());
            let selector = if case.algorithm == KeyAlgorithm::Ed25519 { "e" } else { "r" };
            answers.push((number, Judge::Rspamd, symbols.allows(DOMAIN, selector), format!("{symbols:?}")));
        }
        let rsa: Vec<usize> = (0..cases.len()).filter(|&n| cases[n].algorithm != KeyAlgorithm::Ed25519).collect();
        let verdicts = self.opendkim.verify(&rsa.iter().map(|&n| cases[n].octets.clone()).collect::<Vec<_>>());
        answers
            .extend(rsa.iter().zip(verdicts).map(|(&n, verdict)| (n, Judge::OpenDkim, verdict.passes, verdict.said)));
        answers
    }

    fn judge(&mut self, cases: &[Case]) -> Result<(), String> {
        for (number, judge, passes, said) in self.ask(cases) {
            let case = &cases[number];
            let counts = self.counts.entry(judge).or_default();
            counts[0] += usize::from(case.must_pass);
            counts[1] += usize::from(case.must_pass && passes);
            counts[2] += usize::from(!case.must_pass && !passes);
            let message = Parts::of(&case.octets);
            let fault = Fault::ALL.into_iter().find(|f| f.judge() == judge && f.shows_in(&message, case.relaxed));
            let expected = match fault {
                Some(fault) if case.must_pass => {
                    *self.errors.entry(fault).or_default() += 1;
                    false
                }
                Some(fault) if passes && fault.hides_changes() => true,
                Some(_) | None => case.must_pass,
            };
            if passes != expected {
                let octets = case.octets.escape_ascii();
                return Err(format!("{judge:?} says {said} ({fault:?}); pass expected: {expected}; on b\"{octets}\""));
            }
        }
        Ok(())
    }

    /// The letter under all four canonicalizations, each as it is, and with a signed field or the body changed.
    fn examine(&mut self, letter: &Letter) -> Result<(), String> {
        let dice = &mut Dice(letter.seed);
        let first = dice.below(2);
        let mut cases = Vec::new();
        for (i, relaxed) in CANONICALIZATIONS.into_iter().enumerate() {
            let algorithm = if (i + first).is_multiple_of(2) { KeyAlgorithm::Rsa2048 } else { KeyAlgorithm::Ed25519 };
            let signed = self.bench.sign(&letter.octets(), Policy::default(), relaxed, algorithm, dice)?;
            self.bench.judge(&signed.octets(), true, relaxed).map_err(|e| format!("{relaxed:?}: {e}"))?;
            let form = signed.form(relaxed);
            let change = if dice.coin() { Change::FieldOctet } else { Change::BodyOctet };
            let altered = (0..100)
                .find_map(|_| change.apply(&signed, dice).filter(|octets| Parts::of(octets).form(relaxed) != form));
            cases.push(Case { octets: signed.octets(), relaxed, algorithm, must_pass: true });
            if let Some(octets) = altered {
                cases.push(Case { octets, relaxed, algorithm, must_pass: false });
            }
        }
        self.judge(&cases).map_err(|e| format!("b\"{}\": {e}", letter.octets().escape_ascii()))
    }
}

/// What is left of a run, without its servers.
#[derive(Default)]
struct Outcome {
    counts: BTreeMap<Judge, [usize; 3]>,
    errors: BTreeMap<Fault, usize>,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        for (judge, counts) in &other.counts {
            let sum = self.counts.entry(*judge).or_default();
            *sum = [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]];
        }
        for (fault, count) in &other.errors {
            *self.errors.entry(*fault).or_default() += count;
        }
    }
}

/// This many letters before judges of their own; `worker` decides which.
fn run(seed: u64, worker: u64, letters: u32) -> Outcome {
    let config = Config { cases: letters, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let octets: Vec<u8> = [seed, worker, seed, worker].iter().flat_map(|number| number.to_le_bytes()).collect();
    let servers = RefCell::new(Servers::start());
    let outcome = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &octets))
        .run(&everyday_letter(), |letter| servers.borrow_mut().examine(&letter).map_err(TestCaseError::fail));
    if let Err(failure) = outcome {
        panic!("SIGNPOST_PROPERTY_SEED={seed}: {failure}");
    }
    let mut servers = servers.into_inner();
    servers.errors.append(&mut servers.bench.tally.refused_by_fault);
    Outcome { counts: servers.counts, errors: servers.errors }
}

#[test]
fn five_judges_agree_on_messages_as_mail_servers_carry_them() {
    let letters: u32 = if signpost_it::long() { 10_000 } else { 200 };
    let seed = crate::seed();
    let mut sum = Outcome::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = [0, 1].map(|worker| scope.spawn(move || run(seed, worker, letters / 2))).into();
        for worker in workers {
            sum.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    let Outcome { counts, errors } = sum;
    println!("seed {seed}: {letters} letters under four canonicalizations, RSA and Ed25519");
    println!("had to pass, passed, altered and refused: {counts:?}; refused by a fault of the judge: {errors:?}");
    let letters = letters as usize;
    for (judge, signed) in [(Judge::Rspamd, 4 * letters), (Judge::OpenDkim, 2 * letters)] {
        let [had_to_pass, passed, refused] = counts[&judge];
        let errors: usize = errors.iter().filter(|(fault, _)| fault.judge() == judge).map(|(_, n)| n).sum();
        assert_eq!([had_to_pass, passed + errors], [signed; 2], "{judge:?}");
        assert!(passed > signed * 3 / 4 && refused > signed * 9 / 10, "{judge:?}: {passed} passed, {refused} refused");
    }
}

/// Fails once a judge is mended: then its `Fault` goes, and its verdict counts again.
#[test]
fn each_known_fault_of_a_mail_server_s_judge_is_still_there_and_shows_nowhere_else() {
    let simple = Relaxed { header: false, body: false };
    let relaxed = Relaxed { header: true, body: true };
    let cases: [(&[Fault], Relaxed, &[u8]); 22] = [
        (&[Fault::RspamdBlankBody], relaxed, b"From: a@football.test\r\n\r\n \r\n"),
        (&[Fault::RspamdBlankBody], relaxed, b"From: a@football.test\r\n\r\n\t\r\n\r\n"),
        (&[], relaxed, b"From: a@football.test\r\n\r\n\r\n \r\n"),
        (&[], simple, b"From: a@football.test\r\n\r\n \r\n"),
        (&[], relaxed, b"From: a@football.test\r\n\r\nhi\r\n \r\n"),
        (&[Fault::OpenDkimSpaceAfterColon], simple, b"From:a@football.test\r\n\r\nhi\r\n"),
        (&[Fault::OpenDkimSpaceAfterColon], simple, b"From:  a@football.test\r\n\r\nhi\r\n"),
        (&[Fault::OpenDkimSpaceAfterColon], simple, b"From:\ta@football.test\r\n\r\nhi\r\n"),
        (&[Fault::OpenDkimSpaceAfterColon], simple, b"From: \r\n a@football.test\r\n\r\nhi\r\n"),
        (&[], simple, b"Subject: \r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[], simple, b"X-Unsigned:x\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[], relaxed, b"From:  a@football.test\r\n\r\nhi\r\n"),
        (&[Fault::OpenDkimVerticalSpace], relaxed, b"Subject:\x0b\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[Fault::OpenDkimVerticalSpace], relaxed, b"Subject: a\x0bb\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (
            &[Fault::OpenDkimVerticalSpace, Fault::RspamdFormFeed],
            relaxed,
            b"Subject: a\x0cb\r\nFrom: a@football.test\r\n\r\nhi\r\n",
        ),
        (&[Fault::OpenDkimVerticalSpace], relaxed, b"Subject: a\x0b\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[], simple, b"Subject: a\x0bb\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[], relaxed, b"X-Unsigned: \x0b\r\nFrom: a@football.test\r\n\r\nhi\r\n"),
        (&[], relaxed, b"From: a@football.test\r\n\r\n\x0bh\x0bi \x0b\r\n"),
        (&[Fault::RspamdFormFeed], relaxed, b"From: a@football.test\r\n\r\nh\x0ci\r\n"),
        (&[Fault::RspamdFormFeed], relaxed, b"From: a@football.test\r\n\r\nhi\x0c\r\n"),
        (&[], simple, b"From: a@football.test\r\n\r\nh\x0ci \x0c\r\n"),
    ];
    let mut servers = Servers::start();
    for (faults, relaxed, octets) in cases {
        let fault_of = |judge: Judge| faults.iter().copied().find(|fault| fault.judge() == judge);
        let algorithm = KeyAlgorithm::Rsa2048;
        let signed = servers.bench.sign(octets, Policy::default(), relaxed, algorithm, &mut Dice(0)).unwrap();
        let text = octets.escape_ascii();
        for judge in [Judge::Rspamd, Judge::OpenDkim] {
            let known = Fault::ALL.into_iter().find(|f| f.judge() == judge && f.shows_in(&signed, relaxed));
            assert_eq!(known, fault_of(judge), "b\"{text}\"");
        }
        let case = Case { octets: signed.octets(), relaxed, algorithm, must_pass: true };
        for (_, judge, passes, said) in servers.ask(&[case]) {
            assert_eq!(passes, fault_of(judge).is_none(), "{faults:?}: {judge:?} says {said} on b\"{text}\"");
        }
    }
}
