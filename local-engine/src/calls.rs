//! Reads a model's answer as it comes, and tells text from calls.
//!
//! The answer was drawn under [`crate::Tools`]' rule, so there is one way to write each thing; what
//! comes otherwise is text. Nothing of a call's frame is ever shown as text, and arguments are
//! passed on as they come: whole, they are one JSON object. Stop texts are looked for in the text
//! alone: what stands in a frame or in arguments, the caller never wrote a stop text for.

use crate::text::TextStream;
use crate::tools::{
    Frame, GENERIC_CALLS, GENERIC_CALLS_END, GENERIC_REPLY, HERMES_TAG, ToolFormat,
};

/// A piece of an answer to a request with tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// Text for the user; never empty.
    Text(String),
    /// A call begins.
    Call {
        /// Its number, from 0.
        index: u32,
        /// The function.
        name: String,
    },
    /// A piece of the JSON text of a call's arguments; never empty.
    Arguments {
        /// The call's number.
        index: u32,
        /// The piece.
        json: String,
    },
}

/// See the file's head.
#[derive(Debug)]
pub struct CallReader {
    format: ToolFormat,
    state: State,
    /// What has come and is not understood yet.
    held: String,
    /// The text for the user, up to a stop text.
    shown: TextStream,
    calls: u32,
    complete: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before anything of an answer that is JSON as a whole.
    Start,
    /// In text in which a call may begin.
    Text,
    /// In text to the end.
    Rest,
    /// In the JSON string of a reply.
    Reply,
    /// Before a call.
    Open,
    /// In a function's name.
    Name,
    /// In arguments.
    Arguments(Json),
    /// After arguments.
    Close,
    /// After a call.
    Between,
    /// After everything.
    End,
}

/// Where in a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Json {
    depth: u32,
    string: bool,
    escaped: bool,
}

impl CallReader {
    /// A reader of one answer, whose text ends before the first of `stops`; none of them is empty.
    #[must_use]
    pub fn new(format: ToolFormat, stops: Vec<String>) -> CallReader {
        let state = if format == ToolFormat::Hermes { State::Text } else { State::Start };
        let shown = TextStream::new(stops);
        CallReader { format, state, held: String::new(), shown, calls: 0, complete: 0 }
    }

    /// The index of the stop text that was met: the answer ends with it.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.shown.stopped()
    }

    /// Calls whose arguments are whole.
    #[must_use]
    pub fn complete(&self) -> u32 {
        self.complete
    }

    /// Whether it stands inside a call, or its arguments were cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.calls > self.complete || matches!(self.state, State::Name)
    }

    /// Takes text and tells what it is.
    pub fn push(&mut self, text: &str, out: &mut Vec<CallEvent>) {
        self.held.push_str(text);
        while self.stopped().is_none() && self.step(out) {}
    }

    /// The answer has ended: what was held back is text, unless it is a part of a call or of a frame.
    pub fn end(&mut self, out: &mut Vec<CallEvent>) {
        let held = std::mem::take(&mut self.held);
        let framed = match self.format {
            // Where all of an answer stands in a frame, its beginning is one's.
            ToolFormat::Generic => self.state == State::Start,
            // A whole tag stands in no text.
            ToolFormat::Hermes => held.starts_with(HERMES_TAG),
            ToolFormat::Llama => false,
        };
        if matches!(self.state, State::Start | State::Text | State::Rest) && !framed {
            self.say(&held, out);
        }
        text(self.shown.rest(), out);
    }

    fn say(&mut self, said: &str, out: &mut Vec<CallEvent>) {
        text(self.shown.push(said.as_bytes()), out);
    }

    /// Understands one more piece; false when more must come first.
    fn step(&mut self, out: &mut Vec<CallEvent>) -> bool {
        let frame = self.format.frame();
        match self.state {
            State::Start => self.start(&frame),
            State::Text => self.text(&frame, out),
            State::Rest => {
                let said = std::mem::take(&mut self.held);
                self.say(&said, out);
                false
            }
            State::Reply => self.reply(out),
            State::Open => self.expect(&[(frame.open, State::Name)]),
            State::Name => self.name(&frame, out),
            State::Arguments(json) => self.arguments(json, out),
            State::Close => self.close(&frame),
            State::Between => self.between(&frame),
            State::End => {
                self.held.clear();
                false
            }
        }
    }

    /// Goes on by the text that comes. What is none of them is text to the end.
    fn expect(&mut self, wanted: &[(&'static str, State)]) -> bool {
        for (literal, next) in wanted {
            if self.held.starts_with(literal) {
                self.held.drain(..literal.len());
                self.state = *next;
                return true;
            }
        }
        if wanted.iter().any(|(literal, _)| literal.starts_with(&self.held)) {
            return false;
        }
        self.state = State::Rest;
        true
    }

    fn start(&mut self, frame: &Frame) -> bool {
        match self.format {
            ToolFormat::Llama => self.expect(&[(frame.open, State::Name)]),
            ToolFormat::Hermes | ToolFormat::Generic => {
                self.expect(&[(GENERIC_CALLS, State::Open), (GENERIC_REPLY, State::Reply)])
            }
        }
    }

    /// Text in which a call may begin: its longest end that may be one is held back.
    fn text(&mut self, frame: &Frame, out: &mut Vec<CallEvent>) -> bool {
        if let Some(at) = self.held.find(frame.open) {
            let rest = self.held.split_off(at + frame.open.len());
            self.held.truncate(at);
            let said = std::mem::replace(&mut self.held, rest);
            self.say(&said, out);
            self.state = State::Name;
            return true;
        }
        let begins = |at: &usize| {
            let tail = &self.held[*at..];
            frame.open.starts_with(tail) && !tail.is_empty()
        };
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places.into_iter().find(begins).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        let said = std::mem::replace(&mut self.held, held);
        self.say(&said, out);
        false
    }

    fn name(&mut self, frame: &Frame, out: &mut Vec<CallEvent>) -> bool {
        let Some(end) = self.held.find(frame.arguments) else { return false };
        let name: String = self.held.drain(..end).collect();
        self.held.drain(..frame.arguments.len());
        // No stop text goes on in a call.
        text(self.shown.rest(), out);
        out.push(CallEvent::Call { index: self.calls, name });
        self.calls += 1;
        self.state = State::Arguments(Json::default());
        true
    }

    /// Arguments up to the brace that closes them.
    fn arguments(&mut self, mut json: Json, out: &mut Vec<CallEvent>) -> bool {
        let end = self.held.bytes().position(|byte| json.closes(byte));
        let count = end.map_or(self.held.len(), |end| end + 1);
        let piece: String = self.held.drain(..count).collect();
        if !piece.is_empty() {
            out.push(CallEvent::Arguments { index: self.calls.saturating_sub(1), json: piece });
        }
        match end {
            Some(_) => {
                self.complete += 1;
                self.state = State::Close;
                true
            }
            None => {
                self.state = State::Arguments(json);
                false
            }
        }
    }

    fn close(&mut self, frame: &Frame) -> bool {
        let next = if self.format == ToolFormat::Llama { State::End } else { State::Between };
        self.expect(&[(frame.close, next)])
    }

    fn between(&mut self, frame: &Frame) -> bool {
        match self.format {
            ToolFormat::Hermes => self.expect(&[(frame.between, State::Open)]),
            ToolFormat::Llama | ToolFormat::Generic => {
                self.expect(&[(frame.between, State::Open), (GENERIC_CALLS_END, State::End)])
            }
        }
    }

    /// The inside of a JSON string, whole escapes at a time.
    fn reply(&mut self, out: &mut Vec<CallEvent>) -> bool {
        let (taken, ended) = whole_escapes(&self.held);
        let raw: String = self.held.drain(..taken).collect();
        // Half of a surrogate pair alone is no text.
        let decoded = serde_json::from_str::<String>(&format!("\"{raw}\""));
        self.say(&decoded.unwrap_or_else(|_| "\u{FFFD}".to_owned()), out);
        if ended {
            self.state = State::End;
        }
        ended
    }
}

impl Json {
    /// Moves on by a byte; whether it closes the value, an object.
    fn closes(&mut self, byte: u8) -> bool {
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// Bytes of a JSON string's inside up to its quote or its last whole escape, and whether the quote
/// has come. A surrogate pair is one escape.
fn whole_escapes(held: &str) -> (usize, bool) {
    let bytes = held.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let length = match (byte, bytes.get(at + 1)) {
            (b'"', _) => return (at, true),
            (b'\\', None) => return (at, false),
            (b'\\', Some(b'u')) => {
                let high = held.get(at + 2..at + 4).is_some_and(|hex| {
                    matches!(hex.as_bytes(), [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B'])
                });
                if high { 12 } else { 6 }
            }
            (b'\\', Some(_)) => 2,
            _ => 1,
        };
        if at + length > bytes.len() {
            return (at, false);
        }
        at += length;
    }
    (at, false)
}

fn text(text: String, out: &mut Vec<CallEvent>) {
    if !text.is_empty() {
        out.push(CallEvent::Text(text));
    }
}

#[cfg(test)]
mod tests {
    use super::{CallEvent, CallReader};
    use crate::tools::ToolFormat;

    /// The text and the calls of an answer that comes in pieces of `size` bytes.
    fn read(format: ToolFormat, answer: &str, size: usize) -> (String, Vec<(String, String)>) {
        let mut reader = CallReader::new(format, Vec::new());
        let mut out = Vec::new();
        let characters: Vec<char> = answer.chars().collect();
        for piece in characters.chunks(size) {
            reader.push(&piece.iter().collect::<String>(), &mut out);
        }
        reader.end(&mut out);
        let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for event in out {
            match event {
                CallEvent::Text(more) => text.push_str(&more),
                CallEvent::Call { index, name } => {
                    assert_eq!(index as usize, calls.len());
                    calls.push((name, String::new()));
                }
                CallEvent::Arguments { index, json } => calls[index as usize].1.push_str(&json),
            }
        }
        (text, calls)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn every_format_is_read_in_pieces_of_any_size() {
        let two = vec![call("f", "{\"a\": \"}\\\"{\"}"), call("g-2", "{\"b\":[{}]}")];
        for size in 1..40 {
            let hermes = "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"g-2\", \"arguments\": {\"b\":[{}]}}\n</tool_call>";
            let read_back = read(ToolFormat::Hermes, hermes, size);
            assert_eq!(read_back, ("Let me see.\n".to_owned(), two.clone()), "size {size}");
            let generic = "{\"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\"}}, {\"name\": \"g-2\", \"arguments\": {\"b\":[{}]}}]}";
            assert_eq!(read(ToolFormat::Generic, generic, size), (String::new(), two.clone()));
            let llama = "{\"name\": \"f\", \"parameters\": {\"a\": \"}\\\"{\"}}";
            assert_eq!(read(ToolFormat::Llama, llama, size), (String::new(), two[..1].to_vec()));
            let reply = "{\"response\": \"a \\\"b\\\"\\n\\u00e9\\ud83d\\ude00 é\"}";
            let said = "a \"b\"\né😀 é".to_owned();
            assert_eq!(read(ToolFormat::Generic, reply, size), (said, Vec::new()));
        }
    }

    #[test]
    fn what_is_no_call_is_text() {
        for (format, answer) in [
            (ToolFormat::Hermes, "a <tool_cal and <tool_call> {}"),
            (ToolFormat::Llama, "{\"nom\": 1}"),
            (ToolFormat::Llama, "hello {\"name\": \"f\""),
            (ToolFormat::Generic, "hello"),
            (ToolFormat::Llama, "{\"na"),
        ] {
            assert_eq!(read(format, answer, 3), (answer.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn a_call_that_is_cut_is_not_complete_and_no_text() {
        let mut reader = CallReader::new(ToolFormat::Generic, Vec::new());
        let mut out = Vec::new();
        reader.push("{\"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"a\": ", &mut out);
        reader.end(&mut out);
        assert_eq!(reader.complete(), 0);
        assert!(reader.is_cut());
        assert!(!out.iter().any(|event| matches!(event, CallEvent::Text(_))));
    }

    #[test]
    fn a_frame_that_is_cut_is_no_text() {
        for cut in ["{", "{\"tool", "{\"tool_calls\": [", "{\"respon"] {
            assert_eq!(read(ToolFormat::Generic, cut, 3), (String::new(), Vec::new()), "{cut}");
        }
        for cut in ["Hm.<tool_call>", "Hm.<tool_call>\n{\"na", "Hm.<tool_call>\n{\"name\": \"no"] {
            assert_eq!(read(ToolFormat::Hermes, cut, 3), ("Hm.".to_owned(), Vec::new()), "{cut}");
        }
    }

    /// What is told of an answer that comes in pieces of `size` characters, and the stop that was met.
    fn stopped(format: ToolFormat, stop: &str, answer: &str, size: usize) -> (String, bool) {
        let mut reader = CallReader::new(format, vec![stop.to_owned()]);
        let mut out = Vec::new();
        let characters: Vec<char> = answer.chars().collect();
        for piece in characters.chunks(size) {
            reader.push(&piece.iter().collect::<String>(), &mut out);
        }
        reader.end(&mut out);
        let told = out.into_iter().map(|event| match event {
            CallEvent::Text(text) => text,
            CallEvent::Call { name, .. } => format!("[{name}:"),
            CallEvent::Arguments { json, .. } => json,
        });
        (told.collect(), reader.stopped().is_some())
    }

    #[test]
    fn a_stop_is_looked_for_in_the_text_alone() {
        let reply = "{\"response\": \"one\\ntwo o\"}";
        let calls = "{\"tool_calls\": [{\"name\": \"go\", \"arguments\": {\"o\": \"o:\\n\"}}]}";
        let hermes =
            "So:\n<tool_call>\n{\"name\": \"go\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        for size in 1..30 {
            let met = |format, stop, answer| stopped(format, stop, answer, size);
            for (stop, told, was_met) in
                [("\n", "one", true), ("two", "one\n", true), ("resp", "one\ntwo o", false)]
            {
                let told = (told.to_owned(), was_met);
                assert_eq!(met(ToolFormat::Generic, stop, reply), told, "{stop} in {size}");
            }
            for stop in ["o", ":", "\"", "\n", "{", "go"] {
                let told = ("[go:{\"o\": \"o:\\n\"}".to_owned(), false);
                assert_eq!(met(ToolFormat::Generic, stop, calls), told, "{stop} in {size}");
            }
            for (stop, told, was_met) in [
                ("o", "S", true),
                ("\n<tool", "So:\n[go:{\"a\": 1}", false),
                (":\n\n", "So:\n[go:{\"a\": 1}", false),
            ] {
                let told = (told.to_owned(), was_met);
                assert_eq!(met(ToolFormat::Hermes, stop, hermes), told, "{stop} in {size}");
            }
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        let reply = "{\"response\": \"\\ud83dxxxxxx\"}";
        assert!(read(ToolFormat::Generic, reply, 1).0.contains('\u{FFFD}'));
    }
}
