//! Whom the command line trusts when it asks a server over TLS, and what it shows.
//!
//! **Invariant:** the server that holds the data directory is known by the certificate that it noted
//! there, whatever name it is for and whoever signed it; any other server is checked as usual.

use super::{CliError, Common};
use crate::tls;
use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use std::{fmt, io, path::Path, sync::Arc};

/// For a server named by its URL: the system's roots and `--ca-cert`, and `--client-cert` is shown.
pub(super) fn named(mut client: ClientBuilder, common: &Common) -> Result<ClientBuilder, CliError> {
    if let Some(path) = &common.ca_cert {
        let roots =
            Certificate::from_pem_bundle(&read(path)?).map_err(|error| bad(path, &error))?;
        client = client.tls_certs_merge(roots);
    }
    if let Some(path) = &common.client_cert {
        let identity = Identity::from_pem(&read(path)?).map_err(|error| bad(path, &error))?;
        client = client.identity(identity);
    }
    Ok(client)
}

/// For the server that noted `fingerprint` in its data directory; `--client-cert` is shown.
pub(super) fn noted(
    client: ClientBuilder,
    fingerprint: &str,
    common: &Common,
) -> Result<ClientBuilder, CliError> {
    let provider = Arc::new(ring::default_provider());
    let noted = Noted { fingerprint: fingerprint.to_owned(), provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| CliError::failed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(noted));
    let config = match &common.client_cert {
        None => config.with_no_client_auth(),
        Some(path) => {
            let pem = read(path)?;
            let chain = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| bad(path, &error))?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| bad(path, &error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| bad(path, &error))?
        }
    };
    Ok(client.tls_backend_preconfigured(config))
}

/// What TLS said, if a request failed for that.
pub(super) fn fault(error: &reqwest::Error) -> Option<&Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(fault) = at.downcast_ref() {
            return Some(fault);
        }
        // The source of an I/O error is that of the error in it, which would be passed over.
        cause = match at.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(within) => Some(within),
            None => at.source(),
        };
    }
    None
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| bad(path, &error))
}

fn bad(path: &Path, error: &dyn fmt::Display) -> CliError {
    CliError::usage(format!("{}: {error}", path.display()))
}

/// Knows one certificate.
#[derive(Debug)]
struct Noted {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Noted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if tls::fingerprint(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
