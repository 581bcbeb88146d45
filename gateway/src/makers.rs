//! Where long prompts become tokens, rules are compiled and bodies decompressed: on threads that may
//! block, as many at once as there are cores.
//!
//! **Invariant:** what nobody waits for any more is given up at its next piece, so that who sends long
//! prompts and leaves holds no more than a thread for a moment, and whoever waits for a thread keeps
//! nothing but their own request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};
use tokio::sync::Semaphore;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Makers {
    places: Arc<Semaphore>,
    wait_max: Duration,
}

/// Whether somebody waits for what is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    given_up: Arc<AtomicBool>,
}

/// Why nothing was made.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// Too much is being made.
    Busy,
    /// Making it ended with a panic.
    Died(String),
}

/// Says that nobody waits any more, when dropped.
struct Waits(Wanted);

// === impl Makers ===

impl Makers {
    /// Makers of one kind, for which a request waits so long at most.
    pub(crate) fn new(wait_max: Duration) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self { places: Arc::new(Semaphore::new(cores)), wait_max }
    }

    /// What `make` makes, here where it is little, else where blocking is allowed.
    ///
    /// # Errors
    /// `make`'s own; [`NotMade::Busy`] where too much is being made.
    pub(crate) async fn make<T: Send + 'static, E: From<NotMade> + Send + 'static>(
        &self,
        little: bool,
        make: impl FnOnce(&Wanted) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let waits = Waits(Wanted::default());
        if little {
            return make(&waits.0);
        }
        let place = tokio::time::timeout(self.wait_max, Arc::clone(&self.places).acquire_owned());
        let Ok(Ok(place)) = place.await else {
            return Err(NotMade::Busy.into());
        };
        let wanted = waits.0.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = make(&wanted);
            drop(place);
            made
        });
        made.await.map_err(|died| NotMade::Died(died.to_string()))?
    }
}

impl Wanted {
    /// Whether that is so.
    pub(crate) fn is_so(&self) -> bool {
        !self.given_up.load(Relaxed)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.given_up.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn what_nobody_waits_for_is_given_up() {
        let makers = Makers::new(Duration::from_secs(60));
        let (said, heard) = mpsc::sync_channel(1);
        let make = makers.make(false, move |wanted| {
            while wanted.is_so() {
                std::thread::yield_now();
            }
            said.send(()).map_err(|gone| NotMade::Died(gone.to_string()))
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), make).await.is_err(), "it left");
        heard.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[tokio::test]
    async fn no_more_is_made_at_once_than_there_are_cores() {
        let makers = Makers::new(Duration::ZERO);
        let cores = makers.places.available_permits();
        let (release, held) = mpsc::sync_channel::<()>(1);
        let held = Arc::new(std::sync::Mutex::new(held));
        let hold = || {
            let held = Arc::clone(&held);
            makers.make(false, move |_| {
                let _released = held.lock().map(|held| held.recv());
                Ok::<_, NotMade>(())
            })
        };
        let all = async {
            let holds = (0..cores).map(|_| hold()).collect::<Vec<_>>();
            futures::future::join_all(holds).await
        };
        let look = async {
            while makers.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let refused = makers.make(false, |_| Ok::<_, NotMade>(())).await.unwrap_err();
            assert!(matches!(refused, NotMade::Busy), "{refused:?}");
            assert!(
                makers.make(true, |_| Ok::<_, NotMade>(())).await.is_ok(),
                "little needs no thread"
            );
            drop(release);
        };
        let (made, ()) = tokio::join!(all, look);
        assert!(made.iter().all(Result::is_ok));
        makers.make(false, |_| Ok::<_, NotMade>(())).await.unwrap();
    }
}
