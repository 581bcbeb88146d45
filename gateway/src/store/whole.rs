//! Files that are written whole or not at all, and replaced in one step.
//!
//! ```text
//! 0   8 bytes  what it is
//! 8   u32      format version
//! 12  u32      CRC-32 of the rest
//! 16  zstd frame
//! ```
//! **Invariant:** under its name stands what was written last, whole and durable, whatever happens
//! while the next one is written.

use super::{
    disk::{Temporary, private},
    record::u32_at,
};
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

const HEADER: usize = 16;
const LEVEL: i32 = 3;

/// What a file is, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    pub(crate) format: u32,
}

/// Writes a file and makes it durable under its name.
pub(crate) fn save(path: &Path, kind: &Kind, bytes: &[u8]) -> io::Result<()> {
    let packed = zstd::stream::encode_all(bytes, LEVEL)?;
    let written = Temporary::of(path);
    let mut file = private(written.path())?;
    file.write_all(&kind.magic)?;
    file.write_all(&kind.format.to_le_bytes())?;
    file.write_all(&crc32fast::hash(&packed).to_le_bytes())?;
    file.write_all(&packed)?;
    file.sync_all()?;
    written.keep(path)
}

/// Reads it back; `None` where there is none, [`io::ErrorKind::InvalidData`] where it is not what
/// was written.
pub(crate) fn load(path: &Path, kind: &Kind) -> io::Result<Option<Vec<u8>>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let damaged = || {
        let text = format!("{} is damaged", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if bytes.len() < HEADER || bytes[..8] != kind.magic || u32_at(&bytes, 8) != kind.format {
        return Err(damaged());
    }
    if crc32fast::hash(&bytes[HEADER..]) != u32_at(&bytes, 12) {
        return Err(damaged());
    }
    zstd::stream::decode_all(&bytes[HEADER..]).map(Some).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"TOLLTEST", format: 1 };

    #[test]
    fn what_was_written_is_read_back_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(load(&path, &KIND).unwrap(), None);
        for text in [&b"one"[..], b"another"] {
            save(&path, &KIND, text).unwrap();
            assert_eq!(load(&path, &KIND).unwrap().as_deref(), Some(text));
        }
        assert!(load(&path, &Kind { format: 2, ..KIND }).is_err());
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(load(&path, &KIND).is_err(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(load(&path, &KIND).is_err(), "cut short");
    }

    #[test]
    fn what_cannot_be_put_in_its_place_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::create_dir(&path).unwrap();
        assert!(save(&path, &KIND, b"one").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
