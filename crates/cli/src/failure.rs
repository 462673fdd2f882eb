//! How a command fails, and what the shell sees of it.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use kvorum_client::Error;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A call did.
    Client(Error),
    /// There is no such key.
    NotFound(String),
    /// Something else.
    Other(String),
    /// What was asked for makes no sense.
    Usage(String),
    /// Whoever reads the output has seen enough.
    OutputClosed,
}

impl Failure {
    /// What the shell sees.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Client(Error::ConditionFailed { .. }) => 4,
            Failure::NotFound(_) => 3,
            Failure::Client(Error::InvalidEndpoint { .. } | Error::Tls(_)) | Failure::Usage(_) => 2,
            Failure::Client(_) | Failure::Other(_) => 1,
        }
    }

    /// Prints what went wrong, on one line, and what to do about it where the library cannot know.
    pub fn report(&self) {
        let text = match self {
            Failure::OutputClosed => return,
            Failure::Client(error) => format!("{error}{}", advice(error)),
            Failure::NotFound(text) | Failure::Other(text) | Failure::Usage(text) => text.clone(),
        };
        let (red, reset) = if colour(&io::stderr()) {
            let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
            (style.render().to_string(), style.render_reset().to_string())
        } else {
            Default::default()
        };
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(io::stderr(), "{red}error:{reset} {text}");
    }
}

fn advice(error: &Error) -> &'static str {
    match error {
        Error::Unanswered { .. } => "; check that the nodes run, and --endpoints or KVORUM_ENDPOINTS",
        Error::InvalidEndpoint { .. } => " (--endpoints or KVORUM_ENDPOINTS)",
        Error::Denied { .. } => " (who you are: --cert with --key, --user or --token-file)",
        Error::Tls(_) => " (--cacert, --cert, --key, or KVORUM_CACERT, KVORUM_CERT, KVORUM_KEY)",
        _ => "",
    }
}

/// Whether colours and other decoration are welcome on a stream.
pub fn colour(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a person watches the standard error.
pub fn person_watches() -> bool {
    io::stderr().is_terminal()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(format!("write the output: {error}")),
        }
    }
}
