//! Who signs the tokens of ServiceAccounts, as the API server says it: its name and its public keys.

use std::fmt;
use std::time::{Duration, Instant};

use axum::http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::refusal;

/// Where the API server says who the issuer is.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where it has the issuer's keys.
const JWKS: &str = "/openid/v1/jwks";
/// What was read is good for so long: a new signing key is in use some time after it is published.
const READ_EVERY: Duration = Duration::from_secs(60);
/// After a failure, and where a token came with a key that nobody knows, it is read again sooner.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How long the API server may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The members take no larger one.
const JWKS_BYTES_MAX: usize = 64 * 1024;

/// Whose tokens the members of a cluster believe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issuer {
    /// What tokens have as `iss`.
    pub issuer: String,
    /// What they have as `aud`.
    pub audience: String,
    /// Its public keys.
    pub jwks: String,
}

impl Issuer {
    /// The audience of tokens for a cluster.
    pub fn audience(namespace: &str, name: &str) -> String {
        format!("kvorum.io/{namespace}/{name}")
    }
}

/// The issuer of this Kubernetes, read once for all clusters.
pub struct Issuers {
    client: Client,
    known: Mutex<Known>,
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its name and its keys, as they were last read.
    pub keys: Option<Keys>,
    /// Why they could not be read just now: a sentence.
    pub failed: Option<String>,
    read: Option<Instant>,
}

/// The issuer's name and its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Its name.
    pub issuer: String,
    /// Its public keys, as a JWKS in one certain form.
    pub jwks: String,
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuers").finish_non_exhaustive()
    }
}

impl Issuers {
    /// Nothing is known yet.
    pub fn new(client: Client) -> Issuers {
        Issuers { client, known: Mutex::default() }
    }

    /// What is known, read anew where that is due; sooner where somebody has seen a key that is `news`. Whoever asks
    /// meanwhile waits for the same answer.
    pub async fn known(&self, news: bool) -> Known {
        let mut known = self.known.lock().await;
        let every = if known.failed.is_some() || news { READ_AGAIN } else { READ_EVERY };
        if known.read.is_some_and(|read| read.elapsed() < every) {
            return known.clone();
        }
        known.failed = match self.read().await {
            Ok(keys) => {
                known.keys = Some(keys);
                None
            }
            Err(why) => Some(format!(
                "The keys that sign ServiceAccounts' tokens cannot be read from the API server ({DISCOVERY} and {JWKS}): \
                 {why}. {}",
                match known.keys {
                    Some(_) => "Those that were read before are used.",
                    None => "Without them no right is given or taken.",
                }
            )),
        };
        known.read = Some(Instant::now());
        known.clone()
    }

    async fn read(&self) -> Result<Keys, String> {
        let (discovery, jwks) = (self.get(DISCOVERY).await?, self.get(JWKS).await?);
        keys(&discovery, &jwks)
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let request = Request::get(path).body(Vec::new()).expect("the path is one");
        let answer = timeout(ANSWER_MAX, self.client.request_text(request)).await;
        let answer = answer.map_err(|_| format!("it did not answer within {} s", ANSWER_MAX.as_secs()))?;
        answer.map_err(|error| refusal::said(&error))
    }
}

/// What the two answers say, or what is wrong with them as part of a sentence.
fn keys(discovery: &str, jwks: &str) -> Result<Keys, String> {
    let parsed = |what: &str, text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| format!("{what} is no JSON: {error}"))
    };
    let issuer = parsed("the first", discovery)?["issuer"].as_str().unwrap_or_default().to_owned();
    if issuer.is_empty() {
        return Err("the first names no issuer".into());
    }
    let mut keys = parsed("the second", jwks)?["keys"].as_array().cloned().unwrap_or_default();
    if keys.is_empty() {
        return Err("the second has no keys".into());
    }
    // Several API servers may say the same in another order.
    keys.sort_by_key(Value::to_string);
    let jwks = json!({"keys": keys}).to_string();
    if jwks.len() > JWKS_BYTES_MAX {
        return Err(format!("the second has {} bytes, and members take {JWKS_BYTES_MAX}", jwks.len()));
    }
    Ok(Keys { issuer, jwks })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what the API servers of one Kubernetes answer is one thing, and what is no issuer is none. Method: a table.
    #[test]
    fn answers_are_read_in_one_form() {
        let discovery = r#"{"issuer": "https://k8s", "jwks_uri": "https://elsewhere"}"#;
        let (a, b) = (r#"{"kid":"a","kty":"RSA"}"#, r#"{"kty":"RSA","kid":"b"}"#);
        let read = keys(discovery, &format!(r#"{{"keys":[{a},{b}]}}"#)).unwrap();
        assert_eq!(read, keys(discovery, &format!(r#"{{ "keys": [{b}, {a}]}}"#)).unwrap());
        assert_eq!(read.issuer, "https://k8s");
        for (discovery, jwks, said) in [
            ("404 page not found", r#"{"keys":[{}]}"#, "no JSON"),
            ("{}", r#"{"keys":[{}]}"#, "no issuer"),
            (discovery, "{}", "no keys"),
            (discovery, r#"{"keys":[]}"#, "no keys"),
            (discovery, &format!(r#"{{"keys":["{}"]}}"#, "a".repeat(JWKS_BYTES_MAX)), "members take"),
        ] {
            let why = keys(discovery, jwks).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
