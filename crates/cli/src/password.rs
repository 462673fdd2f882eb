//! A user's password, where the command line does not have it: whoever lists processes reads along there.

use std::env::{self, VarError};

use console::Term;

use crate::failure::Failure;

/// The variable that holds one.
const VARIABLE: &str = "KVORUM_PASSWORD";

/// What the environment says, or the user at his terminal, where nothing of it is shown.
pub(crate) fn of(name: &str) -> Result<String, Failure> {
    match env::var(VARIABLE) {
        Ok(password) if !password.is_empty() => return Ok(password),
        Ok(_) | Err(VarError::NotPresent) => {}
        Err(VarError::NotUnicode(_)) => return Err(Failure::Usage(format!("{VARIABLE} is no UTF-8"))),
    }
    let terminal = Term::stderr();
    if !terminal.is_term() {
        return Err(Failure::Usage(format!(
            "there is no password for user {name}, nor a terminal to ask for it: set {VARIABLE}, or write --user \
             NAME:PASSWORD"
        )));
    }
    let asked =
        terminal.write_str(&format!("Password of {name}: ")).and_then(|()| terminal.read_secure_line());
    let password = asked.map_err(|error| Failure::Other(format!("ask for the password: {error}")))?;
    if password.is_empty() { Err(Failure::Usage("no password was entered".to_owned())) } else { Ok(password) }
}
