//! The master key: made once, never written over, missed loudly, and mended by the right one.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signpost_it::{App, Receiver, World, enabled_domain};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

fn write_private(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

#[test]
fn the_first_start_makes_a_key_and_says_to_back_it_up() {
    let mut app = App::with().makes_its_own_master_key().start();
    let file = app.master_key_file();
    assert!(file.is_file(), "{} is not there", file.display());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(STANDARD.decode(std::fs::read_to_string(&file).unwrap().trim()).unwrap().len(), 32);
    let log = app.log().to_lowercase();
    assert!(log.contains("back") && log.contains(&file.display().to_string().to_lowercase()), "{log}");
    let before = std::fs::read(&file).unwrap();
    let first = app.log().len();
    app.stop();
    app.start();
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert!(!app.log()[first..].to_lowercase().contains("back this"), "said once only");
}

#[test]
fn tenant_create_before_the_first_serve_makes_the_key_that_serve_then_uses() {
    let mut app = App::with().makes_its_own_master_key().prepare();
    let tenant = app.tenant("Ann");
    let before = std::fs::read(app.master_key_file()).unwrap();
    app.start();
    assert_eq!(std::fs::read(app.master_key_file()).unwrap(), before);
    tenant.api.get("/v1/domains").expect(200);
}

/// What must be true of an application without its key, whatever the reason.
fn assert_sealed(world: &World) {
    let api = &world.tenant.api;
    world.app.api().get("/readyz").problem(503, "sealed");
    world.app.api().get("/livez").expect(200);
    api.get("/v1/domains").problem(503, "sealed");
    api.post("/v1/domains", &json!({"name": "new.test"})).problem(503, "sealed");
    let message = json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
    api.post("/v1/messages", &message).problem(503, "sealed");
    api.post_message("/v1/sign", b"From: ann@example.test\r\n\r\nx\r\n").problem(503, "sealed");
}

#[test]
fn without_its_key_it_is_sealed_and_the_right_key_mends_it() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let file = world.app.master_key_file();
    let right = std::fs::read_to_string(&file).unwrap();
    let another = STANDARD.encode([0x5a; 32]);
    for replacement in [None, Some(another.as_str()), Some("too short"), Some("")] {
        world.app.stop();
        match replacement {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => write_private(&file, text),
        }
        world.app.start_until(503);
        assert_sealed(&world);
        let output = world.app.cli(&["tenant", "create", "Eve", "--json"]);
        assert!(!output.status.success(), "a sealed store takes no tenant");
        match replacement {
            None => assert!(!file.exists(), "a new key was written beside data that it cannot open"),
            Some(text) => assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "the key file was written over"),
        }
        world.app.stop();
        write_private(&file, &right);
        world.app.start();
        let id = world.send_to(&domain, "bob@receiver.test");
        world.tenant.api.message_with_status(&id, "delivered");
    }
}

#[test]
fn signed_mail_leaves_a_sealed_service() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = world.send_to(&domain, "gate@receiver.test");
    world.receiver.wait_until_gate_is_reached();
    world.app.kill();
    let file = world.app.master_key_file();
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    world.receiver.open_gate();
    let before = world.receiver.messages().len();
    world.app.start_until(503);
    world.receiver.wait_for(before + 1);
    world.app.stop();
    write_private(&file, &right);
    world.app.start();
    world.tenant.api.message_with_status(&id, "delivered");
}

#[test]
fn two_sealed_keys_swapped_in_the_database_do_not_open() {
    let named = World::zones().start();
    let receiver = Receiver::start();
    let mut app = App::with().dns(&named).relay(&receiver).start();
    let tenant = app.tenant("Ann");
    let first = enabled_domain(&tenant, &named, "example.test", "ed25519");
    let second = enabled_domain(&tenant, &named, "other.test", "ed25519");
    app.stop();
    // Python's sqlite3 is the attacker here: it swaps the sealed octets of the two keys, whatever the columns are called.
    let script = r"
import glob, os, sqlite3, sys
files = [p for p in glob.glob(sys.argv[1] + '/**', recursive=True) if os.path.isfile(p)]
path = [p for p in files if open(p, 'rb').read(15) == b'SQLite format 3'][0]
db = sqlite3.connect(path)
swapped = 0
for (table,) in db.execute('select name from sqlite_master where type=\'table\'').fetchall():
    columns = [c[1] for c in db.execute(f'pragma table_info({table})')]
    if 'selector' not in columns: continue
    for column in columns:
        rows = db.execute(f'select rowid, {column} from {table} where typeof({column})=\'blob\' and length({column}) > 40').fetchall()
        if len(rows) == 2:
            for (rowid, _), (_, value) in zip(rows, reversed(rows)):
                db.execute(f'update {table} set {column}=? where rowid=?', (value, rowid))
            swapped += 1
db.commit()
print(swapped)
";
    let output = std::process::Command::new("python3").args(["-c", script]).arg(app.data_folder()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "one column of two sealed keys");
    app.start();
    for domain in [&first, &second] {
        let raw = format!("From: ann@{}\r\n\r\nx\r\n", domain.name);
        let answer = tenant.api.post_message("/v1/sign", raw.as_bytes());
        assert!(answer.status >= 500, "signed with a swapped key: {}", answer.text());
        let message =
            json!({"from": format!("ann@{}", domain.name), "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        let answer = tenant.api.post("/v1/messages", &message);
        assert_ne!(answer.json().get("status"), Some(&Value::from("queued")), "{}", answer.text());
    }
    assert_eq!(receiver.messages().len(), 0);
}
