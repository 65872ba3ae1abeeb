//! What is tried from outside: the benchmark; the black-box tests lie in `tests/`.
pub mod bench;
