//! POST /verify: what a receiver would conclude about a message.
use crate::body::{media_type, read, unsupported};
use crate::caller::{Authorized, MessagesRead};
use crate::openapi::problems;
use crate::problem::{Fault, Problem};
use crate::query::{FromParams, Params, Query};
use crate::router::ApiState;
use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use signpost_engine::verify::{self as engine, DkimResult, Session, Verification, VerifiedMessage};
use utoipa::{IntoParams, ToSchema};

/// The SMTP session that brought the message.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the parameters of the OpenAPI document; `Session` holds them parsed")]
pub(crate) struct SessionQuery {
    /// Address of the SMTP client. Without it SPF is not evaluated (`none`).
    ip: Option<String>,
    /// Its EHLO name; SPF looks at it where the envelope sender is null (RFC 7208 2.4).
    helo: Option<String>,
    /// Envelope sender; empty or absent is the null one.
    mail_from: Option<String>,
}

impl FromParams for Session {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        let (ip, helo, mail_from) = (params.one("ip")?, params.one("helo")?, params.one("mail_from")?);
        Self::parse(ip.as_deref(), helo.as_deref(), mail_from.as_deref())
            .map_err(|fault| Fault::in_parameter(fault.name, format!("`{}` is {}.", fault.name, fault.detail)))
    }
}

macro_rules! results {
    ($(#[$doc:meta])* $name:ident from $theirs:ty: $($variant:ident)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
        #[serde(rename_all = "lowercase")]
        pub(crate) enum $name { $($variant),+ }

        impl From<$theirs> for $name {
            fn from(result: $theirs) -> Self {
                match result { $(<$theirs>::$variant => Self::$variant),+ }
            }
        }
    };
}

results! {
    /// RFC 8601 2.7.1.
    DkimVerdict from DkimResult: Pass Fail Neutral None Policy Temperror Permerror
}
results! {
    /// RFC 8601 2.7.2.
    SpfVerdict from engine::SpfResult: Pass Fail Softfail Neutral None Temperror Permerror
}
results! {
    /// RFC 9989 9.1.
    DmarcVerdict from engine::DmarcResult: Pass Fail None Temperror Permerror
}
results! {
    /// What receivers say that still follow RFC 7489 and the Public Suffix List; `none` where that is neither pass nor fail.
    LegacyVerdict from engine::LegacyResult: Pass Fail None
}
results! {
    /// What the owner of the domain asks for.
    DmarcPolicy from engine::Policy: None Quarantine Reject
}
results! {
    /// The tag of the record that the policy comes from.
    DmarcPolicySource from engine::PolicySource: P Sp Np
}

/// One DKIM-Signature field.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DkimAnswer {
    result: DkimVerdict,
    /// d=.
    #[schema(required = true)]
    domain: Option<String>,
    /// s=.
    #[schema(required = true)]
    selector: Option<String>,
    /// a=.
    #[schema(required = true)]
    algorithm: Option<String>,
    /// Why it did not pass, or a warning.
    #[schema(required = true)]
    reason: Option<String>,
}

/// SPF.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpfAnswer {
    result: SpfVerdict,
    /// The name that was looked at: the domain of the envelope sender, or the EHLO name; empty if neither is known.
    domain: String,
    /// Why it did not pass.
    #[schema(required = true)]
    reason: Option<String>,
}

/// Which passes are aligned with From.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AlignedAnswer {
    spf: bool,
    dkim: bool,
}

/// DMARC by RFC 9989.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DmarcAnswer {
    result: DmarcVerdict,
    #[schema(required = true)]
    policy: Option<DmarcPolicy>,
    /// Where the record stands.
    #[schema(required = true)]
    policy_domain: Option<String>,
    #[schema(required = true)]
    policy_source: Option<DmarcPolicySource>,
    /// Of the From domain, by the tree walk (RFC 9989 4.10.2).
    #[schema(required = true)]
    organizational_domain: Option<String>,
    aligned: AlignedAnswer,
    legacy_result: LegacyVerdict,
    /// One sentence.
    reason: String,
}

/// What a receiver would conclude.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifyAnswer {
    /// One for each DKIM-Signature field, top to bottom, at most 100; empty if the message is not signed.
    dkim: Vec<DkimAnswer>,
    spf: SpfAnswer,
    dmarc: DmarcAnswer,
    /// The value of an Authentication-Results field (RFC 8601), on one line.
    authentication_results: String,
}

impl From<Verification> for DkimAnswer {
    fn from(verification: Verification) -> Self {
        let Verification { result, domain, selector, algorithm, reason, .. } = verification;
        Self { result: result.into(), domain, selector, algorithm, reason }
    }
}

impl From<VerifiedMessage> for VerifyAnswer {
    fn from(verified: VerifiedMessage) -> Self {
        let VerifiedMessage { evaluation: found, authentication_results } = verified;
        Self {
            dkim: found.dkim.into_iter().map(DkimAnswer::from).collect(),
            spf: SpfAnswer { result: found.spf.into(), domain: found.spf_domain, reason: found.spf_reason },
            dmarc: DmarcAnswer {
                result: found.dmarc.into(),
                policy: found.dmarc_policy.map(DmarcPolicy::from),
                policy_domain: found.dmarc_policy_domain,
                policy_source: found.dmarc_policy_source.map(DmarcPolicySource::from),
                organizational_domain: found.organizational_domain,
                aligned: AlignedAnswer { spf: found.spf_aligned, dkim: found.dkim_aligned },
                legacy_result: found.legacy_result.into(),
                reason: found.dmarc_reason,
            },
            authentication_results,
        }
    }
}

/// The answer of POST /verify as JSON, for the command line.
pub fn verification_json(verified: VerifiedMessage) -> Vec<u8> {
    crate::json::to_vec(&VerifyAnswer::from(verified))
}

problems! { VerifyProblems:
    InvalidRequest MessageTooLarge UnsupportedMediaType IncompleteBody Timeout
}

/// Verify a message
///
/// Scope `messages:read`. DKIM, SPF and DMARC as a receiver would judge them now, with the reason of every result. LF line ends are read
/// as CRLF, the `From ` line of a mailbox file is left out; nothing is stored. Takes at most about 10 seconds: what the DNS has not
/// answered by then is a `temperror`.
#[utoipa::path(post, path = "/v1/verify", operation_id = "verifyMessage", tag = "Messages", security(("bearer" = ["messages:read"])),
    params(SessionQuery),
    request_body(content = String, content_type = "message/rfc822", description = "The message as it was received"),
    responses((status = 200, description = "What was found.", body = VerifyAnswer), VerifyProblems))]
pub(crate) async fn verify_message(
    State(state): State<ApiState>,
    Authorized(caller, ..): Authorized<MessagesRead>,
    Query(session): Query<Session>,
    request: Request,
) -> Result<Json<VerifyAnswer>, Problem> {
    if media_type(request.headers()) != "message/rfc822" {
        return Err(unsupported("message/rfc822"));
    }
    let octets = read(request.into_body(), state.limits.max_message).await?;
    Ok(Json(state.engine.verify(&caller, octets.into(), session).await?.into()))
}
