//! Goal: a cluster that speaks TLS does what one without does, and takes nobody in who has no business there.
//!
//! Method: three nodes that speak TLS only, by one certificate, with a CA of the test's own. Keys are written, read,
//! watched and scanned, the leader is killed, and a member that lost its disk is sent a snapshot. And strangers of
//! all kinds try every port.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use kvorum_client::admin::AdminClient;
use kvorum_client::auth::Access;
use kvorum_client::{Client, ConnectOptions, KeyRange, Tls};
use kvorum_faults::certificates::{Certificates, ca, leaf};
use kvorum_faults::process::Node;
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, program, rpc, wait};
use kvorum_proto::admin::v1 as admin;
use kvorum_proto::peer::v1 as peer;
use kvorum_tls::ClientTls;
use kvorum_tls::make::{Made, Subject};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// Log that is kept where a member is to need a snapshot.
const LOG_RETAIN: &str = "256KiB";
const VALUE_BYTES: usize = 16 * 1024;
/// A port that refuses says so within this; it has 5 s to wait for whoever says nothing.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Nodes that speak TLS in this mode, and the directory with their certificates.
async fn found(members: usize, mode: &str, more: &[&str]) -> Result<(TempDir, Arc<Certificates>, Cluster)> {
    let directory = tempfile::tempdir()?;
    let certificates = Arc::new(Certificates::make(directory.path())?);
    let mut flags = certificates.flags(mode);
    flags.extend(more.iter().map(ToString::to_string));
    let layout = Layout { flags, tls: Some(certificates.clone()), ..Layout::default() };
    Ok((directory, certificates, Cluster::found(members, layout).await?))
}

#[tokio::test]
async fn a_cluster_with_tls_does_what_one_without_does() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) = found(3, "required", &["--log-retain-bytes", LOG_RETAIN]).await?;
    let client = cluster.client().await?;
    let mut changes = client.watch(KeyRange::prefix("seen/")).start().await?;
    for number in 0..10 {
        client.set(format!("seen/{number}"), "x").await?;
    }
    let mut seen = 0;
    while seen < 10 {
        let next = timeout(CALL_LIMIT, changes.try_next()).await.context("wait for events")?;
        seen += next?.context("the watch ended")?.events.len();
    }
    ensure!(client.get("seen/3").await?.kv.is_some(), "a key that was written is not there");

    let style = Style { pause: Duration::from_millis(5), ..Style::default() };
    let load = Writers::by(vec![client.clone()], 0, style, Instant::now());
    let leader = cluster.leader().await?;
    leader.kill()?;
    cluster.leader().await?;
    leader.start().await?;
    cluster.wait_healthy().await?;

    // More than the log that is kept: the new disk needs a snapshot.
    let lost = cluster.follower().await?;
    let old_id = lost.status().await?.node_id;
    lost.kill()?;
    lost.wipe()?;
    cluster.remove_member(old_id).await?;
    for number in 0..200 {
        client.set(format!("large/{number}"), vec![7; VALUE_BYTES]).await?;
    }
    lost.start().await?;
    cluster.add_voter(&lost).await?;
    wait::until("the count of a snapshot", CALL_LIMIT, async || {
        let received = rpc::metric(lost.http_address(), "kvorum_snapshots_received_total").await?;
        ensure!(received >= 1.0, "it caught up without a snapshot");
        Ok(())
    })
    .await?;
    let ledgers = load.finish().await?;
    let revision = cluster.compare_stores(cluster.nodes()).await?;
    let channel = rpc::secured_channel(leader.client_address(), certificates.raw_root()?)?;
    writers::check(&ledgers, &rpc::RawClient::on(channel).scan(revision).await?)?;
    ensure!(revision > 200, "little was written");
    for node in cluster.nodes() {
        let tls = node.status().await?.tls.context("it does not say that it speaks TLS")?;
        ensure!(tls.mode() == admin::tls::Mode::Required && tls.leaf_sha256.len() == 32, "it says {tls:?}");
    }
    cluster.close()
}

/// How a stranger comes, and what becomes of him.
struct Stranger {
    what: &'static str,
    tls: Option<ClientTls>,
    reason: &'static str,
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) = found(1, "required", &[]).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    let (own, other) = (certificates.ca()?, ca("another cluster")?);
    let user = |name: &str| Subject::User(name.into());
    let member = Subject::Member(vec!["127.0.0.1".into()]);
    let with = |trusted: &Made, by: Option<Made>| {
        let by = by.as_ref().map(|made| (made.certificate.as_bytes(), made.key.as_bytes()));
        ClientTls::of_pem(trusted.certificate.as_bytes(), by).context("make a client")
    };
    let strangers = [
        Stranger { what: "no certificate", tls: Some(with(&own, None)?), reason: "no_certificate" },
        Stranger {
            what: "a user's certificate",
            tls: Some(with(&own, Some(leaf(&own, &user("alice"))?))?),
            reason: "not_allowed",
        },
        Stranger {
            what: "another cluster's member",
            tls: Some(with(&own, Some(leaf(&other, &member)?))?),
            reason: "unknown_ca",
        },
        Stranger {
            what: "another cluster's root",
            tls: Some(with(&own, Some(leaf(&other, &user("root"))?))?),
            reason: "unknown_ca",
        },
        Stranger { what: "another CA believed", tls: Some(with(&other, None)?), reason: "refused" },
        Stranger { what: "plain HTTP/2", tls: None, reason: "plain" },
    ];
    for Stranger { what, tls, reason } in &strangers {
        let before = refused(node, "peer", reason).await?;
        let stream = TcpStream::connect(node.peer_address()).await?;
        match tls {
            Some(tls) => {
                let connected = timeout(REFUSAL_LIMIT, tls.connect(stream, "127.0.0.1")).await?;
                ensure!(connected.is_err(), "{what} got into the peer port");
            }
            None => {
                let said = timeout(REFUSAL_LIMIT, say_plain(stream)).await??;
                ensure!(said.contains("this port speaks TLS"), "{what} was told {said:?}");
            }
        }
        wait::until(what, REFUSAL_LIMIT, async || {
            let after = refused(node, "peer", reason).await?;
            ensure!(after > before, "nothing was counted as {reason}");
            Ok(())
        })
        .await?;
    }
    // What is wrong with each was said once, however often it comes. Lines are written a moment after they are said.
    for words in [
        "it shows no certificate",
        "user \"alice\" is valid, and this port takes members, the operator and root only",
        "is signed by \"another cluster\"",
        "it speaks without TLS",
    ] {
        wait::until("a line of the log", REFUSAL_LIMIT, async || {
            let log = node.log()?;
            ensure!(log.matches(words).count() == 1, "the log says {words:?} not once:\n{log}");
            Ok(())
        })
        .await?;
    }
    cluster.close()
}

#[tokio::test]
async fn old_protocols_and_garbage_are_closed() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, _, cluster) = found(1, "required", &[]).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    for address in [node.client_address(), node.peer_address()] {
        for (what, bytes) in [
            ("TLS 1.2", hello_of_tls12()),
            ("a record that is too large", [&b"\x16\x03\x01\xff\xff"[..], &[1; 70_000]].concat()),
            ("garbage", vec![0xaa; 4096]),
            ("a record of nothing", b"\x16\x03\x01\x00\x00".to_vec()),
            ("HTTP/1", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ] {
            let mut stream = TcpStream::connect(address).await?;
            // It may be closed before it has taken all of it.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let closed = timeout(REFUSAL_LIMIT, stream.read_to_end(&mut answer)).await;
            ensure!(closed.is_ok(), "{what} holds a connection to {address}");
            // An alert is seven bytes; before it nothing of the node is told.
            ensure!(answer.len() <= 64, "{what} was answered with {} bytes", answer.len());
        }
    }
    let client = cluster.client().await?;
    client.set("after", "all that").await?;
    cluster.close()
}

#[tokio::test]
async fn certificates_say_what_their_holders_may_call() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) = found(1, "required", &[]).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    let root = certificates.root()?;
    let operator = leaf(&certificates.ca()?, &Subject::Operator)?;
    certificates.write_as("operator", &[&certificates.ca()?], &operator)?;
    let operator = Tls::directory(certificates.directory("operator"))?;
    let member = Tls::directory(certificates.directory("member"))?;
    for (who, tls, administers) in
        [("root", &root, true), ("operator", &operator, true), ("member", &member, false)]
    {
        let options = ConnectOptions::new().tls(tls.clone());
        let node = AdminClient::new(node.peer_address(), CALL_LIMIT)?.connect_options(options);
        node.status().await.context(format!("{who} asks for the status"))?;
        let transferred = node.transfer_leader(None).await.map(drop).map_err(|error| error.to_string());
        let is_refused = transferred.as_ref().is_err_and(|error| error.contains("PermissionDenied"));
        ensure!(is_refused != administers, "{who} asked for a transfer: {transferred:?}");
    }
    // Root is no member.
    let channel = rpc::secured_channel(node.peer_address(), certificates.raw_root()?)?;
    let mut as_root = peer::peer_client::PeerClient::new(channel);
    let joined = as_root.join(peer::JoinRequest::default()).await;
    let code = joined.map(drop).map_err(|status| status.code());
    ensure!(code == Err(tonic::Code::PermissionDenied), "root spoke as a member: {code:?}");
    // The client port takes whoever comes with TLS, as long as nobody asks who he is.
    let anybody = Tls::files(certificates.directory("root").join("ca.crt"), None::<(&str, &str)>)?;
    let client = Client::builder(cluster.endpoints()).tls(anybody).connect().await?;
    client.set("key", "value").await?;
    cluster.close()
}

#[tokio::test]
async fn each_command_of_the_tool_works_with_certificates() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (files, certificates, cluster) = found(1, "required", &[]).await?;
    let path = |name: &str| certificates.directory("root").join(name).display().to_string();
    let [ca, certificate, key] = ["ca.crt", "tls.crt", "tls.key"].map(path);
    let as_root = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    let saved = files.path().join("saved").display().to_string();
    let node = &cluster.nodes()[0];
    let peer = node.peer_address().to_owned();
    wait::until("users and roles", CALL_LIMIT, async || {
        let status = node.status().await?;
        let (level, known) = (status.feature_level, status.feature_level_max);
        ensure!(level == known, "the feature level is {level} of {known}");
        Ok(())
    })
    .await?;
    for arguments in [
        &["set", "k", "v", "--ttl", "1h"][..],
        &["get", "k"],
        &["ttl", "k"],
        &["expire", "k", "2h"],
        &["persist", "k"],
        &["scan", "k"],
        &["compact", "2"],
        &["del", "k"],
        &["status"],
        &["member", "list"],
        &["cluster", "init", "--members", &peer],
        &["snapshot", "save", &saved],
        &["user", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reads"],
        &["role", "grant-permission", "reads", "read", "k"],
        &["auth", "enable"],
        &["set", "k", "v"],
        &["snapshot", "save", &saved],
        &["member", "list"],
        &["auth", "status"],
        &["auth", "disable"],
    ] {
        program::tool(&cluster.endpoints(), &[&as_root[..], arguments].concat()).await?.output()?;
    }
    cluster.close()
}

#[tokio::test]
async fn what_cannot_work_is_told_in_one_line() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (files, certificates, cluster) = found(1, "required", &[]).await?;
    let endpoints = cluster.endpoints();
    let other = ca("another cluster")?;
    certificates.write_as("stranger", &[&other], &leaf(&other, &Subject::User("root".into()))?)?;
    let path = |who: &str, name: &str| certificates.directory(who).join(name).display().to_string();
    let root = ["ca.crt", "tls.crt", "tls.key"].map(|name| path("root", name));
    let as_root = ["--cacert", &root[0], "--cert", &root[1], "--key", &root[2]];

    program::tool(&endpoints, &[&as_root[..], &["set", "k", "v"]].concat()).await?.output()?;
    let listed = program::tool(&endpoints, &[&as_root[..], &["member", "list"]].concat()).await?;
    ensure!(String::from_utf8_lossy(listed.output()?).contains("leader"), "{listed:?}");
    // One member has nobody to hand over to, and says so to whoever may ask.
    let transfer = program::tool(&endpoints, &[&as_root[..], &["leader", "transfer"]].concat()).await?;
    transfer.expect(1, &["no other voter is live"])?;
    // Without a certificate keys can be read, and nothing can be administered.
    let anybody = ["--cacert", &root[0], "--timeout", "2s"];
    program::tool(&endpoints, &[&anybody[..], &["get", "k"]].concat()).await?.output()?;
    let transfer = program::tool(&endpoints, &[&anybody[..], &["leader", "transfer"]].concat()).await?;
    transfer.expect(1, &["it wants a certificate, and was shown none"])?;

    let strangers = path("stranger", "ca.crt");
    let failed = program::tool(&endpoints, &["--cacert", &strangers, "--timeout", "2s", "get", "k"]).await?;
    failed.expect(1, &["signed by \"test\"", "holds \"another cluster\"", "mount the CA of this cluster"])?;
    let plain = program::tool(&endpoints, &["--timeout", "2s", "get", "k"]).await?;
    plain.expect(1, &["this port speaks TLS", "given the cluster's CA"])?;
    let plain = program::tool(&endpoints, &["--timeout", "2s", "set", "k", "v"]).await?;
    plain.expect(1, &["this port speaks TLS"])?;
    let no_file = program::tool(&endpoints, &["--cacert", "/no/such/file", "get", "k"]).await?;
    no_file.expect(2, &["read /no/such/file", "KVORUM_CACERT"])?;
    let no_key = program::tool(&endpoints, &["--cacert", &root[0], "--cert", &root[1], "get", "k"]).await?;
    no_key.expect(2, &["--key"])?;

    // A node that cannot show who it is does not start.
    let directory = files.path().join("data").display().to_string();
    let start = async |tls_dir: &str| {
        let ports = [
            "--listen-client",
            "127.0.0.1:0",
            "--listen-peer",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
        ];
        let flags = ["--data-dir", &directory, "--tls", "required", "--tls-dir", tls_dir];
        program::node(&[&flags[..], &ports].concat()).await
    };
    start("/no/such/dir").await?.expect(1, &["--tls-dir", "/no/such/dir/tls.crt"])?;
    let root_dir = certificates.directory("root").display().to_string();
    start(&root_dir).await?.expect(1, &["is for another use"])?;
    let short = kvorum_tls::make::leaf(
        &certificates.ca()?,
        &Subject::Member(vec!["127.0.0.1".into()]),
        Duration::ZERO,
    );
    certificates.write_as("expired", &[&certificates.ca()?], &short.context("make a short certificate")?)?;
    let expired = certificates.directory("expired").display().to_string();
    // A certificate is good to the end of its last second.
    sleep(Duration::from_secs(2)).await;
    start(&expired).await?.expect(1, &["and this machine's clock says"])?;
    cluster.close()
}

/// What a node has counted of one reason.
async fn refused(node: &Node, port: &str, reason: &str) -> Result<f64> {
    let name = format!("kvorum_tls_handshakes_total{{port=\"{port}\",result=\"{reason}\"}}");
    // Nothing is counted before it has happened once.
    Ok(rpc::metric(node.http_address(), &name).await.unwrap_or(0.0))
}

/// Speaks HTTP/2 without TLS, and answers all that it is told.
async fn say_plain(mut stream: TcpStream) -> Result<String> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The first words of a client that knows nothing newer than TLS 1.2: one suite, no extensions.
fn hello_of_tls12() -> Vec<u8> {
    let mut hello = vec![0x03, 0x03];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let body = u8::try_from(hello.len()).expect("it is short");
    let mut record = vec![0x16, 0x03, 0x01, 0, body + 4, 1, 0, 0, body];
    record.extend(hello);
    record
}

/// How long a node takes at most to read its files again.
const RELOAD_LIMIT: Duration = Duration::from_secs(30);

/// Somebody with a certificate of this CA, who believes `trusted`.
fn holder(trusted: &Made, by: &Made, subject: &Subject) -> Result<ClientTls> {
    let own = leaf(by, subject)?;
    let own = Some((own.certificate.as_bytes(), own.key.as_bytes()));
    ClientTls::of_pem(trusted.certificate.as_bytes(), own).context("make a client")
}

/// Goal: certificates of another CA are users on the client port and nothing else anywhere, root least of all; and that CA
/// comes, and changes, without a restart. Method: each kind of certificate it may sign, at both ports, before the file is
/// there, with it, and while it is garbage.
#[tokio::test]
async fn the_ca_of_clients_vouches_for_users_alone() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let directory = tempfile::tempdir()?;
    let client_ca = directory.path().join("clients.crt");
    let flag = client_ca.display().to_string();
    let (_files, certificates, cluster) = found(1, "required", &["--tls-client-ca", &flag]).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    let (own, company) = (certificates.ca()?, ca("company")?);
    wait::until("the level that knows users", RELOAD_LIMIT, async || {
        ensure!(node.status().await?.feature_level >= 3, "it is lower yet");
        Ok(())
    })
    .await?;
    let auth = cluster.client().await?;
    let auth = auth.auth();
    for user in ["root", "bob", "kvorum member"] {
        auth.user_add(user, None).await?;
    }
    auth.role_add("app").await?;
    auth.grant_permission("app", KeyRange::prefix("a/"), Access::ReadWrite).await?;
    for (user, role) in [("root", "root"), ("bob", "app"), ("kvorum member", "app")] {
        auth.grant_role(user, role).await?;
    }
    auth.enable().await?;
    let user = |name: &str| Subject::User(name.into());
    let member = Subject::Member(vec!["127.0.0.1".into()]);
    let set = async |subject: &Subject| -> Result<Result<(), tonic::Code>> {
        let channel = rpc::secured_channel(node.client_address(), holder(&own, &company, subject)?)?;
        let set = rpc::RawClient::on(channel).set("a/k".into(), "v".into(), None).await;
        Ok(set.map(drop).map_err(|status| status.code()))
    };
    ensure!(set(&user("bob")).await?.is_err(), "he is believed before there is a CA");
    wait::until("a line of the log", RELOAD_LIMIT, async || {
        let said = node.log()?;
        ensure!(said.contains("were not taken") && said.contains("clients.crt"), "it says nothing");
        Ok(())
    })
    .await?;

    std::fs::write(&client_ca, &company.certificate)?;
    wait::until("the CA of clients", RELOAD_LIMIT, async || {
        let set = set(&user("bob")).await?;
        ensure!(set.is_ok(), "bob was answered {set:?}");
        Ok(())
    })
    .await?;
    for (subject, expected) in [
        (user("alice"), tonic::Code::PermissionDenied),
        // None of these is anybody.
        (user("root"), tonic::Code::InvalidArgument),
        (user("system:serviceaccount:shop:web"), tonic::Code::InvalidArgument),
        (member.clone(), tonic::Code::InvalidArgument),
        (Subject::Operator, tonic::Code::InvalidArgument),
    ] {
        let answered = set(&subject).await?;
        ensure!(answered == Err(expected), "{subject:?} was answered {answered:?}");
    }
    for subject in [user("bob"), user("root"), member, Subject::Operator] {
        let stream = TcpStream::connect(node.peer_address()).await?;
        let met = holder(&own, &company, &subject)?.connect(stream, "127.0.0.1").await;
        ensure!(
            met.is_err(),
            "{subject:?} of the CA of clients got past the handshake of the port for members"
        );
    }

    let refused = "kvorum_tls_reloads_total{result=\"refused\"}";
    let before = rpc::metric(node.http_address(), refused).await?;
    std::fs::write(&client_ca, "nothing")?;
    wait::until("a look at garbage", RELOAD_LIMIT, async || {
        let now = rpc::metric(node.http_address(), refused).await?;
        ensure!(now > before, "it was not looked at");
        Ok(())
    })
    .await?;
    ensure!(set(&user("bob")).await?.is_ok(), "what was taken before does not go on");
    let next = ca("company 2")?;
    std::fs::write(&client_ca, &next.certificate)?;
    wait::until("another CA of clients", RELOAD_LIMIT, async || {
        ensure!(set(&user("bob")).await?.is_err(), "the CA that is gone is believed");
        Ok(())
    })
    .await?;
    cluster.close()
}

/// Goal: who asks for a name of outside is shown that certificate, as soon as it is there and whenever it is another one, and
/// all others the cluster's own. Method: clients that believe one CA or the other, by name.
#[tokio::test]
async fn names_of_outside_have_a_certificate_of_their_own() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let directory = tempfile::tempdir()?;
    let flag = directory.path().display().to_string();
    let (_files, certificates, cluster) = found(1, "required", &["--tls-outside-dir", &flag]).await?;
    let [node] = cluster.nodes() else { unreachable!("one was founded") };
    let (own, public) = (certificates.ca()?, ca("public")?);
    let reaches = async |trusted: &Made, name: &str| -> Result<bool> {
        let client = ClientTls::of_pem(trusted.certificate.as_bytes(), None).context("make a client")?;
        let stream = TcpStream::connect(node.client_address()).await?;
        Ok(client.connect(stream, name).await.is_ok())
    };
    let write = |made: &Made| -> Result<()> {
        std::fs::write(directory.path().join("tls.key"), &made.key)?;
        Ok(std::fs::write(directory.path().join("tls.crt"), &made.certificate)?)
    };
    let named = |by: &Made, name: &str| leaf(by, &Subject::Member(vec![name.into()]));
    ensure!(
        reaches(&own, "localhost").await? && !reaches(&public, "kv.example.com").await?,
        "it is there already"
    );
    write(&named(&public, "kv.example.com")?)?;
    wait::until("the certificate for outside", RELOAD_LIMIT, async || {
        ensure!(reaches(&public, "kv.example.com").await?, "it is not shown");
        Ok(())
    })
    .await?;
    ensure!(reaches(&own, "localhost").await?, "the cluster's own certificate is not shown any more");
    ensure!(!reaches(&public, "localhost").await?, "who asks for another name is shown it");
    // A certificate that was cut off is not taken, and one line says why.
    let other = named(&public, "kv.example.org")?;
    std::fs::write(directory.path().join("tls.crt"), &other.certificate[..other.certificate.len() / 2])?;
    wait::until("a line of the log", RELOAD_LIMIT, async || {
        let said = node.log()?;
        ensure!(said.contains("tls.crt") && said.contains("were not taken"), "it says nothing");
        Ok(())
    })
    .await?;
    ensure!(reaches(&public, "kv.example.com").await?, "what was taken before does not go on");
    write(&other)?;
    wait::until("another certificate for outside", RELOAD_LIMIT, async || {
        ensure!(reaches(&public, "kv.example.org").await?, "it is not shown");
        Ok(())
    })
    .await?;
    let client = cluster.client().await?;
    client.set("k", "v").await?;
    cluster.close()
}
