//! The change from one master key to the next: under mail, through deaths, and with one of the two files missing.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signpost_it::{App, DEADLINE, Dice, DkimPy, Ledger, Sink, Site, World, wait_for};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than fit into three batches, one of which is sealed anew in a second.
const FURTHER_DOMAINS: usize = 330;

fn write_private(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

/// A fresh master key, which shall be found nowhere; as the file's text.
fn fresh_key(app: &App) -> String {
    let mut octets = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut octets).unwrap();
    app.learn_secret("next master key", &octets);
    STANDARD.encode(octets)
}

fn next_file(app: &App) -> PathBuf {
    let mut name = app.master_key_file().into_os_string();
    name.push(".next");
    name.into()
}

fn status(app: &App) -> Value {
    let output = app.cli(&["master-key", "status", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn left(app: &App) -> u64 {
    status(app)["sealed_under"]["former"].as_u64().unwrap()
}

fn rotate(app: &App) {
    let output = app.cli(&["master-key", "rotate"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_until_moved(app: &App) {
    wait_for("the former master key is needed no more", Duration::from_secs(120), || {
        status(app)["former"].is_null().then_some(())
    });
}

/// What `status` prints, and says is wrong.
fn failed_status(app: &App) -> (Value, String) {
    let output = app.cli(&["master-key", "status", "--json"]);
    assert!(!output.status.success());
    (
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Waits for a 200 whose detail fits.
fn wait_for_detail(app: &App, what: &str, fits: impl Fn(Option<&str>) -> bool) {
    wait_for(what, DEADLINE, || {
        let health = app.api().get("/readyz").expect(200).json();
        fits(health["detail"].as_str()).then_some(())
    });
}

/// Mail goes on the whole time; every process dies while keys are being sealed anew, and again once only the new key is there.
fn change_and_die(site: &mut Site, ledger: &Ledger, dice: &mut Dice) {
    let api = site.apis().remove(0);
    for number in 0..FURTHER_DOMAINS {
        api.post("/v1/domains", &json!({"name": format!("d{number}.test"), "algorithm": "ed25519"})).expect(201);
    }
    let (file, next) = (site.app(0).master_key_file(), next_file(site.app(0)));
    write_private(&next, &fresh_key(site.app(0)));
    for process in 0..site.size() {
        wait_for("a process knows the next key", DEADLINE, || {
            site.app(process).log().contains("the next master key is known").then_some(())
        });
    }
    rotate(site.app(0));
    let all = u64::try_from(FURTHER_DOMAINS + site.domains.len()).unwrap();
    wait_for("some keys are sealed anew", DEADLINE, || (left(site.app(0)) < all).then_some(()));
    let before = site.app(0).log().len();
    for process in 0..site.size() {
        site.kill(process, dice);
    }
    ledger.wait_for_more(20, DEADLINE);
    wait_until_moved(site.app(0));
    let went_on = site.app(0).log()[before..].contains("keys were sealed anew");
    assert!(went_on || site.size() > 1, "it was to die in the middle of it");
    std::fs::rename(&next, &file).unwrap();
    for process in 0..site.size() {
        site.kill(process, dice);
    }
    ledger.wait_for_more(40, DEADLINE);
    let status = status(site.app(0));
    assert_eq!(status["sealed_under"], json!({"in_use": all, "former": 0, "others": 0}), "{status}");
}

#[test]
fn under_mail_and_deaths_on_sqlite() {
    Site::sqlite(Sink::start(Duration::from_millis(20))).survive(&mut Dice::from_environment(), change_and_die);
}

#[test]
fn under_mail_and_deaths_of_several_processes_on_postgresql() {
    Site::postgres(Sink::start(Duration::from_millis(20)), 2).survive(&mut Dice::from_environment(), change_and_die);
}

#[test]
fn with_one_of_both_keys_missing_it_is_sealed_and_afterwards_the_new_one_is_enough() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let (id, secret) = world.tenant.token.strip_prefix("sp_").unwrap().split_once('_').unwrap();
    let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    let form_type = Some("application/x-www-form-urlencoded");
    let answer = world.app.api().call("POST", "/v1/token", form_type, form.into_bytes()).expect(200);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    world.app.learn_secret("access token", token.as_bytes());

    let (file, next) = (world.app.master_key_file(), next_file(&world.app));
    let refused = world.app.cli(&["master-key", "rotate"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(".next"));
    // A next key that is none takes nothing away.
    world.app.stop();
    write_private(&next, "too short");
    world.app.start();
    assert!(world.app.log().contains("the next master key cannot be read"));
    world.app.stop();
    let (old, new) = (std::fs::read_to_string(&file).unwrap(), fresh_key(&world.app));
    write_private(&next, &new);
    rotate(&world.app);
    assert!(!world.app.cli(&["master-key", "rotate"]).status.success(), "one is under way");
    assert_eq!(status(&world.app)["sealed_under"], json!({"in_use": 0, "former": 2, "others": 0}));

    // Nothing was sealed anew yet.
    std::fs::remove_file(&next).unwrap();
    for (key, why) in [(&new, "former master key"), (&old, "not the one")] {
        write_private(&file, key);
        let before = world.app.log().len();
        world.app.start_until(503);
        world.app.api().get("/readyz").problem(503, "sealed");
        world.tenant.api.get("/v1/domains").problem(503, "sealed");
        let message = json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        world.tenant.api.post("/v1/messages", &message).problem(503, "sealed");
        assert!(!world.app.cli(&["tenant", "create", "Eve", "--json"]).status.success());
        assert!(!world.app.cli(&["master-key", "status"]).status.success());
        assert!(world.app.log()[before..].contains(why), "{}", &world.app.log()[before..]);
        world.app.stop();
        assert_eq!(&std::fs::read_to_string(&file).unwrap(), key, "the key file was written over");
        assert!(!next.exists());
    }

    // The missing one mends it without a restart. Which file is which does not matter.
    world.app.start_until(503);
    write_private(&next, &new);
    let ready = || (world.app.api().get("/readyz").status == 200).then_some(());
    wait_for("it is unsealed", DEADLINE, ready);
    wait_until_moved(&world.app);
    world.app.stop();
    std::fs::rename(&next, &file).unwrap();
    world.app.start();
    world.app.api().with_token(&token).get("/v1/domains").expect(200);
    let id = world.send_to(&domain, "bob@receiver.test");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    domain.assert_signed(&received.octets, &mut DkimPy::start(), &world.named);
    world.tenant.api.message_with_status(&id, "delivered");

    world.app.stop();
    write_private(&file, &old);
    world.app.start_until(503);
    world.app.api().get("/readyz").problem(503, "sealed");
}

#[test]
fn a_needed_key_that_no_file_holds_any_more_is_told_of_while_a_process_still_has_it() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let (file, next) = (world.app.master_key_file(), next_file(&world.app));
    let new = fresh_key(&world.app);
    write_private(&next, &new);
    let name = status(&world.app)["next"].as_str().unwrap().to_owned();
    let told = || {
        let log = world.app.log();
        log.lines().any(|line| line.contains("the next master key is known") && line.contains(&name)).then_some(())
    };
    wait_for("the log names the next key as `status` does", DEADLINE, told);
    rotate(&world.app);
    wait_until_moved(&world.app);
    assert!(!world.app.log().contains("only from memory"), "nothing is missing yet");

    // Taken away instead of moved.
    std::fs::remove_file(&next).unwrap();
    let names = |detail: Option<&str>| {
        detail.is_some_and(|detail| detail.contains(&name) && detail.contains("Put its file back"))
    };
    wait_for_detail(&world.app, "/readyz tells of the missing key", names);
    let told = || world.app.log().lines().any(|line| line.contains("ERROR") && line.contains(&name)).then_some(());
    wait_for("the log tells of it", DEADLINE, told);
    let (_, why) = failed_status(&world.app);
    assert!(why.contains(&next.display().to_string()) && why.contains("stop none before"), "{why}");
    let id = world.send_to(&domain, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
    assert_eq!(world.app.log().matches("only from memory").count(), 1, "not at every look");

    write_private(&file, &new);
    wait_for_detail(&world.app, "/readyz has nothing to tell", |detail| detail.is_none());
    let mended = || world.app.log().contains("hold every master key that is needed again").then_some(());
    wait_for("the log tells that it is mended", DEADLINE, mended);
    status(&world.app);
}

#[test]
fn keys_under_a_master_key_that_no_change_knows_make_status_fail() {
    let mut world = World::start();
    world.enabled_domain("example.test", "ed25519");
    assert_eq!(status(&world.app)["sealed_under"], json!({"in_use": 1, "former": 0, "others": 0}));
    world.app.stop();
    let script = r"
import glob, os, sqlite3, sys
files = [p for p in glob.glob(sys.argv[1] + '/**', recursive=True) if os.path.isfile(p)]
path = [p for p in files if open(p, 'rb').read(15) == b'SQLite format 3'][0]
db = sqlite3.connect(path)
for (rowid, octets) in db.execute('select rowid, sealed from dkim_keys').fetchall():
    db.execute('update dkim_keys set sealed = ? where rowid = ?', (bytes(range(8)) + octets[8:], rowid))
db.commit()
";
    let spoilt =
        std::process::Command::new("python3").args(["-c", script]).arg(world.app.data_folder()).output().unwrap();
    assert!(spoilt.status.success(), "{}", String::from_utf8_lossy(&spoilt.stderr));
    let (printed, why) = failed_status(&world.app);
    assert_eq!(printed["sealed_under"], json!({"in_use": 0, "former": 0, "others": 1}));
    assert!(why.contains("1 keys are sealed under a master key that no change knows"), "{why}");
}
