//! A program in a pod that is who its ServiceAccount is, by the token that Kubernetes mounts and renews: nothing is
//! copied, and there is no password. manifests/samples/client.yaml is its pod.
//!
//! `cargo run --example service_account -- demo:2379 /var/run/secrets/kvorum.io`, where `ca.crt` and `token` are.

use std::path::PathBuf;

use kvorum_client::{Client, Error, Tls};

const KEY: &str = "app/greeting";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().unwrap_or_else(|| "demo:2379".to_owned());
    let directory = args.next().map_or_else(|| PathBuf::from("/var/run/secrets/kvorum.io"), PathBuf::from);

    // Where the files are in that very directory, `Client::connect([endpoint])` does the same.
    let tls = Tls::files(directory.join("ca.crt"), None::<(PathBuf, PathBuf)>)?;
    let client = Client::builder([endpoint]).tls(tls).token_file(directory.join("token")).connect().await?;

    let written = client.set(KEY, "hello").await?;
    let read = client.get(KEY).await?;
    let value = read.kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).unwrap_or_default();
    eprintln!("{KEY} is {value} as of revision {}", written.header.revision);
    Ok(())
}
