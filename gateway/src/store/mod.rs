//! The journal and sled: the only code that touches files.
