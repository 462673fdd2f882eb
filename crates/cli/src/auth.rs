//! `kvorum user`, `kvorum role` and `kvorum auth`: who may do what.

use std::io::BufRead as _;

use kvorum_client::auth::{Access, Mode, Permission};
use kvorum_client::{Client, KeyRange};
use serde_json::json;

use crate::args::{AuthCommand, Keys, RoleCommand, UserCommand};
use crate::failure::Failure;
use crate::output::Output;

/// The longest line that is read as a password; a node takes fewer bytes.
const LINE_BYTES_MAX: u64 = 4096;

pub(crate) async fn auth(client: &Client, command: AuthCommand, output: &mut Output) -> Result<(), Failure> {
    let auth = client.auth();
    match command {
        AuthCommand::Enable => {
            auth.enable().await?;
            output.line("rights count from here on", json!({ "enabled": true, "mode": "required" }))
        }
        AuthCommand::Observe => {
            auth.observe().await?;
            output.line(
                "rights are looked at from here on, and nobody is refused",
                json!({ "enabled": false, "mode": "observe" }),
            )
        }
        AuthCommand::Disable => {
            auth.disable().await?;
            output.line("rights do not count any more", json!({ "enabled": false, "mode": "disabled" }))
        }
        AuthCommand::Status => {
            let status = auth.status().await?;
            let (enabled, revision) = (status.enabled, status.auth_revision);
            let (text, mode) = match status.mode {
                Mode::Required => ("rights count", "required"),
                Mode::Observe => ("rights are looked at, and nobody is refused", "observe"),
                _ => ("rights do not count", "disabled"),
            };
            let object = json!({ "enabled": enabled, "mode": mode, "auth_revision": revision });
            output.line(format!("{text}, auth revision {revision}"), object)
        }
    }
}

pub(crate) async fn user(client: &Client, command: UserCommand, output: &mut Output) -> Result<(), Failure> {
    let auth = client.auth();
    let (user, done) = match command {
        UserCommand::Add { name, password_stdin } => {
            auth.user_add(&name, password(password_stdin)?.as_deref()).await?;
            (name, "added".to_owned())
        }
        UserCommand::Delete { name } => {
            auth.user_delete(&name).await?;
            (name, "deleted".to_owned())
        }
        UserCommand::Passwd { name, password_stdin } => {
            let password = password(password_stdin)?;
            auth.change_password(&name, password.as_deref()).await?;
            let done = if password.is_some() { "has another password" } else { "has no password" };
            (name, done.to_owned())
        }
        UserCommand::GrantRole { user, role } => {
            auth.grant_role(&user, &role).await?;
            (user, format!("has role {role}"))
        }
        UserCommand::RevokeRole { user, role } => {
            auth.revoke_role(&user, &role).await?;
            (user, format!("has role {role} no more"))
        }
        UserCommand::List => return names(auth.users().await?, output),
        UserCommand::Get { name } => {
            let user = auth.user(&name).await?;
            let declared = if user.declared { ", declared by the operator" } else { "" };
            let text = format!("user {name}: roles {}{declared}", user.roles.join(", "));
            return output
                .line(text, json!({ "user": name, "roles": user.roles, "declared": user.declared }));
        }
    };
    output.line(format!("user {user} {done}"), json!({ "user": user, "done": done }))
}

pub(crate) async fn role(client: &Client, command: RoleCommand, output: &mut Output) -> Result<(), Failure> {
    let auth = client.auth();
    let (role, done) = match command {
        RoleCommand::Add { name } => {
            auth.role_add(&name).await?;
            (name, "added".to_owned())
        }
        RoleCommand::Delete { name } => {
            auth.role_delete(&name).await?;
            (name, "deleted".to_owned())
        }
        RoleCommand::GrantPermission { role, access, keys } => {
            let range = range(keys);
            let what = keys_text(&range);
            auth.grant_permission(&role, range, access).await?;
            (role, format!("may {} {what}", access_text(access)))
        }
        RoleCommand::RevokePermission { role, keys } => {
            let range = range(keys);
            let what = keys_text(&range);
            auth.revoke_permission(&role, range).await?;
            (role, format!("may do nothing with {what}"))
        }
        RoleCommand::List => return names(auth.roles().await?, output),
        RoleCommand::Get { name } => {
            let role = auth.role(&name).await?;
            let declared = if role.declared { ", declared by the operator" } else { "" };
            let each = |it: &Permission| format!("\n  {} {}", access_text(it.access), keys_text(&it.range));
            let text: String = role.permissions.iter().map(each).collect();
            let object =
                |it: &Permission| json!({ "access": access_text(it.access), "keys": keys_text(&it.range) });
            let permissions: Vec<_> = role.permissions.iter().map(object).collect();
            return output.line(
                format!("role {name}{declared}{text}"),
                json!({ "role": name, "permissions": permissions, "declared": role.declared }),
            );
        }
    };
    output.line(format!("role {role} {done}"), json!({ "role": role, "done": done }))
}

fn names(names: Vec<String>, output: &mut Output) -> Result<(), Failure> {
    names.into_iter().try_for_each(|name| output.line(&name, json!({ "name": name })))
}

/// A line of the standard input, where that is asked for: an argument would stand in the list of processes.
fn password(asked: bool) -> Result<Option<String>, Failure> {
    if !asked {
        return Ok(None);
    }
    let mut line = String::new();
    let input = std::io::Read::take(std::io::stdin().lock(), LINE_BYTES_MAX);
    let read = std::io::BufReader::new(input).read_line(&mut line);
    read.map_err(|error| Failure::Other(format!("read the password from the standard input: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::Usage("the standard input holds no password".to_owned()));
    }
    Ok(Some(password.to_owned()))
}

fn range(keys: Keys) -> KeyRange {
    let Keys { key, end, prefix, from_key } = keys;
    match end {
        Some(end) => KeyRange::between(key, end),
        None if prefix => KeyRange::prefix(key),
        None if from_key => KeyRange::starting_at(key),
        None => KeyRange::key(key),
    }
}

fn access_text(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadWrite => "readwrite",
    }
}

/// Keys as people read them.
fn keys_text(range: &KeyRange) -> String {
    let start = range.start().escape_ascii();
    if range.is_key() {
        return format!("{start}");
    }
    if *range == KeyRange::prefix(range.start().clone()) {
        return if range.start().is_empty() { "all keys".to_owned() } else { format!("{start}*") };
    }
    match range.end() {
        Some(end) => format!("{start} up to {}", end.escape_ascii()),
        None => format!("{start} and what comes behind it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what was granted is read as it was written. Method: a table.
    #[test]
    fn keys_read_as_they_were_given() {
        let keys = |end: Option<&str>, prefix, from_key| Keys {
            key: "a/".to_owned(),
            end: end.map(str::to_owned),
            prefix,
            from_key,
        };
        for (keys, text) in [
            (keys(None, false, false), "a/"),
            (keys(None, true, false), "a/*"),
            (keys(Some("b"), false, false), "a/ up to b"),
            (keys(None, false, true), "a/ and what comes behind it"),
            (Keys { key: String::new(), ..keys(None, true, false) }, "all keys"),
        ] {
            assert_eq!(keys_text(&range(keys)), text);
        }
    }
}
