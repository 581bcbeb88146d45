//! The threads that compute: one for the processor and whatever GPUs a build finds, and one for each
//! GPU that a model's settings name. Models of one thread take turns (`turns.rs`); those of two
//! devices compute at once.

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

    /// Where a model with these settings moves in. The thread of a device begins with its first model.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn of(&self, config: &EngineConfig) -> Result<Arc<Desk>, LoadError> {
        let device = device_of(config);
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

/// The GPU that a model has to itself or shares with those that name it too. Its name is as llama.cpp
/// tells it, in any case of letters; a model that is kept off GPUs names none.
fn device_of(config: &EngineConfig) -> Option<String> {
    let named = config.gpu_device.as_deref().filter(|_| config.gpu_layers != Some(0));
    named.map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(gpu_device: Option<&str>, gpu_layers: Option<u32>) -> EngineConfig {
        let gpu_device = gpu_device.map(str::to_owned);
        EngineConfig { gpu_device, gpu_layers, ..EngineConfig::new("model.gguf".into()) }
    }

    fn same(threads: &Threads, one: &EngineConfig, other: &EngineConfig) -> bool {
        let of = |config| threads.of(config).expect("a thread starts");
        Arc::ptr_eq(&of(one), &of(other))
    }

    #[test]
    fn models_of_one_device_share_a_thread_and_those_of_two_have_two() {
        let threads = Threads::start().expect("a thread starts");
        let first = settings(Some("CUDA0"), None);
        assert!(same(&threads, &first, &settings(Some("cuda0"), Some(8))));
        assert!(!same(&threads, &first, &settings(Some("CUDA1"), None)));
        assert!(!same(&threads, &first, &settings(None, None)));
        // Kept off GPUs it computes where all others do.
        assert!(same(&threads, &settings(Some("CUDA0"), Some(0)), &settings(None, None)));
        assert_eq!(threads.running().len(), 3);
        threads.end();
    }

    #[test]
    fn all_of_them_end_together() {
        let threads = Threads::start().expect("a thread starts");
        let desk = threads.of(&settings(Some("CUDA0"), None)).expect("a thread starts");
        threads.end();
        assert!(desk.closing());
        assert!(threads.running().iter().all(|computing| computing.thread.is_none()));
    }
}
