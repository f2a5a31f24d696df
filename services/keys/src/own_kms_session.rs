//! Sessions of tenants' roles: short-lived credentials that may use one key, kept until shortly before they end.
use crate::CustodyError;
use crate::aws_kms::AwsKmsCustody;
use crate::kms_fault::{self, Fault};
use crate::own_kms::OwnKey;
use aws_sdk_sts::config::Credentials;
use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A signature waits for it: as long as for a signature.
const ASSUME_BUDGET: Duration = Duration::from_secs(3);
/// The longest that a role can be assumed for by a role (IAM User Guide, "role chaining"), and that every role allows.
const LIFETIME_S: i32 = 3_600;
/// A session is replaced before it ends, by so much.
const BEFORE_ITS_END: Duration = Duration::from_secs(300);
/// After a failure a session is opened anew, but not one that was opened a moment ago.
const DOUBTED_AFTER: Duration = Duration::from_secs(5);
/// Sessions that a tenant may hold; beyond, those of its keys that are not in use at the moment go.
const PER_TENANT: usize = 200;
/// Of all tenants.
const IN_ALL: usize = 2_000;

/// By tenant and key: a session of one tenant never serves another, whatever role both name.
#[derive(Default)]
pub(crate) struct Sessions(StdMutex<HashMap<(String, OwnKey), Used>>);

/// A slot, and when it was last used.
struct Used {
    slot: Slot,
    at: Instant,
}

type Slot = Arc<Mutex<Option<Session>>>;

struct Session {
    kms: Arc<AwsKmsCustody>,
    opened: Instant,
}

impl Session {
    fn lasts(&self) -> bool {
        self.opened.elapsed() + BEFORE_ITS_END < Duration::from_secs(LIFETIME_S.unsigned_abs().into())
    }
}

impl Sessions {
    /// The session of a tenant's key, opened now if there is none; by one at a time.
    pub(crate) async fn of(
        &self,
        tenant: &str,
        own: &OwnKey,
        open: impl Future<Output = Result<AwsKmsCustody, CustodyError>>,
    ) -> Result<Arc<AwsKmsCustody>, CustodyError> {
        let slot = self.slot(tenant, own);
        let Ok(mut session) = tokio::time::timeout(ASSUME_BUDGET, slot.lock()).await else {
            return Err(CustodyError::Unavailable(
                "the role that leads to the key is being assumed; STS is slow".into(),
            ));
        };
        if let Some(open) = session.as_ref().filter(|session| session.lasts()) {
            return Ok(Arc::clone(&open.kms));
        }
        let opened = Instant::now();
        let kms = Arc::new(open.await?);
        *session = Some(Session { kms: Arc::clone(&kms), opened });
        Ok(kms)
    }

    /// A call with it failed: the next one opens another, unless it is new. (The tenant may have changed the role, or ended its sessions.)
    pub(crate) fn doubt(&self, tenant: &str, own: &OwnKey) {
        if let Ok(mut session) = self.slot(tenant, own).try_lock() {
            session.take_if(|session| session.opened.elapsed() > DOUBTED_AFTER);
        }
    }

    pub(crate) fn close(&self, tenant: &str, own: &OwnKey) {
        self.slots().remove(&(tenant.to_owned(), own.clone()));
    }

    /// Assumes the role, for no more than this key: a session policy takes away whatever else the role may do.
    pub(crate) async fn assume(
        &self,
        sts: &aws_sdk_sts::Client,
        tenant: &str,
        own: &OwnKey,
        external_id: Option<&str>,
    ) -> Result<Credentials, Fault> {
        let call = sts
            .assume_role()
            .role_arn(&own.role)
            .role_session_name(format!("signpost-{tenant}"))
            .duration_seconds(LIFETIME_S)
            .policy(format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":["kms:GetPublicKey","kms:Sign"],"Resource":"{}"}}]}}"#,
                own.key
            ))
            .set_external_id(external_id.map(str::to_owned));
        let answer = kms_fault::within("AssumeRole", ASSUME_BUDGET, call.send()).await?;
        let Some(given) = answer.credentials else {
            return Err(Fault::Senseless("it let us in without credentials".into()));
        };
        let expires = SystemTime::try_from(given.expiration).ok();
        let (id, secret) = (given.access_key_id, given.secret_access_key);
        Ok(Credentials::new(id, secret, Some(given.session_token), expires, "AssumeRole"))
    }

    fn slot(&self, tenant: &str, own: &OwnKey) -> Slot {
        let place = (tenant.to_owned(), own.clone());
        let mut slots = self.slots();
        let now = Instant::now();
        if let Some(used) = slots.get_mut(&place) {
            used.at = now;
            return Arc::clone(&used.slot);
        }
        let of_tenant = |other: &(String, OwnKey)| other.0 == tenant;
        if slots.keys().filter(|other| of_tenant(other)).count() >= PER_TENANT {
            drop_oldest(&mut slots, of_tenant);
        }
        if slots.len() >= IN_ALL {
            drop_oldest(&mut slots, |_| true);
        }
        let slot = Slot::default();
        slots.insert(place, Used { slot: Arc::clone(&slot), at: now });
        slot
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<(String, OwnKey), Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of those, the one that was not used for longest. Who signs with it at the moment keeps it for that.
fn drop_oldest(slots: &mut HashMap<(String, OwnKey), Used>, among: impl Fn(&(String, OwnKey)) -> bool) {
    let oldest = slots.iter().filter(|(place, _)| among(place)).min_by_key(|(_, used)| used.at);
    if let Some(place) = oldest.map(|(place, _)| place.clone()) {
        slots.remove(&place);
    }
}
