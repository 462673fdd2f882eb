//! What takes longer, or wants five machines: `make e2e-full`, together with `e2e`.

mod alerts;
mod disks;
mod five;
mod idle;
mod machines;
