use super::*;

fn parse(args: &[&str]) -> Result<Config, String> {
    let all = std::iter::once("kvorum-node").chain(args.iter().copied());
    let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
    cli.flags.validate().map_err(|error| error.to_string())
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn defaults_make_a_node_on_this_machine() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.listen_client, "127.0.0.1:2379");
    assert_eq!(config.request_bytes_max, 1536 * 1024);
    assert_eq!(config.heartbeat_interval * 5, config.election_timeout);
    assert_eq!(config.auto_compaction_retention, Some(Duration::from_secs(3600)));
    assert_eq!(config.bootstrap, Bootstrap::Wait);
    assert_eq!(config.tls, None, "TLS is asked for, never found");
}

#[test]
fn units_and_ids_are_understood() {
    let args = ["--cache-bytes", "64MiB", "--quota-bytes", "2GiB", "--cluster-id", "0xff"];
    let config = parse(&args).unwrap();
    assert_eq!((config.cache_bytes, config.quota_bytes), (64 << 20, 2 << 30));
    assert_eq!(config.cluster_id, Some(255));
    assert_eq!(parse(&["--auto-compaction-retention", "0"]).unwrap().auto_compaction_retention, None);
    let config = parse(&["--listen-client", "[::]:0", "--advertise-client", "demo-0.demo-peers:2379"]);
    assert_eq!(config.unwrap().advertise_client.as_deref(), Some("demo-0.demo-peers:2379"));
    // Any number of ports may be left to the kernel.
    let any = "127.0.0.1:0";
    assert!(parse(&["--listen-client", any, "--listen-peer", any, "--listen-http", any]).is_ok());
}

#[test]
fn tls_has_its_files_in_a_directory() {
    let args =
        ["--tls", "required", "--tls-dir", "/t", "--tls-client-ca", "/c/ca.crt", "--tls-outside-dir", "/o"];
    let config = parse(&args).unwrap().tls.unwrap();
    let own = Some(("/t/tls.crt".into(), "/t/tls.key".into()));
    let outside = Some(("/o/tls.crt".into(), "/o/tls.key".into()));
    let paths = Paths { ca: "/t/ca.crt".into(), own, client_ca: Some("/c/ca.crt".into()), outside };
    assert_eq!(config, TlsConfig { mode: Mode::Required, paths });
    let config = parse(&["--tls", "optional"]).unwrap().tls.unwrap();
    assert_eq!((config.mode, config.paths.ca), (Mode::Optional, "/etc/kvorum/tls/ca.crt".into()));
}

/// An id is read as it is printed, and in the ways that were the only ones once.
#[test]
fn an_id_is_read_as_it_is_printed() {
    let table = [
        ("9a31ae08658294c5", Some(0x9a31_ae08_6582_94c5)),
        ("9A31AE08658294C5", Some(0x9a31_ae08_6582_94c5)),
        ("00000000000000ff", Some(255)),
        ("ffffffffffffffff", Some(u64::MAX)),
        // 16 decimal digits: nobody can tell, so it is what is printed.
        ("1234567890123456", Some(0x1234_5678_9012_3456)),
        ("0x9a31ae08658294c5", Some(0x9a31_ae08_6582_94c5)),
        ("0xff", Some(255)),
        ("255", Some(255)),
        ("18446744073709551615", Some(u64::MAX)),
        ("11111111103361750213", Some(11_111_111_103_361_750_213)),
        ("18446744073709551616", None),
        ("9a31ae08658294c", None),
        ("9a31ae08658294c5f", None),
        ("0x11111111111111111", None),
        ("+a31ae08658294c5", None),
        ("0x+f", None),
        ("-1", None),
        ("0x", None),
        ("", None),
    ];
    for (text, id) in table {
        let read = parse_id(text);
        assert_eq!(read.as_ref().ok(), id.as_ref(), "{text}");
        assert!(read.err().is_none_or(|error| error.contains("16 hexadecimal digits")), "{text}");
    }
    let printed = format!("{:016x}", 0x00a1_ae08_6582_94c5_u64);
    let config = parse(&["--cluster-id", &printed]).unwrap();
    assert_eq!(config.cluster_id, Some(0x00a1_ae08_6582_94c5));
}

/// Each value that cannot work is refused with one line that names the flag and what would do.
#[test]
fn what_cannot_work_is_refused_with_one_line() {
    let table: &[(&[&str], &str)] = &[
        (&["--listen-client", "2379"], "--listen-client '2379' is no host:port"),
        (&["--listen-client", "::1:2379"], "is no host:port"),
        (&["--listen-peer", "127.0.0.1:2379"], "give each its own port"),
        (&["--listen-client", "0.0.0.0:2379"], "--advertise-client must say"),
        (&["--listen-peer", "[::]:2380"], "--advertise-peer must say"),
        (&["--advertise-peer", "0.0.0.0:2380"], "cannot be dialled"),
        (&["--advertise-client", "http://a:2379"], "--advertise-client 'http://a:2379' is no host:port"),
        (&["--election-timeout-ms", "20"], "must be from 100 to 60000"),
        (&["--election-timeout-ms", "1000", "--heartbeat-interval-ms", "400"], "must be from 1 to 250"),
        (&["--heartbeat-interval-ms", "0"], "must be from 1 to "),
        (&["--request-bytes-max", "1GiB"], "--request-bytes-max 1073741824 must be from"),
        (&["--cache-bytes", "1024"], "--cache-bytes 1024 must be at least"),
        (&["--shutdown-delay", "11m"], "--shutdown-delay 660s must be at most 600s"),
        (&["--cluster-id", "0"], "--cluster-id cannot be 0"),
        (&["--tls-client-ca", "ca.crt"], "and --tls is off; set --tls required"),
        (&["--tls-outside-dir", "o"], "and --tls is off; set --tls required"),
    ];
    for (args, expected) in table {
        let error = parse(args).expect_err(expected);
        assert!(error.contains(expected) && !error.contains('\n'), "{args:?}: {error}");
    }
    for args in [["--cache-bytes", "1MB"], ["--auto-compaction-retention", "1"], ["--no-such-flag", "1"]] {
        parse(&args).expect_err(args[0]);
    }
}
