//! What cannot be seen in an answer: the options of the sockets themselves.

use crate::harness::{Gate, eventually};
use e2e::standin::{Fault, Script, StandIn};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a test looks at something that must not happen. Too short a look can only miss a fault,
/// never invent one.
const LOOK: Duration = Duration::from_millis(500);

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

/// The addresses on which a process listens, as the kernel writes them, without their ports.
fn listening(pid: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let own: Vec<String> = links.map(|link| link.display().to_string()).collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        for line in table.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (columns[1], columns[3], columns[9]);
            if state == "0A" && own.contains(&format!("socket:[{inode}]")) {
                found.push(local.split(':').next().unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn nobody_else_can_reach_it_unless_told() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).start().await;
    // 127.0.0.1, and nothing beside what was asked for; config/tests.rs has the default.
    assert_eq!(listening(gate.child().pid()), ["0100007F"]);
}

/// Sets a process's soft limit of descriptors, and returns the one of before.
fn set_descriptors_max(pid: u32, max: u64) -> u64 {
    let pid = i32::try_from(pid).unwrap();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit(2) reads and writes the two structs that live here, and nothing else.
    #[expect(unsafe_code, reason = "the standard library sets no limits")]
    let set = unsafe {
        let read = libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit);
        let new = libc::rlimit { rlim_cur: max, rlim_max: limit.rlim_max };
        read | libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const new, std::ptr::null_mut())
    };
    assert_eq!(set, 0, "its limits can be set");
    limit.rlim_cur
}

/// The number that the next descriptor of a process gets, once it opens and closes none.
async fn next_descriptor(pid: u32) -> u64 {
    let open = || -> BTreeSet<u64> {
        let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        listed.map(|fd| fd.unwrap().file_name().to_string_lossy().parse().unwrap()).collect()
    };
    let mut before = BTreeSet::new();
    let open = eventually("its descriptors to stay", || {
        let now = open();
        let same = std::mem::replace(&mut before, now.clone()) == now;
        async move { same.then_some(now) }
    })
    .await;
    (0..).find(|number| !open.contains(number)).unwrap()
}

/// A chat request as it stands on the wire.
fn chat(gate: &Gate) -> String {
    let body = r#"{"model":"auto","messages":[{"role":"user","content":"Hello."}]}"#;
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        gate.key().secret,
        body.len()
    )
}

/// Asks once more on a connection that stays: the answer's head and body.
async fn ask_on(connection: &mut tokio::net::TcpStream, request: &str) -> String {
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    loop {
        let mut piece = [0; 4096];
        let count = connection.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection stays: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.expect("a whole answer").parse::<usize>().unwrap() {
            return text;
        }
    }
}

#[tokio::test]
async fn without_a_descriptor_no_provider_is_blamed_and_the_log_is_not_flooded() {
    let cloud = StandIn::start().await.unwrap();
    let breaker = "breaker = { failures_max = 2 }";
    let mut gate = Gate::builder().cloud_named("cloud", &cloud, breaker).start().await;
    let address = gate.url().trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    let health = "GET /health HTTP/1.1\r\nhost: h\r\n\r\n";
    assert!(ask_on(&mut connection, health).await.starts_with("HTTP/1.1 200 "));
    let chat = chat(&gate);
    let pid = gate.child().pid();
    let before = set_descriptors_max(pid, next_descriptor(pid).await);

    let waiting = tokio::net::TcpStream::connect(&address).await.unwrap();
    for _ in 0..5 {
        let refused = ask_on(&mut connection, &chat).await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        assert!(refused.contains("every route for this request is busy"), "{refused}");
    }
    tokio::time::sleep(LOOK).await;
    let said = gate.log().matches("no connection can be accepted").count();
    assert_eq!(said, 1, "{}", gate.log());
    assert_eq!(cloud.counts().requests, 0);

    set_descriptors_max(pid, before);
    drop(waiting);
    let served = ask_on(&mut connection, &chat).await;
    assert!(served.starts_with("HTTP/1.1 200 "), "the route is not left alone: {served}");
}

#[tokio::test]
async fn it_takes_all_the_descriptors_that_it_may_have() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.child().pid())).unwrap();
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = open_files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{open_files}");
}
