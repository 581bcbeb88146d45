//! SHA-256 of a model file, computed on a thread of its own: a large file takes seconds, and
//! nobody waits for it who does not need it. Kept over reloads while the file is the same.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// A file's digest, known or being computed.
#[derive(Debug)]
pub(crate) struct Digest {
    file: PathBuf,
    /// Length and time of change when it was begun.
    stamp: Option<(u64, SystemTime)>,
    hex: OnceLock<Result<String, String>>,
}

impl Digest {
    /// Begins to compute a file's digest, unless `known` is of the same file, unchanged.
    pub(crate) fn begin(file: &Path, known: Option<Arc<Digest>>) -> Arc<Digest> {
        let stamp = stamp(file);
        if let Some(known) = known
            && known.file == file
            && known.stamp == stamp
            && stamp.is_some()
        {
            return known;
        }
        let digest = Arc::new(Digest { file: file.to_owned(), stamp, hex: OnceLock::new() });
        let computing = Arc::clone(&digest);
        let thread = std::thread::Builder::new().name("engine-sha256".to_owned());
        // Without the thread, whoever asks for it first computes it.
        let _ = thread.spawn(move || {
            let _hex = computing.wait();
        });
        digest
    }

    /// In hex, if it is known by now.
    pub(crate) fn now(&self) -> Option<&str> {
        self.hex.get()?.as_deref().ok()
    }

    /// In hex; waits for it. An error is the system's reason why the file cannot be read.
    pub(crate) fn wait(&self) -> Result<&str, &str> {
        self.hex.get_or_init(|| sha256_of(&self.file)).as_deref().map_err(String::as_str)
    }
}

fn stamp(file: &Path) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// SHA-256 of a file in hex, or why it cannot be read.
fn sha256_of(file: &Path) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut buffer = vec![0_u8; 1 << 20];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(hex(digest.finish().as_ref()));
            }
            digest.update(&buffer[..count]);
        }
    };
    read().map_err(|error| error.to_string())
}

/// SHA-256 of bytes in hex.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
