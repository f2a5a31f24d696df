"""Judges that share no code with Signpost: dkimpy for signatures, authres for Authentication-Results, Python's email package for MIME.

A long-running child: one JSON request a line on stdin, one JSON answer a line on stdout.

    {"op": "verify", "message": base64, "txt": {name: text} or "dns": "address:port"}
      -> {"results": [bool, ...], "reasons": [null or text, ...]}      one a DKIM-Signature, top to bottom
    {"op": "sign", "message": base64, "domain", "selector", "seed": base64 (Ed25519), "length": bool}
      -> {"message": base64}                                          signed, with l= if length
    {"op": "authentication_results", "value": text of the field}
      -> {"results": [[method, result, reason or null], ...]}         as an RFC 8601 parser reads it; trouble is a failure
    {"op": "decode", "message": base64}
      -> {"headers": [[name, value], ...], "text", "html", "attachments": [{"filename", "content_type", "content_id", "sha256"}], "defects": [...]}
"""

import base64
import email
import email.policy
import hashlib
import json
import sys

import authres
import dkim
import dns.exception
import dns.resolver


def answers(request):
    """The function through which dkimpy asks for TXT; it takes a name with a final dot."""
    if "txt" in request:
        records = {name.rstrip(".").lower(): text.encode() for name, text in request["txt"].items()}
        return lambda name, timeout=5: records.get(as_text(name))
    address, port = request["dns"].rsplit(":", 1)
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [address], int(port)

    def ask(name, timeout=5):
        name = as_text(name)
        # The server is authoritative only, and leaves it to us to follow an alias into another of its zones.
        for _ in range(8):
            try:
                found = resolver.resolve(name, "TXT", lifetime=timeout, raise_on_no_answer=False)
            except dns.resolver.NXDOMAIN:
                return None
            if found.rrset is not None:
                return b"".join(list(found)[0].strings)
            if as_text(found.canonical_name.to_text()) == name:
                return None
            name = as_text(found.canonical_name.to_text())
        return None

    return ask


def as_text(name):
    return (name.decode() if isinstance(name, bytes) else name).rstrip(".").lower()


def verify(request):
    message = base64.b64decode(request["message"])
    ask = answers(request)
    try:
        judge = dkim.DKIM(message, minkey=1024)
        count = sum(1 for field in judge.headers if field[0].lower() == b"dkim-signature")
    except Exception as fault:  # not only DKIMException: a fold under a line that dkimpy skips gives IndexError
        return {"results": [], "reasons": [f"{type(fault).__name__}: {fault}"]}
    results, reasons = [], []
    for index in range(count):
        # dkimpy says False for a signature that does not verify, and raises for a body that does not.
        try:
            results.append(bool(judge.verify(idx=index, dnsfunc=ask)))
            reasons.append(None if results[-1] else "the signature does not verify")
        except dns.exception.DNSException:
            raise
        except Exception as fault:  # dkimpy lets many kinds through on malformed input; each means: not verified
            results.append(False)
            reasons.append(f"{type(fault).__name__}: {fault}")
    return {"results": results, "reasons": reasons}


def sign(request):
    message = base64.b64decode(request["message"])
    field = dkim.sign(
        message,
        request["selector"].encode(),
        request["domain"].encode(),
        request["seed"].encode(),
        canonicalize=(b"relaxed", b"relaxed"),
        signature_algorithm=b"ed25519-sha256",
        include_headers=[b"from", b"to", b"subject"],
        length=request["length"],
    )
    return {"message": base64.b64encode(field + message).decode()}


def authentication_results(request):
    parsed = authres.AuthenticationResultsHeader.parse("Authentication-Results: " + request["value"])
    return {"results": [[one.method, one.result, one.reason] for one in parsed.results]}


def decode(request):
    message = email.message_from_bytes(base64.b64decode(request["message"]), policy=email.policy.default)
    bodies, attachments, defects = {}, [], [str(d) for d in message.defects]
    for part in message.walk():
        defects += [str(d) for d in part.defects if part is not message]
        if part.is_multipart():
            continue
        name, kind = part.get_filename(), part.get_content_type()
        if name is None and part["Content-ID"] is None and kind in ("text/plain", "text/html") and kind not in bodies:
            bodies[kind] = part.get_content().replace("\r\n", "\n")
            continue
        content = part.get_payload(decode=True) or b""
        identifier = part["Content-ID"]
        attachments.append(
            {
                "filename": name,
                "content_type": kind,
                "content_id": str(identifier) if identifier is not None else None,
                "disposition": part.get_content_disposition(),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    return {
        "headers": [[name, str(value)] for name, value in message.items()],
        "text": bodies.get("text/plain"),
        "html": bodies.get("text/html"),
        "attachments": attachments,
        "defects": defects,
    }


OPERATIONS = {
    "verify": verify,
    "sign": sign,
    "authentication_results": authentication_results,
    "decode": decode,
}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = OPERATIONS[request["op"]](request)
        except Exception as fault:  # the Rust side fails the test with this text
            answer = {"failure": f"{type(fault).__name__}: {fault}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
