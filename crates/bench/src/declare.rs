//! Who may do what, for a measurement of what that costs.

use std::fs;

use kvorum_proto::admin::v1 as admin;
use kvorum_proto::admin::v1::admin_client::AdminClient;
use kvorum_proto::auth::v1::{Access, Mode, Permission};
use kvorum_proto::kv::v1::KeyRange;
use kvorum_tls::{ClientTls, Paths};

use crate::api::describe;
use crate::args::DeclareArgs;
use crate::caller::Caller;
use crate::transport::Transport;

/// The role of those who may do everything with keys. It is no root: what is to be measured is the check.
const ROLE: &str = "bench";

/// Declares root, who shows a certificate, and users who may read and write all keys.
pub async fn run(args: DeclareArgs) -> Result<(), Box<dyn std::error::Error>> {
    let DeclareArgs { peer, cacert, cert, key, users, issuer, audience, jwks } = args;
    let paths = Paths { ca: cacert, own: Some((cert, key)), client_ca: None, outside: None };
    let caller = Caller { tls: Some(ClientTls::load(paths)?), token: None };
    let all = KeyRange { unbounded: true, ..KeyRange::default() };
    let permission = Permission { range: Some(all), access: Access::ReadWrite.into() };
    let user = |name: String, role: &str| admin::DeclaredUser { name, roles: vec![role.to_owned()] };
    let declared = users.into_iter().map(|name| user(name, ROLE));
    let request = admin::ApplyAccessRequest {
        users: declared.chain([user("root".into(), "root")]).collect(),
        roles: vec![admin::DeclaredRole { name: ROLE.into(), permissions: vec![permission] }],
        issuer: Some(admin::TokenIssuer { issuer, audience, jwks: fs::read_to_string(jwks)? }),
        mode: Mode::Required.into(),
    };
    let transport = Transport::connect(&peer, &caller).await?;
    let applied = AdminClient::with_origin(transport, peer.origin()).apply_access(request).await;
    applied.map_err(|status| format!("declare users at {peer}: {}", describe(&status)))?;
    Ok(())
}
