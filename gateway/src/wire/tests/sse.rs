//! Server-sent events, however their bytes are cut.

use crate::wire::sse::{Decoder, SseEvent, event};
use bytes::Bytes;
use proptest::prelude::*;

/// Reads `pieces` as one stream: names and data.
fn events(pieces: &[&[u8]], bytes_max: usize) -> Result<Vec<(Option<Bytes>, Bytes)>, ()> {
    let mut decoder = Decoder::new(bytes_max);
    let mut all = Vec::new();
    let mut take = |event: SseEvent| all.push((event.name, event.data));
    for piece in pieces {
        decoder.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = decoder.next_event().map_err(drop)? {
            take(event);
        }
    }
    while let Some(event) = decoder.end().map_err(drop)? {
        take(event);
    }
    Ok(all)
}

fn data(text: &str) -> Vec<String> {
    let all = events(&[text.as_bytes()], 1 << 20).unwrap();
    all.into_iter().map(|(_, data)| String::from_utf8(data.to_vec()).unwrap()).collect()
}

#[test]
fn events_are_read_as_the_standard_says() {
    assert_eq!(data("data: a\n\ndata:b\r\n\r\ndata:  c\r\r"), ["a", "b", " c"]);
    assert_eq!(data("data: a\r\ndata: b\r\n\r\ndata: c\rdata: d\r\r"), ["a\nb", "c\nd"]);
    assert_eq!(data(": comment\n\ndata: a\n: in between\ndata: b\n\n"), ["a\nb"]);
    assert_eq!(data("id: 1\nretry: 5\ndata: a\nunknown: x\nalone\n\n"), ["a"]);
    assert_eq!(data("\u{feff}data: a\n\n"), ["a"]);
    assert_eq!(data("data\n\n"), [""]);
    assert_eq!(data("event: ping\n\ndata: a\n\n"), ["a"], "no data is no event");
    assert_eq!(data("data: é 🙂\n\n"), ["é 🙂"]);
    let named = events(&[b"event: error\ndata: x\n\ndata: y\n\n"], 100).unwrap();
    assert_eq!(named[0].0.as_deref(), Some(b"error".as_slice()));
    assert_eq!(named[1].0, None, "a name does not outlive its event");
}

#[test]
fn an_end_without_its_blank_line_counts() {
    assert_eq!(data("data: a\n\ndata: [DONE]"), ["a", "[DONE]"]);
    assert_eq!(data("data: a\n\ndata: [DONE]\n"), ["a", "[DONE]"]);
}

#[test]
fn a_line_in_one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"data: some payload\n\n");
    let mut decoder = Decoder::new(100);
    decoder.feed(piece.clone());
    let data = decoder.next_event().unwrap().unwrap().data;
    assert_eq!(data.as_ptr(), piece[6..].as_ptr());
}

#[test]
fn what_is_held_is_bounded() {
    let line = format!("data: {}", "x".repeat(200));
    assert!(events(&[line.as_bytes()], 100).is_err(), "a line without an end");
    assert!(events(&[line.as_bytes(), b"\n\n"], 100).is_err(), "a long line");
    let drip: Vec<&[u8]> = std::iter::repeat_n(b"xxxxxxxxxx".as_slice(), 50).collect();
    assert!(events(&drip, 100).is_err(), "a line that comes in drips");
    let many = "data: 0123456789\n".repeat(20);
    assert!(events(&[many.as_bytes()], 100).is_err(), "an event of many lines");
    let fine = "data: 0123456789\n\n".repeat(20);
    assert_eq!(events(&[fine.as_bytes()], 100).unwrap().len(), 20);
}

#[test]
fn what_is_written_is_read_back() {
    for text in ["{}", "a\nb", "a\r\nb", "", "x\n"] {
        let framed = event(text.as_bytes());
        let read = events(&[&framed], 1 << 20).unwrap();
        let text = text.replace("\r\n", "\n");
        assert_eq!(read, [(None, Bytes::from(text))]);
    }
}

/// Text that is mostly what streams are made of.
fn stream_bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"data: ".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event: ".to_vec()),
        Just(b": ".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\xef\xbb\xbf".to_vec()),
        Just("é🙂".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_events(
        bytes in stream_bytes(),
        mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut at: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = events(&[&bytes], 1 << 20);
        prop_assert_eq!(&events(&pieces, 1 << 20), &whole);
        prop_assert_eq!(&events(&single, 1 << 20), &whole);
    }
}
