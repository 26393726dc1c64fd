//! The promises of `assemble` and of the slice-stack geometry: headers made by hand in -> stacks, roles and closed studies out.

mod again;
mod announced;
mod any_order;
mod bench;
mod closing;
mod geometry;
mod provisional;
mod real_data;
mod roles;
mod support;
