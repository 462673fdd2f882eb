//! An API server's keys, as it publishes them, and the tokens that it signs.
#![allow(clippy::unwrap_used, dead_code)]

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvorum_auth::TokenVerifier;
use serde_json::{Value, json};

/// Now, in seconds since 1970.
pub const NOW: u64 = 1_795_780_800;
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub const AUDIENCE: &str = "kvorum.io/shop/demo";
pub const USER: &str = "system:serviceaccount:shop:orders";

pub static KEYS: LazyLock<Issuer> = LazyLock::new(Issuer::generate);

/// Private keys, each under the name that it has in the key set.
pub struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
}

impl Issuer {
    pub fn generate() -> Issuer {
        Issuer {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        }
    }

    /// The public keys, those of RSA once with an algorithm, as Kubernetes has it, and once without.
    pub fn public(&self) -> Vec<Value> {
        let public = self.rsa.public_key();
        let encode = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
        let n = encode(public.modulus().big_endian_without_leading_zero());
        let e = encode(public.exponent().big_endian_without_leading_zero());
        let curve = |key: &EcdsaKeyPair, kid: &str, alg: &str, crv: &str| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"use": "sig", "kty": "EC", "kid": kid, "alg": alg, "crv": crv, "x": encode(x), "y": encode(y)})
        };
        vec![
            json!({"use": "sig", "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": n, "e": e}),
            json!({"kty": "RSA", "kid": "rsa-any", "n": n, "e": e}),
            curve(&self.p256, "p256", "ES256", "P-256"),
            curve(&self.p384, "p384", "ES384", "P-384"),
        ]
    }

    pub fn jwks(&self) -> String {
        json!({"keys": self.public()}).to_string()
    }

    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier::new(ISSUER, AUDIENCE, &self.jwks()).unwrap()
    }

    /// A token whose parts fit, signed as its header says, by the key of that kind.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(header["alg"].as_str().unwrap(), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            // What somebody can do who knows the public key.
            "HS256" => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.rsa.public_key().as_ref());
                hmac::sign(&key, message).as_ref().to_vec()
            }
            _ => vec![],
        }
    }
}

pub fn header(alg: &str, kid: &str) -> Value {
    json!({"alg": alg, "kid": kid})
}

/// What kubelet gets for a pod, with the audience of this cluster, 20 minutes ago and for an hour.
pub fn claims() -> Value {
    json!({
        "aud": [AUDIENCE],
        "exp": NOW + 2400,
        "iat": NOW - 1200,
        "iss": ISSUER,
        "jti": "8a9f1c9e-5f3b-4b61-9d3e-1f6f4c1b7a11",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "node-2", "uid": "5c1b6f0e-7b0d-4c55-8f1a-53b5a3a40c4e"},
            "pod": {"name": "orders-0", "uid": "0b9c3f9b-1de2-4f0c-b6a2-70a1fbb4f9aa"},
            "serviceaccount": {"name": "orders", "uid": "d1f3a7e2-6a39-4d5c-9b0c-0a7c8b4b8a55"},
        },
        "nbf": NOW - 1200,
        "sub": USER,
    })
}

/// The claims with some replaced, or taken out where they are null.
pub fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}
