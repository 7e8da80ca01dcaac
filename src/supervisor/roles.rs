//! Who may do what on the control socket, by the credentials that the kernel gives.
//!
//! Root and the user that runs sozu may do everything. With groups configured,
//! the socket is open to all users of the machine, and each is asked who he is;
//! without, only its owner can connect at all.

use std::fs;

use crate::config::Settings;
use crate::proto::command::Command;
use crate::state::{Code, Refused};
use crate::sys::socket::Credentials;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Admin,
    /// Asks, and changes nothing.
    Viewer,
}

pub struct Roles {
    own_uid: u32,
    admins: Vec<u32>,
    viewers: Vec<u32>,
}

impl Roles {
    pub fn new(settings: &Settings, own_uid: u32) -> Result<Roles, String> {
        let text = match settings.control_admin_groups.is_empty()
            && settings.control_viewer_groups.is_empty()
        {
            true => String::new(),
            false => fs::read_to_string("/etc/group").map_err(|e| format!("/etc/group: {e}"))?,
        };
        let gids = |names: &[String]| -> Result<Vec<u32>, String> {
            let gid = |name: &String| {
                let unknown =
                    || format!("control groups: there is no group {name:?} in /etc/group");
                gid_of(&text, name).ok_or_else(unknown)
            };
            names.iter().map(gid).collect()
        };
        Ok(Roles {
            own_uid,
            admins: gids(&settings.control_admin_groups)?,
            viewers: gids(&settings.control_viewer_groups)?,
        })
    }

    /// The bits that the socket's mode leaves out.
    pub fn umask(&self) -> u32 {
        match self.admins.is_empty() && self.viewers.is_empty() {
            true => 0o177,
            false => 0o111,
        }
    }

    /// `None`: whoever that is has no business here.
    pub fn of(&self, who: &Credentials) -> Option<Role> {
        let in_any = |gids: &[u32]| who.gids.iter().any(|gid| gids.contains(gid));
        if who.uid == 0 || who.uid == self.own_uid || in_any(&self.admins) {
            Some(Role::Admin)
        } else {
            in_any(&self.viewers).then_some(Role::Viewer)
        }
    }
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Viewer => "viewer",
        }
    }

    pub fn named(name: &str) -> Option<Role> {
        [Role::Admin, Role::Viewer]
            .into_iter()
            .find(|role| role.name() == name)
    }

    pub fn may(self, command: &Command) -> Result<(), Refused> {
        match self {
            Role::Admin => Ok(()),
            Role::Viewer if command.only_asks() => Ok(()),
            Role::Viewer => {
                let what = "you may look and change nothing: control_admin_groups may";
                Err(Refused::new(Code::Denied, what))
            }
        }
    }
}

/// The number of a group, from the text of group(5).
fn gid_of(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let gid = (fields.next()? == name).then(|| fields.nth(1))??;
        gid.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::selection::Selection;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nadm:x:4:syslog,ann\nadmin:x:1001:\nbroken\nx:y\n";
        assert_eq!(gid_of(text, "adm"), Some(4));
        assert_eq!(gid_of(text, "admin"), Some(1001));
        assert_eq!(gid_of(text, "ad"), None);
        assert_eq!(gid_of(text, "x"), None);
    }

    #[test]
    fn a_viewer_changes_nothing_and_others_stay_outside() {
        let roles = Roles {
            own_uid: 7,
            admins: vec![10],
            viewers: vec![20],
        };
        let role = |uid, gids: &[u32]| {
            roles.of(&Credentials {
                uid,
                pid: 1,
                gids: gids.into(),
            })
        };
        assert_eq!(role(0, &[]), Some(Role::Admin));
        assert_eq!(role(7, &[]), Some(Role::Admin));
        assert_eq!(role(8, &[20, 10]), Some(Role::Admin));
        assert_eq!(role(8, &[20]), Some(Role::Viewer));
        assert_eq!(role(8, &[8]), None);
        assert!(Role::Viewer.may(&Command::Status).is_ok());
        assert!(Role::Viewer.may(&Command::Reload).is_err());
        let upgrade = Command::Upgrade {
            binary: None,
            canary: None,
        };
        assert!(Role::Viewer.may(&upgrade).is_err());
        let connections = |kill| Command::Connections {
            kill,
            selection: Selection::default(),
        };
        let dump = |secrets| Command::StateDump { secrets };
        assert!(Role::Viewer.may(&dump(false)).is_ok());
        assert!(Role::Viewer.may(&dump(true)).is_err());
        assert!(Role::Viewer.may(&connections(false)).is_ok());
        assert!(Role::Viewer.may(&connections(true)).is_err());
    }
}
