//! Goal: a password proves its user and nobody else, its cost is bounded, and what it costs tells nobody who exists.
//! Method: real hashes; where their number or order matters, the test does the blocking work by hand and counts it.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use kvorum_auth::{
    BadPassword, NotDone, PASSWORD_BYTES_MAX, Password, PasswordHash, Passwords, VerifyError, WAITING_MAX,
    Work,
};
use tokio::task::unconstrained;

/// Work that waits until the test does it.
#[derive(Clone, Default)]
struct ByHand(Arc<Mutex<VecDeque<Work>>>);

impl ByHand {
    fn passwords(&self) -> Passwords {
        let queue = self.clone();
        Passwords::new(move |work| queue.0.lock().unwrap().push_back(work))
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn next(&self) -> Work {
        self.0.lock().unwrap().pop_front().expect("there is work")
    }
}

/// Does all at once, and counts it.
fn counted() -> (Passwords, impl Fn() -> usize) {
    let count = Arc::new(Mutex::new(0));
    let counter = count.clone();
    let passwords = Passwords::new(move |work| {
        *counter.lock().unwrap() += 1;
        work();
    });
    (passwords, move || *count.lock().unwrap())
}

fn password(text: &str) -> Password {
    Password::new(text.into()).unwrap()
}

/// What is answered now, if anything is.
async fn look<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    // Without it the runtime has so many steps at once wait for their turn.
    unconstrained(std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)))).await
}

/// Begins something, which must then wait.
async fn begin<F: Future>(future: Pin<&mut F>) -> bool {
    look(future).await.is_pending()
}

/// What is answered without any work.
async fn at_once<F: Future>(future: F) -> F::Output {
    let Poll::Ready(answer) = look(std::pin::pin!(future)).await else { panic!("it waits for work") };
    answer
}

#[tokio::test]
async fn a_password_proves_its_user_alone() {
    let (passwords, _) = counted();
    let hash = passwords.hash(password("geheim äöü")).await.unwrap();
    assert!(
        hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "the parameters are not those promised"
    );
    let stored = PasswordHash::parse(hash.as_str()).unwrap();
    passwords.verify("ann", Some(&stored), password("geheim äöü")).await.unwrap();
    for wrong in ["geheim äö", "geheim äöü ", "Geheim äöü", "\0"] {
        let refused = passwords.verify("ann", Some(&stored), password(wrong)).await;
        assert_eq!(refused, Err(VerifyError::Wrong), "{wrong}");
    }
    let again = passwords.hash(password("geheim äöü")).await.unwrap();
    assert_ne!(hash.as_str(), again.as_str(), "two hashes have the same salt");
}

#[tokio::test]
async fn nobody_costs_what_a_wrong_password_costs() {
    let (passwords, count) = counted();
    let stored = passwords.hash(password("right")).await.unwrap();
    for _ in 0..2 {
        let before = count();
        assert_eq!(passwords.verify("ann", Some(&stored), password("wrong")).await, Err(VerifyError::Wrong));
        assert_eq!(count() - before, 1, "a wrong password is not hashed, or is remembered");
        assert_eq!(passwords.verify("bob", None, password("wrong")).await, Err(VerifyError::Wrong));
        assert_eq!(count() - before, 2, "that there is no such user shows by what it costs");
    }
    let messages = [VerifyError::Wrong.to_string()];
    assert_eq!(
        messages,
        ["authentication failed, invalid user ID or password"],
        "etcd's clients look for it"
    );
}

#[tokio::test]
async fn what_was_verified_is_not_hashed_again() {
    let (passwords, count) = counted();
    let stored = passwords.hash(password("right")).await.unwrap();
    passwords.verify("ann", Some(&stored), password("right")).await.unwrap();
    let before = count();
    for _ in 0..100 {
        passwords.verify("ann", Some(&stored), password("right")).await.unwrap();
    }
    assert_eq!(count(), before, "a known password was hashed again");
    let changed = passwords.hash(password("other")).await.unwrap();
    let refused = passwords.verify("ann", Some(&changed), password("right")).await;
    assert_eq!(refused, Err(VerifyError::Wrong), "a password that was changed is good still");
    let refused = passwords.verify("ann", None, password("right")).await;
    assert_eq!(refused, Err(VerifyError::Wrong), "a user who was deleted is known still");
}

#[tokio::test]
async fn one_is_hashed_at_a_time_and_so_many_wait() {
    let hand = ByHand::default();
    let passwords = hand.passwords();
    let mut asked: Vec<_> =
        (0..=WAITING_MAX).map(|_| Box::pin(passwords.verify("bob", None, password("wrong")))).collect();
    for one in &mut asked {
        assert!(begin(one.as_mut()).await, "somebody does not wait");
    }
    assert_eq!(hand.waiting(), 1, "two are hashed at a time");
    let refused = at_once(passwords.verify("ann", None, password("wrong"))).await;
    assert_eq!(refused, Err(NotDone::Busy.into()), "more wait than may");
    assert!(NotDone::Busy.to_string().starts_with("too many requests"), "etcd's clients look for it");

    // Who goes makes room at once, unless a thread works for him.
    drop(asked.pop());
    let mut last = Box::pin(passwords.verify("ann", None, password("wrong")));
    assert!(begin(last.as_mut()).await, "the place of who went is not free");
    drop(asked.remove(0));
    let refused = at_once(passwords.verify("ann", None, password("wrong"))).await;
    assert_eq!(refused, Err(NotDone::Busy.into()), "the thread that works still is forgotten");
    assert!(begin(asked[0].as_mut()).await && hand.waiting() == 1, "two are hashed at a time");
    hand.next()();
    assert!(begin(asked[0].as_mut()).await && hand.waiting() == 1, "the next has no turn");
    hand.next()();
    assert_eq!(at_once(asked.remove(0)).await, Err(VerifyError::Wrong));
}

#[tokio::test]
async fn many_who_say_the_same_at_once_cost_one_hash() {
    let hand = ByHand::default();
    let passwords = hand.passwords();
    let mut hashing = Box::pin(passwords.hash(password("right")));
    assert!(begin(hashing.as_mut()).await);
    hand.next()();
    let stored = hashing.await.unwrap();
    let mut asked: Vec<_> =
        (0..10).map(|_| Box::pin(passwords.verify("ann", Some(&stored), password("right")))).collect();
    for one in &mut asked {
        assert!(begin(one.as_mut()).await);
    }
    assert_eq!(hand.waiting(), 1, "two are hashed at a time");
    hand.next()();
    // Whoever comes first is not the one who was verified.
    for one in asked.into_iter().skip(1) {
        at_once(one).await.unwrap();
    }
    assert_eq!(hand.waiting(), 0, "the same password was hashed again");
}

#[tokio::test]
async fn who_is_given_up_is_told() {
    let passwords = Passwords::new(drop);
    let refused = passwords.verify("ann", None, password("wrong")).await;
    assert_eq!(refused, Err(NotDone::GivenUp.into()));
    assert_eq!(at_once(passwords.hash(password("right"))).await, Err(NotDone::GivenUp), "its turn was kept");
}

#[test]
fn a_password_has_a_bound() {
    let len = |bytes: usize| Password::new("x".repeat(bytes)).map(drop);
    assert_eq!(len(0), Err(BadPassword::Empty));
    assert_eq!(len(1), Ok(()));
    assert_eq!(len(PASSWORD_BYTES_MAX), Ok(()));
    assert_eq!(len(PASSWORD_BYTES_MAX + 1), Err(BadPassword::TooLong));
}

#[tokio::test]
async fn nothing_of_it_is_printed() {
    let (passwords, _) = counted();
    let secret = password("geheim");
    assert_eq!(format!("{secret:?}"), "Password(***)");
    let hash = passwords.hash(secret).await.unwrap();
    assert_eq!(format!("{hash:?}"), "PasswordHash(***)");
    let printed = format!("{passwords:?}");
    assert!(!printed.contains("argon2") && printed.len() < 60, "{printed}");
}

#[test]
fn a_hash_is_ours_and_affordable_or_none() {
    let rest = "c2FsdHNhbHQ$DE0Mz7BBz5c9T4DvUHcRPDDf4sDcBKNnyPbbuTfjBMg";
    let with = |head: &str| PasswordHash::parse(&format!("{head}${rest}")).map(drop);
    with("$argon2id$v=19$m=19456,t=2,p=1").unwrap();
    with("$argon2id$v=19$m=65536,t=8,p=4").unwrap();
    for wrong in [
        "$argon2id$v=19$m=65537,t=2,p=1",
        "$argon2id$v=19$m=4294967295,t=2,p=1",
        "$argon2id$v=19$m=19456,t=9,p=1",
        "$argon2id$v=19$m=19456,t=2,p=5",
        "$argon2id$v=19$m=0,t=0,p=0",
        "$argon2id$v=16$m=19456,t=2,p=1",
        "$argon2id$v=19",
        "$argon2id$v=19$m=19456,t=2",
        "$argon2id$v=19$t=2,m=19456,p=1",
        "$argon2id$v=19$m=19456,t=2,p=255,p=1",
        "$argon2id$v=19$m=19456,t=2,p=1,keyid=a2V5",
        "$argon2id$m=19456,t=2,p=1",
        "$argon2i$v=19$m=19456,t=2,p=1",
        "$argon2d$v=19$m=19456,t=2,p=1",
        "$pbkdf2-sha256$v=19$m=19456,t=2,p=1",
        "argon2id$v=19$m=19456,t=2,p=1",
        "",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
    for wrong in [
        "",
        "$",
        "$argon2id$v=19$m=19456,t=2,p=1",
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
        "$argon2id$v=19$m=19456,t=2,p=1$c2E$DE0Mz7BBz5c9T4DvUHcRPDDf4sDcBKNnyPbbuTfjBMg",
        "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
        &"$".repeat(4096),
    ] {
        assert!(PasswordHash::parse(wrong).is_err(), "{wrong}");
    }
}
