//! A tenant's own key in AWS KMS: reached by assuming a role of the tenant's, with an ExternalId that was made for the tenant.
//!
//! Whoever names a key must not get at what others may (AWS IAM User Guide, "The confused deputy problem"): a key that our own credentials
//! reach is refused, and so is a role that lets us in without this tenant's ExternalId. The key is the tenant's: it is never disabled or
//! deleted from here.
use crate::aws_kms::{AwsKmsCustody, TEST_DIGEST, public_key_in};
use crate::import::ImportFault;
use crate::kms_fault::{self, Fault};
use crate::own_kms_session::Sessions;
use crate::{Custody, CustodyError, CustodyKind, KeyBinding, Random, StoredKey, vet};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Before the colon of references: `awskms-role:<key ARN> <role ARN>`.
pub(crate) const SCHEME: &str = "awskms-role";
/// One call of what is done once per key.
const MANAGE_BUDGET: Duration = Duration::from_secs(10);
/// Who asks what to trust waits for it, and can do without.
const IDENTITY_BUDGET: Duration = Duration::from_secs(3);
/// All that is asked before a key is taken.
const ADOPTION_BUDGET: Duration = Duration::from_secs(25);
/// Symbols of 5 random bits each in an ExternalId.
const EXTERNAL_ID_SYMBOLS: usize = 40;
/// After STS did not say who we are it is left alone for so long.
const IDENTITY_REST: Duration = Duration::from_secs(15);

/// Where the ExternalId of a tenant is kept.
#[async_trait::async_trait]
pub trait ExternalIds: Send + Sync {
    /// Of this tenant. `Refused` if none was made, `Unavailable` if it cannot be read now.
    async fn external_id(&self, tenant: &str) -> Result<String, CustodyError>;
}

/// Why a tenant's key is not taken. The text says what is wrong and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum OwnKeyFault {
    #[error(
        "this is no ARN of a key in AWS KMS; the whole ARN is needed, `arn:aws:kms:<region>:<account>:key/<id>` (not an alias, which can be \
         pointed at another key)"
    )]
    KeyArn,
    #[error("this is no ARN of a role; `arn:aws:iam::<account>:role/<name>` is needed")]
    RoleArn,
    #[error(
        "the role cannot be assumed (STS answers {0}): its trust policy must allow sts:AssumeRole to this service, with the condition that \
         sts:ExternalId is the one that GET /v1/kms-access names"
    )]
    RoleRefuses(String),
    #[error(
        "the role can be assumed without an ExternalId: its trust policy lacks the condition sts:ExternalId, so that others could use it \
         through this service; add it, with the value that GET /v1/kms-access names"
    )]
    NoExternalId,
    #[error(
        "the role can be assumed with any ExternalId: the condition sts:ExternalId of its trust policy must name exactly the value of GET \
         /v1/kms-access"
    )]
    AnyExternalId,
    #[error(
        "this service reaches the key without your role, so that it may belong to somebody else; only the role may be allowed to use it: take \
         this service's account out of the key's policy and grants"
    )]
    Ours,
    #[error(
        "the role may not use the key, or the key is not there (the KMS answers {0}): the role needs kms:GetPublicKey and kms:Sign for it, \
         and the key must be enabled"
    )]
    KeyRefuses(String),
    #[error("the key is not for signing: its usage must be SIGN_VERIFY")]
    Usage,
    #[error(
        "a key of the spec {0} does not sign DKIM; RSA_2048, RSA_3072, RSA_4096 or ECC_NIST_EDWARDS25519 is needed"
    )]
    Spec(String),
    #[error("the key is a {} one", .0.as_str())]
    Algorithm(KeyAlgorithm),
    #[error("the key is not safe: {0}")]
    Weak(ImportFault),
}

/// A key that was not taken.
#[derive(Debug, Clone)]
pub enum OwnKeyError {
    /// The tenant has to mend it.
    Fault(OwnKeyFault),
    /// Not now, or not here.
    Custody(CustodyError),
}

impl<E: Into<CustodyError>> From<E> for OwnKeyError {
    fn from(error: E) -> Self {
        Self::Custody(error.into())
    }
}

impl From<OwnKeyFault> for OwnKeyError {
    fn from(fault: OwnKeyFault) -> Self {
        Self::Fault(fault)
    }
}

/// Who we are to AWS: what a tenant's trust policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurIdentity {
    /// Twelve digits.
    pub account: String,
    /// ARN of the user or the session of a role.
    pub principal: String,
}

/// Both ARNs of a tenant's key, as its reference holds them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OwnKey {
    pub(crate) key: String,
    pub(crate) region: String,
    pub(crate) role: String,
}

impl OwnKey {
    /// From what a tenant names.
    pub(crate) fn parse(key: &str, role: &str) -> Result<Self, OwnKeyFault> {
        let region = region_of_key(key).ok_or(OwnKeyFault::KeyArn)?;
        if !is_role(role, key) {
            return Err(OwnKeyFault::RoleArn);
        }
        Ok(Self { key: key.to_owned(), region: region.to_owned(), role: role.to_owned() })
    }

    /// From a reference of this scheme; `None` if it is of another.
    fn of_reference(binding: &KeyBinding, stored: &StoredKey) -> Result<Option<Self>, CustodyError> {
        let Some(arns) = stored.reference.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(':')) else {
            return Ok(None);
        };
        let parsed = arns.split_once(' ').and_then(|(key, role)| Self::parse(key, role).ok());
        parsed.map(Some).ok_or_else(|| {
            CustodyError::Refused(format!(
                "key {} has the reference {:?}, which is not `{SCHEME}:<key ARN> <role ARN>`",
                binding.key_id, stored.reference
            ))
        })
    }

    fn reference(&self) -> String {
        format!("{SCHEME}:{} {}", self.key, self.role)
    }
}

/// `arn:<partition>:kms:<region>:<account>:key/<id>`; gives the region, which becomes part of a host name.
fn region_of_key(arn: &str) -> Option<&str> {
    let [_, partition, service, region, account, resource] = parts(arn)?;
    let id = resource.strip_prefix("key/")?;
    let good =
        is_partition(partition) && service == "kms" && is_name(region, 32) && is_account(account) && is_name(id, 64);
    good.then_some(region)
}

/// `arn:<partition>:iam::<account>:role/<path and name>`, in the partition of the key.
fn is_role(arn: &str, key: &str) -> bool {
    let (Some([_, partition, service, region, account, resource]), Some(of_key)) = (parts(arn), parts(key)) else {
        return false;
    };
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&octet);
    let name = resource.strip_prefix("role/").unwrap_or_default();
    partition == of_key[1]
        && service == "iam"
        && region.is_empty()
        && is_account(account)
        && (1..=512).contains(&name.len())
        && name.bytes().all(plain)
}

fn parts(arn: &str) -> Option<[&str; 6]> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    parts.try_into().ok().filter(|parts: &[&str; 6]| parts[0] == "arn")
}

fn is_partition(text: &str) -> bool {
    text.starts_with("aws") && is_name(text, 32)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|octet| octet.is_ascii_digit())
}

/// Lower-case letters, digits and hyphens, none of these at an end.
fn is_name(text: &str, longest: usize) -> bool {
    let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    (1..=longest).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-')
}

/// Custody `aws-kms`: our own keys (`awskms:`), and those of tenants (`awskms-role:`).
pub struct OwnKmsCustody {
    ours: AwsKmsCustody,
    sts: aws_sdk_sts::Client,
    external_ids: Arc<dyn ExternalIds>,
    random: Arc<dyn Random>,
    sessions: Sessions,
    identity: OnceCell<OurIdentity>,
    /// When STS last did not say.
    not_told: Mutex<Option<Instant>>,
}

impl OwnKmsCustody {
    pub(crate) fn new(
        ours: AwsKmsCustody,
        sts: aws_sdk_sts::Client,
        external_ids: Arc<dyn ExternalIds>,
        random: Arc<dyn Random>,
    ) -> Self {
        let sessions = Sessions::default();
        Self { ours, sts, external_ids, random, sessions, identity: OnceCell::new(), not_told: Mutex::default() }
    }

    /// Who we are, asked for once; `None` while STS does not say.
    pub async fn identity(&self) -> Option<OurIdentity> {
        let rests = |failed: Option<Instant>| failed.is_some_and(|at| at.elapsed() < IDENTITY_REST);
        if !self.identity.initialized() && rests(*self.not_told.lock().unwrap_or_else(PoisonError::into_inner)) {
            return None;
        }
        let asked = self.identity.get_or_try_init(|| async {
            let call = self.sts.get_caller_identity().send();
            let answer = kms_fault::within("GetCallerIdentity", IDENTITY_BUDGET, call).await?;
            match (answer.account, answer.arn) {
                (Some(account), Some(principal)) => Ok(OurIdentity { account, principal }),
                _ => Err(Fault::Senseless("it does not say who we are".into())),
            }
        });
        // Callers wait for one another here; together no longer than one question takes.
        let told = tokio::time::timeout(IDENTITY_BUDGET, asked).await;
        let told = told.ok().and_then(Result::ok).cloned();
        if told.is_none() {
            *self.not_told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        told
    }

    /// Takes a tenant's key for this binding, after it was proven that it is the tenant's to give: see the head of this module. `named`: the
    /// algorithm that the tenant expects.
    pub async fn adopt(
        &self,
        binding: &KeyBinding,
        key_arn: &str,
        role_arn: &str,
        named: Option<KeyAlgorithm>,
    ) -> Result<StoredKey, OwnKeyError> {
        let own = OwnKey::parse(key_arn, role_arn)?;
        let proven = tokio::time::timeout(ADOPTION_BUDGET, self.prove(binding, &own, named));
        proven.await.unwrap_or_else(|_| {
            Err(CustodyError::Unavailable("AWS did not answer in time all that is asked about a key".into()).into())
        })
    }

    async fn prove(
        &self,
        binding: &KeyBinding,
        own: &OwnKey,
        named: Option<KeyAlgorithm>,
    ) -> Result<StoredKey, OwnKeyError> {
        let external_id = self.external_ids.external_id(&binding.tenant).await?;
        self.refuse_open_role(binding, own).await?;
        let credentials = match self.sessions.assume(&self.sts, &binding.tenant, own, Some(&external_id)).await {
            Ok(credentials) => credentials,
            Err(fault) => return Err(tenant_s(fault, OwnKeyFault::RoleRefuses)),
        };
        let theirs = self.ours.acting_as(Some(credentials), &own.region);
        let (algorithm, public_key) = public_half(&theirs, own).await?;
        if named.is_some_and(|named| named != algorithm) {
            return Err(OwnKeyFault::Algorithm(algorithm).into());
        }
        vet::public_half(&public_key).map_err(OwnKeyFault::Weak)?;
        self.refuse_if_ours(binding, own, algorithm).await?;
        let stored = StoredKey { reference: own.reference(), sealed: Vec::new(), public_key, algorithm };
        // A signature that does not verify is no fault of the tenant's.
        match theirs.ask_to_sign(&binding.tenant, &own.key, algorithm, &TEST_DIGEST).await {
            Ok(signature) if stored.public_key.verify_digest(&TEST_DIGEST, &signature) => Ok(stored),
            Ok(_) => Err(CustodyError::Unavailable("the test signature of the key does not verify".into()).into()),
            Err(fault) => Err(tenant_s(fault, OwnKeyFault::KeyRefuses)),
        }
    }

    /// A role that lets us in without the ExternalId, or with that of a stranger, would do the same for another tenant.
    async fn refuse_open_role(&self, binding: &KeyBinding, own: &OwnKey) -> Result<(), OwnKeyError> {
        // Made as real ones are: a condition such as StringLike `sp-*` keeps nobody out.
        let stranger = new_external_id(&*self.random);
        for (external_id, fault) in
            [(None, OwnKeyFault::NoExternalId), (Some(stranger.as_str()), OwnKeyFault::AnyExternalId)]
        {
            match self.sessions.assume(&self.sts, &binding.tenant, own, external_id).await {
                Ok(_) => return Err(fault.into()),
                Err(refused) if is_denied(&refused) => {}
                Err(other) => return Err(tenant_s(other, OwnKeyFault::RoleRefuses)),
            }
        }
        Ok(())
    }

    /// Asks for the key with our own credentials, by every call that the role is for. Only a denial is one: what fails otherwise may have been
    /// allowed.
    async fn refuse_if_ours(
        &self,
        binding: &KeyBinding,
        own: &OwnKey,
        algorithm: KeyAlgorithm,
    ) -> Result<(), OwnKeyError> {
        let ours = self.ours.acting_as(None, &own.region);
        let described = ours.client().describe_key().key_id(&own.key).send();
        let reached = reaches(kms_fault::within("DescribeKey", MANAGE_BUDGET, described).await)?
            || reaches(ours.get_public_key(&own.key).await)?
            || reaches(ours.ask_to_sign(&binding.tenant, &own.key, algorithm, &TEST_DIGEST).await)?;
        if reached { Err(OwnKeyFault::Ours.into()) } else { Ok(()) }
    }
}

/// An ExternalId that nobody has yet: 200 random bits.
pub fn new_external_id(random: &dyn Random) -> String {
    const SYMBOLS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut octets = [0; EXTERNAL_ID_SYMBOLS];
    random.fill(&mut octets);
    let symbols: String = octets.iter().map(|octet| char::from(SYMBOLS[usize::from(octet & 31)])).collect();
    format!("sp-{symbols}")
}

/// Key spec and public half, as the role is told.
async fn public_half(theirs: &AwsKmsCustody, own: &OwnKey) -> Result<(KeyAlgorithm, PublicKey), OwnKeyError> {
    let answer = match theirs.get_public_key(&own.key).await {
        Ok(answer) => answer,
        Err(fault) => return Err(tenant_s(fault, OwnKeyFault::KeyRefuses)),
    };
    if answer.key_id.as_deref() != Some(&own.key) {
        return Err(Fault::Senseless("it tells of another key than the one it was asked for".into()).into());
    }
    if answer.key_usage != Some(KeyUsageType::SignVerify) {
        return Err(OwnKeyFault::Usage.into());
    }
    let algorithm = match answer.key_spec {
        Some(KeySpec::Rsa2048) => KeyAlgorithm::Rsa2048,
        Some(KeySpec::Rsa3072) => KeyAlgorithm::Rsa3072,
        Some(KeySpec::Rsa4096) => KeyAlgorithm::Rsa4096,
        Some(KeySpec::EccNistEdwards25519) => KeyAlgorithm::Ed25519,
        other => return Err(OwnKeyFault::Spec(other.map_or("?".into(), |spec| spec.as_str().to_owned())).into()),
    };
    let spki = answer.public_key.map(Blob::into_inner).unwrap_or_default();
    Ok((algorithm, public_key_in(&spki, algorithm)?))
}

/// What AWS answers is the tenant's to mend; what it does not answer is not, nor what passes by itself.
fn tenant_s(fault: Fault, because: fn(String) -> OwnKeyFault) -> OwnKeyError {
    match fault {
        Fault::Answered(code) if is_denial(&code) || is_about_the_key(&code) || is_about_the_request(&code) => {
            because(code).into()
        }
        other => other.into(),
    }
}

fn is_denied(fault: &Fault) -> bool {
    matches!(fault, Fault::Answered(code) if is_denial(code))
}

/// Of KMS and STS. A key that is not there for us is one that we cannot use.
fn is_denial(code: &str) -> bool {
    matches!(code, "AccessDeniedException" | "AccessDenied" | "NotFoundException")
}

/// The call was allowed, and the key is not in a state, or of a kind, to do it.
fn is_about_the_key(code: &str) -> bool {
    matches!(
        code,
        "DisabledException" | "KMSInvalidStateException" | "InvalidKeyUsageException" | "UnsupportedOperationException"
    )
}

/// What was named is nothing that AWS knows, or not where we may go.
fn is_about_the_request(code: &str) -> bool {
    matches!(code, "ValidationError" | "ValidationException" | "InvalidArnException" | "RegionDisabledException")
}

fn reaches<T>(result: Result<T, Fault>) -> Result<bool, CustodyError> {
    match result {
        Ok(_) => Ok(true),
        Err(Fault::Answered(code)) if is_denial(&code) => Ok(false),
        Err(Fault::Answered(code)) if is_about_the_key(&code) => Ok(true),
        Err(fault) => Err(fault.into()),
    }
}

#[async_trait::async_trait]
impl Custody for OwnKmsCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKms
    }

    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        self.ours.create(binding, algorithm).await
    }

    async fn sign(&self, binding: &KeyBinding, key: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        let Some(own) = OwnKey::of_reference(binding, key)? else { return self.ours.sign(binding, key, digest).await };
        // Polled only if there is no session.
        let open = async {
            let external_id = self.external_ids.external_id(&binding.tenant).await?;
            match self.sessions.assume(&self.sts, &binding.tenant, &own, Some(&external_id)).await {
                Ok(credentials) => Ok(self.ours.acting_as(Some(credentials), &own.region)),
                Err(fault) => Err(role_away(fault)),
            }
        };
        let session = self.sessions.of(&binding.tenant, &own, open).await?;
        let signed = session.sign_as(binding, key, &own.key, digest).await;
        match &signed {
            Err(CustodyError::KeyUnavailable(_) | CustodyError::KeyNotFound(_) | CustodyError::Unavailable(_)) => {
                self.sessions.doubt(&binding.tenant, &own);
            }
            // What says nothing of the session.
            Err(CustodyError::Transient(_) | CustodyError::Paced(_) | CustodyError::Refused(_)) | Ok(_) => {}
        }
        signed
    }

    fn forget(&self, key_id: &str) {
        self.ours.forget(key_id);
    }

    async fn withdraw(&self, binding: &KeyBinding, key: &StoredKey) -> Result<(), CustodyError> {
        match OwnKey::of_reference(binding, key)? {
            // It is the tenant's; we only let go of it.
            Some(own) => {
                self.sessions.close(&binding.tenant, &own);
                Ok(())
            }
            None => self.ours.withdraw(binding, key).await,
        }
    }
}

/// Whatever it is, mail waits for it: a trust policy can be mended.
fn role_away(fault: Fault) -> CustodyError {
    match fault {
        Fault::Answered(code) if is_denial(&code) => CustodyError::KeyUnavailable(format!(
            "the role that leads to the key cannot be assumed: STS answers {code}"
        )),
        other => other.into(),
    }
}

impl fmt::Debug for OwnKmsCustody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clients know credentials.
        f.debug_struct("OwnKmsCustody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    const ROLE: &str = "arn:aws:iam::123456789012:role/mail/signs-dkim";

    #[test]
    fn arns_are_whole_and_lead_nowhere_else() {
        let own = OwnKey::parse(KEY, ROLE).unwrap();
        assert_eq!(own.region, "eu-central-1");
        assert_eq!(own.reference(), format!("awskms-role:{KEY} {ROLE}"));
        let multi_region = KEY.replace("1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1234abcd12ab34cd56ef1234567890ab");
        assert!(OwnKey::parse(&multi_region, ROLE).is_ok());
        assert!(OwnKey::parse(&KEY.replace(":aws:", ":aws-cn:"), &ROLE.replace(":aws:", ":aws-cn:")).is_ok());
        for wrong in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/mail",
            "arn:aws:kms:eu-central-1:123456789012:alias/mail",
            "arn:aws:kms:eu-central-1:12345678901:key/1234abcd",
            "arn:aws:kms::123456789012:key/1234abcd",
            "arn:aws:kms:evil.example/:123456789012:key/1234abcd",
            "arn:aws:kms:eu-central-1@evil:123456789012:key/1234abcd",
            "arn:aws:s3:eu-central-1:123456789012:key/1234abcd",
            "arn:other:kms:eu-central-1:123456789012:key/1234abcd",
            "arn:aws:kms:eu-central-1:123456789012:key/1234 abcd",
            "arn:aws:kms:eu-central-1:123456789012:key/1234/../abcd",
            " arn:aws:kms:eu-central-1:123456789012:key/1234abcd",
        ] {
            assert_eq!(OwnKey::parse(wrong, ROLE), Err(OwnKeyFault::KeyArn), "{wrong:?}");
        }
        for wrong in [
            "",
            "signs-dkim",
            "arn:aws:iam::123456789012:user/ann",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam:eu-central-1:123456789012:role/x",
            "arn:aws:iam::1:role/x",
            "arn:aws:sts::123456789012:assumed-role/x/y",
            "arn:aws-cn:iam::123456789012:role/x",
            "arn:aws:iam::123456789012:role/x y",
        ] {
            assert_eq!(OwnKey::parse(KEY, wrong), Err(OwnKeyFault::RoleArn), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_denial_says_that_a_key_is_out_of_reach() {
        let answered = |code: &str| reaches::<()>(Err(Fault::Answered(code.into())));
        for code in ["AccessDeniedException", "NotFoundException"] {
            assert!(matches!(answered(code), Ok(false)), "{code}");
        }
        for code in ["DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException"] {
            assert!(matches!(answered(code), Ok(true)), "{code}");
        }
        assert!(matches!(reaches(Ok(())), Ok(true)));
        for code in ["ThrottlingException", "KMSInternalException", "ExpiredTokenException", "SomethingNew"] {
            assert!(answered(code).is_err(), "{code}");
        }
        assert!(reaches::<()>(Err(Fault::Silent("not in time"))).is_err());
    }
}
