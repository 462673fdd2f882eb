//! Sessions: a token that was given for a password is taken by every member, whatever becomes of members meanwhile,
//! until the password is another one; then no member takes it.
//!
//! Calls are made by hand, so without the client's own way of renewing a token.

use std::sync::Arc;
use std::time::Duration;

use kvorum_client::auth::{Access, Auth};
use kvorum_client::{Client, Error, KeyRange};
use kvorum_node::net::dialer::Dialer;
use kvorum_proto::auth::v1::{AuthenticateRequest, auth_client::AuthClient};
use kvorum_proto::kv::v1::{GetRequest, kv_client::KvClient};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::{HostNetwork, Session, TIMEOUT};
use crate::world::random::stream;

/// The user, whom the network does not vouch for, and the role by which he may read.
const USER: &str = "bob";
const ROLE: &str = "reader";
/// What he reads.
const KEY: &str = "rights/root";
/// How many passwords he has, one after the other. Each costs two hashes, which take real time.
const PASSWORDS_MAX: u32 = 3;
/// How long he has each, at most.
const HAS_MAX: Duration = Duration::from_secs(15);
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(200);
/// How often members are asked once the password is another one.
const ASKED: u32 = 10;

/// Where the token of a call stands.
const TOKEN: &str = "token";

struct User {
    session: Arc<Session>,
    dialer: Dialer,
    random: StdRng,
}

/// Logs in and reads, with one password after the other, until told to stop.
pub async fn work(session: Arc<Session>, network: HostNetwork, root: Client) {
    let dialer = Dialer::new(Arc::new(network.of_user(Some("nobody"))), None);
    let random = stream(session.seed, "sessions");
    let mut user = User { session: session.clone(), dialer, random };
    let auth = root.auth();
    while !auth.status().await.is_ok_and(|status| status.enabled) {
        if session.stops() {
            return;
        }
        sleep(PAUSE).await;
    }
    for number in 0..PASSWORDS_MAX {
        let password = format!("password {number}");
        if number == 0 && !user.until_done(|| begin(&auth, &password)).await {
            return;
        }
        let Some(token) = user.log_in(&password).await else { return };
        let until = Instant::now() + user.random.random_range(Duration::ZERO..=HAS_MAX);
        while Instant::now() < until || number + 1 == PASSWORDS_MAX || session.is_healed() {
            if session.stops() || session.has_new_history() {
                return;
            }
            if let Err(status) = user.read(&token).await
                && is_denied(&status)
                && !session.has_new_history()
            {
                return session
                    .violated(format!("a session was refused that has not ended: {}", status.message()));
            }
        }
        let next = format!("password {}", number + 1);
        if !user.until_done(|| auth.change_password(USER, Some(&next))).await {
            return;
        }
        for _ in 0..ASKED {
            let before = auth.status().await;
            let read = user.read(&token).await;
            // Where rights are only looked at, everybody is let pass.
            let counts = matches!((before, auth.status().await), (Ok(a), Ok(b)) if a == b && a.enabled);
            if read.is_ok() && counts && !session.has_new_history() {
                return session.violated("a session goes on though the password is another one".to_owned());
            }
        }
    }
}

/// Each attempt does what is left of it.
async fn begin(auth: &Auth, password: &str) -> Result<(), Error> {
    if !auth.users().await?.iter().any(|user| user == USER) {
        auth.user_add(USER, Some(password)).await?;
    }
    if !auth.roles().await?.iter().any(|role| role == ROLE) {
        auth.role_add(ROLE).await?;
    }
    auth.grant_permission(ROLE, KeyRange::prefix(KEY), Access::Read).await?;
    if !auth.user(USER).await?.roles.iter().any(|role| role == ROLE) {
        auth.grant_role(USER, ROLE).await?;
    }
    Ok(())
}

fn is_denied(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

impl User {
    /// Until it is acknowledged. An attempt of unknown outcome is void after that: it is as of the rights before.
    async fn until_done<F: Future<Output = Result<(), Error>>>(&self, attempt: impl Fn() -> F) -> bool {
        loop {
            let done = attempt().await;
            self.session.answered("password", 0, &done);
            if done.is_ok() || self.session.stops() {
                return done.is_ok();
            }
            sleep(PAUSE).await;
        }
    }

    async fn log_in(&mut self, password: &str) -> Option<MetadataValue<Ascii>> {
        loop {
            let request = AuthenticateRequest { name: USER.to_owned(), password: password.to_owned() };
            let endpoint = self.endpoint();
            let way = self.dialer.channel(&endpoint).expect("the simulation's addresses are right");
            let answer = timeout(TIMEOUT, AuthClient::new(way).authenticate(request)).await;
            self.session.trace.note("log in", &[u64::from(matches!(answer, Ok(Ok(_))))], &[]);
            match answer {
                Ok(Ok(answer)) => return answer.into_inner().token.parse().ok(),
                Ok(Err(status)) if is_denied(&status) && !self.session.has_new_history() => {
                    self.session.violated(format!("the right password was refused: {}", status.message()));
                    return None;
                }
                _ => {}
            }
            if self.session.stops() {
                return None;
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads at some member.
    async fn read(&mut self, token: &MetadataValue<Ascii>) -> Result<(), Status> {
        sleep(self.random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let mut request = Request::new(GetRequest { key: KEY.into(), revision: 0, serializable: false });
        request.metadata_mut().insert(TOKEN, token.clone());
        let endpoint = self.endpoint();
        let way = self.dialer.channel(&endpoint).expect("the simulation's addresses are right");
        let answer = timeout(TIMEOUT, KvClient::new(way).get(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        self.session.trace.note("session read", &[u64::from(answer.is_ok())], &[]);
        answer.map(drop)
    }

    fn endpoint(&mut self) -> String {
        self.session.endpoints.choose(&mut self.random).cloned().unwrap_or_default()
    }
}
