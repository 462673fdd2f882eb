//! Goal: a ServiceAccount's token proves its user if all of it is right, and otherwise the answer says what is not.
//! Method: tokens as an API server signs them, with one thing changed in each.
#![allow(clippy::unwrap_used)]

mod issuer;

use issuer::{AUDIENCE, ISSUER, KEYS, NOW, USER, claims, header, with};
use kvorum_auth::{
    IssuerError, JWKS_BYTES_MAX, JWT_BYTES_MAX, JwtError, KEYS_MAX, LIFE_SECONDS_MAX, ServiceAccount,
    TokenVerifier, is_jwt,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The four names of keys, each with an algorithm that is its own.
const KINDS: [(&str, &str); 6] = [
    ("RS256", "rsa"),
    ("RS256", "rsa-any"),
    ("RS384", "rsa-any"),
    ("RS512", "rsa-any"),
    ("ES256", "p256"),
    ("ES384", "p384"),
];

fn verify(token: &str) -> Result<ServiceAccount, JwtError> {
    KEYS.verifier().verify(token, NOW * 1000)
}

/// What becomes of a token with these claims.
fn claimed(changes: Value) -> Result<ServiceAccount, JwtError> {
    verify(&KEYS.sign(&header("ES256", "p256"), &with(changes)))
}

#[test]
fn a_service_account_is_who_its_token_says() {
    for (alg, kid) in KINDS {
        let token = KEYS.sign(&header(alg, kid), &claims());
        assert!(is_jwt(&token), "{token}");
        let expected = ServiceAccount { user: USER.into(), expires_ms: (NOW + 2400) * 1000 };
        assert_eq!(verify(&token), Ok(expected), "{alg} by {kid}");
    }
    assert!(claimed(json!({"aud": AUDIENCE})).is_ok(), "one audience need not be a list");
    assert!(claimed(json!({"aud": ["kvorum.io/shop/other", AUDIENCE]})).is_ok());
    assert!(claimed(json!({"nbf": null})).is_ok(), "RFC 7519 asks for no nbf");
}

#[test]
fn a_token_is_signed_as_its_key_signs() {
    for (alg, kid) in [
        ("HS256", "rsa"),
        ("HS256", "rsa-any"),
        ("HS256", "p256"),
        ("none", "rsa"),
        ("None", "rsa-any"),
        ("", "rsa"),
        ("PS256", "rsa-any"),
        ("EdDSA", "p256"),
        ("rs256", "rsa"),
        ("RS512", "rsa"),
        ("ES256", "rsa"),
        ("ES256", "rsa-any"),
        ("ES256", "p384"),
        ("ES384", "p256"),
        ("RS256", "p256"),
    ] {
        let token = KEYS.sign(&header(alg, kid), &claims());
        assert_eq!(verify(&token), Err(JwtError::Algorithm), "{alg} by {kid}");
    }
    // The header says what the key does, and the signature is of another kind.
    for (said, signed, kid) in
        [("RS256", "HS256", "rsa"), ("RS384", "RS256", "rsa-any"), ("RS256", "ES256", "rsa")]
    {
        let token = KEYS.sign(&header(said, kid), &claims());
        let message = token.rsplit_once('.').unwrap().0;
        let token = format!("{message}.{}", encode(&KEYS.signature(signed, message.as_bytes())));
        assert_eq!(verify(&token), Err(JwtError::Signature), "{said} signed by {signed}");
    }
    let token = issuer::Issuer::generate().sign(&header("RS256", "rsa"), &claims());
    assert_eq!(verify(&token), Err(JwtError::Signature), "another cluster's key of the same name");
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_header_brings_no_key_and_nothing_critical() {
    let with_header = |header: Value| verify(&KEYS.sign(&header, &claims()));
    let unknown = with_header(header("RS256", "next"));
    assert_eq!(unknown, Err(JwtError::UnknownKey { kid: "next".into() }));
    assert_eq!(with_header(json!({"alg": "RS256"})), Err(JwtError::Malformed));
    assert_eq!(with_header(json!({"alg": "RS256", "kid": 1})), Err(JwtError::Malformed));
    assert_eq!(with_header(header("RS256", &"k".repeat(257))), Err(JwtError::Malformed));
    let critical = json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": false});
    assert_eq!(with_header(critical), Err(JwtError::Malformed));

    // Somebody else's key in the header, in each of the ways that there are.
    let stranger = issuer::Issuer::generate();
    let own = stranger.public().remove(0);
    let header = json!({"alg": "RS256", "kid": "rsa", "jwk": own, "jku": "https://example.com/jwks", "x5u": "https://example.com"});
    assert_eq!(verify(&stranger.sign(&header, &claims())), Err(JwtError::Signature));
    assert!(verify(&KEYS.sign(&header, &claims())).is_ok(), "what is not asked for does not matter");
    let printed = with_header(json!({"alg": "RS256", "kid": "a\nb"})).unwrap_err().to_string();
    assert!(!printed.contains('\n'), "a name can forge a line of the log: {printed}");
}

#[test]
fn a_token_is_this_clusters() {
    let issuer = JwtError::Issuer { wanted: ISSUER.into() };
    for other in [json!("https://example.com"), json!(""), json!(format!("{ISSUER}/")), Value::Null] {
        assert_eq!(claimed(json!({"iss": other})), Err(issuer.clone()));
    }
    let audience = JwtError::Audience { wanted: AUDIENCE.into() };
    for other in [
        json!(["kvorum.io/shop/other"]),
        json!("kvorum.io/shop/dem"),
        json!("kvorum.io/shop/demo2"),
        json!("KVORUM.io/shop/demo"),
        json!([]),
        json!(""),
        json!("kvorum.io/shop/demo\0"),
        Value::Null,
    ] {
        assert_eq!(claimed(json!({"aud": other})), Err(audience.clone()), "{other}");
    }
    let server = JwtError::ApiServer { wanted: AUDIENCE.into() };
    for other in
        [json!(ISSUER), json!([AUDIENCE, ISSUER]), json!(["https://kubernetes.default.svc", AUDIENCE])]
    {
        assert_eq!(claimed(json!({"aud": other})), Err(server.clone()), "{other}");
    }
}

#[test]
fn an_api_server_is_called_by_its_issuers_name() {
    let issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/5B6C";
    let verifier = TokenVerifier::new(issuer, AUDIENCE, &KEYS.jwks()).unwrap();
    let verify = |audiences: Value| {
        let token = KEYS.sign(&header("RS256", "rsa"), &with(json!({"iss": issuer, "aud": audiences})));
        verifier.verify(&token, NOW * 1000)
    };
    assert!(verify(json!([AUDIENCE])).is_ok());
    let server = JwtError::ApiServer { wanted: AUDIENCE.into() };
    for audiences in [json!([AUDIENCE, issuer]), json!([issuer, AUDIENCE]), json!(issuer)] {
        assert_eq!(verify(audiences.clone()), Err(server.clone()), "{audiences}");
    }
}

#[test]
fn a_token_has_its_time() {
    let at = |iat: u64, nbf: u64, exp: u64| claimed(json!({"iat": iat, "nbf": nbf, "exp": exp}));
    let life = LIFE_SECONDS_MAX;
    assert!(at(NOW - 100, NOW - 100, NOW - 59).is_ok(), "clocks may differ by a minute");
    assert_eq!(at(NOW - 100, NOW - 100, NOW - 60), Err(JwtError::Expired { expires: NOW - 60 }));
    assert_eq!(at(0, 0, 0), Err(JwtError::Expired { expires: 0 }));
    assert!(at(NOW, NOW + 60, NOW + 600).is_ok());
    assert_eq!(at(NOW, NOW + 61, NOW + 600), Err(JwtError::TooEarly { begins: NOW + 61 }));
    assert_eq!(at(NOW + 61, NOW, NOW + 600), Err(JwtError::TooEarly { begins: NOW + 61 }));
    assert_eq!(at(u64::MAX, u64::MAX, u64::MAX), Err(JwtError::TooEarly { begins: u64::MAX }));
    assert!(at(NOW - 60, NOW - 60, NOW - 60 + life).is_ok());
    assert_eq!(at(NOW - 60, NOW - 60, NOW - 59 + life), Err(JwtError::Life));
    assert_eq!(at(0, 0, u64::MAX), Err(JwtError::Life));
    // The tokens of Secrets, which never end.
    assert_eq!(claimed(json!({"exp": null})), Err(JwtError::Life));
    assert_eq!(claimed(json!({"iat": null})), Err(JwtError::Life));
    for odd in [json!(-1), json!(1.5), json!("1795780800"), json!(1e300), json!([NOW])] {
        for claim in ["exp", "iat", "nbf"] {
            assert_eq!(claimed(json!({claim: odd})), Err(JwtError::Malformed), "{claim}: {odd}");
        }
    }
    let token = KEYS.sign(&header("RS256", "rsa"), &claims());
    let verifier = KEYS.verifier();
    assert_eq!(verifier.verify(&token, u64::MAX), Err(JwtError::Expired { expires: NOW + 2400 }));
    assert_eq!(verifier.verify(&token, 0), Err(JwtError::TooEarly { begins: NOW - 1200 }));
}

#[test]
fn a_token_is_a_service_accounts() {
    for other in
        [json!("root"), json!("system:admin"), json!("system:serviceaccount:shop:örders"), Value::Null]
    {
        assert_eq!(claimed(json!({"sub": other})), Err(JwtError::Subject), "{other}");
    }
    assert_eq!(claimed(json!({"sub": 7})), Err(JwtError::Malformed));
}

#[test]
fn no_bit_of_a_token_can_be_turned() {
    for (alg, kid) in [("RS256", "rsa"), ("ES256", "p256")] {
        let token = KEYS.sign(&header(alg, kid), &claims());
        let verifier = KEYS.verifier();
        for bit in 0..token.len() * 8 {
            let mut changed = token.clone().into_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = String::from_utf8(changed) else { continue };
            assert!(verifier.verify(&changed, NOW * 1000).is_err(), "bit {bit} was turned: {changed}");
        }
        for end in 0..token.len() {
            assert!(verifier.verify(&token[..end], NOW * 1000).is_err(), "it was cut off at {end}");
        }
        for odd in [format!("{token}="), format!("{token}A"), format!("{token}."), format!(" {token}")] {
            assert!(verifier.verify(&odd, NOW * 1000).is_err(), "{odd}");
        }
    }
}

#[test]
fn a_token_has_a_bound() {
    let padded = |len: usize| claimed(json!({"pad": "x".repeat(len)}));
    assert!(padded(JWT_BYTES_MAX / 2).is_ok());
    assert_eq!(padded(JWT_BYTES_MAX), Err(JwtError::TooLarge));
    for odd in ["", ".", "..", "...", "eyJ", "a.b", "eyJ.eyJ.", "e30.e30.", "bnVsbA.bnVsbA.", "W10.W10."] {
        assert_eq!(verify(odd), Err(JwtError::Malformed), "{odd}");
    }
    let deep = encode("[".repeat(10_000).as_bytes());
    assert_eq!(verify(&format!("{deep}.e30.")), Err(JwtError::Malformed));
}

#[test]
fn a_key_set_has_keys_that_can_be_used() {
    let set = |keys: Vec<Value>| TokenVerifier::new(ISSUER, AUDIENCE, &json!({"keys": keys}).to_string());
    let public = KEYS.public();
    let mut for_encryption = public[0].clone();
    for_encryption["use"] = json!("enc");
    let mut nameless = public[0].clone();
    nameless.as_object_mut().unwrap().remove("kid");
    let mut unnamed = public[0].clone();
    unnamed["kid"] = json!("");
    let mut short = public[0].clone();
    short["n"] = json!("u3_sIUTPkzkq4v28RbxT7Q");
    let mut other_kind = public[0].clone();
    other_kind["alg"] = json!("ES256");
    let mut secret = json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": "c2VjcmV0"});
    let odd = vec![
        for_encryption,
        nameless,
        unnamed,
        short,
        other_kind,
        secret.clone(),
        json!({"kty": "OKP", "kid": "ed", "alg": "EdDSA", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
        json!({"kty": "new", "kid": "new"}),
        json!(null),
        json!(7),
    ];
    assert_eq!(set(odd.clone()).map(drop), Err(IssuerError::NoKey));
    assert_eq!(set(vec![]).map(drop), Err(IssuerError::NoKey));
    let token = KEYS.sign(&header("RS256", "rsa"), &claims());
    let mixed = set(odd.into_iter().chain(public.clone()).collect()).unwrap();
    assert!(mixed.verify(&token, NOW * 1000).is_ok(), "keys of other kinds are in the way");
    secret["kid"] = json!("rsa");
    let stranger = issuer::Issuer::generate().public().remove(0);
    let twice = set(vec![secret, stranger, public[0].clone()]).unwrap();
    assert!(twice.verify(&token, NOW * 1000).is_ok(), "another key has the same name");

    assert!(set(vec![public[0].clone(); KEYS_MAX]).is_ok());
    assert_eq!(set(vec![public[0].clone(); KEYS_MAX + 1]).map(drop), Err(IssuerError::TooLarge));
    let long = format!("{}{}", KEYS.jwks(), " ".repeat(JWKS_BYTES_MAX));
    assert_eq!(TokenVerifier::new(ISSUER, AUDIENCE, &long).map(drop), Err(IssuerError::TooLarge));
    for odd in ["", "{}", "[]", "null", "{\"keys\": 1}", "<html>"] {
        let refused = TokenVerifier::new(ISSUER, AUDIENCE, odd).map(drop);
        assert!(matches!(refused, Err(IssuerError::Malformed(_) | IssuerError::NoKey)), "{odd}: {refused:?}");
    }
}

#[test]
fn an_audience_is_a_clusters() {
    let jwks = KEYS.jwks();
    for odd in [
        "",
        ISSUER,
        "kvorum.io",
        "kvorum.io/",
        "kvorum.io/shop",
        "kvorum.io/shop/",
        "kvorum.io//demo",
        "x/y/z",
    ] {
        let refused = TokenVerifier::new(ISSUER, odd, &jwks).map(drop);
        assert_eq!(refused, Err(IssuerError::Audience(odd.into())));
    }
    assert!(TokenVerifier::new(AUDIENCE, AUDIENCE, &jwks).is_err(), "the API server's own");
    assert_eq!(TokenVerifier::new("", AUDIENCE, &jwks).map(drop), Err(IssuerError::NoName));
}

proptest! {
    #[test]
    fn any_claims_prove_a_service_account_in_time_or_nobody(
        sub in prop_oneof![Just(USER.to_owned()), "system:serviceaccount:[a-z.:-]{0,12}:?[a-zä.-]{0,12}", "\\PC{0,40}"],
        aud in prop_oneof![Just(json!(AUDIENCE)), Just(json!([AUDIENCE, "x"])), "[a-z./]{0,24}".prop_map(Value::from)],
        (iat, nbf, exp) in (-90_000_i64..200, -200_i64..200, -200_i64..90_000),
    ) {
        let from_now = |seconds: i64| NOW.checked_add_signed(seconds).unwrap();
        let claims = with(json!({
            "sub": sub, "aud": aud, "iat": from_now(iat), "nbf": from_now(nbf), "exp": from_now(exp),
        }));
        let is_right = aud != json!("") && (aud == json!(AUDIENCE) || aud.is_array())
            && exp > -60 && iat <= 60 && nbf <= 60 && exp - iat <= 86_400;
        let verified = verify(&KEYS.sign(&header("ES256", "p256"), &claims));
        match verified {
            Ok(proved) => {
                prop_assert!(is_right, "{claims}");
                prop_assert_eq!(&proved.user, &sub);
                let parts: Vec<&str> = sub.split(':').collect();
                prop_assert!(parts.len() == 4 && parts.iter().all(|part| !part.is_empty()) && sub.is_ascii());
                prop_assert_eq!(proved.expires_ms, from_now(exp) * 1000);
            }
            Err(refused) => prop_assert!(!is_right || sub != USER, "{claims} {refused}"),
        }
    }

    #[test]
    fn any_text_proves_nobody(text in prop_oneof!["\\PC{0,300}", "eyJ[A-Za-z0-9_-]{0,60}\\.eyJ[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}"]) {
        let refused = verify(&text).unwrap_err().to_string();
        prop_assert!(!refused.contains('\n') && refused.len() < 1024, "{refused}");
    }
}
