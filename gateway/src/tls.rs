//! TLS for the listeners: a certificate and its key from files, and the certificates that clients
//! must show, where any are asked for.
//!
//! **Invariant:** a certificate that cannot be used never replaces one that can: reading again either
//! succeeds as a whole or changes nothing. Keys are in no message.

use crate::config::TlsConfig;
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{fmt, io, path::Path, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What a listener needs to speak TLS.
pub struct Tls {
    files: TlsConfig,
    current: ArcSwap<Current>,
}

/// What was read from the files.
struct Current {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

/// The hash by which a certificate is known to who has seen it: of its DER, as hex.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    blake3::hash(certificate).to_hex().to_string()
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file cannot be used and why.
    pub fn load(files: TlsConfig) -> Result<Arc<Self>, String> {
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    /// Reads the files again; connections that are open keep what they have.
    ///
    /// # Errors
    /// Which file cannot be used and why; nothing has changed then.
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// The [`fingerprint`] of the certificate that clients are shown now.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.current.load().fingerprint.clone()
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Whatever kept the two from agreeing.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.current.load().config);
        TlsAcceptor::from(config).accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

fn read(files: &TlsConfig) -> Result<Current, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let fingerprint = chain.first().map(fingerprint).unwrap_or_default();
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("{}: no private key in PEM: {error}", files.key.display()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{}: {error}", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), fingerprint })
}

/// Clients must show a certificate that one of those in `path` has signed.
fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let wrong = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| wrong(&error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(&error))?;
    if read.is_empty() {
        return Err(wrong(&"no certificate in PEM"));
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
