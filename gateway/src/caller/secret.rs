//! Secrets: drawn, hashed, read from a request's headers.
//!
//! **Invariant:** nothing here shows a secret but [`Secret::reveal`].

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// What every key begins with.
const KEY_PREFIX: &str = "sk-tg-";
/// What the admin key begins with.
const ADMIN_PREFIX: &str = "sk-tg-admin-";
/// Characters of a secret that a record keeps to recognise it by.
const HINT_CHARS: usize = 10;
/// Longest presented key that is looked at.
const PRESENTED_BYTES_MAX: usize = 256;

/// The secret of a key: 256 random bits in base64url behind a prefix. `Debug` prints none of it.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

/// BLAKE3 of a secret, keyed with the installation's own key.
pub(super) type SecretHash = [u8; 32];

impl Secret {
    /// Draws the secret of a key.
    pub(super) fn draw() -> Result<Self, getrandom::Error> {
        Self::draw_with(KEY_PREFIX)
    }

    /// Draws an admin key.
    pub(super) fn draw_admin() -> Result<Self, getrandom::Error> {
        Self::draw_with(ADMIN_PREFIX)
    }

    fn draw_with(prefix: &str) -> Result<Self, getrandom::Error> {
        let text = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
        Ok(Self(SecretString::from(text)))
    }

    /// A secret that was read back from its file.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The secret itself: to be shown once, or written to a file of mode 0600.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// The first characters, to recognise it by.
    pub(super) fn hint(&self) -> String {
        self.reveal().chars().take(HINT_CHARS).collect()
    }

    /// Its keyed hash.
    pub(super) fn hash(&self, hash_key: &[u8; 32]) -> SecretHash {
        hash(hash_key, self.reveal())
    }
}

/// The keyed hash of a presented secret.
pub(super) fn hash(hash_key: &[u8; 32], presented: &str) -> SecretHash {
    *blake3::keyed_hash(hash_key, presented.as_bytes()).as_bytes()
}

/// The key that a request presents: `Authorization: Bearer`, in any case, or `x-api-key`.
pub(super) fn presented(headers: &HeaderMap) -> Option<&str> {
    let key = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value.to_str().ok()?.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())?
        }
        None => headers.get("x-api-key")?.to_str().ok()?.trim(),
    };
    (!key.is_empty() && key.len() <= PRESENTED_BYTES_MAX).then_some(key)
}

/// The id of a new key: `key_` and 12 base-32 characters.
pub(super) fn draw_id() -> Result<Arc<str>, getrandom::Error> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut id = String::from("key_");
    for byte in random::<12>()? {
        id.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    Ok(Arc::from(id))
}

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
