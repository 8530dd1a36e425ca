//! Where tensors live: element types, reduction operators and memory.
//!
//! This crate is the vocabulary of data that every other crate shares. It knows what an element is
//! and where bytes may live; it deliberately does not know ranks, transports or schedules.
//!
//! # Thread safety
//! Every type here is plain data; all but [`Buffer`] and [`Memory`], which hold addresses, are
//! `Send + Sync`.

mod boolean;
mod buffer;
mod dtype;
mod element;
mod reduce_op;

pub use boolean::Bool;
pub use buffer::{Buffer, Memory};
pub use dtype::{DType, ParseDTypeError};
pub use element::Element;
pub use half::{bf16, f16};
pub use reduce_op::{ParseReduceOpError, ReduceOp};
