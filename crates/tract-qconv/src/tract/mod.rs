//! A typed tract graph of quantised convolutions, nearest up-samplings, concatenations and sums -> the same graph in this crate's operators.
//!
//! The rewrite has two steps, so that each layer can be looked at by itself:
//!
//! 1. [`replace_convolutions`] and [`replace_sums`], on the graph as `into_typed` gives it: each quantised `Conv` becomes a [`PlanarConv`], and each
//!    `QuantizeLinear` of an `Add` of two `DequantizeLinear` a [`Sum`], with the same inputs and outputs, channels first. Such a graph still
//!    runs, and every tensor in it is one of the ONNX file.
//! 2. [`fuse`], after `into_decluttered`: a new graph in which tensors are channels-last, from one conversion at the input to one at the output. A
//!    convolution takes in the up-samplings and concatenations in front of it, and a sum behind it that nothing else than the sum needs it for. An operator that is none of these is refused by name: nothing
//!    runs in floating point, or slowly, without a word.

mod fuse;
mod ops;
mod read;
mod sum;

use std::fmt::Debug;
use std::sync::Arc;

pub use fuse::fuse;
pub use ops::{ChannelsFirst, ChannelsLast, FusedConv, PlanarConv};
pub use read::{node_quantisation, replace_convolutions};
pub use sum::{Sum, replace_sums};

/// Told of each operator before and after it runs.
pub trait Watch: Debug + Send + Sync {
    /// Threads for the next operator.
    fn threads(&self) -> usize;

    /// Whether the operator may run; the run ends with an error if not.
    fn begin(&self, name: &str) -> bool;

    /// The operator has run.
    fn end(&self, name: &str);

    /// A part of a convolution is done: about once a millisecond, on any of its threads.
    fn step(&self) {}
}

/// One thread, no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn threads(&self) -> usize {
        1
    }

    fn begin(&self, _name: &str) -> bool {
        true
    }

    fn end(&self, _name: &str) {}
}

/// Why a graph cannot be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {problem}")]
pub struct RewriteError {
    /// The node's name in the graph.
    pub node: String,
    /// What it is or has that this crate does not do.
    pub problem: String,
}

impl RewriteError {
    fn new(node: &str, problem: impl std::fmt::Display) -> Self {
        Self { node: node.to_owned(), problem: problem.to_string() }
    }
}

/// How the rewritten graph runs.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// For the convolutions.
    pub kernel: crate::Kernel,
    /// Told of each operator.
    pub watch: Arc<dyn Watch>,
}
