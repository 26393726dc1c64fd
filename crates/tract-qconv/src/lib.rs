//! Quantised convolution for tract: int8 tensors in -> int8 tensors out, bit for bit as ONNX `QLinearConv`.
//!
//! A convolution ([`QConv`]) takes one or several channels-last tensors (`[k, j, i, channels]`), the concatenation and nearest up-sampling of
//! which it reads without ever making them, and writes a channels-last tensor. Sums are exact in i32, so that their order does not matter; from
//! a sum to a byte there is one f32 product and one rounding, both exact IEEE operations. Every kernel on every processor gives the same bytes.
//!
//! | Module | In -> out |
//! | --- | --- |
//! | `spec` | sources, taps, steps, padding, scales -> a checked specification |
//! | `plan` | weights -> segments of taps and their weights in the order in which a kernel reads them |
//! | `image` | channels-last tensors -> padded rows in the kernel's number format |
//! | `conv` | specification, plan, tensors -> a tensor, on some threads |
//! | `residual` | two int8 tensors -> their sum |
//! | `kernel` | one row of padded input, segments, weights -> one row of output; one file for each kind of processor |
//! | `tract` | a tract graph -> the same graph with these operators |

#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unwrap_used)]

mod aligned;
mod conv;
mod image;
mod kernel;
mod plan;
mod residual;
mod spec;
#[cfg(feature = "tract")]
pub mod tract;

pub use conv::QConv;
pub use kernel::Kernel;
pub use residual::QAdd;
pub use spec::{ConvSpec, QConvError, Quantisation, Source};
