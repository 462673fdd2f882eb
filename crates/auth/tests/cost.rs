//! What proofs cost the node. `cargo test --release -p kvorum-auth --test cost -- --ignored --nocapture`: the promise
//! is 100 ms for a first login, and that 1,000 known ones a second are hardly felt.
#![allow(clippy::unwrap_used)]

mod issuer;

use std::hint::black_box;
use std::time::{Duration, Instant};

use issuer::{KEYS, NOW, claims, header};
use kvorum_auth::{Password, Passwords, Session, SessionKey};

#[tokio::test]
#[ignore = "it measures; see above"]
async fn a_known_proof_costs_microseconds() {
    let passwords = Passwords::new(|work| work());
    let password = || Password::new("correct horse battery staple".into()).unwrap();
    let stored = passwords.hash(password()).await.unwrap();
    let first = Instant::now();
    passwords.verify("ann", Some(&stored), password()).await.unwrap();
    let first = first.elapsed();
    let begun = Instant::now();
    for _ in 0..10_000 {
        passwords.verify("ann", Some(&stored), password()).await.unwrap();
    }
    let known = begun.elapsed() / 10_000;

    let key = SessionKey::generate();
    let session = Session { user: "ann".into(), password_generation: 1, expires_ms: NOW * 1000 + 1 };
    let issue = each(10_000, || key.issue(&session).unwrap());
    let token = key.issue(&session).unwrap();
    let open = each(10_000, || key.open(&token, NOW * 1000).unwrap());

    let verifier = KEYS.verifier();
    let jwt = |alg, kid| {
        let token = KEYS.sign(&header(alg, kid), &claims());
        (token.len(), each(2_000, || verifier.verify(&token, NOW * 1000).unwrap()))
    };
    let [rs256, es256, es384] =
        [("RS256", "rsa"), ("ES256", "p256"), ("ES384", "p384")].map(|(a, k)| jwt(a, k));
    eprintln!("a first login {first:?}, a known one {known:?}");
    eprintln!("a session token: issued in {issue:?}, opened in {open:?}");
    eprintln!("a ServiceAccount's token, bytes and time: RS256 {rs256:?}, ES256 {es256:?}, ES384 {es384:?}");
    assert!(first <= Duration::from_millis(100), "a first login is too dear");
    assert!(known <= Duration::from_micros(50), "a known login is too dear");
}

fn each<T>(times: u32, mut work: impl FnMut() -> T) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        black_box(work());
    }
    begun.elapsed() / times
}
