//! TLS of the SMTP client: rustls with aws-lc-rs, named explicitly and not taken from the process default.
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use std::net::SocketAddr;
use std::sync::Arc;

/// How much is asked of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// STARTTLS where offered, any certificate (RFC 7435 3). A failed handshake is followed by a new connection without TLS.
    Opportunistic,
    /// STARTTLS or nothing, verified certificate.
    StartTls,
    /// TLS from the first octet, verified certificate.
    Implicit,
}

impl From<super::RelayTls> for Security {
    fn from(tls: super::RelayTls) -> Self {
        match tls {
            super::RelayTls::Opportunistic => Self::Opportunistic,
            super::RelayTls::StartTls => Self::StartTls,
            super::RelayTls::Implicit => Self::Implicit,
        }
    }
}

/// Why no mail could be delivered at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The relay's certificate could not be verified.
    #[error(
        "SIGNPOST_SMTP_RELAY asks for verified TLS, and the system's trust store cannot be read ({0}); install the system's CA certificates"
    )]
    TrustStore(rustls::Error),
    /// rustls refuses our settings.
    #[error("TLS cannot be set up: {0}")]
    Client(rustls::Error),
}

/// The two client configurations.
#[derive(Clone)]
pub struct ClientTls {
    opportunistic: Arc<ClientConfig>,
    verified: Option<Arc<ClientConfig>>,
}

impl ClientTls {
    /// What these settings need.
    pub fn for_delivery(settings: &super::DeliverySettings) -> Result<Self, TlsSetupError> {
        let verify = settings.relay.as_ref().is_some_and(|relay| match relay.tls {
            super::RelayTls::Opportunistic => false,
            super::RelayTls::StartTls | super::RelayTls::Implicit => true,
        });
        Self::new(verify).map_err(if verify { TlsSetupError::TrustStore } else { TlsSetupError::Client })
    }

    /// `verify` (a relay with required TLS) reads the system's trust store, and fails where there is none.
    pub fn new(verify: bool) -> Result<Self, rustls::Error> {
        let verified = if verify {
            let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
            Some(Arc::new(builder.with_platform_verifier()?.with_no_client_auth()))
        } else {
            None
        };
        Ok(Self { opportunistic: Arc::new(unverified()?), verified })
    }

    /// With a given configuration in place of the system's trust store.
    #[cfg(test)]
    pub(crate) fn trusting(verified: ClientConfig) -> Result<Self, rustls::Error> {
        Ok(Self { opportunistic: Arc::new(unverified()?), verified: Some(Arc::new(verified)) })
    }

    /// The configuration for `security`; `None` if this value was made without `verify`.
    pub(super) fn config(&self, security: Security) -> Option<Arc<ClientConfig>> {
        match security {
            Security::Opportunistic => Some(Arc::clone(&self.opportunistic)),
            Security::StartTls | Security::Implicit => self.verified.clone(),
        }
    }
}

/// The name to verify and to send as SNI: the host, or the address where the host is none (RFC 6066 3).
pub(super) fn server_name(host: &str, address: SocketAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::IpAddress(IpAddr::from(address.ip())))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let verifier = AnyCertificate { algorithms: provider.signature_verification_algorithms };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Opportunistic security (RFC 7435): MX hosts seldom have certificates that verify, and encryption to an unproven peer
/// is better than none. The handshake's own signature is still checked.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
