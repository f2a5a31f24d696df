//! Signatures a second by custody: sealed, envelope, and `aws-kms` behind 10 ms, beside each other.
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{
    AwsKmsCustody, Custody, EnvelopeSettings, KeyBinding, MasterKey, SealedCustody, StoredKey, SystemRandom,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Result;
use crate::report::{Comparison, note, table};

/// What a KMS in the same region takes.
const AWAY: Duration = Duration::from_millis(10);
/// Signatures under way at once: as many as a process of Signpost may well have waiting.
const AT_ONCE: usize = 64;
const LENGTH: Duration = Duration::from_secs(3);
/// Set for the process that has the settings of the KMS in its environment.
const INNER: &str = "SIGNPOST_LOAD_KMS";

/// The AWS settings are read from the environment, as the server does: so the measurement runs in a process that has them.
pub(crate) fn compare(rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::var_os(INNER).is_some() {
        return runtime.block_on(measure(rounds));
    }
    let kms = runtime.block_on(FakeKms::start())?;
    let status = std::process::Command::new(std::env::current_exe()?)
        .args([rounds.to_string().as_str(), "custody"])
        .env(INNER, "1")
        .env("AWS_ENDPOINT_URL_KMS", format!("http://{}", kms.address))
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "load")
        .env("AWS_SECRET_ACCESS_KEY", "load")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .status()?;
    if !status.success() {
        return Err("the measurement of custody failed".into());
    }
    let [sign, public_key, unwrap] = [&kms.signs, &kms.public_keys, &kms.unwraps].map(|n| n.load(Ordering::SeqCst));
    note(&format!(
        "calls of the KMS: Sign {sign} (the signatures and the test of the new key), GetPublicKey {public_key}, Decrypt {unwrap}"
    ))
}

async fn measure(rounds: usize) -> Result<()> {
    let sealed = SealedCustody::new(Arc::new(SystemRandom));
    sealed.unseal(&MasterKey::generate(&SystemRandom));
    // The pace that real accounts need would be measured instead.
    let kms = AwsKmsCustody::from_environment().await?.at_rate(NonZeroU32::MAX);
    let envelope = kms.envelope(Arc::new(SystemRandom), EnvelopeSettings::default());
    let custodies: [Arc<dyn Custody>; 3] = [Arc::new(envelope), Arc::new(sealed), Arc::new(kms)];
    let place = KeyBinding {
        tenant: "load".into(),
        domain: SigningDomain::parse("example.com")?,
        selector: Selector::parse("s1")?,
        key_id: "load".into(),
    };
    let mut keys = Vec::new();
    for custody in &custodies {
        keys.push(custody.create(&place, KeyAlgorithm::Rsa2048).await?);
    }
    for at_once in [AT_ONCE, 1] {
        let mut results = Vec::new();
        for _ in 0..rounds {
            let mut round = Vec::new();
            for (custody, key) in custodies.iter().zip(&keys) {
                round.push(signatures_a_second(custody, &place, key, at_once).await?);
            }
            results.push(round);
        }
        let columns = ["envelope", "sealed", "aws-kms behind 10 ms"];
        let title = format!("custody, RSA-2048, {at_once} at once; signatures a second of the clock");
        if at_once == 1 {
            table(&title, &columns, 0, &results)?;
        } else {
            Comparison { title: &title, columns: &columns, reference: 1, goal: 0.95, digits: 0 }.print(&results)?;
        }
    }
    Ok(())
}

async fn signatures_a_second(
    custody: &Arc<dyn Custody>,
    place: &KeyBinding,
    key: &StoredKey,
    at_once: usize,
) -> Result<f64> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..at_once {
        let (custody, place, key) = (Arc::clone(custody), place.clone(), key.clone());
        running.spawn(async move {
            let mut made = 0_u64;
            let digest = [u8::try_from(number % 256).unwrap_or_default(); 32];
            while begun.elapsed() < LENGTH {
                custody.sign(&place, &key, &digest).await?;
                made += 1;
            }
            Ok::<_, signpost_keys::CustodyError>(made)
        });
    }
    let mut all = 0;
    while let Some(made) = running.join_next().await {
        all += made??;
    }
    Ok(all as f64 / begun.elapsed().as_secs_f64())
}

/// As much of the KMS's protocol as is asked here, over one RSA key, each answer after [`AWAY`]. What the tests' KMS takes for itself
/// would be measured instead.
struct FakeKms {
    address: std::net::SocketAddr,
    signs: Arc<AtomicU64>,
    public_keys: Arc<AtomicU64>,
    unwraps: Arc<AtomicU64>,
}

impl FakeKms {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let key = Arc::new(KeyPair::generate(KeySize::Rsa2048)?);
        let counts: [Arc<AtomicU64>; 3] = Default::default();
        let [signs, public_keys, unwraps] = counts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (key, counts) = (Arc::clone(&key), counts.clone());
                // A connection that breaks ends; the client makes another.
                tokio::spawn(async move { serve(stream, &key, &counts).await.ok() });
            }
        });
        Ok(Self { address, signs, public_keys, unwraps })
    }
}

async fn serve(stream: TcpStream, key: &KeyPair, counts: &[Arc<AtomicU64>; 3]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut operation, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.split_once(':') else {
                if line.trim().is_empty() { break } else { continue }
            };
            match name.to_ascii_lowercase().as_str() {
                "x-amz-target" => operation = value.rsplit('.').next().unwrap_or_default().trim().to_owned(),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        tokio::time::sleep(AWAY).await;
        let answer = answer(key, counts, &operation, &serde_json::from_slice(&body)?)
            .map_err(|error| std::io::Error::other(error.to_string()))?
            .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).await?;
    }
}

/// The data key that it "wraps" lies in the wrapped one: what is measured is time, not secrecy.
fn answer(key: &KeyPair, counts: &[Arc<AtomicU64>; 3], operation: &str, input: &Value) -> Result<Value> {
    let arn = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000";
    let octets = |name: &str| STANDARD.decode(input[name].as_str().unwrap_or_default());
    Ok(match operation {
        "CreateKey" => json!({"KeyMetadata": {"KeyId": arn, "Arn": arn}}),
        "GetPublicKey" => {
            counts[1].fetch_add(1, Ordering::SeqCst);
            let spki: PublicKeyX509Der<'_> = key.public_key().as_der()?;
            json!({"KeyId": arn, "PublicKey": STANDARD.encode(spki.as_ref())})
        }
        "Sign" => {
            counts[0].fetch_add(1, Ordering::SeqCst);
            let digest = Digest::import_less_safe(&octets("Message")?, &SHA256)?;
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature)?;
            json!({"KeyId": arn, "Signature": STANDARD.encode(signature)})
        }
        "GenerateDataKey" => {
            json!({"KeyId": arn, "Plaintext": STANDARD.encode([7; 32]), "CiphertextBlob": STANDARD.encode([7; 32])})
        }
        "Decrypt" => {
            counts[2].fetch_add(1, Ordering::SeqCst);
            json!({"KeyId": arn, "Plaintext": STANDARD.encode(octets("CiphertextBlob")?)})
        }
        other => return Err(format!("{other} is not asked here").into()),
    })
}
