//! The tensors of a header: each one's shape, type and place in the file.

use std::{
    collections::HashSet,
    io::{Read, Seek},
};

use super::{
    GgufError,
    read::{NAME_BYTES_MAX, Reader},
    values::show,
};

/// llama.cpp keeps names in 64 bytes, the closing zero included.
const TENSOR_NAME_BYTES_MAX: usize = 63;
const F32: u32 = 0;

/// Elements and bytes of one block of a tensor type, as ggml lays them out. Types that exist only
/// inside a computation (`Q8_1`, `Q8_K`) or that no weight may have (bytes, 64-bit numbers) are not
/// here: computing with them aborts.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        F32 | 26 => (1, 4),
        1 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        42 => (64, 18),
        _ => return None,
    })
}

/// Checks `count` tensors and the data that follows them; returns the data's bytes.
pub(super) fn check<R: Read + Seek>(
    reader: &mut Reader<R>,
    count: u64,
    alignment: u64,
) -> Result<u64, GgufError> {
    let mut names = HashSet::new();
    // Where the next tensor's data must begin, and where the last one's ends, in the data.
    let (mut next, mut data_end) = (0_u64, 0_u64);
    let mut total = 0_u64;
    for _ in 0..count {
        let name = reader.text("a tensor's name", NAME_BYTES_MAX)?;
        let name =
            String::from_utf8(name).map_err(|_| reader.wrong("a tensor's name is binary"))?;
        if name.is_empty() || name.len() > TENSOR_NAME_BYTES_MAX || name.contains('\0') {
            let most = TENSOR_NAME_BYTES_MAX;
            return Err(reader.wrong(format!("a tensor's name has 1 to {most} bytes")));
        }
        let bytes = tensor(reader, &name)?;
        let offset = reader.u64()?;
        let wrong = |what: String| reader.wrong(format!("tensor `{}` {what}", show(&name)));
        if offset != next {
            return Err(wrong(format!("lies at {offset} of the data, not at {next}")));
        }
        data_end = offset.saturating_add(bytes);
        next = data_end
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| wrong("is larger than any file".to_owned()))?;
        total = total.saturating_add(bytes);
        if !names.insert(name) {
            return Err(reader.wrong("two tensors have the same name"));
        }
    }
    let begin = reader.at().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    if count > 0 && begin.saturating_add(data_end) > reader.end() {
        let have = reader.end().saturating_sub(begin);
        return Err(reader.wrong(format!(
            "the file is cut off: its tensors take {data_end} bytes, and {have} are there"
        )));
    }
    Ok(total)
}

/// Reads a shape and a type; returns the tensor's bytes.
fn tensor<R: Read + Seek>(reader: &mut Reader<R>, name: &str) -> Result<u64, GgufError> {
    let dimensions = reader.u32()?;
    let wrong = |reader: &Reader<R>, what: String| {
        Err(reader.wrong(format!("tensor `{}` {what}", show(name))))
    };
    if dimensions == 0 || dimensions > 4 {
        return wrong(reader, format!("has {dimensions} dimensions"));
    }
    let mut elements = 1_u64;
    let mut row = 1_u64;
    for dimension in 0..dimensions {
        let size = reader.u64()?;
        // 2^40 elements are more than any model has, and far from every overflow.
        elements = match elements.checked_mul(size) {
            Some(product) if size > 0 && product <= 1 << 40 => product,
            _ => return wrong(reader, format!("has {size} elements in one dimension")),
        };
        if dimension == 0 {
            row = size;
        }
    }
    let kind = reader.u32()?;
    let Some((block_elements, block_bytes)) = block(kind) else {
        return wrong(reader, format!("has the type {kind}, which no weight can have"));
    };
    if !row.is_multiple_of(block_elements) {
        return wrong(reader, format!("has rows of {row}, not a multiple of {block_elements}"));
    }
    // llama.cpp multiplies and adds these as 32-bit floats, and aborts on other types.
    let plain = name.ends_with("norm.weight") || name.ends_with(".bias");
    if plain && kind != F32 {
        return wrong(reader, format!("has the type {kind}, and must be F32"));
    }
    Ok(elements / block_elements * block_bytes)
}
