//! A program that is who its certificate says: the way of every etcd client, and that of machines without Kubernetes.
//! manifests/samples/client-certificate.yaml is its pod.
//!
//! `cargo run --example certificate -- demo:2379 /var/run/secrets/kvorum.io`, where `ca.crt`, `tls.crt` and `tls.key`
//! are; `kvorum cert user app` makes them.

use std::path::PathBuf;

use kvorum_client::{Client, Error, Tls};

const KEY: &str = "app/greeting";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "demo:2379".to_owned());
    let directory = args.next().map_or_else(|| PathBuf::from("/var/run/secrets/kvorum.io"), PathBuf::from);

    // The files are read again when a connection is made: a certificate that is renewed needs no restart.
    let client = Client::builder([endpoint]).tls(Tls::directory(directory)?).connect().await?;

    let written = client.set(KEY, "hello").await?;
    let read = client.get(KEY).await?;
    let value = read.kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).unwrap_or_default();
    eprintln!("{KEY} is {value} as of revision {}", written.header.revision);
    Ok(())
}
