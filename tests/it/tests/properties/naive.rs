//! RFC 6376 3.4, 3.5 b=, 3.7 and 5.4.2 once more, step by step as the RFC words them, without a line of the crate under test.
//! Slow and plain on purpose: it decides whether a change alters what is signed, and what the signing input has to be.

/// c=, header and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relaxed {
    pub(crate) header: bool,
    pub(crate) body: bool,
}

/// What a signature covers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Form {
    /// Signed fields in the order of h=, then the signature field itself without b= and without its final CRLF.
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Fields (with their folds and final CRLF, if they have one) and the octets after the empty line.
pub(crate) struct Parts {
    pub(crate) fields: Vec<Vec<u8>>,
    /// The empty line is there.
    pub(crate) is_separated: bool,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(message: &[u8]) -> Self {
        let mut fields: Vec<Vec<u8>> = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|two| two == b"\r\n").map_or(rest.len(), |at| at + 2);
            let (line, after) = rest.split_at(end);
            rest = after;
            if line == b"\r\n" {
                return Self { fields, is_separated: true, body: rest.to_vec() };
            }
            match fields.last_mut() {
                Some(open) if is_wsp(line[0]) => open.extend_from_slice(line),
                _ => fields.push(line.to_vec()),
            }
        }
        Self { fields, is_separated: false, body: Vec::new() }
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut octets = self.fields.concat();
        if self.is_separated {
            octets.extend_from_slice(b"\r\n");
            octets.extend_from_slice(&self.body);
        }
        octets
    }

    /// The topmost DKIM-Signature field.
    pub(crate) fn own(&self) -> &[u8] {
        self.fields.iter().find(|field| name(field) == b"dkim-signature").unwrap()
    }

    /// h= of the topmost signature, lower-case.
    pub(crate) fn signed_names(&self) -> Vec<Vec<u8>> {
        let value = unfold(value(self.own()));
        let list = value.split(|&b| b == b';').map(trim).find_map(|tag| tag.strip_prefix(b"h=")).unwrap();
        list.split(|&b| b == b':').map(|name| trim(name).to_ascii_lowercase()).collect()
    }

    /// Every line of the header belongs to a field (RFC 5322 2.2), and the topmost is a DKIM-Signature with a readable h=.
    pub(crate) fn is_signed(&self) -> bool {
        self.fields.iter().all(|field| field.contains(&b':'))
            && self.fields.first().is_some_and(|field| {
                let is_tag = |tag: &[u8]| trim(tag).starts_with(b"h=");
                field.ends_with(b"\r\n")
                    && name(field) == b"dkim-signature"
                    && unfold(value(field)).split(|&b| b == b';').any(is_tag)
            })
    }

    pub(crate) fn form(&self, relaxed: Relaxed) -> Form {
        let mut header = Vec::new();
        let mut left: Vec<&Vec<u8>> = self.fields.iter().collect();
        for wanted in self.signed_names() {
            // RFC 6376 5.4.2: from the bottom of the header to the top; what is not there counts as nothing.
            if let Some(at) = left.iter().rposition(|field| name(field) == wanted) {
                header.extend(canonical_field(relaxed.header, left.remove(at)));
            }
        }
        // RFC 6376 3.7: the signature field itself comes last, the value of b= taken out, without the final CRLF.
        let own = canonical_field(relaxed.header, &without_b(self.own()));
        header.extend_from_slice(own.strip_suffix(b"\r\n").unwrap());
        Form { header, body: canonical_body(relaxed.body, &self.body) }
    }
}

pub(crate) fn is_wsp(octet: u8) -> bool {
    octet == b' ' || octet == b'\t'
}

/// Lower-case, without the white space before the colon.
pub(crate) fn name(field: &[u8]) -> Vec<u8> {
    trim(field.split(|&b| b == b':').next().unwrap()).to_ascii_lowercase()
}

/// What stands behind the colon, with folds and the final CRLF.
pub(crate) fn value(field: &[u8]) -> &[u8] {
    &field[field.iter().position(|&b| b == b':').unwrap() + 1..]
}

pub(crate) fn trim(mut octets: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = octets {
        octets = rest;
    }
    trim_end(octets)
}

pub(crate) fn trim_end(mut octets: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = octets {
        octets = rest;
    }
    octets
}

/// Takes every CRLF out.
pub(crate) fn unfold(octets: &[u8]) -> Vec<u8> {
    lines(octets).concat()
}

/// What stands between the CRLFs; one more than there are CRLFs.
pub(crate) fn lines(octets: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = octets;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

/// Each run of SP and HTAB becomes one SP.
fn reduce(octets: &[u8]) -> Vec<u8> {
    let mut reduced: Vec<u8> = Vec::new();
    for &octet in octets {
        match is_wsp(octet) {
            true if reduced.last() == Some(&b' ') => {}
            true => reduced.push(b' '),
            false => reduced.push(octet),
        }
    }
    reduced
}

/// RFC 6376 3.4.1, 3.4.2. A field at the end of the octets that lacks its CRLF gets it.
fn canonical_field(relaxed: bool, field: &[u8]) -> Vec<u8> {
    let content = field.strip_suffix(b"\r\n").unwrap_or(field);
    match relaxed {
        false => [content, b"\r\n"].concat(),
        true => [&name(field), b":".as_slice(), trim(&reduce(&unfold(value(content)))), b"\r\n"].concat(),
    }
}

/// RFC 6376 3.4.3, 3.4.4.
fn canonical_body(relaxed: bool, body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = lines(body)
        .into_iter()
        .map(|line| if relaxed { trim_end(&reduce(line)).to_vec() } else { line.to_vec() })
        .collect();
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    match lines.is_empty() {
        true if relaxed => Vec::new(),
        true => b"\r\n".to_vec(),
        false => [lines.join(b"\r\n".as_slice()), b"\r\n".to_vec()].concat(),
    }
}

/// The field with b= empty: the value goes and all white space around it.
fn without_b(field: &[u8]) -> Vec<u8> {
    let mut tags: Vec<Vec<u8>> =
        field.strip_suffix(b"\r\n").unwrap().split(|&b| b == b';').map(<[u8]>::to_vec).collect();
    for tag in &mut tags {
        if trim(&unfold(tag)).starts_with(b"b=") {
            let equals = tag.iter().position(|&b| b == b'=').unwrap();
            tag.truncate(equals + 1);
        }
    }
    [tags.join(b";".as_slice()), b"\r\n".to_vec()].concat()
}
