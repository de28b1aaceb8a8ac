//! One TLS set-up for ordinary and replication sessions: rustls with ring.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{
    config::{PgConfig, SslMode},
    der,
};

/// What has to hold before a server's certificate is accepted.
#[derive(Debug)]
struct Verifier {
    mode: SslMode,
    /// Authorities for the chain.
    roots: RootCertStore,
    /// The same certificates as written: a self-signed server certificate given as its own root
    /// is accepted by comparing bytes, because rustls refuses an authority as a server.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.mode >= SslMode::VerifyCa
            && !self.pinned.iter().any(|c| c.as_ref() == end_entity.as_ref())
        {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.mode == SslMode::VerifyFull {
            match verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name) {
                // As libpq: certificates without alternative names are matched by common name.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) if der::common_name_matches(end_entity.as_ref(), &server_name.to_str()) => {}
                other => other?,
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads certificates and keys and puts the client side of TLS together.
///
/// # Errors
///
/// What is wrong with which file, in words.
pub(super) fn client_config(config: &PgConfig) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let mut pinned = Vec::new();
    if config.ssl_mode >= SslMode::VerifyCa {
        match &config.ssl_root_cert {
            Some(path) => {
                let read = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|e| format!("sslrootcert {} cannot be read: {e}", path.display()))?;
                roots.add_parsable_certificates(read.iter().cloned());
                if read.is_empty() {
                    return Err(format!("sslrootcert {} has no certificate", path.display()));
                }
                pinned = read;
            }
            None => {
                let native = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(native.certs);
                if roots.is_empty() {
                    return Err("the system has no trusted authorities; give sslrootcert".into());
                }
            }
        }
    }
    let verifier =
        Verifier { mode: config.ssl_mode, roots, pinned, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match &config.ssl_client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| format!("sslcert {} cannot be read: {e}", certificate.display()))?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("sslkey {} cannot be read: {e}", key.display()))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|e| format!("sslcert and sslkey do not fit: {e}"))
        }
    }
}
