//! What a stranger, a broken peer or a file can say, said to every parser of it.
//!
//! Each module has one target: `run` takes any bytes and panics if its promise is broken, `seeds` are
//! examples to start from. The tests of this crate drive them for a moment on any compiler, the same
//! way every time ([`drive()`]); `fuzz/libfuzzer` lets libFuzzer drive them for as long as one likes.
//!
//! This crate knows everything that reads bytes from outside, and nothing else.

#![forbid(unsafe_code)]

pub mod agent;
pub mod announcement;
pub mod arena;
pub mod cards;
pub mod data;
mod drive;
pub mod files;
pub mod frame;
pub mod hello;
pub mod message;
mod reader;
pub mod texts;
pub mod variables;

pub use drive::drive;
pub use reader::Reader;

/// One parser and how to call it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its module.
    pub name: &'static str,
    /// Takes any bytes; panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Examples to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident),*) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(
            Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }
        ),*];
    };
}

targets!(agent, announcement, arena, cards, data, files, frame, hello, message, texts, variables);
