//! scanside: an edge appliance that triages brain MR for enhancing lesions.
//!
//! One unit of data goes through these stages, and changes its type at each (DESIGN.md section 2):
//!
//! | Stage | In -> out | Where |
//! | --- | --- | --- |
//! | receive | association -> `Instance` | `receive/` |
//! | spool | `Instance` -> `StoredInstance` | `spool/` |
//! | assemble | `StoredInstance`s -> `Study` | `assemble/` |
//! | prepare | `Study` -> `PreparedStudy` | `prepare/` |
//! | infer | `PreparedStudy` -> `Findings` | `infer/` |
//! | triage | `Findings` -> `Verdict` | `triage/` |
//! | signal | `Verdict` + device state -> `SignalAction`s | `signal/` |
//! | deliver | `SignalAction`s -> the outside world | `deliver/` |
//!
//! `service.rs` owns the clocks and the bounded channels and is the only file that knows every room.

pub mod assemble;
pub mod board;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod domain;
pub mod health;
pub mod infer;
pub mod journal;
pub mod prepare;
pub mod receive;
pub mod secure;
pub mod service;
pub mod signal;
pub mod spool;
pub mod synth;
pub mod triage;
pub mod web;
