//! What takes longer, or wants five machines: `make e2e-full`, together with `e2e`.

mod again;
mod alerts;
mod before;
mod disks;
mod five;
mod idle;
mod machines;
mod stock;
mod tls;
