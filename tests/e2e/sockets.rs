//! What cannot be seen in an answer: the options of the sockets themselves.

use crate::harness::Gate;
use e2e::standin::{Fault, Script, StandIn};
use std::{
    net::{Ipv4Addr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// A duplicate of another process's descriptor; `None` where the system does not allow that.
fn borrowed(pid: u32, fd: i32) -> Option<OwnedFd> {
    // SAFETY: both calls take integers and return a new descriptor of ours or -1, which is checked
    // before it is owned.
    #[expect(unsafe_code, reason = "the standard library has no pidfd_getfd")]
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let process = i32::try_from(process).ok().filter(|fd| *fd >= 0)?;
        let process = OwnedFd::from_raw_fd(process);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
        let copy = i32::try_from(copy).ok().filter(|fd| *fd >= 0)?;
        Some(OwnedFd::from_raw_fd(copy))
    }
}

/// The TCP connections of a process; `None` where the system does not allow to look.
fn connections(pid: u32) -> Option<Vec<TcpStream>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        let entry = entry.ok()?;
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        if !is_socket {
            continue;
        }
        let fd = entry.file_name().to_string_lossy().parse().ok()?;
        let stream = TcpStream::from(borrowed(pid, fd)?);
        // A listener has no peer.
        if stream.peer_addr().is_ok_and(|peer| peer.ip() == Ipv4Addr::LOCALHOST) {
            found.push(stream);
        }
    }
    Some(found)
}

#[tokio::test]
async fn both_sides_of_a_stream_send_without_delay() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).start().await;
    cloud.next(Script::default().with(Fault::HangMidStream));
    let mut open = gate.ask("Hello.").streamed().open().await;
    open.read_pieces(1).await;
    let pid = gate.child().pid();
    let Some(connections) = connections(pid) else {
        println!("this system does not let a parent look at its child's sockets: not checked");
        return;
    };
    assert!(connections.len() >= 2, "a client's and a provider's: {connections:?}");
    for connection in connections {
        assert!(connection.nodelay().unwrap(), "TCP_NODELAY is not set: {connection:?}");
    }
    open.leave();
}

#[tokio::test]
async fn nobody_else_can_reach_it_unless_told() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let address: std::net::SocketAddr = gate.url().trim_start_matches("http://").parse().unwrap();
    assert!(address.ip().is_loopback());
}
