//! A stand-in for a cloud provider: a real server on a real socket that speaks OpenAI's wire
//! format, Anthropic's and Gemini's, and misbehaves on demand.
//!
//! It is written on the bare socket, so that a fault can happen at any byte. **Invariant:** it counts
//! every connection and keeps every request that reached it, so that a test can say that none did.

mod answer;
mod dialects;
mod http;
mod script;
mod serve;
mod shapes;

pub use http::Asked;
pub(crate) use http::read_request;
pub use script::{Cut, ErrorSaid, Fault, Hold, Point, Reported, Script};

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait of [`StandIn::until`].
const UNTIL_MAX: Duration = Duration::from_secs(30);
/// Requests that are kept; older ones are forgotten first.
const ASKED_MAX: usize = 4096;

/// A running stand-in cloud; it stops when dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Requests read to their end.
    pub requests: u64,
    /// Answers (errors too) written to their end.
    pub answered: u64,
    /// Clients that closed the connection before the answer's end.
    pub left: u64,
    /// Answers that a script cut off itself.
    pub cut: u64,
}

#[derive(Debug)]
struct Shared {
    counts: watch::Sender<Counts>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Script>,
    otherwise: Script,
    asked: VecDeque<Asked>,
}

impl StandIn {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start() -> io::Result<Self> {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one on `address`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state =
            State { queue: VecDeque::new(), otherwise: Script::default(), asked: VecDeque::new() };
        let shared =
            Arc::new(Shared { counts: watch::Sender::new(Counts::default()), state: state.into() });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(serve::accept(listener, Arc::clone(&shared), tasks.clone(), stop.clone()));
        Ok(Self { address, shared, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, up to and with `/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next request that no earlier script waits for gets `script`. One that is left over in the
    /// end is a failure: what it was for never happened.
    pub fn next(&self, script: Script) -> &Self {
        self.shared.with(|state| state.queue.push_back(script));
        self
    }

    /// Every request without a script of its own gets `script`.
    pub fn always(&self, script: Script) -> &Self {
        self.shared.with(|state| state.otherwise = script);
        self
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `enough` is true of the counts.
    ///
    /// # Errors
    /// The counts, when that has not come true within half a minute.
    pub async fn until(&self, enough: impl Fn(&Counts) -> bool) -> Result<Counts, String> {
        let mut counts = self.shared.counts.subscribe();
        match tokio::time::timeout(UNTIL_MAX, counts.wait_for(enough)).await {
            Ok(Ok(counts)) => Ok(*counts),
            _ => Err(format!("the stand-in cloud waited in vain: {:?}", self.counts())),
        }
    }

    /// The requests so far, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.with(|state| state.asked.iter().cloned().collect())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.cancel();
        // What was to happen and never did was not tested.
        let left = self.shared.with(|state| state.queue.len());
        assert!(left == 0 || std::thread::panicking(), "{left} scripts that nobody met");
    }
}

impl Shared {
    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the request and says what to do with it.
    fn script_for(&self, asked: &Asked) -> Script {
        let script = self.with(|state| {
            if state.asked.len() == ASKED_MAX {
                state.asked.pop_front();
            }
            state.asked.push_back(asked.clone());
            // Scripts are for answers: a list of models takes none from the queue.
            let scripted = if asked.method == "POST" { state.queue.pop_front() } else { None };
            scripted.unwrap_or_else(|| state.otherwise.clone())
        });
        self.count(|counts| counts.requests += 1);
        let Some(names) = asked.header("x-standin-fault") else { return script };
        let faults = names.split(',').map(|name| name.trim().parse());
        let with = faults.collect::<Result<Vec<_>, String>>();
        match with {
            Ok(faults) => faults.into_iter().fold(script, Script::with),
            // Taken for none, a fault that is not known would test the good case.
            Err(why) => Script::error(400, "invalid_request_error", None, &why),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }
}
