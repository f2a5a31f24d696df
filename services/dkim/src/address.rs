//! Address lists of header fields (RFC 5322 3.4), strict where a receiver could read another mailbox than we do.
use crate::names::{Mailbox, NameError};

/// One entry of an address list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A single mailbox.
    Mailbox(Mailbox),
    /// A group with its members (RFC 5322 3.4).
    Group {
        /// Display name of the group.
        name: String,
        /// Members, possibly none.
        members: Vec<Mailbox>,
    },
}

/// Parses the unfolded or folded value of To, Cc, Bcc, Reply-To, From, Sender. Comments and quoted strings are understood and
/// never moved into an address; anything ambiguous is an error. An empty value gives an empty list.
pub fn parse_address_list(_value: &str) -> Result<Vec<Address>, NameError> {
    todo!()
}

/// The value of From or Sender: exactly one mailbox, no group, no encoded-word inside the addr-spec (RFC 2047 5 rule 3).
pub fn parse_single_mailbox(_value: &str) -> Result<Mailbox, NameError> {
    todo!()
}
