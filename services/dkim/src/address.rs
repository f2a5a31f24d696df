//! Address lists of header fields (RFC 5322 3.4), strict where a receiver could read another mailbox than we do.
//!
//! One pass over the octets, no recursion: nested comments cost a counter, not stack. Of the obsolete forms only empty list
//! members and dots in a display name are taken; routes, white space inside an address and address literals are errors.
use crate::encoded_word;
use crate::names::{Mailbox, NameError, SigningDomain};

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
pub fn parse_address_list(value: &str) -> Result<Vec<Address>, NameError> {
    let mut cursor = Cursor::new(value);
    let mut list = Vec::new();
    loop {
        // RFC 5322 4.4 obs-addr-list: members may be missing.
        match cursor.entry(GroupAllowed::Yes)? {
            Entry::Nothing => {}
            Entry::Mailbox(mailbox) => list.push(Address::Mailbox(mailbox)),
            Entry::GroupStart(name) => {
                let members = cursor.group_members()?;
                list.push(Address::Group { name, members });
                cursor.skip_cfws()?;
            }
        }
        match cursor.next() {
            None => return Ok(list),
            Some(b',') => {}
            Some(_) => return Err(cursor.unexpected()),
        }
    }
}

/// The value of From or Sender: exactly one mailbox, no group, no encoded-word inside the addr-spec (RFC 2047 5 rule 3).
/// A comment that looks like an address is an error too: programs that do not know comments would show that one.
pub fn parse_single_mailbox(value: &str) -> Result<Mailbox, NameError> {
    let mut cursor = Cursor::new(value);
    let mailbox = cursor.only_mailbox()?;
    if cursor.address_in_comment {
        return Err(NameError::new("a comment holds what looks like another address; remove the comment"));
    }
    Ok(mailbox)
}

/// One mailbox with or without display name.
pub(crate) fn parse_mailbox(text: &str) -> Result<Mailbox, NameError> {
    Cursor::new(text).only_mailbox()
}

/// RFC 5321 4.1.2 Mailbox: no display name, no brackets, no comments, no white space outside a quoted local part.
pub(crate) fn parse_bare(text: &str) -> Result<Mailbox, NameError> {
    let mut cursor = Cursor::new(text);
    let local = match cursor.peek() {
        Some(b'"') => cursor.quoted_string()?,
        Some(_) | None => {
            let atom = cursor.atom();
            if !is_dot_atom(atom) {
                return Err(NameError::new(BAD_LOCAL));
            }
            atom.to_owned()
        }
    };
    if cursor.next() != Some(b'@') {
        return Err(NameError::new("not an address: expected local-part@domain and nothing else"));
    }
    let domain = cursor.domain()?;
    if cursor.peek().is_some() {
        return Err(cursor.unexpected());
    }
    Mailbox::new(None, &local, domain)
}

/// RFC 5322 3.2.3 dot-atom-text, with the UTF-8 of RFC 6531 3.3.
pub(crate) fn is_dot_atom(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace()
    }
}

const BAD_LOCAL: &str = "the part before @ is not valid: unquoted it has letters, digits and !#$%&'*+-/=?^_`{|}~ with single inner dots; \
                         anything else needs double quotes (RFC 5322 3.4.1)";

const OPEN_QUOTE: &str = "a double quote is not closed";

/// A word of a phrase or of a local part.
enum Word<'t> {
    /// A run of atext and dots.
    Atom(&'t str),
    /// Content of a quoted-string, unescaped and unfolded.
    Quoted(String),
}

#[derive(Clone, Copy, PartialEq)]
enum GroupAllowed {
    Yes,
    No,
}

enum Entry {
    Nothing,
    Mailbox(Mailbox),
    GroupStart(String),
}

/// A place in the text; moves forward only.
struct Cursor<'t> {
    text: &'t str,
    at: usize,
    /// A comment so far had `@`, `<` or `>`.
    address_in_comment: bool,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, address_in_comment: false }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let b = self.peek()?;
        self.at += 1;
        Some(b)
    }

    fn unexpected(&self) -> NameError {
        NameError(format!(
            "not a valid address: unexpected text at octet {}; a display name with special characters needs double quotes, \
             addresses are separated by commas",
            self.at + 1
        ))
    }

    /// Exactly one mailbox up to the end.
    fn only_mailbox(&mut self) -> Result<Mailbox, NameError> {
        match self.entry(GroupAllowed::No)? {
            Entry::Mailbox(mailbox) if self.peek().is_none() => Ok(mailbox),
            Entry::Mailbox(_) if self.peek() == Some(b',') => {
                Err(NameError::new("exactly one address is allowed here"))
            }
            Entry::Mailbox(_) | Entry::GroupStart(_) => Err(self.unexpected()),
            Entry::Nothing if self.peek().is_none() => Err(NameError::new("the address is missing")),
            Entry::Nothing => Err(self.unexpected()),
        }
    }

    /// The mailboxes up to and with the `;` of a group.
    fn group_members(&mut self) -> Result<Vec<Mailbox>, NameError> {
        let mut members = Vec::new();
        loop {
            match self.entry(GroupAllowed::No)? {
                Entry::Mailbox(mailbox) => members.push(mailbox),
                Entry::Nothing | Entry::GroupStart(_) => {}
            }
            match self.next() {
                Some(b';') => return Ok(members),
                Some(b',') => {}
                Some(_) => return Err(self.unexpected()),
                None => return Err(NameError::new("the group is not ended by a semicolon")),
            }
        }
    }

    /// A mailbox, the start of a group, or nothing, with the white space and comments around; stops at the delimiter after it.
    fn entry(&mut self, group: GroupAllowed) -> Result<Entry, NameError> {
        let mut words = Vec::new();
        loop {
            self.skip_cfws()?;
            match self.peek() {
                Some(b'"') => words.push(Word::Quoted(self.quoted_string()?)),
                Some(b'@') => {
                    self.at += 1;
                    let mailbox = self.addr_spec_after_at(None, words)?;
                    return Ok(Entry::Mailbox(mailbox));
                }
                Some(b'<') => {
                    self.at += 1;
                    let name = phrase(&words);
                    let mailbox = self.angle_addr(&name)?;
                    self.skip_cfws()?;
                    return Ok(Entry::Mailbox(mailbox));
                }
                Some(b':') if group == GroupAllowed::Yes && !words.is_empty() => {
                    self.at += 1;
                    let name = phrase(&words);
                    if name.chars().any(char::is_control) {
                        return Err(NameError::new("the name of a group has a control character"));
                    }
                    return Ok(Entry::GroupStart(name));
                }
                Some(b':') => return Err(NameError::new("a group of addresses is not allowed here")),
                Some(b',' | b';') | None => {
                    return match words.is_empty() {
                        true => Ok(Entry::Nothing),
                        false => Err(NameError::new("not an address: the @ is missing")),
                    };
                }
                Some(_) => match self.atom() {
                    "" => return Err(self.unexpected()),
                    atom => words.push(Word::Atom(atom)),
                },
            }
        }
    }

    /// RFC 5322 3.4 angle-addr after its `<`. A route (RFC 5322 4.4 obs-route) is an error: it names other hosts.
    fn angle_addr(&mut self, name: &str) -> Result<Mailbox, NameError> {
        self.skip_cfws()?;
        let word = match self.peek() {
            Some(b'"') => Word::Quoted(self.quoted_string()?),
            Some(b'@') => return Err(NameError::new("a source route (<@host:...>) is not allowed")),
            Some(_) | None => Word::Atom(self.atom()),
        };
        self.skip_cfws()?;
        if self.next() != Some(b'@') {
            return Err(NameError::new("not an address: expected local-part@domain between < and >"));
        }
        let mailbox = self.addr_spec_after_at(Some(name), vec![word])?;
        match self.next() {
            Some(b'>') => Ok(mailbox),
            Some(_) | None => Err(NameError::new("not an address: the > after the domain is missing")),
        }
    }

    /// RFC 5322 3.4.1 addr-spec after its `@`. Only one word may stand before: `a . b@...` and `x y@...` are refused.
    fn addr_spec_after_at(&mut self, name: Option<&str>, words: Vec<Word<'t>>) -> Result<Mailbox, NameError> {
        let mut words = words.into_iter();
        let local = match (words.next(), words.next()) {
            (Some(Word::Atom(atom)), None) if is_dot_atom(atom) => atom.to_owned(),
            (Some(Word::Quoted(text)), None) => text,
            (Some(Word::Atom(_)), None) | (Some(_), Some(_)) | (None, _) => return Err(NameError::new(BAD_LOCAL)),
        };
        self.skip_cfws()?;
        let domain = self.domain()?;
        self.skip_cfws()?;
        Mailbox::new(name, &local, domain)
    }

    fn domain(&mut self) -> Result<SigningDomain, NameError> {
        if self.peek() == Some(b'[') {
            return Err(NameError::new("an address literal in brackets is not accepted; use a domain name"));
        }
        let text = self.atom();
        if text.ends_with('.') {
            return Err(NameError::new("the domain of an address does not end in a dot"));
        }
        SigningDomain::parse(text)
    }

    /// The longest run of atext and dots from here, possibly empty.
    fn atom(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| c != '.' && !is_atext(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// RFC 5322 3.2.4. Folds go, their white space stays (RFC 5322 2.2.3).
    fn quoted_string(&mut self) -> Result<String, NameError> {
        self.at += 1;
        let mut content = Vec::new();
        loop {
            match self.next() {
                Some(b'"') => break,
                Some(b'\\') => match self.next() {
                    Some(b) => content.push(b),
                    None => return Err(NameError::new(OPEN_QUOTE)),
                },
                Some(b'\r') if self.is_fold_after_cr() => self.at += 1,
                Some(b) => content.push(b),
                None => return Err(NameError::new(OPEN_QUOTE)),
            }
        }
        // Quotes and backslashes are single octets in UTF-8, so what stands between them is whole characters.
        String::from_utf8(content).map_err(|_| NameError::new("a quoted string is not valid UTF-8"))
    }

    /// With the cursor behind a CR: LF and white space follow.
    fn is_fold_after_cr(&self) -> bool {
        matches!(self.text.as_bytes().get(self.at..self.at + 2), Some([b'\n', b' ' | b'\t']))
    }

    /// Skips white space, folds and comments (RFC 5322 3.2.2).
    fn skip_cfws(&mut self) -> Result<(), NameError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'\r') => {
                    self.at += 1;
                    if !self.is_fold_after_cr() {
                        return Err(NameError::new("the address has a CR that is not part of a folded line"));
                    }
                    self.at += 1;
                }
                Some(b'(') => self.skip_comment()?,
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Skips one comment with those nested in it; a counter stands in for recursion.
    fn skip_comment(&mut self) -> Result<(), NameError> {
        let mut depth = 0_usize;
        loop {
            match self.next() {
                Some(b'(') => depth += 1,
                Some(b')') if depth == 1 => return Ok(()),
                Some(b')') => depth -= 1,
                Some(b'\\') => {
                    self.next();
                }
                Some(b'@' | b'<' | b'>') => self.address_in_comment = true,
                Some(b'\r') if self.is_fold_after_cr() => self.at += 1,
                Some(b'\r' | b'\n' | 0) => return Err(NameError::new("a comment has a control character")),
                Some(_) => {}
                None => return Err(NameError::new("a comment is not closed")),
            }
        }
    }
}

/// Text of a phrase: words joined by single spaces, encoded-words decoded, those next to each other joined with nothing
/// between (RFC 2047 6.2). Inside quotes nothing is decoded (RFC 2047 5 rule 3).
fn phrase(words: &[Word<'_>]) -> String {
    let mut text = String::new();
    let mut after_encoded = false;
    for word in words {
        let (piece, encoded) = match word {
            Word::Atom(atom) => match encoded_word::decode(atom) {
                Some(decoded) => (decoded, true),
                None => ((*atom).to_owned(), false),
            },
            Word::Quoted(content) => (content.clone(), false),
        };
        if !(text.is_empty() || encoded && after_encoded) {
            text.push(' ');
        }
        text.push_str(&piece);
        after_encoded = encoded;
    }
    text.replace('\t', " ")
}
