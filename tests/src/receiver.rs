//! A receiver of webhooks: a real server on a real socket that keeps everything it is told, and is
//! down, slow or unwell on demand.

use crate::standin::{Asked, read_request};
use bytes::BytesMut;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait of [`Receiver::until`].
const UNTIL_MAX: Duration = Duration::from_secs(30);

/// What it does with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes it.
    Takes,
    /// Answers with this status.
    Answers(u16),
    /// Says that it has moved to this address.
    Moved(SocketAddr),
    /// Cannot take it now, and says after how many seconds it will.
    Later(u64),
    /// Reads it and says nothing.
    Silent,
}

/// Everything it was told so far, taken or not.
pub type Told = Vec<(Mood, Asked)>;

/// A receiver; it stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    told: watch::Sender<Told>,
    stop: CancellationToken,
}

/// An address that is taken and answers nobody.
#[derive(Debug)]
pub struct Down {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Down {
    /// Takes a free port of the loopback interface.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it will listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Comes back.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn up(self) -> io::Result<Receiver> {
        let listener = self.socket.listen(64)?;
        let receiver = Receiver {
            address: self.address,
            mood: Arc::new(Mutex::new(Mood::Takes)),
            told: watch::Sender::new(Told::new()),
            stop: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(accept(
            listener,
            Arc::clone(&receiver.mood),
            receiver.told.clone(),
            tasks.clone(),
            receiver.stop.clone(),
        ));
        Ok(receiver)
    }
}

impl Receiver {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn start() -> io::Result<Self> {
        Down::start()?.up()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it does this.
    pub fn is(&self, mood: Mood) -> &Self {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        self
    }

    /// Waits until it was told what is `enough`.
    ///
    /// # Errors
    /// What it was told, when that was not enough within half a minute.
    pub async fn until(&self, enough: impl Fn(&Told) -> bool) -> Result<Told, String> {
        let mut told = self.told.subscribe();
        match tokio::time::timeout(UNTIL_MAX, told.wait_for(enough)).await {
            Ok(Ok(told)) => Ok(told.clone()),
            _ => Err(format!("the receiver waited in vain: {:?}", self.told.borrow())),
        }
    }

    /// Everything it was told so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.borrow().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    mood: Arc<Mutex<Mood>>,
    told: watch::Sender<Told>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((socket, _)) = accepted else { continue };
        let (mood, told, stop) = (Arc::clone(&mood), told.clone(), stop.clone());
        tasks.spawn(async move {
            // A sender that breaks off is what it is; nothing here depends on it.
            let _ended = stop.run_until_cancelled(converse(socket, &mood, &told)).await;
        });
    }
}

async fn converse(
    mut socket: TcpStream,
    mood: &Mutex<Mood>,
    told: &watch::Sender<Told>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(asked) = read_request(&mut socket, &mut buffer, 0).await? {
        let mood = *mood.lock().unwrap_or_else(PoisonError::into_inner);
        told.send_modify(|told| told.push((mood, asked)));
        let status = match mood {
            Mood::Takes => "204 Said".to_owned(),
            Mood::Answers(status) => format!("{status} Said"),
            Mood::Moved(to) => format!("307 Said\r\nlocation: http://{to}/elsewhere"),
            Mood::Later(seconds) => format!("503 Said\r\nretry-after: {seconds}"),
            Mood::Silent => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
    }
    Ok(())
}
