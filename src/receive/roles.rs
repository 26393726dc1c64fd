//! SCP/SCU role selection: what the peer proposes for each SOP class in -> what we agree to out.
//!
//! On an association that a peer opens we are the provider (SCP) of every class, so the peer may be its user (SCU) and nothing else.
//! A class without a proposal has just these roles by default and gets no answer. Source: PS3.7 section D.3.3.4.

use std::collections::BTreeMap;

use dicom_ul::pdu::{RequestorRoles, UserVariableItem};

/// What the peer proposes.
pub(super) struct Roles(BTreeMap<String, bool>);

impl Roles {
    /// Reads the user items of a request; their number is bounded by the length of the request.
    pub(super) fn proposed(items: &[UserVariableItem]) -> Self {
        let role = |item: &UserVariableItem| match item {
            UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) => {
                Some((class.trim_end_matches(['\0', ' ']).to_owned(), roles.scu))
            }
            _ => None,
        };
        Self(items.iter().filter_map(role).collect())
    }

    /// Whether the peer gives up being the user of a class, which leaves that part to us.
    pub(super) fn asks_us_to_be_user(&self, abstract_syntax: &str) -> bool {
        self.0.get(abstract_syntax) == Some(&false)
    }

    /// Answers to what was proposed for the accepted classes, each once.
    pub(super) fn answers<'a>(&self, accepted: impl Iterator<Item = &'a str>) -> Vec<UserVariableItem> {
        let accepted: std::collections::BTreeSet<&str> = accepted.collect();
        let ours = RequestorRoles { scu: true, scp: false };
        accepted
            .into_iter()
            .filter(|class| self.0.contains_key(*class))
            .map(|class| UserVariableItem::ScuScpRoleSelectionSubItem(class.to_owned(), ours))
            .collect()
    }
}
