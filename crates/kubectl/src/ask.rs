//! Questions to a person.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use kvorum_cli::failure::Failure;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Asks a person to type `expected`, and takes nothing else. Where nobody can be asked, `instead` is the option that
/// says so.
pub(crate) fn to_type(question: &str, expected: &str, instead: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "nobody can be asked, since the standard input is no terminal; give {instead} where that is meant"
        )));
    }
    eprint!("{question}: ");
    let failed = |error: io::Error| Failure::Other(format!("ask: {error}"));
    io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    io::Read::take(io::stdin().lock(), ANSWER_BYTES_MAX).read_line(&mut answer).map_err(failed)?;
    match answer.trim() == expected {
        true => Ok(()),
        false => Err(Failure::Other("that was not what was asked for, and nothing is changed".to_owned())),
    }
}
