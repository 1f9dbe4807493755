//! Who may see protected metrics: arguments, paths, typed lines.

use std::collections::BTreeSet;

use nix::unistd::Group;
use nix::unistd::User;

use crate::pmda::Client;

/// Users and groups that the configuration names.
#[derive(Debug, Default)]
pub struct Readers {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl Readers {
    /// Looks up `user:NAME, group:NAME`, where a name may be a number. The second part of the
    /// result are those that do not exist.
    #[must_use]
    pub fn look_up(list: &str) -> (Self, Vec<String>) {
        let (mut readers, mut unknown) = (Self::default(), Vec::new());
        for one in list.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (kind, name) = one.split_once(':').unwrap_or_default();
            let known = match kind {
                "user" => readers.add_user(name),
                "group" => readers.add_group(name),
                _ => None,
            };
            if known.is_none() {
                unknown.push(one.to_owned());
            }
        }
        (readers, unknown)
    }

    fn add_user(&mut self, name: &str) -> Option<()> {
        let id = name.parse().ok().or_else(|| Some(User::from_name(name).ok()??.uid.as_raw()))?;
        self.users.insert(id);
        Some(())
    }

    /// The host tells a client's first group only, so members are noted as users.
    fn add_group(&mut self, name: &str) -> Option<()> {
        let group = match name.parse() {
            Ok(id) => Group::from_gid(nix::unistd::Gid::from_raw(id)),
            Err(_) => Group::from_name(name),
        };
        let group = group.ok()??;
        self.groups.insert(group.gid.as_raw());
        for member in group.mem {
            let _ = self.add_user(&member);
        }
        Some(())
    }

    /// Whether this client may.
    #[must_use]
    pub fn admit(&self, client: &Client) -> bool {
        client.is_local
            || client.uid.is_some_and(|uid| uid == 0 || self.users.contains(&uid))
            || client.gid.is_some_and(|gid| self.groups.contains(&gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_those_named() {
        let client = |uid, gid| Client { is_local: false, uid, gid };
        let (readers, unknown) = Readers::look_up("user:1234, group:root,user:nobody, user:no-such-user, group:");
        assert_eq!(unknown, ["user:no-such-user", "group:"]);
        assert!(readers.admit(&client(Some(0), None)));
        assert!(readers.admit(&client(Some(1234), Some(5))));
        assert!(readers.admit(&client(Some(7), Some(0))));
        assert!(readers.admit(&client(Some(65_534), None)));
        assert!(!readers.admit(&client(Some(7), Some(5))));
        assert!(!readers.admit(&client(None, None)));
        assert!(Readers::default().admit(&Client { is_local: true, uid: None, gid: None }));
        assert!(!Readers::default().admit(&client(Some(1), Some(0))));
    }
}
