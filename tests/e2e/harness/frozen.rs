//! One thread of the gateway, stopped while the others run: how a test sees what waits for it.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

/// A stopped thread; it runs on when this is dropped.
pub(crate) struct Frozen {
    thaw: Option<SyncSender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    /// Stops the thread of that name in process `pid`; an error where the system does not allow a
    /// parent to trace its child.
    pub(crate) fn thread(pid: u32, name: &str) -> io::Result<Self> {
        let thread = named(pid, name)?;
        let (thaw, thawed) = sync_channel(1);
        let (tell, told) = sync_channel(1);
        // Whoever stops a thread is the one that may let it go: a thread of its own does both.
        let tracer = std::thread::spawn(move || trace(thread, &tell, &thawed));
        let stopped = told.recv().unwrap_or_else(|_| Err(io::Error::other("the tracer died")));
        stopped.map(|()| Self { thaw: Some(thaw), tracer: Some(tracer) })
    }

    /// Lets it run on.
    pub(crate) fn thaw(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.thaw.take());
        if let Some(tracer) = self.tracer.take() {
            let _ended = tracer.join();
        }
    }
}

/// The id of a thread by its name.
fn named(pid: u32, name: &str) -> io::Result<i32> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if std::fs::read_to_string(task.path().join("comm"))?.trim() == name {
            let id = task.file_name().to_string_lossy().parse();
            return id.map_err(|_| io::Error::other("a thread without a number"));
        }
    }
    Err(io::Error::other(format!("no thread `{name}` in process {pid}")))
}

fn trace(thread: i32, tell: &SyncSender<io::Result<()>>, thawed: &Receiver<()>) {
    let stopped = stop(thread);
    let ok = stopped.is_ok();
    let _told = tell.send(stopped);
    if ok {
        // Ends with an error when the other side is dropped, which is the sign.
        let _sign = thawed.recv();
        // SAFETY: PTRACE_DETACH takes no memory of ours; the thread is stopped and traced by us.
        #[expect(unsafe_code, reason = "the standard library has no ptrace")]
        unsafe {
            libc::ptrace(libc::PTRACE_DETACH, thread, 0, 0);
        }
    }
}

fn stop(thread: i32) -> io::Result<()> {
    // SAFETY: neither request takes memory of ours, and waitpid is given a valid place for its
    // status; the thread is of our own child, which lives as long as the test.
    #[expect(unsafe_code, reason = "the standard library has no ptrace")]
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) != 0
            || libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
        let mut status = 0;
        if libc::waitpid(thread, &raw mut status, libc::__WALL) != thread {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
