//! The policy in force, and how another takes its place: the file changes, or SIGHUP comes.
//!
//! **Invariants:** a bad file changes nothing and says why with file, line and key; the swap is
//! atomic, so a request is decided by one version; every accepted version is in the books before
//! it decides; the text in force is the one that was read last.

pub(crate) mod doubts;

use crate::{
    clock::Clock,
    config::{Config, PolicySource, RouteSource, shipped},
    ledger::Books,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use notify::{EventKind, RecursiveMode, Watcher as _};
use policies::{KnownRoute, Policy, PolicyError};
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// The largest policy file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// An editor writes in several steps: the file is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(50);
/// It is read after this long even if it is still written to.
const SETTLE_MAX: Duration = Duration::from_millis(500);
/// The file is looked at this often whatever the watch says: a watch ends with its directory, and some
/// file systems tell nothing of what others do.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The policy in force.
#[derive(Debug)]
pub struct PolicyBox {
    current: ArcSwap<Policy>,
    source: PolicySource,
    routes: Vec<KnownRoute>,
    last_error: ArcSwapOption<Rejected>,
    clock: Clock,
    /// Held from the reading of a text until it is in force: whoever reads later read what is newer.
    reloading: Arc<Mutex<()>>,
}

/// A policy file that was refused; the policy before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What is wrong, with file, line and key.
    pub error: String,
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Of its text, so that the same text is not complained about twice; `None` if it could not be
    /// read.
    hash: Option<blake3::Hash>,
}

/// A policy that cannot come into force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not parse, does not fit the routes, or fails its own tests.
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

// === impl PolicyBox ===

impl PolicyBox {
    /// Loads the configured policy. Blocking.
    ///
    /// # Errors
    /// What is wrong with it, with file, line and key.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, PolicyLoadError> {
        let routes: Vec<KnownRoute> = config
            .routes
            .iter()
            .map(|route| KnownRoute {
                id: route.id.clone(),
                local: matches!(route.source, RouteSource::Local(_)),
            })
            .collect();
        let source = config.policy.source.clone();
        let text = read(&source)?;
        let policy = parse(&source, &text, &routes)?;
        Ok(Self {
            current: ArcSwap::from_pointee(policy),
            source,
            routes,
            last_error: ArcSwapOption::empty(),
            clock,
            reloading: Arc::default(),
        })
    }

    /// The configured policy, or, where it cannot be loaded, the default one with the reason in
    /// [`PolicyBox::last_error`]: for looking into the books, never for deciding. Blocking.
    ///
    /// # Errors
    /// The default policy does not parse: a defect of this build.
    pub fn open_or_stand_in(config: &Config, clock: &Clock) -> Result<Self, PolicyLoadError> {
        let error = match Self::open(config, clock.clone()) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let source = PolicySource::Shipped(shipped::DEFAULT_POLICY);
        let policy = parse(&source, &read(&source)?, &[])?;
        let standing_in = Self {
            current: ArcSwap::from_pointee(policy),
            source,
            routes: Vec::new(),
            last_error: ArcSwapOption::empty(),
            clock: clock.clone(),
            reloading: Arc::default(),
        };
        standing_in.reject(&error, None);
        Ok(standing_in)
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &PolicySource {
        &self.source
    }

    /// The routes that a policy may name.
    #[must_use]
    pub fn routes(&self) -> &[KnownRoute] {
        &self.routes
    }

    /// Why the newest version of the file is not in force, if it is not.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<Rejected>> {
        self.last_error.load_full()
    }

    /// Reads the file again. `None`: nothing new, or a bad file, about which everything has been
    /// said. Blocking.
    #[must_use]
    pub fn candidate(&self, again: bool) -> Option<Policy> {
        let text = match read(&self.source) {
            Ok(text) => text,
            Err(error) => {
                self.reject(&error, None);
                return None;
            }
        };
        if text == self.current.load().source() {
            self.last_error.store(None);
            return None;
        }
        let hash = blake3::hash(text.as_bytes());
        let known_bad = self.last_error.load().as_ref().is_some_and(|bad| bad.hash == Some(hash));
        if known_bad && !again {
            return None;
        }
        match parse(&self.source, &text, &self.routes) {
            Ok(policy) => Some(policy),
            Err(error) => {
                self.reject(&error, Some(hash));
                None
            }
        }
    }

    /// Puts a policy in force.
    pub fn accept(&self, policy: Policy) {
        tracing::info!(policy = %policy.name(), version = %policy.version(), "new policy in force");
        self.current.store(Arc::new(policy));
        self.last_error.store(None);
    }

    fn reject(&self, error: &PolicyLoadError, hash: Option<blake3::Hash>) {
        let error = one_line(&error.to_string());
        let current = self.current.load();
        tracing::error!(
            %error,
            in_force = %current.version(),
            "the policy file is refused; the policy in force stays"
        );
        let unix_ms = self.clock.unix_ms();
        self.last_error.store(Some(Arc::new(Rejected { error, unix_ms, hash })));
    }

    /// Keeps the policy up to date with its file until `stop`. Every version is in the books before
    /// it decides; if the books cannot take it now it decides all the same, and that is said.
    ///
    /// Watching begins with the call and not with the first poll: a change right after the start is
    /// seen, and a SIGHUP then is no longer the end of the process.
    pub fn keep_current(
        self: Arc<Self>,
        books: Books,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        // One note is enough: whatever happened, the file is read once.
        let (note, mut notes) = mpsc::channel(1);
        let mut watch = self.watch(note);
        let mut seen = None;
        let mut hangup = signal(SignalKind::hangup()).ok();
        async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let asked = tokio::select! {
                    () = stop.cancelled() => return,
                    Some(()) = next_hangup(&mut hangup) => true,
                    Some(()) = notes.recv() => false,
                    _ = looks.tick() => {
                        if self.looked_at().await == seen {
                            continue;
                        }
                        false
                    }
                };
                if asked {
                    tracing::info!("SIGHUP: reading the policy again");
                } else {
                    settle(&mut notes).await;
                }
                // Before it is read: what is written after that is noted.
                watch = renewed(watch).await;
                seen = self.looked_at().await;
                self.reload(&books, asked).await;
            }
        }
    }

    /// Which file is there now, if one is.
    async fn looked_at(&self) -> Option<Identity> {
        let PolicySource::File(file) = &self.source else { return None };
        let file = file.clone();
        tokio::task::spawn_blocking(move || identity(&file)).await.ok().flatten()
    }

    /// Reads the file again and puts what it says in force, if it is sound. `again`: complain about
    /// a bad text even if it has been complained about. One at a time: a text that takes long to check
    /// must not replace a newer one.
    pub async fn reload(self: &Arc<Self>, books: &Books, again: bool) {
        let alone = Arc::clone(&self.reloading).lock_owned().await;
        let reader = Arc::clone(self);
        // The reading keeps its turn though its caller leaves.
        let read = tokio::task::spawn_blocking(move || (reader.candidate(again), alone)).await;
        let Ok((Some(policy), _alone)) = read else { return };
        let ticket = books.put_policy(policy.name(), policy.version(), policy.source());
        if let Err(error) = ticket.committed().await {
            tracing::error!(%error, "the new policy's text could not be recorded");
        }
        self.accept(policy);
    }

    /// Watches the file's directory: editors rename a new file over the old one, which ends a watch
    /// on the file itself. What else happens there (a log grows) is no news: an event counts if the
    /// file is another one since, under whatever name that came about (a mounted `ConfigMap` changes
    /// a link in the middle of the path). Where the file is a link, what it leads to is watched too.
    fn watch(&self, note: mpsc::Sender<()>) -> Option<Watch> {
        let PolicySource::File(file) = &self.source else { return None };
        let (path, mut known) = (file.clone(), None);
        let told = move |event: notify::Result<notify::Event>| {
            // Our own reading is an access too.
            if event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                return;
            }
            let now = Some(identity(&path));
            if std::mem::replace(&mut known, now) != now {
                // Full: a note is waiting already.
                let _noted = note.try_send(());
            }
        };
        let watch = notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(directory_of(file), RecursiveMode::NonRecursive)?;
            let watched = vec![Watched::now(directory_of(file))];
            let mut watch = Watch { watcher, file: file.clone(), watched };
            watch.renew();
            Ok(watch)
        });
        watch
            .inspect_err(|error| {
                tracing::warn!(%error, "the policy file is not watched, only looked at now and then");
            })
            .ok()
    }
}

/// The watch of a policy file.
struct Watch {
    watcher: notify::RecommendedWatcher,
    file: PathBuf,
    /// The file's directory, and the one that its link leads to.
    watched: Vec<Watched>,
}

/// A directory that is watched.
#[derive(PartialEq, Eq)]
struct Watched {
    path: PathBuf,
    /// Which one it was: another may have its name by now.
    directory: Option<(u64, u64)>,
}

impl Watch {
    /// Watches the file's directory and the one that it is in behind its links, which may be others now,
    /// or others of the same name. Blocking.
    fn renew(&mut self) {
        let own = directory_of(&self.file);
        let mut wanted = vec![Watched::now(own)];
        match fs::canonicalize(&self.file).as_deref().map(directory_of) {
            Ok(behind) if fs::canonicalize(own).is_ok_and(|own| own == behind) => {}
            Ok(behind) => wanted.push(Watched::now(behind)),
            // It may come back where it was.
            Err(_) => {
                let behind = self.watched.iter().filter(|watched| watched.path != own);
                wanted.extend(behind.map(|watched| Watched::now(&watched.path)));
            }
        }
        let before = std::mem::take(&mut self.watched);
        for left in before.iter().filter(|before| !wanted.contains(before)) {
            // It is gone together with its watch, if it is.
            let _unwatched = self.watcher.unwatch(&left.path);
        }
        for directory in wanted {
            if !before.contains(&directory)
                && let Err(error) = self.watcher.watch(&directory.path, RecursiveMode::NonRecursive)
            {
                let path = directory.path.display();
                tracing::warn!(%path, %error, "where the policy file is is not watched");
                continue;
            }
            self.watched.push(directory);
        }
    }
}

impl Watched {
    fn now(path: &Path) -> Self {
        let directory = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        Self { path: path.to_owned(), directory }
    }
}

/// The same watch, of where the file is by now.
async fn renewed(watch: Option<Watch>) -> Option<Watch> {
    let mut watch = watch?;
    let renew = move || {
        watch.renew();
        watch
    };
    tokio::task::spawn_blocking(renew).await.ok()
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

async fn next_hangup(hangup: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until no note has come for a while, but no longer than [`SETTLE_MAX`].
async fn settle(notes: &mut mpsc::Receiver<()>) {
    let quiet =
        async { while let Ok(Some(())) = tokio::time::timeout(QUIET, notes.recv()).await {} };
    let _quiet_or_not = tokio::time::timeout(SETTLE_MAX, quiet).await;
}

/// What changes with a file's bytes: device, inode, length, times of change.
type Identity = [i64; 7];

/// Which file this is now; `None`: there is none.
fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    let [device, inode, length] = [meta.dev(), meta.ino(), meta.len()].map(u64::cast_signed);
    Some([device, inode, length, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()])
}

fn read(source: &PolicySource) -> Result<String, PolicyLoadError> {
    let path = match source {
        PolicySource::Shipped(name) => {
            return Ok(shipped::policy(name).unwrap_or_default().to_owned());
        }
        PolicySource::File(path) => path,
    };
    let read = || {
        let mut text = String::new();
        // A pipe would be waited for, until the end of the program and longer.
        let file = File::from(open(path, OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        Ok(text)
    };
    read().map_err(|source| PolicyLoadError::File { path: path.clone(), source })
}

/// Parses a policy, runs its tests and checks it against the routes. Errors name the file.
fn parse(
    source: &PolicySource,
    text: &str,
    routes: &[KnownRoute],
) -> Result<Policy, PolicyLoadError> {
    let name = name_of(source);
    let in_file = |mut error: PolicyError| {
        if let PolicySource::File(path) = source {
            error.file = path.display().to_string();
        }
        PolicyLoadError::Policy(error)
    };
    let policy = Policy::parse(&name, text).map_err(in_file)?;
    let mut warnings = policy.check(routes).map_err(in_file)?;
    warnings.extend(doubts::of(&policy));
    for warning in warnings {
        tracing::warn!(policy = %name, line = warning.line, "{}", warning.message);
    }
    Ok(policy)
}

/// A policy's name: its file's stem.
fn name_of(source: &PolicySource) -> String {
    match source {
        PolicySource::Shipped(name) => (*name).to_owned(),
        PolicySource::File(path) => path
            .file_stem()
            .map_or_else(|| "policy".to_owned(), |stem| stem.to_string_lossy().into_owned()),
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', " ")
}

#[cfg(test)]
mod tests;
