//! What the configuration says about TLS and about the admin plane's own listener.

use super::{Environment, error::Finding};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::Spanned;

/// The files of a TLS listener, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates that a client's must be signed by; `None`: clients show none.
    pub client_ca: Option<PathBuf>,
}

/// `[tls]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    cert: String,
    private_key: String,
    #[serde(default)]
    client_ca: Option<String>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    listen: Option<Spanned<String>>,
}

impl Tls {
    pub(super) fn checked(&self, base: &Path) -> TlsConfig {
        TlsConfig {
            cert: base.join(&self.cert),
            key: base.join(&self.private_key),
            client_ca: self.client_ca.as_ref().map(|path| base.join(path)),
        }
    }
}

impl Admin {
    pub(super) fn checked(&self, environment: Environment) -> Result<Option<SocketAddr>, Finding> {
        let Some(listen) = &self.listen else { return Ok(None) };
        match (listen.get_ref().parse(), environment) {
            (Ok(address), _) => Ok(Some(address)),
            // What is left of one without its variables.
            (Err(_), Environment::Spared) => Ok(None),
            (Err(_), Environment::Needed) => {
                let message = "`listen` is an address and a port such as \"127.0.0.1:8656\"";
                Err(Finding::at(listen.span(), message))
            }
        }
    }
}
