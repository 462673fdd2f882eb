//! How long and how hard the tests run, from the environment.

use std::str::FromStr;

/// The number in the environment variable `name`, or the usual one.
///
/// # Panics
///
/// When the variable is set to something that is no number: a run that took the usual number instead
/// would look like the long one that was asked for.
pub fn number<T: FromStr>(name: &str, usual: T) -> T {
    match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => panic!("the environment variable {name} must be a number, not {text:?}"),
        },
        Err(_) => usual,
    }
}

/// The seed of a run's random choices: `SEED`, or a new one. Print it, so that a run can be repeated as
/// far as real processes allow.
pub fn seed() -> u64 {
    number("SEED", rand::random())
}
