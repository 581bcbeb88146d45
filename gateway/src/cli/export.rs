//! `tollgate ledger export`: the ledger as a file.
//!
//! **Invariant:** a file that is there under its name is whole: it is written beside it and renamed. What is
//! no file (a device, a pipe, a link) is never replaced by one.

use super::{
    CliError,
    address::param,
    ledger::{ExportArgs, note_dropped, params},
    link::Link,
    output::{self, text},
};
use rustix::fs::{Gid, Uid, fchown};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Of a new file, before the umask.
const NEW_MODE: u32 = 0o666;

/// Writes the export to stdout or to a file.
pub(super) async fn run(link: &Link, args: &ExportArgs) -> Result<(), CliError> {
    let filters = params(&args.filter);
    let mut asked = filters.clone();
    param(&mut asked, "format", Some(&args.format));
    let path = format!("/ledger/export?{asked}");
    match &args.output {
        Some(file) => to_file(link, &path, file).await?,
        None => {
            let mut there = true;
            link.copy(&path, |piece| {
                there = output::written(whole(piece))?;
                Ok(there)
            })
            .await?;
            if !there {
                return Ok(());
            }
        }
    }
    note_dropped(&link.get(&format!("/ledger/requests?limit=1&{filters}")).await?);
    if args.format == "focus" {
        // FOCUS knows no unknown cost: say what is not in it.
        let total = link.get(&format!("/ledger/summary?{filters}")).await?;
        match total.pointer("/total/unknown_cost").and_then(serde_json::Value::as_u64) {
            Some(0) | None => {}
            Some(_) => output::note(format!(
                "{} attempts of unknown cost are not in it",
                text(&total, "/total/unknown_cost")
            )),
        }
    }
    Ok(())
}

/// Writes a piece to stdout at once: the pieces are large.
fn whole(piece: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(piece)?;
    out.flush()
}

async fn to_file(link: &Link, path: &str, file: &Path) -> Result<(), CliError> {
    let fault = |error: io::Error| CliError::failed(format!("{}: {error}", file.display()));
    let mut out = Output::to(file).map_err(fault)?;
    link.copy(path, |piece| out.write(piece).map(|()| true).map_err(fault)).await?;
    out.end().map_err(fault)
}

/// What a file's name stands for.
enum Output {
    /// A file that is written beside its place.
    Whole { part: BufWriter<NamedTempFile>, place: PathBuf },
    /// What takes bytes as they come and has no whole: a device, a pipe.
    Stream(File),
}

impl Output {
    /// Begins to write what has this name. A link stays one: what it leads to is written. A file that is
    /// replaced keeps its mode, and its owner where this process may give it to that one.
    fn to(file: &Path) -> io::Result<Self> {
        let before = match fs::metadata(file) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match &before {
            Some(before) if before.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Some(before) if !before.is_file() => {
                return Ok(Self::Stream(OpenOptions::new().write(true).open(file)?));
            }
            _ => {}
        }
        let place = if before.is_some() {
            fs::canonicalize(file)?
        } else if file.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is a link that leads nowhere"));
        } else {
            file.to_owned()
        };
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
        let part = tempfile::Builder::new()
            .prefix(".export-")
            .suffix(".part")
            .permissions(Permissions::from_mode(NEW_MODE))
            .tempfile_in(parent.unwrap_or(Path::new(".")))?;
        if let Some(before) = before {
            // Before the mode: giving a file away may take some of it.
            let _by_its_owner_alone = fchown(
                part.as_file(),
                Some(Uid::from_raw(before.uid())),
                Some(Gid::from_raw(before.gid())),
            );
            part.as_file().set_permissions(before.permissions())?;
        }
        Ok(Self::Whole { part: BufWriter::new(part), place })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Whole { part, .. } => part.write_all(piece),
            Self::Stream(out) => out.write_all(piece),
        }
    }

    /// Everything was written.
    fn end(self) -> io::Result<()> {
        let Self::Whole { part, place } = self else { return Ok(()) };
        let part = part.into_inner().map_err(io::IntoInnerError::into_error)?;
        part.as_file().sync_all()?;
        part.persist(place)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn written(file: &Path, text: &str) -> io::Result<()> {
        let mut out = Output::to(file)?;
        out.write(text.as_bytes())?;
        out.end()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode_and_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| dir.path().join(name));
        written(&file, "one").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        written(&link, "two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(dir.path()), ["file", "link"]);
    }

    #[test]
    fn what_is_broken_off_leaves_the_file_that_was_there_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        written(&file, "one").unwrap();
        let mut out = Output::to(&file).unwrap();
        out.write(b"half").unwrap();
        drop(out);
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_device_is_written_to_and_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("null");
        symlink("/dev/null", &link).unwrap();
        written(&link, "one").unwrap();
        assert!(link.is_symlink() && !fs::metadata("/dev/null").unwrap().is_file());
        assert_eq!(names(dir.path()), ["null"]);
    }

    #[test]
    fn what_is_no_place_for_a_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("nowhere");
        symlink("gone", &link).unwrap();
        assert_eq!(
            written(&link, "one").unwrap_err().to_string(),
            "it is a link that leads nowhere"
        );
        assert_eq!(written(dir.path(), "one").unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(names(dir.path()), ["nowhere"]);
    }
}
