//! A model the host keeps under a name: loaded or not, loaded again after a fault, exchanged for
//! another file. Requests hold an [`Engine`], which stays good until the answer ends, whatever
//! happens to the name meanwhile.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    config::EngineConfig,
    digest::Digest,
    engine::Engine,
    error::{LoadError, NotLoaded},
    host::Host,
    status::nanoseconds,
};

/// Orders that may wait for the keeper, for each model.
const ORDERS_MAX: usize = 16;

/// When a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadWhen {
    /// At once, and again whenever it has been lost.
    Start,
    /// When the first request asks for it.
    FirstUse,
}

/// How a model is kept.
#[derive(Clone, Debug)]
pub struct Keep {
    /// When it is loaded.
    pub load: LoadWhen,
    /// Unloaded after so long without a request; `None`: never for that.
    pub unload_after: Option<Duration>,
    /// Longest wait of a request for a load.
    pub load_wait_max: Duration,
    /// Requests that may wait for a load.
    pub load_waiting_max: usize,
    /// Wait after a first fault or failed load before the next try; doubles each time.
    pub reload_after: Duration,
    /// The longest such wait.
    pub reload_after_max: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep {
            load: LoadWhen::Start,
            unload_after: None,
            load_wait_max: Duration::from_secs(60),
            load_waiting_max: 64,
            reload_after: Duration::from_secs(1),
            reload_after_max: Duration::from_secs(60),
        }
    }
}

/// How a model stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Not in memory.
    Unloaded {
        /// Whether the next request loads it; else only an operator does.
        on_use: bool,
    },
    /// Being loaded.
    Loading {
        /// After a fault or a failed try: nobody knows whether it will work.
        again: bool,
    },
    /// Ready.
    Loaded,
    /// Lost by a fault, or not loaded for one; tried again after `retry_in`.
    Failed {
        /// Why, for the operator.
        reason: String,
        /// Time left until the next try.
        retry_in: Duration,
    },
    /// The host has ended.
    Stopped,
}

/// What has happened to a model since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounts {
    /// Times it was loaded.
    pub loads: u64,
    /// Times it was unloaded: idle, for want of memory, or as asked.
    pub unloads: u64,
    /// Times it failed while it ran: panics and device faults.
    pub faults: u64,
    /// Times it could not be loaded.
    pub failed_loads: u64,
}

/// A handle to a kept model. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostedModel {
    hosted: Arc<Hosted>,
    host: Host,
}

/// How a model stands, with what that needs.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// `on_use`: the next request loads it.
    Unloaded {
        on_use: bool,
    },
    Loading {
        again: bool,
    },
    Loaded(Engine),
    Failed {
        reason: Arc<str>,
        retry_at: Instant,
    },
    Stopped,
}

/// What an operator asks the keeper to do, and where to say how it went.
#[derive(Debug)]
pub(crate) enum Order {
    Load(Reply),
    Unload(Duration, Reply),
    Swap(PathBuf, Duration, Reply),
}

pub(crate) type Reply = oneshot::Sender<Result<(), LoadError>>;

/// What the handle and the keeper share.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) name: String,
    pub(crate) keep: Keep,
    pub(crate) config: Mutex<EngineConfig>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) digest: Mutex<Option<Arc<Digest>>>,
    pub(crate) counts: Counts,
    /// A request waits for it.
    pub(crate) wanted: AtomicBool,
    orders: Mutex<VecDeque<Order>>,
    waiting: AtomicUsize,
    start: Instant,
    used_ns: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) loads: AtomicU64,
    pub(crate) unloads: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) failed_loads: AtomicU64,
}

/// One of the places of those who wait for a load.
struct Place<'a>(&'a AtomicUsize);

impl HostedModel {
    pub(crate) fn new(hosted: Arc<Hosted>, host: Host) -> HostedModel {
        HostedModel { hosted, host }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.hosted.name
    }

    /// The engine, loaded if need be. Waits at most `load_wait_max` for that.
    ///
    /// # Errors
    /// It failed lately, cannot be loaded, or too many wait already.
    pub async fn engine(&self) -> Result<Engine, NotLoaded> {
        let hosted = &self.hosted;
        hosted.used();
        match hosted.now() {
            Standing::Loaded(engine) => return running(engine),
            Standing::Failed { reason, retry_at } if Instant::now() < retry_at => {
                return Err(NotLoaded::Failed { reason: reason.to_string() });
            }
            Standing::Stopped => return Err(NotLoaded::Stopped),
            Standing::Unloaded { on_use: false } => return Err(NotLoaded::Unloaded),
            Standing::Failed { .. } | Standing::Unloaded { .. } | Standing::Loading { .. } => {}
        }
        let _place = hosted.wait_place().ok_or(NotLoaded::TooManyWait)?;
        hosted.forget_failure();
        hosted.wanted.store(true, SeqCst);
        let mut changes = hosted.standing.subscribe();
        self.host.state().wake();
        let settled = |standing: &Standing| {
            !matches!(standing, Standing::Unloaded { on_use: true } | Standing::Loading { .. })
        };
        let wait = tokio::time::timeout(hosted.keep.load_wait_max, changes.wait_for(settled));
        let standing = match wait.await {
            Ok(Ok(standing)) => standing.clone(),
            Ok(Err(_)) => return Err(NotLoaded::Stopped),
            Err(_) => return Err(NotLoaded::Timeout { waited: hosted.keep.load_wait_max }),
        };
        hosted.used();
        match standing {
            Standing::Loaded(engine) => running(engine),
            Standing::Failed { reason, .. } => {
                Err(NotLoaded::Failed { reason: reason.to_string() })
            }
            Standing::Unloaded { .. } => Err(NotLoaded::Unloaded),
            Standing::Loading { .. } | Standing::Stopped => Err(NotLoaded::Stopped),
        }
    }

    /// The engine, if it is loaded. Does not count as use.
    #[must_use]
    pub fn loaded(&self) -> Option<Engine> {
        match self.hosted.now() {
            Standing::Loaded(engine) => Some(engine),
            _ => None,
        }
    }

    /// How it stands. Never waits.
    #[must_use]
    pub fn state(&self) -> ModelState {
        match self.hosted.now() {
            Standing::Unloaded { on_use } => ModelState::Unloaded { on_use },
            Standing::Loading { again } => ModelState::Loading { again },
            Standing::Loaded(engine) => match engine.fault() {
                None => ModelState::Loaded,
                Some(reason) => {
                    ModelState::Failed { reason, retry_in: self.hosted.keep.reload_after }
                }
            },
            Standing::Failed { reason, retry_at } => ModelState::Failed {
                reason: reason.to_string(),
                retry_in: retry_at.saturating_duration_since(Instant::now()),
            },
            Standing::Stopped => ModelState::Stopped,
        }
    }

    /// Whether a request that comes now would be waited for and served: it is loaded, or will be by
    /// the next request, and nothing speaks against it. After a fault it must prove itself first.
    #[must_use]
    pub fn is_available(&self) -> bool {
        match self.state() {
            ModelState::Loaded => true,
            ModelState::Loading { again } => !again,
            ModelState::Unloaded { on_use } => on_use,
            ModelState::Failed { retry_in, .. } => {
                retry_in.is_zero() && self.hosted.keep.load == LoadWhen::FirstUse
            }
            ModelState::Stopped => false,
        }
    }

    /// What has happened to it.
    #[must_use]
    pub fn counts(&self) -> ModelCounts {
        let counts = &self.hosted.counts;
        ModelCounts {
            loads: counts.loads.load(SeqCst),
            unloads: counts.unloads.load(SeqCst),
            faults: counts.faults.load(SeqCst),
            failed_loads: counts.failed_loads.load(SeqCst),
        }
    }

    /// Requests that wait for it to be loaded.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.hosted.waiting.load(SeqCst)
    }

    /// The file it is loaded from.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.hosted.config().file.clone()
    }

    /// Loads it now, whatever `keep` says.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub async fn load(&self) -> Result<(), LoadError> {
        self.order(Order::Load).await
    }

    /// Like [`HostedModel::load`], for a thread that may block. Not for an async one.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn load_blocking(&self) -> Result<(), LoadError> {
        self.send(Order::Load)?.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Unloads it: no request gets it any more, those that have it may go on for `drain_max`. The
    /// next request loads it again where it is kept to be loaded on use; else an operator does.
    ///
    /// # Errors
    /// The host has ended.
    pub async fn unload(&self, drain_max: Duration) -> Result<(), LoadError> {
        self.order(|reply| Order::Unload(drain_max, reply)).await
    }

    /// Loads another file beside it and gives it the name; the old one drains for at most
    /// `drain_max`. If the new one cannot be loaded, the old one stays.
    ///
    /// # Errors
    /// Why the new file cannot be loaded.
    pub async fn swap(&self, file: PathBuf, drain_max: Duration) -> Result<(), LoadError> {
        self.order(|reply| Order::Swap(file, drain_max, reply)).await
    }

    async fn order(&self, order: impl FnOnce(Reply) -> Order) -> Result<(), LoadError> {
        let answer = self.send(order)?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Hands an order to the keeper; the answer comes by the channel.
    fn send(
        &self,
        order: impl FnOnce(Reply) -> Order,
    ) -> Result<oneshot::Receiver<Result<(), LoadError>>, LoadError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut orders = self.hosted.orders();
            // Looked at with the orders held: who stops takes out what came before, and nothing comes after.
            if matches!(self.hosted.now(), Standing::Stopped) {
                return Err(stopped());
            }
            if orders.len() >= ORDERS_MAX {
                return Err(LoadError::Start("too many orders wait for this model".to_owned()));
            }
            orders.push_back(order(reply));
        }
        self.host.state().wake();
        Ok(answer)
    }
}

fn stopped() -> LoadError {
    LoadError::Start("the engine is stopped".to_owned())
}

/// An engine that has failed is as good as none, also before the keeper has noticed.
fn running(engine: Engine) -> Result<Engine, NotLoaded> {
    match engine.fault() {
        None => Ok(engine),
        Some(reason) => Err(NotLoaded::Failed { reason }),
    }
}

impl Hosted {
    pub(crate) fn new(name: &str, config: EngineConfig, keep: Keep) -> Hosted {
        Hosted {
            name: name.to_owned(),
            keep,
            config: Mutex::new(config),
            standing: watch::Sender::new(Standing::Unloaded { on_use: true }),
            digest: Mutex::new(None),
            counts: Counts::default(),
            wanted: AtomicBool::new(false),
            orders: Mutex::default(),
            waiting: AtomicUsize::new(0),
            start: Instant::now(),
            used_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(crate) fn set(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    pub(crate) fn config(&self) -> MutexGuard<'_, EngineConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orders(&self) -> MutexGuard<'_, VecDeque<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_order(&self) -> Option<Order> {
        self.orders().pop_front()
    }

    /// The digest of the file as last computed.
    pub(crate) fn known_digest(&self) -> Option<Arc<Digest>> {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn keep_digest(&self, digest: Arc<Digest>) {
        *self.digest.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }

    /// Whether a request waits for it to be loaded.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    pub(crate) fn used(&self) {
        self.used_ns.store(nanoseconds(self.start.elapsed()), SeqCst);
    }

    /// Time since a request last asked for it.
    pub(crate) fn idle(&self) -> Duration {
        let used = Duration::from_nanos(self.used_ns.load(SeqCst));
        self.start.elapsed().saturating_sub(used)
    }

    /// Lets a failure whose wait is over count as unloaded, so that its end can be waited for.
    fn forget_failure(&self) {
        self.standing.send_if_modified(|standing| {
            let over = matches!(standing, Standing::Failed { retry_at, .. } if *retry_at <= Instant::now());
            if over {
                *standing = Standing::Unloaded { on_use: true };
            }
            over
        });
    }

    fn wait_place(&self) -> Option<Place<'_>> {
        let place = Place(&self.waiting);
        let before = self.waiting.fetch_add(1, SeqCst);
        (before < self.keep.load_waiting_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
