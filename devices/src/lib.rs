//! Where tensors live: element types, reduction operators and memory.
//!
//! This crate is the vocabulary of data that every other crate shares. It knows what an element is
//! and where bytes may live; it deliberately does not know ranks, transports or schedules.
//!
//! # Thread safety
//! Every type here is plain data, `Send + Sync`.

mod dtype;
mod element;
mod reduce_op;

pub use dtype::{DType, ParseDTypeError};
pub use element::Element;
pub use half::{bf16, f16};
pub use reduce_op::{ParseReduceOpError, ReduceOp};
