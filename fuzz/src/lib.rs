//! The rooms that read what strangers sent, compiled for fuzzing: scanside's own source files in -> the targets out.
//!
//! The files are taken by path and not through the crate `scanside`, which would bring the inference engine, the database and the web server
//! along: twelve minutes of build under a sanitizer for code that no target calls. `crate::domain`, `crate::receive`, `crate::prepare` and
//! `crate::config` resolve here as they do there. A file that is missing here, because a fuzzed one began to import it, breaks the build.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)] // most of each room is not called from here

pub mod config;
#[path = "../../src/domain/mod.rs"]
pub mod domain;
pub mod prepare;
pub mod receive;
