//! A scan of any size in constant memory, and a page at a time: what a list in a web page needs.
//!
//! `cargo run --example scan -- PREFIX 127.0.0.1:2379`

use futures_util::TryStreamExt as _;
use kvorum_client::{Client, Error, KeyRange, KeyValue};

/// Keys of one page.
const PAGE_KEYS: u64 = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let prefix = arguments.next().unwrap_or_default();
    let endpoint = arguments.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let client = Client::connect([endpoint]).await?;

    // The whole, as it comes: a consumer that is slow slows the scan, and nothing gathers.
    let mut bytes = 0;
    let mut keys = client.scan(KeyRange::prefix(prefix.clone())).start();
    while let Some(kv) = keys.try_next().await? {
        bytes += kv.key.len() + kv.value.len();
    }
    eprintln!("{bytes} bytes of keys and values");

    // A page at a time, all of one revision, so that nothing is seen twice or left out between two pages.
    let revision = client.get("any key").await?.header.revision;
    let mut rest = Some(KeyRange::prefix(prefix));
    while let Some(range) = rest {
        let page = page(&client, range.clone(), revision).await?;
        for kv in &page {
            eprintln!("{}", kv.key.escape_ascii());
        }
        rest = page.last().and_then(|last| range.after(&last.key));
    }
    Ok(())
}

async fn page(client: &Client, range: KeyRange, revision: u64) -> Result<Vec<KeyValue>, Error> {
    client.scan(range).at_revision(revision).limit(PAGE_KEYS).keys_only().start().try_collect().await
}
