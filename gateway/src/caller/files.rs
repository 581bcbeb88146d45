//! The small secret files beside the ledger: the hash key, the admin key and the first key.
//!
//! **Invariant:** the directory is 0700 and every file in here 0600 from the moment it exists; a
//! file is replaced whole or not at all.

use super::Secret;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Holds the admin key's secret, readable by the operator only.
pub const ADMIN_KEY_FILE: &str = "admin.key";
/// Holds the secret of the key that the first start creates.
pub const FIRST_KEY_FILE: &str = "first.key";
/// Holds the key under which secrets are hashed.
pub(crate) const HASH_KEY_FILE: &str = "hash.key";

/// Creates a directory of mode 0700 with its parents, or takes others' rights from it.
///
/// # Errors
/// Those of the file system.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Reads a secret; `None` if there is no such file.
///
/// # Errors
/// Those of the file system.
pub fn read_secret(dir: &Path, name: &str) -> io::Result<Option<Secret>> {
    match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(Secret::from_text(text.trim().to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a secret durably: whole or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_secret(dir: &Path, name: &str, secret: &Secret) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()?;
        fs::rename(&fresh, dir.join(name))
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    File::open(dir)?.sync_all()
}
