//! Goal: the tool prints what it promises, and its exit code tells what happened. Method: the program
//! itself, against a pretended node.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kvorum_proto::kv::v1::Member;

use kvorum_mock::{Act, Mock};

struct Tool {
    mock: Mock,
}

impl Tool {
    fn new() -> Tool {
        Tool { mock: Mock::start() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvorum"));
        command.env("KVORUM_ENDPOINTS", self.mock.endpoint()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The standard output of a command that must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and the standard error of a command that must fail.
    #[track_caller]
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        assert!(output.stdout.is_empty(), "{args:?} printed {:?}", output.stdout);
        (output.status.code().unwrap(), stderr(&output))
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn keys_are_written_read_and_deleted() {
    let tool = Tool::new();
    assert_eq!(tool.ok(&["set", "k", "v"]), "OK, revision 2\n");
    assert_eq!(tool.ok(&["get", "k"]), "v", "raw, without a line end in a pipe");
    assert_eq!(tool.ok(&["set", "k", "-5"]), "OK, revision 3\n");
    let kv = json(&tool.ok(&["get", "k", "-o", "json"]));
    assert_eq!(
        kv,
        serde_json::json!({
            "key": "k", "key_base64": "aw==", "value": "-5", "value_base64": "LTU=",
            "create_revision": 2, "mod_revision": 3, "version": 2
        })
    );
    assert_eq!(tool.ok(&["get", "k", "--revision", "2"]), "v");
    assert_eq!(tool.ok(&["ttl", "k"]), "none\n");
    assert_eq!(tool.ok(&["del", "k"]), "1 key deleted\n");
}

#[test]
fn bytes_pass_unchanged() {
    let tool = Tool::new();
    let value = [0, 159, 10, 255];
    assert!(tool.run_with(&["set", "bin", "-"], &value).status.success());
    assert_eq!(tool.run(&["get", "bin"]).stdout, value);
    let kv = json(&tool.ok(&["-o", "json", "get", "bin"]));
    assert_eq!((&kv["value"], &kv["value_base64"]), (&serde_json::Value::Null, &"AJ8K/w==".into()));
}

#[test]
fn exit_codes_tell_what_happened() {
    let tool = Tool::new();
    for args in [&["get", "k"][..], &["ttl", "k"], &["del", "k"], &["expire", "k", "5s"], &["persist", "k"]] {
        assert_eq!(tool.fails(args), (3, "error: key not found: k\n".to_owned()), "{args:?}");
    }
    tool.ok(&["set", "k", "v"]);
    assert_eq!(tool.fails(&["set", "k", "w", "--if-absent"]).0, 4);
    assert_eq!(tool.fails(&["set", "k", "w", "--if-revision", "9"]).0, 4);
    tool.ok(&["set", "k", "w", "--if-revision", "2"]);

    for args in [
        &["get"][..],
        &["get", "k", "--no-such-flag"],
        &["set", "k", "v", "--ttl", "5"],
        &["set", "k", "v", "--if-absent", "--if-revision", "3"],
        &["member", "remove", "zzz"],
        &["--endpoints", "nowhere", "get", "k"],
    ] {
        assert_eq!(tool.fails(args).0, 2, "{args:?}");
    }

    tool.mock.script([Act::Refuse("NO_SPACE"), Act::Refuse("OUTCOME_UNKNOWN")]);
    assert_eq!(tool.fails(&["set", "k", "v"]), (1, "error: refused: NO_SPACE\n".to_owned()));
    let (code, error) = tool.fails(&["set", "k", "v"]);
    assert!(code == 1 && error.contains("outcome is unknown"), "{code} {error}");
}

#[test]
fn endpoints_that_do_not_answer_are_named_within_the_deadline() {
    let mut tool = Tool::new();
    tool.mock.crash();
    let begun = Instant::now();
    let (code, error) = tool.fails(&["get", "k", "--timeout", "300ms"]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let expected = format!(
        "error: no endpoint answered within 300ms: {} (connection refused); \
         check that the nodes run, and --endpoints or KVORUM_ENDPOINTS\n",
        tool.mock.endpoint()
    );
    assert_eq!((code, error), (1, expected));
}

#[test]
fn a_scan_prints_lines() {
    let tool = Tool::new();
    for i in 0..25 {
        tool.mock.store().lock().unwrap().put(&format!("k/{i:02}").into(), &format!("v{i}").into());
    }
    let text = tool.ok(&["scan", "k/"]);
    assert!(text.starts_with("k/00\tv0\nk/01\tv1\n") && text.lines().count() == 25, "{text}");
    assert_eq!(tool.ok(&["scan", "k/", "--keys-only", "--limit", "2"]), "k/00\nk/01\n");
    assert_eq!(tool.ok(&["scan", "k/", "--keys-only", "--reverse", "--limit", "1"]), "k/24\n");
    assert_eq!(tool.ok(&["scan", "x/"]), "");
    let line = tool.ok(&["scan", "k/", "-o", "json", "--limit", "1"]);
    assert_eq!(json(&line)["value"], "v0");
}

#[test]
fn a_deletion_that_is_too_large_goes_in_steps() {
    let tool = Tool::new();
    for i in 0..50 {
        tool.mock.store().lock().unwrap().put(&format!("k/{i:02}").into(), &"v".into());
    }
    // The whole is refused, and the first step too, which then covers fewer keys.
    tool.mock.script([Act::Refuse("TOO_LARGE"), Act::Serve, Act::Refuse("TOO_LARGE")]);
    assert_eq!(tool.ok(&["del", "k/", "--prefix"]), "50 keys deleted\n");
    assert_eq!(tool.ok(&["scan", "k/"]), "");
    assert_eq!(tool.ok(&["del", "k/", "--prefix"]), "0 keys deleted\n");
}

#[test]
fn a_batch_file_is_one_write() {
    let tool = Tool::new();
    tool.ok(&["set", "old", "x"]);
    let lines = concat!(
        "{\"if\": \"a\", \"absent\": true}\n\n",
        "{\"set\": \"a\", \"value\": \"1\"}\n",
        "{\"set\": true, \"key_base64\": \"/w==\", \"value_base64\": \"AA==\", \"ttl\": \"30s\"}\n",
        "{\"delete\": \"o\", \"prefix\": true}",
    );
    let output = tool.run_with(&["batch", "-"], lines.as_bytes());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.ends_with("4 lines applied, 1 key deleted\n"), "{text} {}", stderr(&output));
    assert_eq!(tool.ok(&["get", "a"]), "1");
    let again = tool.run_with(&["batch", "-"], lines.as_bytes());
    assert_eq!(again.status.code(), Some(4), "{}", stderr(&again));
}

#[test]
fn a_malformed_batch_names_its_line_and_changes_nothing() {
    let tool = Tool::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"set\": \"a\", \"value\": \"1\"}\n\n{\"set\": \"b\", \"vlaue\": \"2\"}\n")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let (code, error) = tool.fails(&["batch", path]);
    assert_eq!(code, 1);
    assert!(error.starts_with(&format!("error: {path}:3: unknown field `vlaue`")), "{error}");
    assert_eq!(tool.fails(&["get", "a"]).0, 3);
    let (code, error) = tool.fails(&["batch", "/no/such/file"]);
    assert!(code == 1 && error.contains("open /no/such/file"), "{error}");
}

#[test]
fn a_watch_prints_changes_as_they_come() {
    let tool = Tool::new();
    tool.ok(&["set", "k", "1"]);
    tool.ok(&["set", "other", "x"]);
    tool.ok(&["del", "k"]);
    let mut child =
        tool.command(&["watch", "k", "--from-revision", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "2\tPUT\tk\t1");
    assert_eq!(lines.next().unwrap().unwrap(), "4\tDELETE\tk");
    child.kill().unwrap();
    child.wait().unwrap();

    tool.ok(&["compact", "4"]);
    assert_eq!(tool.fails(&["watch", "k", "--from-revision", "2"]).0, 1);
}

#[test]
fn status_is_a_table_and_an_object() {
    let tool = Tool::new();
    {
        let mut node = tool.mock.node();
        let members = (1..=3).map(|id| (id, format!("10.0.0.{id}:2379"))).collect();
        (node.members, node.leader_id) = (members, 2);
    }
    let text = tool.ok(&["status"]);
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "cluster 00000000000000c1 · 3 members, 3 voting · leader 0000000000000002 · term 1 · revision 1 \
         · feature level 1"
    );
    let header: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["MEMBER", "ROLE", "CLIENT", "PEER", "VERSION", "REVISION", "LAG", "STORE", "LOG", "ALARMS"]
    );
    let row: Vec<_> = lines.nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["0000000000000002", "leader", "10.0.0.2:2379"]);
    assert!(!text.contains('\x1b'), "no colour in a pipe");
    let object = json(&tool.ok(&["status", "-o", "json"]));
    assert_eq!(object["members"][1]["role"], "leader");
    assert_eq!(object["members"][0]["store_bytes"], 3 << 20);
    assert_eq!(object["feature_level"], 1);

    // A node of the first release.
    tool.mock.node().feature_level = 0;
    let text = tool.ok(&["status"]);
    assert!(text.lines().next().unwrap().ends_with("· term 1 · revision 1"), "{text}");
    assert!(json(&tool.ok(&["status", "-o", "json"]))["feature_level"].is_null());
}

/// What a table has no room for is said below it: since when a member lags, whose clock is behind, and which
/// disk answers in a member's place, with what to type.
#[test]
fn status_says_what_is_wrong_and_what_to_do() {
    let tool = Tool::new();
    {
        let mut node = tool.mock.node();
        let members = (1..=5).map(|id| (id, format!("10.0.0.{id}:238"))).collect();
        (node.members, node.leader_id) = (members, 1);
        node.describe = |member| match member.node_id {
            2 => Member { lagging_ms: 185_000, clock_lag_ms: 501, ..member },
            3 => Member { reachable: false, lagging_ms: 60_000, other_node_id: 0x77, ..member },
            4 => Member { reachable: false, other_node_id: 0x78, other_cluster_id: 0xc1, ..member },
            5 => Member { reachable: false, other_node_id: 0x79, other_cluster_id: 0xc2, ..member },
            _ => Member { clock_lag_ms: 500, ..member },
        };
    }
    let text = tool.ok(&["status"]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[4].contains("0000000000000003   other disk"), "{text}");
    let expected = [
        "member 0000000000000002: has not been caught up for 3m 5s",
        "member 0000000000000002: its clock is 501ms behind the leader's; keys would expire later if it led",
        "member 0000000000000003: at 10.0.0.3:2380 another disk answers, node 0000000000000077, which is unjoined; if \
         the member's own disk is lost: kvorum member remove 0000000000000003 && kvorum member add 10.0.0.3:2380",
        "member 0000000000000003: has not been caught up for 1m",
        "member 0000000000000004: at 10.0.0.4:2380 another disk answers, node 0000000000000078, of this cluster too; \
         start that one with its own --advertise-peer; 10.0.0.4:2380 is this member's",
        "member 0000000000000005: at 10.0.0.5:2380 another disk answers, node 0000000000000079, of cluster \
         00000000000000c2; start the member there with its own --data-dir",
    ];
    assert_eq!(lines[7..], expected);
    let object = json(&tool.ok(&["status", "-o", "json"]));
    let member = |number: usize| &object["members"][number - 1];
    assert_eq!(object["notes"].as_array().map(Vec::len), Some(expected.len()));
    assert_eq!((&member(2)["lagging_ms"], &member(2)["clock_lag_ms"]), (&185_000.into(), &501.into()));
    assert_eq!(
        (&member(3)["lagging_ms"], &member(3)["other_disk"]["id"]),
        (&60_000.into(), &"0000000000000077".into())
    );
    assert!(member(3)["other_disk"]["cluster_id"].is_null() && member(1)["other_disk"].is_null());
    assert_eq!(member(5)["other_disk"]["cluster_id"], "00000000000000c2");
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(Tool::new().ok(&["completions", shell]).contains("kvorum"), "{shell}");
    }
}

#[test]
fn a_restore_refuses_what_is_no_snapshot() {
    let tool = Tool::new();
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("s"), dir.path().join("data"));
    std::fs::write(&file, "something else").unwrap();
    let args = ["snapshot", "restore", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let (code, error) = tool.fails(&args);
    assert!(code == 1 && error.contains("is no snapshot"), "{error}");
    assert!(!data.exists());
}
