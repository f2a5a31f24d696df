//! What can go wrong between us and the KMS, and which of it passes.
use crate::CustodyError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// One call that gave nothing usable.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It answered with this error code.
    Answered(String),
    /// It did not answer, or not in time.
    Silent(&'static str),
    /// It answered what makes no sense.
    Senseless(String),
}

impl Fault {
    /// True where a key that was made a moment ago may answer so.
    pub(crate) fn may_be_too_early(&self) -> bool {
        self.has_code(&["NotFoundException", "KMSInvalidStateException"])
    }

    /// True where the key does not exist any more, or its deletion is scheduled.
    pub(crate) fn is_gone_or_going(&self) -> bool {
        self.has_code(&["NotFoundException", "KMSInvalidStateException"])
    }

    /// True where nothing has that name.
    pub(crate) fn is_not_found(&self) -> bool {
        self.has_code(&["NotFoundException"])
    }

    /// True where something else has that name.
    pub(crate) fn exists_already(&self) -> bool {
        self.has_code(&["AlreadyExistsException"])
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        match self {
            Self::Answered(code) => codes.contains(&code.as_str()),
            Self::Silent(_) | Self::Senseless(_) => false,
        }
    }
}

/// Only what says that the request itself is wrong stays wrong. Everything else passes, by itself or by the operator's hand
/// (disabled, deletion scheduled, no permission, throttled, away): the mail waits for it.
impl From<Fault> for CustodyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Answered(code) => {
                let text = format!("the KMS answers {code}");
                match code.as_str() {
                    "InvalidKeyUsageException"
                    | "InvalidArnException"
                    | "InvalidCiphertextException"
                    | "IncorrectKeyException"
                    | "MalformedPolicyDocumentException"
                    | "TagException"
                    | "UnsupportedOperationException"
                    | "ValidationException" => Self::Refused(text),
                    _ => Self::Unavailable(text),
                }
            }
            Fault::Silent(why) => Self::Unavailable(format!("the KMS gives no answer: {why}")),
            Fault::Senseless(what) => Self::Unavailable(format!("the KMS answers what makes no sense: {what}")),
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
    tracing::warn!(operation, error = %DisplayErrorContext(&error), "the KMS did not do it");
    Err(match &error {
        SdkError::ServiceError(answer) => match answer.err().code() {
            Some(code) => Fault::Answered(code.to_owned()),
            None => Fault::Senseless("an error without a code".into()),
        },
        SdkError::ResponseError(_) => Fault::Senseless("it is not in the KMS's protocol".into()),
        SdkError::TimeoutError(_) => Fault::Silent("not in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Fault::Silent("no connection in time"),
        SdkError::DispatchFailure(failure) if failure.is_io() => Fault::Silent("no connection, or it broke"),
        SdkError::DispatchFailure(_) => Fault::Silent("the request could not be sent; see the log"),
        SdkError::ConstructionFailure(_) => Fault::Silent("the request could not be made; see the log"),
        // The enumeration is open; what the SDK adds later is no success either.
        _ => Fault::Silent("see the log"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_or_time_can_mend_makes_mail_wait() {
        for code in [
            "DisabledException",
            "KMSInvalidStateException",
            "AccessDeniedException",
            "NotFoundException",
            "ThrottlingException",
            "LimitExceededException",
            "KMSInternalException",
            "DependencyTimeoutException",
            "KeyUnavailableException",
            "ExpiredTokenException",
            "UnrecognizedClientException",
            "SomethingNewException",
        ] {
            let error = CustodyError::from(Fault::Answered(code.into()));
            assert!(matches!(&error, CustodyError::Unavailable(text) if text.contains(code)), "{error:?}");
        }
        for fault in [Fault::Silent("not in time"), Fault::Senseless("no signature".into())] {
            assert!(matches!(CustodyError::from(fault), CustodyError::Unavailable(_)));
        }
    }

    #[test]
    fn what_never_works_is_refused() {
        for code in
            ["InvalidKeyUsageException", "ValidationException", "InvalidArnException", "InvalidCiphertextException"]
        {
            assert!(matches!(CustodyError::from(Fault::Answered(code.into())), CustodyError::Refused(_)), "{code}");
        }
    }
}
