//! What Kubernetes said when it refused, as part of a sentence.

use std::error::Error;

/// More of it is not put into a condition.
const SAID_MAX: usize = 400;

/// What went wrong, in one line and without its full stop. A status of the API is its message; of an error on the way
/// there the innermost cause is what helps.
pub fn said(error: &kube::Error) -> String {
    let said = match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) if !status.reason.is_empty() => {
            format!("the API server answered {} ({})", status.reason, status.code)
        }
        kube::Error::Api(status) => format!("the API server answered with code {}", status.code),
        other => match innermost(other) {
            Some(cause) => format!("the API server was not reached: {cause}"),
            None => other.to_string(),
        },
    };
    let line: Vec<&str> = said.split_whitespace().collect();
    let line = line.join(" ");
    let line = line.trim_end_matches('.');
    match line.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn innermost(error: &kube::Error) -> Option<&(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source()).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    /// Goal: nobody reads a dump of a structure in a condition. Method: a table of answers.
    #[test]
    fn a_refusal_is_one_sentence() {
        let status = |message: &str, reason: &str| {
            let status = Status::failure(message, reason).with_code(403);
            said(&kube::Error::Api(status.boxed()))
        };
        let quota = "pods \"demo-1\" is forbidden: exceeded quota: small,\n used: pods=2.";
        assert_eq!(
            status(quota, "Forbidden"),
            "pods \"demo-1\" is forbidden: exceeded quota: small, used: pods=2"
        );
        assert_eq!(status("", "Forbidden"), "the API server answered Forbidden (403)");
        assert_eq!(status("", ""), "the API server answered with code 403");
        assert_eq!(status(&"é".repeat(1_000), "Invalid").chars().count(), SAID_MAX + 1);
        let refused = std::io::Error::other("connection refused");
        let said = said(&kube::Error::Service(Box::new(refused)));
        assert!(!said.contains('{') && said.contains("connection refused"), "{said}");
    }
}
