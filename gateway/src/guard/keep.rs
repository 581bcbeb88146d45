//! What the guard knows, over a restart: histories in a file that is written anew every minute and
//! at the end, and effects that began since from the journal.
//!
//! **Invariants:** a request never waits for the file, nor for more than a few profiles being
//! copied; what cannot be read is left where it is and begun anew, because histories are statistics
//! and not books. Neither a prompt nor a hash of one is in it.

use super::{Guard, Signal, profile::Shape, watch::Kept};
use crate::{
    ledger::{GuardEffect, Guarded, Notice, What},
    serve::Gateway,
    store::whole::{self, Kind},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

pub(super) const KIND: Kind = Kind { magic: *b"TOLLGARD", format: 1 };
/// Its name in the data directory.
pub(crate) const KEPT_FILE: &str = "guard";
const EVERY: Duration = Duration::from_secs(60);
/// Profiles that are copied in one go, while requests wait for the lock.
const AT_ONCE: usize = 64;

/// The file. Behind it stand the [`Shapes`], of which older files know nothing.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    unix_ms: u64,
    profiles: Vec<Kept>,
}

/// What the answers of each profile's models are like, in the order of the profiles.
type Shapes = Vec<Vec<Shape>>;

/// Writes what is known down from time to time and once more at the end, until `stop`.
pub(crate) async fn keep(gateway: Arc<Gateway>, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            () = tokio::time::sleep(EVERY) => false,
            () = stop.cancelled() => true,
        };
        let saving = Arc::clone(&gateway);
        let saved = tokio::task::spawn_blocking(move || {
            saving.guard.save(&path(&saving.config.data_dir), saving.clock.unix_ms())
        });
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(%error, "the guard's histories are not written down");
        }
        if stopped {
            return;
        }
    }
}

/// Where it is.
fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(KEPT_FILE)
}

impl Guard {
    /// Writes down what is known. Blocking.
    pub(super) fn save(&self, path: &Path, unix_ms: u64) -> io::Result<()> {
        let subjects = self.lock().subjects();
        let mut profiles = Vec::with_capacity(subjects.len());
        for some in subjects.chunks(AT_ONCE) {
            let watch = self.lock();
            profiles.extend(some.iter().filter_map(|subject| watch.kept(subject)));
        }
        let shapes: Shapes = profiles.iter().map(Kept::shapes).collect();
        let file = File { unix_ms, profiles };
        let bytes = postcard::to_allocvec(&(file, shapes)).map_err(io::Error::other)?;
        whole::save(path, &KIND, &bytes)
    }

    /// Takes back what was known, and the effects of `notices` (newest first) that still hold.
    /// Blocking.
    pub(crate) fn restore(&self, data_dir: &Path, notices: &[(u64, Notice)], now_ms: u64) {
        let saved_ms = match read(&path(data_dir)) {
            Ok(None) => 0,
            Ok(Some(file)) => {
                let mut watch = self.lock();
                for kept in file.profiles {
                    watch.restore(kept);
                }
                file.unix_ms
            }
            Err(error) => {
                tracing::warn!(%error, "the guard's histories cannot be read; it begins anew");
                0
            }
        };
        let since = notices.iter().rev().map(|(_, notice)| notice);
        for notice in since.filter(|notice| notice.unix_ms >= saved_ms) {
            match &notice.what {
                What::Guard(guarded) => self.hold_again(guarded, now_ms),
                What::Lifted(subject) => drop(self.lift(subject, notice.unix_ms)),
                What::Budget(_) => {}
            }
        }
    }

    fn hold_again(&self, guarded: &Guarded, now_ms: u64) {
        let Some(until_ms) = guarded.until_unix_ms.filter(|until| *until > now_ms) else { return };
        // Of a loop only one question was held up, and which one is not kept.
        let signal = Signal::named(&guarded.signal).filter(|found| *found != Signal::PromptLoop);
        if let Some(signal) = signal.filter(|_| guarded.effect != GuardEffect::Logged) {
            let subject = guarded.subject.as_str().into();
            self.lock().hold(&subject, signal, until_ms, &guarded.seen);
        }
    }
}

fn read(path: &Path) -> io::Result<Option<File>> {
    let Some(bytes) = whole::load(path, &KIND)? else { return Ok(None) };
    let (mut file, rest) = postcard::take_from_bytes::<File>(&bytes).map_err(io::Error::other)?;
    if !rest.is_empty() {
        let shapes: Shapes = postcard::from_bytes(rest).map_err(io::Error::other)?;
        for (kept, shapes) in file.profiles.iter_mut().zip(&shapes) {
            kept.reshape(shapes);
        }
    }
    Ok(Some(file))
}
