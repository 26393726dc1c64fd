//! The `scanside` command.

fn main() {}
