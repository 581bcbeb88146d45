//! Promises of the admin plane.
