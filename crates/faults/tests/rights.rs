//! Goal: rights hold on all members of a cluster, whatever happens to it.
//!
//! Method: three nodes that speak TLS only. A user writes at all of them as fast as he may while his right is taken and
//! given again; members are killed, restarted, wiped and sent a snapshot; and members of the release before are among
//! them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvorum_client::auth::Access;
use kvorum_client::{Client, ConnectOptions, Error, KeyRange, Tls};
use kvorum_faults::certificates::{Certificates, leaf};
use kvorum_faults::process::{Node, Release};
use kvorum_faults::rpc::{Consistency, RawClient, secured_channel};
use kvorum_faults::{
    Cluster, Context as _, Failure, Layout, Result, binary, ensure, program, rpc, settings, wait,
};
use kvorum_tls::make::Subject;
use kvorum_tls::{ClientTls, Paths};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

/// The feature level from which on there are users.
const AUTH_LEVEL: u32 = 3;
/// How often the right is taken and given again.
const FLAPS: usize = 10;
/// How long it stays so, in which hundreds of writes are tried.
const PHASE: Duration = Duration::from_millis(300);
/// The leader looks every 2 s whether all know the next level.
const RISE_LIMIT: Duration = Duration::from_secs(30);
/// A member has caught up by a snapshot within this.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);

/// One cluster at a time has the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// A cluster with TLS, and its certificates, in a directory.
async fn found(release: Release, more: &[&str]) -> Result<(TempDir, Arc<Certificates>, Cluster)> {
    let directory = tempfile::tempdir()?;
    let certificates = Arc::new(Certificates::make(directory.path())?);
    let mut flags = certificates.flags("required");
    flags.extend(more.iter().map(ToString::to_string));
    let layout = Layout { flags, release, tls: Some(certificates.clone()), ..Layout::default() };
    Ok((directory, certificates, Cluster::found(3, layout).await?))
}

/// What connections of a user are made with.
fn of_user(certificates: &Certificates, user: &str) -> Result<Paths> {
    let ca = certificates.ca()?;
    certificates.write_as(user, &[&ca], &leaf(&ca, &Subject::User(user.into()))?)?;
    Ok(Paths::for_client(&certificates.directory(user)))
}

/// A user at one node, who speaks gRPC by himself: nothing is tried again.
fn at(node: &Node, paths: &Paths) -> Result<RawClient> {
    let tls = ClientTls::load(paths.clone()).context("load a user's certificate")?;
    Ok(RawClient::on(secured_channel(node.client_address(), tls)?))
}

async fn wait_level(nodes: &[Arc<Node>], level: u32) -> Result<()> {
    wait::until("the rise of the feature level", RISE_LIMIT, async || {
        for node in nodes {
            let found = node.status().await?.feature_level;
            ensure!(found == level, "{} is on level {found}", node.name());
        }
        Ok(())
    })
    .await
}

/// Users `root`, `alice`, who may read and write `a/`, and `bob`, who may read it and has a password.
async fn with_users(root: &Client) -> Result<()> {
    let auth = root.auth();
    for user in ["root", "alice"] {
        auth.user_add(user, None).await?;
    }
    auth.user_add("bob", Some("a password")).await?;
    for (role, access) in [("write", Access::ReadWrite), ("read", Access::Read)] {
        auth.role_add(role).await?;
        auth.grant_permission(role, KeyRange::prefix("a/"), access).await?;
    }
    for (user, role) in [("root", "root"), ("alice", "write"), ("bob", "read")] {
        auth.grant_role(user, role).await?;
    }
    Ok(auth.enable().await?)
}

/// What writers may do, as it was acknowledged; every change of it is another stage.
#[derive(Clone, Default)]
struct Stages(Arc<AtomicU64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is being changed, or nobody says.
    Open(u64),
    May(u64),
    MayNot(u64),
}

impl Stages {
    fn now(&self) -> Stage {
        let number = self.0.load(Ordering::SeqCst);
        match number % 4 {
            1 => Stage::May(number),
            3 => Stage::MayNot(number),
            _ => Stage::Open(number),
        }
    }

    /// A change is begun, or acknowledged.
    fn next(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Writes at one node until it is told to stop; counts what was done, and refused. What begins and ends within one stage is
/// answered as that says.
async fn write_on(
    client: RawClient,
    key: String,
    stages: Stages,
    stop: Arc<Mutex<bool>>,
) -> Result<(u64, u64)> {
    let (mut done, mut denied) = (0, 0);
    while !*stop.lock().await {
        let before = stages.now();
        let answer = client.set(key.clone().into(), Bytes::from_static(b"v"), None).await;
        let same = stages.now() == before;
        match answer {
            Ok(_) if same && matches!(before, Stage::MayNot(_)) => {
                return Err(Failure::new(format!("{key} was written in {before:?}")));
            }
            Err(status)
                if same && matches!(before, Stage::May(_)) && status.code() == Code::PermissionDenied =>
            {
                return Err(Failure::new(format!("{key} was refused in {before:?}: {status}")));
            }
            Ok(_) => done += 1,
            Err(status) if status.code() == Code::PermissionDenied => denied += 1,
            // Rights changed three times while it was on its way.
            Err(status) if status.message().contains("rights changed again and again") => {}
            Err(status) => return Err(status).context("write where it is allowed or denied"),
        }
    }
    Ok((done, denied))
}

#[tokio::test]
async fn nothing_is_written_once_a_right_is_taken() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) = found(Release::default(), &[]).await?;
    wait_level(cluster.nodes(), AUTH_LEVEL).await?;
    let root = cluster.client().await?;
    with_users(&root).await?;
    let alice = of_user(&certificates, "alice")?;
    let (stages, stop) = (Stages::default(), Arc::new(Mutex::new(false)));
    let mut writers = JoinSet::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let client = at(node, &alice)?;
        for writer in 0..settings::number("RIGHTS_WRITERS", 2) {
            let key = format!("a/{number}/{writer}");
            writers.spawn(write_on(client.clone(), key, stages.clone(), stop.clone()));
        }
    }
    let (auth, mut allowed) = (root.auth(), Duration::ZERO);
    stages.next();
    for flap in 0..FLAPS {
        let begun = Instant::now();
        sleep(PHASE).await;
        allowed += begun.elapsed();
        stages.next();
        auth.revoke_role("alice", "write").await?;
        stages.next();
        let revision = root.get("a/").await?.header.revision;
        sleep(PHASE).await;
        let later = root.get("a/").await?.header.revision;
        ensure!(
            later == revision,
            "flap {flap}: revision {later} was written after {revision}, with no right to it"
        );
        stages.next();
        auth.grant_role("alice", "write").await?;
        stages.next();
        // A right that was given is known at all members.
        for node in cluster.nodes() {
            let read = at(node, &alice)?.get("a/".into(), Consistency::Linearizable).await;
            read.context(format!("flap {flap}: read at {} what may be read again", node.name()))?;
        }
    }
    *stop.lock().await = true;
    let (mut done, mut denied) = (0, 0);
    while let Some(writer) = writers.join_next().await {
        let (more, refused) = writer.context("a writer panicked")??;
        (done, denied) = (done + more, denied + refused);
    }
    eprintln!(
        "rights: {done} writes, {:.0} a second while they were allowed, and {denied} refusals in {FLAPS} flaps",
        done as f64 / allowed.as_secs_f64()
    );
    ensure!(done > 50 && denied > 50, "only {done} writes and {denied} refusals were seen");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// Goal: in Observe everybody is let pass and it is known whom rights would refuse; and once they count again, nothing is
/// written that was let pass before. Method: a user who may only read writes at all members as fast as he may, while rights
/// go from one to the other.
#[tokio::test]
async fn nothing_that_was_let_pass_is_written_once_rights_count() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) = found(Release::default(), &[]).await?;
    wait_level(cluster.nodes(), AUTH_LEVEL).await?;
    let root = cluster.client().await?;
    with_users(&root).await?;
    let auth = root.auth();
    auth.observe().await?;
    let bob = of_user(&certificates, "bob")?;
    let stop = Arc::new(Mutex::new(false));
    let mut writers = JoinSet::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        for writer in 0..2 {
            let client = at(node, &bob)?;
            let key = format!("a/{number}/{writer}");
            writers.spawn(write_on(client, key, Stages::default(), stop.clone()));
        }
    }
    // He may read, and whoever shows nothing may do nothing: both are told apart.
    let reads = at(&cluster.nodes()[0], &bob)?;
    let ca = certificates.directory("root").join("ca.crt");
    let nobody = ConnectOptions::new().tls(Tls::files(ca.clone(), None::<(&str, &str)>)?);
    let nobody = Client::builder(cluster.endpoints()).connect_options(nobody).connect().await?;
    // Whose password is wrong goes on as he would if nobody looked.
    let wrong = ConnectOptions::new().tls(Tls::files(ca, None::<(&str, &str)>)?).user("bob", "wrong");
    let wrong = Client::builder(cluster.endpoints()).connect_options(wrong).connect().await?;
    for flap in 0..FLAPS {
        reads.get("a/".into(), Consistency::Linearizable).await.context("read what he may")?;
        nobody.set("b", "v").await.context("write as nobody in Observe")?;
        wrong.get("b").await.context("read with a wrong password in Observe")?;
        sleep(PHASE).await;
        auth.enable().await?;
        let revision = root.get("a/").await?.header.revision;
        sleep(PHASE).await;
        let later = root.get("a/").await?.header.revision;
        ensure!(
            later == revision,
            "flap {flap}: revision {later} was written after {revision}, with no right to it"
        );
        auth.observe().await?;
        // Whoever was refused a moment ago is let pass at every member that knows it.
        wait::until("writes in Observe", PHASE * 10, async || {
            let now = root.get("a/").await?.header.revision;
            ensure!(now > later, "nothing was written in Observe since revision {later}");
            Ok(())
        })
        .await?;
    }
    *stop.lock().await = true;
    let (mut done, mut denied) = (0, 0);
    while let Some(writer) = writers.join_next().await {
        let (more, refused) = writer.context("a writer panicked")??;
        (done, denied) = (done + more, denied + refused);
    }
    ensure!(done > 50 && denied > 50, "only {done} writes and {denied} refusals were seen");
    nobody.set("b", "v").await?;
    let mut known = BTreeSet::new();
    for node in cluster.nodes() {
        let said = node.status().await?.let_pass;
        known.extend(said.into_iter().map(|it| format!("{} {}: {}", it.user, it.proof, it.why)));
    }
    ensure!(known.contains("bob certificate: permission denied"), "known are {known:?}");
    ensure!(known.contains(" none: user name is empty"), "known are {known:?}");
    ensure!(known.iter().all(|it| !it.starts_with("root")), "root may do everything: {known:?}");
    let mut counted = 0.0;
    for node in cluster.nodes() {
        let wanted = r#"kvorum_auth_checks_total{proof="certificate",result="would_deny"}"#;
        counted += rpc::metric(node.http_address(), wanted).await?;
    }
    ensure!(counted >= done as f64, "{counted} were counted of {done} writes");
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

#[tokio::test]
async fn rights_survive_restarts_and_snapshots() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (_files, certificates, cluster) =
        found(Release::default(), &["--log-retain-bytes", "256KiB"]).await?;
    wait_level(cluster.nodes(), AUTH_LEVEL).await?;
    let root = cluster.client().await?;
    with_users(&root).await?;
    root.set("a/k", "v").await?;
    root.set("b", "secret").await?;
    // Bob has no certificate, and his token is got once.
    let ca = certificates.directory("root").join("ca.crt");
    let options = ConnectOptions::new().tls(Tls::files(ca, None::<(&str, &str)>)?);
    let bob = Client::builder(cluster.endpoints()).connect_options(options.user("bob", "a password"));
    let bob = bob.connect().await?;
    let check = async |when: &str| -> Result<()> {
        ensure!(bob.get("a/k").await?.kv.is_some(), "{when}: bob does not read what he may");
        for outcome in [bob.get("b").await.map(drop), bob.set("a/k", "x").await.map(drop)] {
            ensure!(matches!(outcome, Err(Error::Denied { .. })), "{when}: bob was answered {outcome:?}");
        }
        Ok(())
    };
    check("at first").await?;

    let nodes = cluster.nodes();
    Node::kill_all(nodes.iter().map(|node| &**node))?;
    for node in nodes {
        node.start().await?;
    }
    cluster.wait_healthy().await?;
    check("after all were killed").await?;

    // More than the log that is kept: the empty disk needs a snapshot.
    let lost = cluster.follower().await?;
    let old_id = lost.status().await?.node_id;
    lost.kill()?;
    lost.wipe()?;
    cluster.remove_member(old_id).await?;
    for number in 0..200 {
        root.set(format!("large/{number}"), vec![7; 16 * 1024]).await?;
    }
    lost.start().await?;
    cluster.add_voter(&lost).await?;
    wait::until("a snapshot", SNAPSHOT_LIMIT, async || {
        let received = rpc::metric(lost.http_address(), "kvorum_snapshots_received_total").await?;
        ensure!(received >= 1.0, "it caught up without a snapshot");
        Ok(())
    })
    .await?;
    cluster.compare_stores(nodes).await?;
    let alice = at(&lost, &of_user(&certificates, "alice")?)?;
    alice
        .set("a/k".into(), Bytes::from_static(b"v"), None)
        .await
        .context("write by a right from a snapshot")?;
    for consistency in [Consistency::Linearizable, Consistency::Serializable] {
        let read = alice.get("b".into(), consistency).await.map_err(|status| status.code());
        ensure!(read == Err(Code::PermissionDenied), "alice was answered {read:?} where she has no right");
    }
    check("after a snapshot").await?;
    // His password is another one; the one he has opens nothing any more.
    root.auth().change_password("bob", Some("another")).await?;
    let refused = bob.get("a/k").await;
    ensure!(matches!(refused, Err(Error::Denied { .. })), "an old password was answered {refused:?}");
    cluster.close()
}

#[tokio::test]
async fn members_that_do_not_know_users_keep_rights_off() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let level = AUTH_LEVEL;
    let old = Release { binary: None, flags: vec!["--feature-level-max".into(), (level - 1).to_string()] };
    let (_files, _certificates, cluster) = found(old, &[]).await?;
    wait_level(cluster.nodes(), level - 1).await?;
    let new = Release::default();
    let (last, first) = cluster.nodes().split_last().context("three were founded")?;
    for node in first {
        node.terminate().await?;
        node.set_release(&new);
        node.start().await?;
        cluster.wait_healthy().await?;
    }
    let started = Instant::now();
    let root = cluster.client().await?;
    // Longer than the leader takes to raise the level where it may.
    while started.elapsed() < Duration::from_secs(4) {
        for outcome in [root.auth().user_add("root", None).await, root.auth().enable().await] {
            let refused = matches!(&outcome, Err(Error::Rpc { code, .. }) if code == "AUTH_OLD_MEMBERS");
            ensure!(refused, "with a member of before it was answered {outcome:?}");
        }
        sleep(PHASE).await;
    }
    last.terminate().await?;
    last.set_release(&new);
    last.start().await?;
    wait_level(cluster.nodes(), level).await?;
    with_users(&root).await?;
    ensure!(root.auth().status().await?.enabled, "rights do not count");
    root.set("k", "v").await?;
    cluster.compare_stores(cluster.nodes()).await?;
    cluster.close()
}

/// The tool, as docs/security.md shows it.
#[tokio::test]
async fn the_tool_makes_users_and_is_one() -> Result<()> {
    let _alone = MACHINE.lock().await;
    let (files, certificates, cluster) = found(Release::default(), &[]).await?;
    wait_level(cluster.nodes(), AUTH_LEVEL).await?;
    let endpoints = cluster.endpoints();
    let path = |name: &str| certificates.directory("root").join(name).display().to_string();
    let [ca, certificate, key] = ["ca.crt", "tls.crt", "tls.key"].map(path);
    let as_root = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    let root = async |line: &str, input: &str, said: &str| -> Result<()> {
        let words: Vec<&str> = as_root.into_iter().chain(line.split(' ')).collect();
        let ended = program::tool_with(&endpoints, &words, input.as_bytes()).await?;
        let output = String::from_utf8_lossy(ended.output()?).into_owned();
        ensure!(output == format!("{said}\n"), "{line} was to say {said:?}, and said {output:?}");
        Ok(())
    };
    for (line, input, said) in [
        ("auth status", "", "rights do not count, auth revision 0"),
        ("user add root", "", "user root added"),
        ("user grant-role root root", "", "user root has role root"),
        ("auth enable", "", "rights count from here on"),
        ("role add app", "", "role app added"),
        ("role grant-permission app readwrite app/ --prefix", "", "role app may readwrite app/*"),
        ("role grant-permission app read c e", "", "role app may read c up to e"),
        ("role get app", "", "role app\n  readwrite app/*\n  read c up to e"),
        ("role revoke-permission app c e", "", "role app may do nothing with c up to e"),
        ("user add alice --password-stdin", "a long password\n", "user alice added"),
        ("user grant-role alice app", "", "user alice has role app"),
        ("user get alice", "", "user alice: roles app"),
        ("user list", "", "alice\nroot"),
        ("role list", "", "app"),
        ("auth status", "", "rights count, auth revision 9"),
        ("set app/greeting hello", "", "OK, revision 2"),
    ] {
        root(line, input, said).await?;
    }
    let alice = async |line: &str| {
        let words = ["--cacert", &ca, "--user", "alice:a long password"];
        let words: Vec<&str> = words.into_iter().chain(line.split(' ')).collect();
        program::tool(&endpoints, &words).await
    };
    ensure!(alice("get app/greeting").await?.output()? == b"hello", "alice does not read her key");
    alice("set app/greeting hi").await?.output()?;
    alice("user get alice").await?.output()?;
    for line in ["get other", "set other x", "compact 2", "user list", "auth disable"] {
        alice(line).await?.expect(1, &["permission denied"])?;
    }
    // By the environment alone, where what is set to nothing counts for nothing.
    let tool = binary::tool()?.display().to_string();
    let (of_ca, of_endpoints) =
        (format!("KVORUM_CACERT={ca}"), format!("KVORUM_ENDPOINTS={}", endpoints.join(",")));
    let variables =
        ["KVORUM_CERT=", "KVORUM_KEY=", "KVORUM_TOKEN_FILE=", "KVORUM_USER=alice", &of_ca, &of_endpoints];
    for (password, code, said) in [
        ("KVORUM_PASSWORD=a long password", 0, ""),
        ("KVORUM_PASSWORD=no", 1, "authentication failed"),
        // Nor is there a terminal to ask at.
        ("KVORUM_PASSWORD=", 2, "set KVORUM_PASSWORD, or write --user NAME:PASSWORD"),
    ] {
        let words: Vec<&str> =
            variables.into_iter().chain([password, &tool, "get", "app/greeting"]).collect();
        program::run(Path::new("/usr/bin/env"), &words, &[]).await?.expect(code, &[said])?;
    }
    let nobody = program::tool(&endpoints, &["--cacert", &ca, "get", "app/greeting"]).await?;
    nobody.expect(1, &["user name is empty", "--user"])?;
    let wrong = ["--cacert", &ca, "--user", "alice:no", "get", "app/greeting"];
    let wrong = program::tool(&endpoints, &wrong).await?;
    wrong.expect(1, &["authentication failed, invalid user ID or password"])?;
    let token = files.path().join("token");
    std::fs::write(&token, "no token\n")?;
    let token = token.display().to_string();
    let bad = program::tool(&endpoints, &["--cacert", &ca, "--token-file", &token, "get", "k"]).await?;
    bad.expect(1, &["invalid auth token", "it is no token of this release"])?;
    program::tool(&endpoints, &["--user", "alice", "get", "k"]).await?.expect(2, &["NAME:PASSWORD"])?;
    root("auth observe", "", "rights are looked at from here on, and nobody is refused").await?;
    root("auth status", "", "rights are looked at, and nobody is refused, auth revision 10").await?;
    // She is let pass, and there is no such key.
    alice("get other").await?.expect(3, &["key not found"])?;
    root("auth enable", "", "rights count from here on").await?;
    alice("get other").await?.expect(1, &["permission denied"])?;
    root("auth disable", "", "rights do not count any more").await?;
    cluster.close()
}
