//! Rendered files.
