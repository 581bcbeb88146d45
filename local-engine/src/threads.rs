//! The threads that compute: one for the processor and whatever GPUs a build finds, and one for each
//! GPU that a model's settings name. Models of one thread take turns (`turns.rs`); those of two
//! devices compute at once.
//!
//! **Invariant:** two models that are wholly on the processor never compute at once: one that was to
//! go to a GPU and found no room there takes its turns with those that belong here.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::{config::EngineConfig, desk::Desk, error::LoadError, turns};

/// What the system calls them, before the device's name; of both together it keeps 15 bytes.
const NAME: &str = "engine";

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Threads {
    running: Mutex<Vec<Computing>>,
}

/// A device's thread.
#[derive(Debug)]
struct Computing {
    /// The GPU that settings name, in small letters; `None` is the one of all others.
    device: Option<String>,
    desk: Arc<Desk>,
    /// Taken by whoever waits for its end.
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// Starts the thread of those that name no device.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn start() -> Result<Threads, LoadError> {
        Ok(Threads { running: Mutex::new(vec![Computing::start(None)?]) })
    }

    /// Where a model with these settings moves in, whose layers went to these devices. The thread of a
    /// device begins with its first model.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn of(
        &self,
        config: &EngineConfig,
        offloaded_to: &[String],
    ) -> Result<Arc<Desk>, LoadError> {
        let device = device_of(config, offloaded_to);
        let mut running = self.running();
        if let Some(there) = running.iter().find(|computing| computing.device == device) {
            return Ok(Arc::clone(&there.desk));
        }
        let begun = Computing::start(device)?;
        let desk = Arc::clone(&begun.desk);
        running.push(begun);
        Ok(desk)
    }

    /// Time since the one that has been silent longest last looked around.
    pub(crate) fn heartbeat_age(&self) -> Duration {
        self.running()
            .iter()
            .map(|computing| computing.desk.heartbeat_age())
            .max()
            .unwrap_or_default()
    }

    /// Nobody moves in any more; blocks until the last resident of each has ended.
    pub(crate) fn end(&self) {
        let ending: Vec<JoinHandle<()>> = {
            let mut running = self.running();
            running.iter().for_each(|computing| computing.desk.close());
            running.iter_mut().filter_map(|computing| computing.thread.take()).collect()
        };
        for thread in ending {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the engine ended by a panic");
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Computing>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Computing {
    fn start(device: Option<String>) -> Result<Computing, LoadError> {
        let desk = Arc::new(Desk::new());
        let name = device.as_ref().map_or_else(|| NAME.to_owned(), |name| format!("{NAME}-{name}"));
        let thread = std::thread::Builder::new().name(name).spawn({
            let desk = Arc::clone(&desk);
            move || {
                if catch_unwind(AssertUnwindSafe(|| turns::run(&desk))).is_err() {
                    tracing::error!("the engine's thread ended by a panic");
                }
            }
        });
        let thread = thread.map_err(|error| LoadError::Start(error.to_string()))?;
        desk.set_thread(thread.thread().clone());
        Ok(Computing { device, desk, thread: Some(thread) })
    }
}

/// The GPU whose thread a model computes on, in small letters: the one that its settings name, if any
/// of its layers are there.
fn device_of(config: &EngineConfig, offloaded_to: &[String]) -> Option<String> {
    let named = offloaded_to.first().filter(|_| config.gpu_device.is_some());
    named.map(|name| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a model goes whose settings name a GPU or none, and whose layers are there or nowhere.
    fn desk(threads: &Threads, named: Option<&str>, there: &[&str]) -> Arc<Desk> {
        let gpu_device = named.map(str::to_owned);
        let config = EngineConfig { gpu_device, ..EngineConfig::new("model.gguf".into()) };
        let there: Vec<String> = there.iter().map(|name| (*name).to_owned()).collect();
        threads.of(&config, &there).expect("a thread starts")
    }

    #[test]
    fn models_of_one_device_share_a_thread_and_those_of_two_have_two() {
        let threads = Threads::start().expect("a thread starts");
        let of_all = desk(&threads, None, &[]);
        let first = desk(&threads, Some("CUDA0"), &["CUDA0"]);
        assert!(Arc::ptr_eq(&first, &desk(&threads, Some("cuda0"), &["CUDA0"])));
        assert!(!Arc::ptr_eq(&first, &desk(&threads, Some("CUDA1"), &["CUDA1"])));
        assert!(!Arc::ptr_eq(&first, &of_all));
        assert!(Arc::ptr_eq(&of_all, &desk(&threads, None, &["CUDA0", "CUDA1"])));
        assert_eq!(threads.running().len(), 3);
        threads.end();
    }

    #[test]
    fn a_model_that_found_no_room_on_its_gpu_takes_turns_with_the_processors() {
        let threads = Threads::start().expect("a thread starts");
        let stepped_down = desk(&threads, Some("CUDA0"), &[]);
        assert!(Arc::ptr_eq(&stepped_down, &desk(&threads, None, &[])));
        threads.end();
    }

    #[test]
    fn all_of_them_end_together() {
        let threads = Threads::start().expect("a thread starts");
        let desk = desk(&threads, Some("CUDA0"), &["CUDA0"]);
        threads.end();
        assert!(desk.closing());
        assert!(threads.running().iter().all(|computing| computing.thread.is_none()));
    }
}
