//! The cloud route against scripted servers.
