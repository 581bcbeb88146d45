//! What goes over the socket: a length of four bytes, little-endian, then so many bytes of
//! postcard. Both ends are the same program, so the format has no versions.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::EngineConfig,
    constraint::Rule,
    embedding::{EmbedJob, Vectors},
    engine::Engine,
    evictions::Eviction,
    info::ModelInfo,
    job::{Job, JobEvent, JobUsage},
    predict::Basis,
    status::Status,
};

/// Longest frame: a prompt has four bytes a token, a status some hundred.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// To the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first one: what to load.
    Load(Box<EngineConfig>),
    /// Compute a job, under this rule.
    Submit(u64, Box<Job>, Option<Rule>),
    /// Embed texts.
    Embed(u64, Box<EmbedJob>),
    /// Give up every kept prefix.
    Forget,
    /// A job has a new bound of its engine time, perhaps its last one.
    Bound(u64, Duration, bool),
    /// A job's reader has no room for more, or has again.
    Pause(u64, bool),
    /// Nobody reads a job any more.
    Cancel(u64),
}

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The model is loaded.
    Loaded(Box<ModelInfo>),
    /// It cannot be, and the child ends.
    NotLoaded(String),
    /// What a job yields, and what it has taken by then.
    Event(u64, JobEvent, JobUsage),
    /// What a job has taken by now, where that has changed without anything else to tell.
    Usage(u64, JobUsage),
    /// Most of the engine time of texts to embed is used.
    VectorsLow(u64),
    /// What became of texts to embed, and what that took.
    Vectors(u64, Vectors, JobUsage),
    /// The engine's numbers, every now and then: the heartbeat.
    Numbers(Box<Numbers>),
}

/// What is told every now and then.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) status: Status,
    /// What waits are predicted from, once that is known.
    pub(super) basis: Option<Basis>,
    /// The last evictions, oldest first.
    pub(super) evictions: Vec<Eviction>,
}

impl Numbers {
    /// As they are now.
    pub(super) fn of(engine: &Engine) -> Report {
        let (status, basis) = (engine.status(), engine.basis());
        Report::Numbers(Box::new(Numbers { status, basis, evictions: engine.evictions() }))
    }
}

/// Writes one frame.
pub(super) fn write<T: Serialize>(to: &mut impl Write, frame: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    to.write_all(&[&length.to_le_bytes(), bytes.as_slice()].concat())?;
    to.flush()
}

/// Reads one frame; an error at the end of the stream too.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}
