//! Rights: one user's are taken and given again, while he writes, reads and watches at every member. Nothing is
//! written, read or told to him once he has lost them, and nothing is denied while he has them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kvorum_client::auth::{Access, Auth};
use kvorum_client::{Client, Error, KeyRange};
use kvorum_store::auth::ROOT;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout_at};

use super::watchers::Prints;
use super::{HostNetwork, Session, TIMEOUT, options};
use crate::world::random::stream;

/// The user, and the role by which he has his rights.
const USER: &str = "alice";
const ROLE: &str = "writer";
/// What he has rights to, what of it he writes, and what root does.
const PREFIX: &str = "rights/";
const HIS: &str = "rights/alice/";
const ROOTS: &str = "rights/root";
/// How long he has his rights, and lacks them, at most.
const HAS_MAX: Duration = Duration::from_secs(6);
const LACKS_MAX: Duration = Duration::from_millis(1500);
/// Between two things that he tries, and between two attempts to change his rights.
const PAUSE: Duration = Duration::from_millis(150);
const RETRY: Duration = Duration::from_millis(200);
/// How long he watches at most.
const WATCHES_MAX: Duration = Duration::from_secs(5);

/// What is known of his rights. Whoever compares it before and after a call knows what held all the while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rights {
    /// Nobody knows: they change.
    #[default]
    Unknown,
    /// He has them, for so many times.
    Has(u64),
    /// He has lost them, for so many times, and what is written after this revision he is not told of.
    Lacks(u64, u64),
}

/// Revisions of which none is his: he had no right from the first on until after the last.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    after: u64,
    upto: u64,
}

impl Denied {
    /// Looks for what he has written.
    pub fn check(&self, prints: &Prints) -> Result<(), String> {
        let Denied { after, upto } = *self;
        if upto <= after {
            return Ok(());
        }
        let his = prints.range(after + 1..=upto).find_map(|(revision, events)| {
            let his = events.iter().find(|(key, _)| key.starts_with(HIS.as_bytes()))?;
            Some((revision, &his.0))
        });
        match his {
            Some((revision, key)) => Err(format!(
                "{} was written at revision {revision}, by a user who had lost the right to it at {after}",
                String::from_utf8_lossy(key)
            )),
            None => Ok(()),
        }
    }
}

/// Has rights count, and takes and gives them until told to stop.
pub async fn change(session: Arc<Session>, root: Client) {
    let mut random = stream(session.seed, "rights");
    let auth = root.auth();
    while let Err(error) = begin(&auth).await {
        session.answered::<()>("rights begin", 0, &Err(error));
        if session.stops() {
            return;
        }
        sleep(RETRY).await;
    }
    for number in 1.. {
        session.set_rights(Rights::Has(number));
        sleep(random.random_range(Duration::ZERO..=HAS_MAX)).await;
        // A cluster that goes on from one disk may have lost what was changed at that time.
        if session.is_healed() || session.stops() {
            return;
        }
        session.set_rights(Rights::Unknown);
        let way = Way::draw(&mut random);
        if !way.until_done(&session, &auth, false).await {
            return;
        }
        let Some(after) = write(&session, &root).await else { return };
        session.set_rights(Rights::Lacks(number, after));
        // Something that he would be told of if he could, and time in which he would be.
        let mut upto = None;
        for _ in 0..2 {
            sleep(random.random_range(Duration::ZERO..=LACKS_MAX)).await;
            upto = write(&session, &root).await;
        }
        session.set_rights(Rights::Unknown);
        if let Some(upto) = upto
            && !session.has_new_history()
        {
            session.told(|told| told.denied.push(Denied { after, upto }));
        }
        if !way.until_done(&session, &auth, true).await {
            return;
        }
    }
}

/// Each attempt does what is left of it.
async fn begin(auth: &Auth) -> Result<(), Error> {
    let (users, roles) = (auth.users().await?, auth.roles().await?);
    for user in [ROOT, USER] {
        if !users.iter().any(|known| known == user) {
            auth.user_add(user, None).await?;
        }
    }
    if !roles.iter().any(|known| known == ROLE) {
        auth.role_add(ROLE).await?;
    }
    auth.grant_permission(ROLE, KeyRange::prefix(PREFIX), Access::ReadWrite).await?;
    for (user, role) in [(ROOT, ROOT), (USER, ROLE)] {
        if !auth.user(user).await?.roles.iter().any(|known| known == role) {
            auth.grant_role(user, role).await?;
        }
    }
    if auth.status().await?.enabled { Ok(()) } else { auth.enable().await }
}

/// Writes what the user may not be told, and answers at which revision; nothing once told to stop.
async fn write(session: &Session, root: &Client) -> Option<u64> {
    loop {
        let answer = root.set(ROOTS, "v").await;
        session.answered_write("rights root", 0, &answer);
        match answer {
            Ok(answer) => return Some(answer.header.revision),
            // Where nothing may grow, a read says how far it is.
            Err(Error::NoSpace { .. }) => {
                if let Ok(answer) = root.get(ROOTS).await {
                    return Some(answer.header.revision);
                }
            }
            Err(_) => {}
        }
        if session.stops() {
            return None;
        }
        sleep(RETRY).await;
    }
}

/// How he loses his rights, and gets them again.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The role is taken from him.
    Role,
    /// Its right is taken from the role.
    Permission,
    /// There is no such user.
    User,
    /// Rights count again, by which he has none; before, and after, they are only looked at.
    Mode,
}

impl Way {
    fn draw(random: &mut StdRng) -> Way {
        match random.random_range(0..4) {
            0 => Way::Role,
            1 => Way::Permission,
            2 => Way::User,
            _ => Way::Mode,
        }
    }

    /// Changes his rights until that is how they are; false where told to stop before. An attempt that nobody knows
    /// the outcome of is void once the next one is done, as each is as of the rights before it.
    async fn until_done(self, session: &Session, auth: &Auth, gives: bool) -> bool {
        loop {
            let changed = self.attempt(auth, gives).await;
            session.answered("rights", u64::from(gives), &changed);
            if let Ok(true) = changed {
                return true;
            }
            if session.stops() {
                return false;
            }
            sleep(RETRY).await;
        }
    }

    /// True: it is done.
    async fn attempt(self, auth: &Auth, gives: bool) -> Result<bool, Error> {
        match self {
            Way::Role => change_role(auth, gives).await?,
            Way::Permission => {
                let (keys, has) = (KeyRange::prefix(PREFIX), !auth.role(ROLE).await?.permissions.is_empty());
                match (has, gives) {
                    (false, true) => auth.grant_permission(ROLE, keys, Access::ReadWrite).await?,
                    (true, false) => auth.revoke_permission(ROLE, keys).await?,
                    _ => {}
                }
                // The time before, another way may have been the one.
                if gives {
                    change_role(auth, true).await?;
                }
            }
            Way::User => {
                let has = auth.users().await?.iter().any(|user| user == USER);
                match (has, gives) {
                    (false, true) => {
                        auth.user_add(USER, None).await?;
                        change_role(auth, true).await?;
                    }
                    // The attempt before has come only so far, perhaps.
                    (true, true) => change_role(auth, true).await?,
                    (true, false) => auth.user_delete(USER).await?,
                    (false, false) => {}
                }
            }
            Way::Mode if gives => auth.observe().await?,
            Way::Mode => change_role(auth, false).await?,
        }
        if !gives {
            auth.enable().await?;
        }
        Ok(true)
    }
}

/// Gives the role to the user, or takes it from him, unless that is done.
async fn change_role(auth: &Auth, gives: bool) -> Result<(), Error> {
    let has = auth.user(USER).await?.roles.iter().any(|role| role == ROLE);
    match (has, gives) {
        (false, true) => auth.grant_role(USER, ROLE).await,
        (true, false) => auth.revoke_role(USER, ROLE).await,
        _ => Ok(()),
    }
}

/// Writes and reads at one member as the user, until told to stop.
pub async fn write_at(session: Arc<Session>, network: HostNetwork, endpoint: String) {
    let mut random = stream(session.seed, &format!("rights at {endpoint}"));
    let Some(client) = user(&network, &endpoint) else { return };
    for number in 0_u64.. {
        session.rested().await;
        if session.stops() {
            return;
        }
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let before = session.rights();
        let key = format!("{HIS}{endpoint}/{}", number % 3);
        let answer = if random.random_range(0..2) == 0 {
            let answer = client.set(key, number.to_string()).await;
            session.answered_write("rights write", number, &answer);
            answer.map(drop)
        } else {
            let answer = client.get(key).await;
            session.answered("rights read", number, &answer);
            answer.map(drop)
        };
        // Else it changed meanwhile, and anything is right.
        if session.rights() != before || session.has_new_history() {
            continue;
        }
        match (before, answer) {
            (Rights::Has(_), Err(Error::Denied { message })) => {
                session.violated(format!("{endpoint} denies what may be done: {message}"));
            }
            (Rights::Lacks(..), Ok(())) => {
                session.violated(format!("{endpoint} does what a user has no right to any more"));
            }
            _ => {}
        }
    }
}

/// Watches at one member as the user, until told to stop: no event reaches him that is behind the loss of his rights.
pub async fn watch_at(session: Arc<Session>, network: HostNetwork, endpoint: String) {
    let mut random = stream(session.seed, &format!("rights watched at {endpoint}"));
    let Some(client) = user(&network, &endpoint) else { return };
    while !session.stops() {
        sleep(random.random_range(Duration::ZERO..=2 * PAUSE)).await;
        let until = Instant::now() + random.random_range(Duration::ZERO..=WATCHES_MAX);
        let Ok(mut changes) = client.watch(KeyRange::prefix(PREFIX)).start().await else { continue };
        while let Ok(Some(changed)) = timeout_at(until, changes.next()).await {
            let (Ok(changed), false) = (changed, session.stops()) else { break };
            session.trace.note("rights watch", &[changed.revision, changed.events.len() as u64], &[]);
            if let Rights::Lacks(_, after) = session.rights()
                && !changed.events.is_empty()
                && changed.revision > after
                && !session.has_new_history()
            {
                let revision = changed.revision;
                session.violated(format!(
                    "{endpoint} tells a user of revision {revision}, who has lost the right to it before {after}"
                ));
            }
        }
    }
}

/// A client of the user, who asks one member only.
fn user(network: &HostNetwork, endpoint: &str) -> Option<Client> {
    let client = Client::builder([endpoint.to_owned()]).timeout(TIMEOUT);
    let network = network.of_user(Some(USER));
    client.connect_options(options(&network)).without_leader_search().connect_lazy().ok()
}
