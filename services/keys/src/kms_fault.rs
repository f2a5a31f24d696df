//! What can go wrong between us and the KMS, and which of it passes.
use crate::CustodyError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// One call that gave nothing usable.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It answered with this error code.
    Answered(String),
    /// It did not answer in time.
    Silent(&'static str),
    /// No connection, or it broke.
    Broken(&'static str),
    /// It answered what makes no sense.
    Senseless(String),
    /// It was not asked, to keep the pace; there may be room after so long.
    Paced(Duration),
}

/// What an error code of AWS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It was asked too often.
    Throttled,
    /// Something inside of it failed; it says itself that this passes.
    Passes,
    /// The key may not be used, until somebody changes that.
    KeyUnusable,
    /// The same, unless the key is so new that not every host of it knows the key.
    KeyNotThere,
    /// The request is wrong.
    Wrong,
    /// Whatever else: our credentials, an outage, what AWS adds later.
    Other,
}

fn meaning(code: &str) -> Meaning {
    match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => Meaning::Throttled,
        "DependencyTimeoutException"
        | "KMSInternalException"
        | "KeyUnavailableException"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Meaning::Passes,
        "DisabledException" | "AccessDeniedException" => Meaning::KeyUnusable,
        "NotFoundException" | "KMSInvalidStateException" => Meaning::KeyNotThere,
        "InvalidKeyUsageException"
        | "InvalidArnException"
        | "InvalidCiphertextException"
        | "IncorrectKeyException"
        | "MalformedPolicyDocumentException"
        | "TagException"
        | "UnsupportedOperationException"
        | "ValidationException" => Meaning::Wrong,
        _ => Meaning::Other,
    }
}

impl Fault {
    /// True where a key that was made a moment ago may answer so.
    pub(crate) fn may_be_too_early(&self) -> bool {
        self.means(Meaning::KeyNotThere)
    }

    /// True where the key does not exist any more, or its deletion is scheduled.
    pub(crate) fn is_gone_or_going(&self) -> bool {
        self.means(Meaning::KeyNotThere)
    }

    /// True where nothing has that name.
    pub(crate) fn is_not_found(&self) -> bool {
        self.has_code("NotFoundException")
    }

    /// True where something else has that name.
    pub(crate) fn exists_already(&self) -> bool {
        self.has_code("AlreadyExistsException")
    }

    /// True where fewer calls are what helps.
    pub(crate) fn is_throttling(&self) -> bool {
        self.means(Meaning::Throttled)
    }

    /// True where the same call may well succeed a moment later, and asking for it does no harm.
    pub(crate) fn may_pass_at_once(&self) -> bool {
        match self {
            Self::Answered(_) => self.means(Meaning::Passes),
            Self::Broken(_) => true,
            Self::Silent(_) | Self::Senseless(_) | Self::Paced(_) => false,
        }
    }

    fn means(&self, wanted: Meaning) -> bool {
        match self {
            Self::Answered(code) => meaning(code) == wanted,
            Self::Silent(_) | Self::Broken(_) | Self::Senseless(_) | Self::Paced(_) => false,
        }
    }

    fn has_code(&self, wanted: &str) -> bool {
        match self {
            Self::Answered(code) => code == wanted,
            Self::Silent(_) | Self::Broken(_) | Self::Senseless(_) | Self::Paced(_) => false,
        }
    }
}

/// Only what says that the request itself is wrong stays wrong. Everything else passes, by itself or by somebody's hand: the mail
/// waits for it.
impl From<Fault> for CustodyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Answered(code) => {
                let text = format!("the KMS answers {code}");
                match meaning(&code) {
                    Meaning::Throttled | Meaning::Passes => Self::Transient(text),
                    Meaning::KeyUnusable => Self::KeyUnavailable(text),
                    Meaning::KeyNotThere => Self::KeyNotFound(text),
                    Meaning::Wrong => Self::Refused(text),
                    Meaning::Other => Self::Unavailable(text),
                }
            }
            Fault::Silent(why) => Self::Unavailable(format!("the KMS gives no answer: {why}")),
            Fault::Broken(why) => Self::Transient(format!("the KMS gives no answer: {why}")),
            Fault::Senseless(what) => Self::Transient(format!("the KMS answers what makes no sense: {what}")),
            Fault::Paced(after) => Self::Paced(after),
        }
    }
}

/// Runs one call within its budget. The whole cause goes to the log: it names ARNs and hosts, which are not for tenants.
pub(crate) async fn within<T, E>(
    operation: &'static str,
    budget: Duration,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let error = match tokio::time::timeout(budget, call).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => {
            tracing::warn!(operation, ?budget, "the KMS did not answer in time");
            return Err(Fault::Silent("not in time"));
        }
    };
    tracing::warn!(operation, error = %causes(&error), "the KMS did not do it");
    Err(match &error {
        SdkError::ServiceError(answer) => match answer.err().code() {
            Some(code) => Fault::Answered(code.to_owned()),
            None => Fault::Senseless("an error without a code".into()),
        },
        SdkError::ResponseError(_) => Fault::Senseless("it is not in the KMS's protocol".into()),
        SdkError::TimeoutError(_) => Fault::Silent("not in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Fault::Silent("no connection in time"),
        SdkError::DispatchFailure(failure) if failure.is_io() => Fault::Broken("no connection, or it broke"),
        // The SDK's word for a connection that ended in the middle of an answer.
        SdkError::DispatchFailure(failure) if failure.as_other().is_some() => Fault::Broken("the connection broke"),
        SdkError::DispatchFailure(_) => Fault::Silent("the request could not be sent; see the log"),
        SdkError::ConstructionFailure(_) => Fault::Silent("the request could not be made; see the log"),
        // The enumeration is open; what the SDK adds later is no success either.
        _ => Fault::Silent("see the log"),
    })
}

/// The error and what caused it, in words. Never its debug form: that has the answer's octets, which for AssumeRole, Decrypt and
/// GenerateDataKey hold secrets.
fn causes<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut text = error.to_string();
    if let Some(answer) = error.as_service_error() {
        let meta = answer.meta();
        text = format!("{} ({})", meta.code().unwrap_or("no code"), meta.message().unwrap_or("no message"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_holds_is_not_logged() {
        use aws_sdk_kms::operation::decrypt::DecryptError;
        let marker = "Plaintext-that-nobody-may-see";
        let raw = || HttpResponse::new(500_u16.try_into().unwrap(), marker.into());
        let unreadable: SdkError<DecryptError, HttpResponse> =
            SdkError::response_error(Box::<dyn std::error::Error + Send + Sync>::from("no JSON"), raw());
        let answered = SdkError::service_error(DecryptError::unhandled("odd"), raw());
        for error in [unreadable, answered] {
            assert!(format!("{error:?}").contains(marker), "the SDK shows it");
            let text = causes(&error);
            assert!(!text.contains(marker) && !text.is_empty(), "{text}");
        }
    }

    /// Code or fault, and what becomes of it.
    fn kind(error: &CustodyError) -> &'static str {
        match error {
            CustodyError::Unavailable(_) => "unavailable",
            CustodyError::Transient(_) => "transient",
            CustodyError::Paced(_) => "paced",
            CustodyError::KeyUnavailable(_) => "key unavailable",
            CustodyError::KeyNotFound(_) => "key not found",
            CustodyError::Refused(_) => "refused",
        }
    }

    #[test]
    fn every_error_code_says_who_has_to_do_something() {
        let table: [(&str, &[&str]); 5] = [
            (
                "transient",
                &[
                    "ThrottlingException",
                    "TooManyRequestsException",
                    "KMSInternalException",
                    "DependencyTimeoutException",
                    "KeyUnavailableException",
                    "ServiceUnavailableException",
                    "InternalFailure",
                ],
            ),
            ("key unavailable", &["DisabledException", "AccessDeniedException"]),
            ("key not found", &["NotFoundException", "KMSInvalidStateException"]),
            (
                "unavailable",
                &[
                    "LimitExceededException",
                    "ExpiredTokenException",
                    "UnrecognizedClientException",
                    "SomethingNewException",
                ],
            ),
            (
                "refused",
                &[
                    "InvalidKeyUsageException",
                    "ValidationException",
                    "InvalidArnException",
                    "InvalidCiphertextException",
                ],
            ),
        ];
        for (expected, codes) in table {
            for code in codes {
                let error = CustodyError::from(Fault::Answered((*code).into()));
                assert_eq!(kind(&error), expected, "{code}");
                assert!(error.to_string().contains(code), "{error}");
            }
        }
        for (fault, expected) in [
            (Fault::Silent("not in time"), "unavailable"),
            (Fault::Broken("reset"), "transient"),
            (Fault::Senseless("no signature".into()), "transient"),
            (Fault::Paced(Duration::from_secs(1)), "paced"),
        ] {
            assert_eq!(kind(&CustodyError::from(fault)), expected);
        }
    }

    #[test]
    fn at_once_is_asked_again_only_where_that_may_help_and_does_not_harm() {
        let answered = |code: &str| Fault::Answered(code.into());
        for fault in [answered("KMSInternalException"), answered("KeyUnavailableException"), Fault::Broken("reset")] {
            assert!(fault.may_pass_at_once() && !fault.is_throttling(), "{fault:?}");
        }
        let throttled = answered("ThrottlingException");
        assert!(throttled.is_throttling() && !throttled.may_pass_at_once());
        for fault in [
            answered("DisabledException"),
            answered("NotFoundException"),
            answered("SomethingNewException"),
            Fault::Silent("not in time"),
            Fault::Senseless("garbage".into()),
            Fault::Paced(Duration::ZERO),
        ] {
            assert!(!fault.may_pass_at_once() && !fault.is_throttling(), "{fault:?}");
        }
    }
}
