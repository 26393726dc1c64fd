//! The board room of scanside alone: what the lamp keeper needs, and nothing else.
//!
//! The room's files are those of `src/board`, taken by path: linked through the whole library, the keeper would carry the inference engine with it
//! (18 MB instead of 2), whose start-up code runs in every process that links it. `tests/architecture.rs` keeps the room free of other rooms,
//! but for the lamp's name in `domain`, which is that of `crates/lamp`.

#[path = "../../../src/board/mod.rs"]
pub mod board;

/// The one word of the room `domain` that the board room uses.
pub mod domain {
    pub use scanside_lamp::Lamp;
}
