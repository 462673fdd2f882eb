//! What takes longer, or wants five machines: `make e2e-full`, together with `e2e`.

mod again;
mod alerts;
mod before;
mod disks;
mod earlier;
mod five;
mod idle;
mod machines;
mod migration;
mod outside;
mod ready;
mod stock;
mod tls;
