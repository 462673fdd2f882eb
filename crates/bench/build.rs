//! Compiles the part of etcd's API that the load generator speaks, as a client only.

use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto/etcd");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(["etcdserverpb/rpc.proto"], [&root])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
