//! RFC 6376 3.4 written a second time, as literally and slowly as the text has it, to hold the streaming one against.

fn lines(octets: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut i = 0;
    while i < octets.len() {
        if octets[i..].starts_with(b"\r\n") {
            lines.push(Vec::new());
            i += 2;
        } else {
            lines.last_mut().unwrap().push(octets[i]);
            i += 1;
        }
    }
    lines
}

fn reduce(line: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for &b in line {
        let b = if b == b'\t' { b' ' } else { b };
        if !(b == b' ' && out.last() == Some(&b' ')) {
            out.push(b);
        }
    }
    if out.last() == Some(&b' ') {
        out.pop();
    }
    out
}

fn join_without_empty_end(mut lines: Vec<Vec<u8>>) -> Vec<u8> {
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect()
}

/// 3.4.3.
pub(crate) fn simple_body(body: &[u8]) -> Vec<u8> {
    let out = join_without_empty_end(lines(body));
    if out.is_empty() { b"\r\n".to_vec() } else { out }
}

/// 3.4.4.
pub(crate) fn relaxed_body(body: &[u8]) -> Vec<u8> {
    join_without_empty_end(lines(body).iter().map(|line| reduce(line)).collect())
}

/// 3.4.2.
pub(crate) fn relaxed_field(raw: &[u8]) -> Vec<u8> {
    let unfolded = lines(raw).concat();
    let colon = unfolded.iter().position(|&b| b == b':').unwrap();
    let name = reduce(&unfolded[..colon]).to_ascii_lowercase();
    let value = reduce(&unfolded[colon + 1..]);
    let value = value.strip_prefix(b" ").unwrap_or(&value);
    [&name, &b":"[..], value, b"\r\n"].concat()
}
