//! Reading users, roles and rights from their rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use rocksdb::{DB, ReadOptions};

use super::{Auth, role_bytes, user_bytes};
use crate::command::AuthMode;
use crate::db;
use crate::error::StoreError;
use crate::layout::{self, AUTH, AUTH_ROLE, AUTH_USER, AuthHead, AuthRow, META, Malformed};

impl Auth {
    /// Reads all rows; a database without any has nobody, and rights do not count there.
    pub(crate) fn read(db: &DB) -> Result<Auth, StoreError> {
        let malformed = |_| StoreError::malformed(db.path(), "a row of its users and roles cannot be read");
        let row = db.get_cf(db::family(db, META), AUTH);
        let head = match row.map_err(StoreError::database("read meta", db.path()))? {
            Some(row) => layout::decode_auth::<AuthHead>(&row).and_then(check_head).map_err(malformed)?,
            None => return Ok(Auth::default()),
        };
        let (mut users, mut roles, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
        each(db, AUTH_USER, |name, row| {
            let user = layout::decode_auth(row)?;
            bytes += user_bytes(name, &user);
            users.insert(name.to_owned(), Arc::new(user));
            Ok(())
        })?;
        each(db, AUTH_ROLE, |name, row| {
            let role = layout::decode_auth(row)?;
            bytes += role_bytes(name, &role);
            roles.insert(name.to_owned(), Arc::new(role));
            Ok(())
        })?;
        let (users, roles) = (Arc::new(users), Arc::new(roles));
        Ok(Auth { head, users, roles, bytes, ..Auth::default() })
    }
}

/// What is no mode must not be taken for one in which nobody is refused.
fn check_head(head: AuthHead) -> Result<AuthHead, Malformed> {
    if AuthMode::try_from(head.mode).is_ok() { Ok(head) } else { Err(Malformed) }
}

/// Sees every row whose key begins like this, by its name.
fn each(
    db: &DB,
    prefix: &[u8],
    mut see: impl FnMut(&str, &[u8]) -> Result<(), Malformed>,
) -> Result<(), StoreError> {
    let malformed = |_| StoreError::malformed(db.path(), "a row of its users and roles cannot be read");
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix));
    let mut rows = db.raw_iterator_cf_opt(db::family(db, META), options);
    rows.seek_to_first();
    while let Some((key, row)) = rows.item() {
        let (AuthRow::User(name) | AuthRow::Role(name)) =
            AuthRow::of(key).and_then(|found| found.ok_or(Malformed)).map_err(malformed)?;
        see(name, row).map_err(malformed)?;
        rows.next();
    }
    rows.status().map_err(StoreError::database("read users and roles", db.path()))
}
