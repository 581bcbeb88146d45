//! Our own look at a GGUF file before llama.cpp sees it. llama.cpp answers several wrong headers by
//! aborting the process (a layer count of 0, two tokens with the same text, a tensor without
//! elements); a gateway must answer them with an error.
//!
//! **Invariant:** whatever the bytes are, [`check`] ends in a bounded time with a bounded amount of
//! memory, both a small multiple of the header's own size, and never panics. What it lets through
//! has a header whose every length, count, type, shape and offset fits the file, and values that
//! pass the assertions llama.cpp makes of them. It does not judge the weights.

mod read;
mod sense;
mod tensors;
#[cfg(test)]
mod tests;
mod values;

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use read::Reader;
use values::Values;

/// Key-values of one file: real ones have some dozens.
const VALUES_MAX: u64 = 4_096;
/// Tensors of one file: the largest models have some thousands.
const TENSORS_MAX: u64 = 65_536;
/// Parts of one model.
const PARTS_MAX: u64 = 512;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct GgufError {
    /// The offset at which it was noticed.
    pub at: u64,
    /// What is wrong, in the file's terms.
    pub what: String,
}

/// What a header says about the model, as far as the engine needs it before loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers, without the output layer.
    pub layers: u32,
    /// Bytes of all tensors in this file.
    pub tensor_bytes: u64,
    /// Elements of keys and values that one token keeps in the KV cache, over all layers.
    pub kv_elements_per_token: u64,
    /// Tokens in the vocabulary; 0 where the file has none.
    pub vocabulary: u64,
    /// Files the model is split into; 1 for a whole one.
    pub parts: u64,
}

/// Checks a GGUF file of `bytes` bytes.
///
/// # Errors
/// The first thing that is wrong.
pub fn check<R: Read + Seek>(source: R, bytes: u64) -> Result<Header, GgufError> {
    let mut reader = Reader::new(source, bytes);
    let magic: [u8; 4] = reader.bytes()?;
    if magic != *b"GGUF" {
        return Err(reader.wrong("this is not a GGUF file: it does not begin with `GGUF`"));
    }
    match reader.u32()? {
        2 | 3 => {}
        version if version & 0xffff == 0 => {
            return Err(reader.wrong(format!("GGUF version {version}: written for big-endian")));
        }
        version => return Err(reader.wrong(format!("GGUF version {version} is not known"))),
    }
    let tensors = reader.count("tensors", TENSORS_MAX)?;
    let count = reader.count("key-values", VALUES_MAX)?;
    let values = Values::read(&mut reader, count)?;
    let alignment = values.alignment(&reader)?;
    let tensor_bytes = tensors::check(&mut reader, tensors, alignment)?;
    sense::header(&values, tensor_bytes).map_err(|what| reader.wrong(what))
}

/// Checks a model's file, and the other files of a split one.
///
/// # Errors
/// What is wrong, with the file's name where it is not the first.
pub(crate) fn check_file(file: &Path) -> Result<Header, String> {
    let mut header = check_one(file).map_err(|error| error.to_string())?;
    for number in 2..=header.parts {
        let part = part(file, number, header.parts)
            .ok_or_else(|| format!("it is 1 of {} files and not named so", header.parts))?;
        let name = part.file_name().unwrap_or_default().to_string_lossy();
        let more = check_one(&part).map_err(|error| format!("{name}: {error}"))?;
        header.tensor_bytes = header.tensor_bytes.saturating_add(more.tensor_bytes);
    }
    Ok(header)
}

fn check_one(file: &Path) -> Result<Header, GgufError> {
    let unreadable = |error: std::io::Error| GgufError { at: 0, what: error.to_string() };
    let opened = File::open(file).map_err(unreadable)?;
    let bytes = opened.metadata().map_err(unreadable)?.len();
    check(BufReader::with_capacity(1 << 16, opened), bytes)
}

/// The name of another part, by the convention `<name>-00001-of-00003.gguf`.
fn part(first: &Path, number: u64, parts: u64) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-00001-of-{parts:05}.gguf"))?;
    Some(first.with_file_name(format!("{stem}-{number:05}-of-{parts:05}.gguf")))
}
