//! Goal: whatever is sent or stored as a proof, nothing panics, nothing grows, and nobody is proved who was not.
//!
//! Method: kept inputs (`tests/corpus`), changed in places; tokens also inside of their signatures, which are made
//! anew, so that what comes after them is reached. `FUZZ_SECONDS` makes it longer, `FUZZ_SEED` repeats one. What it
//! finds becomes a file of the corpus.
#![allow(clippy::unwrap_used)]

mod issuer;
mod mutate;

use std::fs;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use issuer::{AUDIENCE, ISSUER, Issuer, KEYS, NOW, USER, claims, header, with};
use kvorum_auth::{
    IssuerError, LEEWAY_SECONDS, LIFE_SECONDS_MAX, Password, PasswordHash, Passwords, Session, SessionKey,
    TokenVerifier, USER_BYTES_MAX,
};
use mutate::{corpus, directory, fuzz, mutated};
use rand::RngExt as _;
use serde_json::json;

/// No error says more.
const ERROR_BYTES_MAX: usize = 4096;
/// Hashes that are cheap enough to be compared a thousand times.
const CHEAP_KIB: u32 = 64;
const SESSION_KEY: [u8; 32] = [7; 32];

const JSON: &[&str] = &[
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\"alg\":",
    "\"none\"",
    "\"HS256\"",
    "\"RS256\"",
    "\"ES384\"",
    "\"kid\":",
    "\"rsa-any\"",
    "\"crit\":",
    "\"aud\":",
    "\"exp\":",
    "\"iat\":",
    "\"nbf\":",
    "\"sub\":",
    "\"iss\":",
    "system:serviceaccount:",
    "kvorum.io/",
    "\"keys\":",
    "\"kty\":",
    "\"oct\"",
    "\"EC\"",
    "\"crv\":",
    "\"n\":",
    "\"e\":",
    "AQAB",
    "AA",
    "ä",
    "\u{202e}",
];
const BASE64: &[&str] =
    &[".", "..", "=", "eyJ", "e30", "AQ", "AAAA", "____", "-", "+", "/", " ", "\n", "\0", "ä"];
const PHC: &[&str] = &[
    "$",
    "$$",
    "argon2id",
    "argon2d",
    "v=19",
    "v=16",
    "m=8",
    "m=65536",
    "m=4294967295",
    "t=1",
    "t=8",
    "t=0",
    "p=1",
    "p=4",
    "p=255",
    ",",
    "=",
    "keyid=",
    "data=",
    "AAAAAAAAAAAAAAAA",
    "/",
    "+",
    "-",
    "\0",
    "ä",
];

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is refused must make one line of a log, and a short one.
fn check_error(error: &impl std::fmt::Display) {
    let said = error.to_string();
    assert!(said.len() <= ERROR_BYTES_MAX && !said.contains('\n'), "{said:?}");
}

#[test]
fn no_text_is_somebody_elses_token() {
    let kept = corpus("jwt");
    let jwks = fs::read_to_string(directory("jwks").join("kubernetes.json")).unwrap();
    let verifier = TokenVerifier::new(ISSUER, AUDIENCE, &jwks).unwrap();
    let right =
        kept.iter().filter(|token| verifier.verify(&text(token.to_vec()), NOW * 1000).is_ok()).count();
    assert_eq!(right, 3, "the kept tokens are not what they were");
    fuzz("jwt", |rng| {
        let token = text(mutated(rng, &kept, BASE64));
        match verifier.verify(&token, NOW * 1000) {
            Ok(_) => assert!(kept.contains(&token.clone().into_bytes()), "{token:?}"),
            Err(refused) => check_error(&refused),
        }
    });
}

#[test]
fn no_signed_json_is_more_than_a_service_account() {
    let (verifier, kept_headers, kept_claims) = (KEYS.verifier(), corpus("header"), corpus("claims"));
    fuzz("signed", |rng| {
        // Half of them get past the signature for sure.
        let is_known = rng.random();
        let head = if is_known { kept_headers[0].clone() } else { mutated(rng, &kept_headers, JSON) };
        let body = mutated(rng, &kept_claims, JSON);
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(body));
        let token =
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(KEYS.signature("ES256", message.as_bytes())));
        match verifier.verify(&token, NOW * 1000) {
            Ok(proved) => {
                let names: Vec<&str> = proved.user.split(':').collect();
                assert!(names.len() == 4 && names[..2] == ["system", "serviceaccount"], "{proved:?}");
                let is_plain =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":.-".contains(&byte);
                assert!(
                    proved.user.bytes().all(is_plain) && proved.user.len() <= USER_BYTES_MAX,
                    "{proved:?}"
                );
                let ends = NOW - LEEWAY_SECONDS..=NOW + LEEWAY_SECONDS + LIFE_SECONDS_MAX;
                assert!(ends.contains(&(proved.expires_ms / 1000)), "{proved:?}");
            }
            Err(refused) => check_error(&refused),
        }
    });
}

#[test]
fn no_key_set_believes_a_stranger() {
    let kept = corpus("jwks");
    let genuine = text(corpus("jwt").remove(0));
    let forged: Vec<String> = [("RS256", "rsa"), ("ES256", "p256"), ("HS256", "rsa"), ("none", "rsa")]
        .map(|(alg, kid)| KEYS.sign(&header(alg, kid), &claims()))
        .to_vec();
    fuzz("jwks", |rng| {
        let jwks = text(mutated(rng, &kept, JSON));
        let verifier = match TokenVerifier::new(ISSUER, AUDIENCE, &jwks) {
            Ok(verifier) => verifier,
            // The parser of JSON names what it found, at one place.
            Err(IssuerError::Malformed(found)) => return assert!(found.len() < ERROR_BYTES_MAX, "{found}"),
            Err(refused) => return check_error(&refused),
        };
        let _ = verifier.verify(&genuine, NOW * 1000);
        for token in &forged {
            assert!(verifier.verify(token, NOW * 1000).is_err(), "{jwks}");
        }
    });
}

#[test]
fn no_text_is_somebody_elses_session() {
    let (key, kept) = (SessionKey::from_bytes(&SESSION_KEY).unwrap(), corpus("session"));
    let signer = hmac::Key::new(hmac::HMAC_SHA256, &SESSION_KEY);
    let opened = kept.iter().filter(|token| key.open(&text(token.to_vec()), NOW * 1000).is_ok()).count();
    assert_eq!(opened, 3, "the kept tokens are not what they were");
    let said: Vec<Vec<u8>> = kept.iter().filter_map(|token| URL_SAFE_NO_PAD.decode(token).ok()).collect();
    fuzz("session", |rng| {
        let token = text(mutated(rng, &kept, BASE64));
        match key.open(&token, NOW * 1000) {
            Ok(_) => assert!(kept.contains(&token.clone().into_bytes()), "{token:?}"),
            Err(refused) => check_error(&refused),
        }
        // What members themselves would have signed: it is what they say of it, or nothing.
        let mut bytes = mutated(rng, &said, &["\u{1}", "\u{2}", "\0", "root", "ä"]);
        bytes.truncate(bytes.len().saturating_sub(32));
        bytes.extend(hmac::sign(&signer, &bytes).as_ref());
        let token = URL_SAFE_NO_PAD.encode(bytes);
        if let Ok(session) = key.open(&token, NOW * 1000) {
            assert_eq!(key.issue(&session).as_ref(), Ok(&token), "{session:?}");
        }
    });
}

#[test]
fn no_stored_hash_costs_more_than_it_may() {
    let kept = corpus("password");
    let passwords = Passwords::new(|work| work());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzz("password", |rng| {
        let stored = text(mutated(rng, &kept, PHC));
        let hash = match PasswordHash::parse(&stored) {
            Ok(hash) => hash,
            Err(refused) => return check_error(&refused),
        };
        assert_eq!(hash.as_str(), stored);
        let number = |name: &str| -> u32 {
            let found: Vec<&str> =
                stored.split(['$', ',']).filter_map(|part| part.strip_prefix(name)).collect();
            assert_eq!(found.len(), 1, "{stored}");
            found[0].parse().unwrap()
        };
        assert!(number("m=") <= 65_536 && number("t=") <= 8 && number("p=") <= 4, "{stored}");
        let password: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
        let Ok(password) = Password::new(text(password)) else { return };
        if number("m=") <= CHEAP_KIB {
            let verified = runtime.block_on(passwords.verify("ann", Some(&hash), password));
            assert!(verified.is_err(), "{stored}");
        }
    });
}

#[test]
#[ignore = "it makes the corpus anew, with keys that nobody keeps: --test fuzz -- --ignored"]
fn make_the_corpus() {
    let issuer = Issuer::generate();
    let write = |target: &str, name: &str, content: &str| {
        fs::create_dir_all(directory(target)).unwrap();
        fs::write(directory(target).join(name), content).unwrap();
    };
    let mut signed = 0;
    let mut jwt = |name: &str, header: &serde_json::Value, claims: &serde_json::Value| {
        signed += 1;
        write("jwt", &format!("{signed}-{name}"), &issuer.sign(header, claims));
    };
    jwt("rs256", &header("RS256", "rsa"), &claims());
    jwt("es256", &header("ES256", "p256"), &claims());
    jwt("es384", &header("ES384", "p384"), &claims());
    jwt("secret-of-a-public-key", &header("HS256", "rsa"), &claims());
    jwt("unsigned", &header("none", "rsa"), &claims());
    jwt("unknown-key", &header("RS256", "next"), &claims());
    jwt("expired", &header("ES256", "p256"), &with(json!({"exp": NOW - 61})));
    jwt("of-the-api-server", &header("ES256", "p256"), &with(json!({"aud": [AUDIENCE, ISSUER]})));

    let public = issuer.public();
    write("jwks", "kubernetes.json", &issuer.jwks());
    write("jwks", "rsa.json", &json!({"keys": [public[0]]}).to_string());
    write("jwks", "p384.json", &json!({"keys": [public[3]]}).to_string());
    let other = json!({"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let secret = json!({"kty": "oct", "kid": "rsa", "alg": "HS256", "k": "c2VjcmV0"});
    write("jwks", "other-kinds.json", &json!({"keys": [other, secret, public[2], null]}).to_string());

    write("header", "1-es256.json", &header("ES256", "p256").to_string());
    write(
        "header",
        "2-more.json",
        &json!({"alg": "RS512", "kid": "rsa-any", "typ": "JWT", "jwk": public[2]}).to_string(),
    );
    write("header", "3-critical.json", &json!({"alg": "ES256", "kid": "p256", "crit": ["b64"]}).to_string());
    write("claims", "1-pod.json", &claims().to_string());
    write(
        "claims",
        "2-one-audience.json",
        &with(json!({"aud": AUDIENCE, "kubernetes.io": null})).to_string(),
    );
    write("claims", "3-for-ever.json", &with(json!({"exp": null, "nbf": null})).to_string());
    write(
        "claims",
        "4-short.json",
        &json!({"aud": AUDIENCE, "iss": ISSUER, "sub": USER, "exp": NOW + 9, "iat": NOW}).to_string(),
    );

    let key = SessionKey::from_bytes(&SESSION_KEY).unwrap();
    let session = |name: &str, user: &str, password_generation: u64, expires: u64| {
        let session = Session { user: user.into(), password_generation, expires_ms: expires * 1000 };
        write("session", name, &key.issue(&session).unwrap());
    };
    session("1-short", "a", 0, NOW + 1);
    session("2-unicode", "änn 中 \u{1f511}", 7, NOW + 86_400);
    session("3-long", &"u".repeat(USER_BYTES_MAX), u64::MAX, u64::MAX / 1000);
    session("4-expired", "root", 1, NOW);

    let rest = "c2FsdHNhbHQ$DE0Mz7BBz5c9T4DvUHcRPDDf4sDcBKNnyPbbuTfjBMg";
    write("password", "1-ours", &format!("$argon2id$v=19$m=19456,t=2,p=1${rest}"));
    write("password", "2-cheap", &format!("$argon2id$v=19$m=8,t=1,p=1${rest}"));
    write("password", "3-more-lanes", &format!("$argon2id$v=19$m=64,t=1,p=4${rest}"));
    write(
        "password",
        "4-more-parameters",
        &format!("$argon2id$v=19$m=8,t=1,p=1,keyid=a2V5,data=ZGF0YQ${rest}"),
    );
    write("password", "6-one-twice", &format!("$argon2id$v=19$p=255,p=4${rest}"));
    write("password", "5-bcrypt", "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy");
}
