//! The promises of `assemble` and of the slice-stack geometry: headers made by hand in -> stacks, roles and closed studies out.

mod closing;
mod geometry;
mod real_data;
mod roles;
mod support;
