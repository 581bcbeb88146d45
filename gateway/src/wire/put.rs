//! Writing JSON objects member by member, where most values are taken over as they stand.

use super::chat::put_string;
use bytes::BufMut as _;

/// An object that is being written; [`Self::end`] closes it.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    /// Opens an object at the end of `out`.
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// A member whose value is written into what is returned.
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        put_string(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// A member whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, json: &str) {
        self.member(name).put_slice(json.as_bytes());
    }

    /// A member whose value is JSON already, where there is one.
    pub(super) fn maybe(&mut self, name: &str, json: Option<&str>) {
        if let Some(json) = json {
            self.raw(name, json);
        }
    }

    /// A member whose value is this text.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        put_string(self.member(name), text);
    }

    /// Closes it.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// A list that is being written; [`Self::end`] closes it.
pub(super) struct List<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> List<'o> {
    /// Opens a list at the end of `out`.
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'[');
        Self { out, empty: true }
    }

    /// The next element, written into what is returned.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out
    }

    /// Whether it has no element yet.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Closes it.
    pub(super) fn end(self) {
        self.out.push(b']');
    }
}
