"""Real messages for /v1/sign: CPython's email test data and the messages that the mail-parser crate carries.

    collect_corpus.py --has-python-data          exit status 0 if this machine has CPython's messages
    collect_corpus.py MAIL_PARSER_FOLDER ADDRESS one JSON object a line: {"file", "sha256", "message" (base64)}

The preparation, and nothing else: line ends LF become CRLF (a CR of its own stays), a final CRLF is added where it is missing,
the value of the first From field becomes `Corpus <ADDRESS>`, and where there is no From field one is put on top.
`sha256` is that of the file as it lies there.
"""

import base64
import glob
import hashlib
import json
import pathlib
import re
import sys
import sysconfig


def python_data():
    """Folder of CPython's messages, or None. Debian installs them beside its own library, whichever Python runs this."""
    folders = [pathlib.Path(sysconfig.get_path("stdlib"))]
    folders += [pathlib.Path(p) for p in sorted(glob.glob("/usr/lib/python3.*"), reverse=True)]
    for folder in folders:
        data = folder / "test" / "test_email" / "data"
        if any(data.glob("msg_*.txt")):
            return data
    return None


def python_messages():
    data = python_data()
    if data is None:
        sys.exit("no CPython test data: apt-get install libpython3.11-testsuite")
    return [(f"cpython/{path.name}", path.read_bytes()) for path in sorted(data.glob("msg_*.txt"))]


def mail_parser_messages(folder):
    resources = pathlib.Path(folder) / "resources"
    paths = sorted(resources.glob("eml/**/*.eml"))
    paths += sorted(p for p in resources.glob("maildir/**/*") if p.is_file() and p.parent.name in ("cur", "new"))
    return [(f"mail-parser/{path.relative_to(resources).as_posix()}", path.read_bytes()) for path in paths]


def crlf(raw):
    raw = re.sub(rb"(?<!\r)\n", b"\r\n", raw)
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def with_from(raw, address):
    field = b"From: Corpus <" + address.encode() + b">\r\n"
    end = raw.find(b"\r\n\r\n")
    header_end = len(raw) if end < 0 else end + 2
    found = re.search(rb"(?im)^From[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", raw[:header_end])
    if found is None:
        return field + raw
    return raw[: found.start()] + field + raw[found.end() :]


def main():
    if sys.argv[1:] == ["--has-python-data"]:
        sys.exit(0 if python_data() else 1)
    folder, address = sys.argv[1:]
    for name, raw in python_messages() + mail_parser_messages(folder):
        message = with_from(crlf(raw), address)
        print(json.dumps({"file": name, "sha256": hashlib.sha256(raw).hexdigest(), "message": base64.b64encode(message).decode()}))


if __name__ == "__main__":
    main()
