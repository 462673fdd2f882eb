//! Goal: a session token opens exactly what was issued, until it ends and under its key alone, and nothing else opens
//! anything. Method: every bit of a token is turned, and random sessions, keys and texts are tried.
#![allow(clippy::unwrap_used)]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvorum_auth::{Session, SessionError, SessionKey, USER_BYTES_MAX, fingerprint, is_jwt};
use proptest::prelude::*;

const NOW: u64 = 1_795_780_800_000;
const HOUR: u64 = 3_600_000;

fn key(byte: u8) -> SessionKey {
    SessionKey::from_bytes(&[byte; 32]).unwrap()
}

fn session() -> Session {
    Session { user: "änn 中".into(), password_generation: 7, expires_ms: NOW + HOUR }
}

#[test]
fn a_token_is_what_it_always_was() {
    // Members of several releases open each other's tokens.
    let signed = |version: u8| {
        let head = [&[version][..], &7_u64.to_be_bytes(), &(NOW + HOUR).to_be_bytes()].concat();
        let said = [&head, "änn 中".as_bytes()].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), &said);
        URL_SAFE_NO_PAD.encode([&said, tag.as_ref()].concat())
    };
    let token = signed(1);
    assert_eq!(key(1).issue(&session()).unwrap(), token);
    assert_eq!(key(1).open(&token, NOW).unwrap(), session());
    assert!(!is_jwt(&token));
    assert_eq!(key(1).open(&signed(2), NOW), Err(SessionError::Malformed), "nobody knows what that is");
}

#[test]
fn no_bit_of_a_token_can_be_turned() {
    let token = key(1).issue(&session()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(key(1).open(&URL_SAFE_NO_PAD.encode(changed), NOW).is_err(), "bit {bit} was turned");
    }
    for bit in 0..token.len() * 8 {
        let mut changed = token.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = String::from_utf8(changed) else { continue };
        assert!(key(1).open(&changed, NOW).is_err(), "bit {bit} of the text was turned");
    }
    for end in 0..token.len() {
        assert!(key(1).open(&token[..end], NOW).is_err(), "it was cut off at {end}");
    }
    for longer in [format!("{token}A"), format!("{token}="), format!(" {token}"), format!("{token}\n")] {
        assert!(key(1).open(&longer, NOW).is_err(), "{longer:?}");
    }
}

#[test]
fn a_token_ends_when_it_says_and_under_another_key() {
    let token = key(1).issue(&session()).unwrap();
    assert!(key(1).open(&token, NOW + HOUR - 1).is_ok());
    assert_eq!(key(1).open(&token, NOW + HOUR), Err(SessionError::Expired));
    assert_eq!(key(1).open(&token, u64::MAX), Err(SessionError::Expired));
    assert_eq!(key(2).open(&token, NOW), Err(SessionError::Forged));
    assert_eq!(key(2).open(&token, u64::MAX), Err(SessionError::Forged), "what is not ours says nothing");
    let fresh = SessionKey::generate();
    assert_ne!(fresh.expose(), SessionKey::generate().expose(), "two keys are the same");
    let again = SessionKey::from_bytes(fresh.expose()).unwrap();
    assert_eq!(again.open(&fresh.issue(&session()).unwrap(), NOW), Ok(session()));
}

#[test]
fn keys_and_names_have_their_lengths() {
    for len in [0, 31, 33, 64] {
        let refused = SessionKey::from_bytes(&vec![0; len]).map(drop).unwrap_err().to_string();
        assert!(refused.ends_with(&len.to_string()), "{refused}");
    }
    let named = |user: String| Session { user, ..session() };
    assert!(key(1).issue(&named(String::new())).is_err());
    assert!(key(1).issue(&named("u".repeat(USER_BYTES_MAX + 1))).is_err());
    let longest = named("u".repeat(USER_BYTES_MAX));
    assert_eq!(key(1).open(&key(1).issue(&longest).unwrap(), NOW), Ok(longest));
    assert_eq!(key(1).open(&"A".repeat(1 << 20), NOW), Err(SessionError::Malformed));
}

#[test]
fn a_key_is_not_printed() {
    let printed = format!("{:?} {:#?}", key(0xab), key(0xab));
    assert_eq!(printed, "SessionKey(***) SessionKey(***)");
}

proptest! {
    #[test]
    fn any_session_comes_back(
        user in "\\PC{1,128}",
        password_generation: u64,
        expires_ms in 1_u64..,
        bytes: [u8; 32],
    ) {
        let key = SessionKey::from_bytes(&bytes).unwrap();
        let session = Session { user, password_generation, expires_ms };
        let token = key.issue(&session).unwrap();
        prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        prop_assert_eq!(key.open(&token, expires_ms - 1), Ok(session));
        prop_assert_eq!(fingerprint(&token).len(), 12);
    }

    #[test]
    fn any_text_opens_nothing(text in prop_oneof!["\\PC{0,400}", "[A-Za-z0-9_-]{0,400}", "AQ[A-Za-z0-9_-]{60,90}"]) {
        prop_assert!(key(1).open(&text, 0).is_err());
    }

    #[test]
    fn a_name_cannot_be_moved_to_another_field(first in "[a-z]{1,20}", second in "[a-z]{1,20}") {
        let of = |user: &str| key(1).issue(&Session { user: user.into(), ..session() }).unwrap();
        prop_assert_eq!(of(&first) == of(&second), first == second);
    }
}
