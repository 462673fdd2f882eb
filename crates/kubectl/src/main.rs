//! `kubectl kvorum`.
#![forbid(unsafe_code)]
fn main() {}
