"""What stands in front of the KMS of the tests where it matters who asks: STS, and the permissions that moto does not look at.

usage: aws_edge.py PORT KMS_PORT FOLDER

Listens on 127.0.0.1:PORT and writes FOLDER/ready once it does. AssumeRole and GetCallerIdentity are answered here, by roles that a test
declares; everything else goes on to the KMS at KMS_PORT, if the credentials that it was asked with may use the key that it names, and is
`AccessDeniedException` else. Credentials that no role gave are the service's own: they may use every key that is not declared foreign.

The door for tests, JSON in and out:

- `POST /_test/role` `{"arn", "external_id": "..." | null, "keys": [ARN]}`: who may assume it (null: anybody who is trusted, whatever ExternalId
  they name; `*` in it as in StringLike), and which keys it may use. Declared again, it is replaced, and its sessions are over.
- `POST /_test/foreign` `{"keys": [ARN]}`: keys that the service's own credentials may not use.
- `GET /_test/assumed`: every AssumeRole, `[{"role", "external_id", "session", "allowed", "policy"}]`.
- `POST /_test/expire`: all sessions are over.
"""

import http.client
import json
import re
import sys
import threading
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

STS = "https://sts.amazonaws.com/doc/2011-06-15/"
ACCOUNT = "999988887777"
ALLOWED_TO_ROLES = {"GetPublicKey", "Sign"}


class World:
    def __init__(self):
        self.lock = threading.Lock()
        self.roles = {}
        self.sessions = {}
        self.foreign = set()
        self.assumed = []

    def assume(self, form):
        arn, external_id = form.get("RoleArn"), form.get("ExternalId")
        with self.lock:
            role = self.roles.get(arn)
            allowed = role is not None and (
                role["external_id"] is None or fnmatchcase(external_id or "", role["external_id"])
            )
            self.assumed.append(
                {
                    "role": arn,
                    "external_id": external_id,
                    "session": form.get("RoleSessionName"),
                    "allowed": allowed,
                    "policy": form.get("Policy"),
                }
            )
            if not allowed:
                return None
            name = f"ASIATEST{len(self.assumed):08d}"
            policy = json.loads(form.get("Policy") or "null")
            self.sessions[name] = (arn, policy)
            return name

    def may(self, access_key, operation, key):
        """None, or the error code."""
        with self.lock:
            if access_key.startswith("ASIA"):
                if access_key not in self.sessions:
                    return "ExpiredTokenException"
                arn, policy = self.sessions[access_key]
                if key not in self.roles[arn]["keys"] or operation not in ALLOWED_TO_ROLES:
                    return "AccessDeniedException"
                for statement in (policy or {}).get("Statement", []):
                    if statement["Resource"] != key or f"kms:{operation}" not in statement["Action"]:
                        return "AccessDeniedException"
                return None
            return "AccessDeniedException" if key in self.foreign else None


WORLD = World()


class Edge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kms_port = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/_test/assumed":
            with WORLD.lock:
                return self.reply_json(200, WORLD.assumed)
        return self.reply_json(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/_test/"):
            return self.door(json.loads(body or b"{}"))
        operation = self.headers.get("X-Amz-Target", "").partition(".")[2]
        if operation:
            return self.kms(operation, body)
        return self.sts({name: values[0] for name, values in parse_qs(body.decode()).items()})

    def door(self, given):
        with WORLD.lock:
            if self.path == "/_test/role":
                WORLD.roles[given["arn"]] = {"external_id": given["external_id"], "keys": set(given["keys"])}
                WORLD.sessions = {name: s for name, s in WORLD.sessions.items() if s[0] != given["arn"]}
            elif self.path == "/_test/foreign":
                WORLD.foreign.update(given["keys"])
            elif self.path == "/_test/expire":
                WORLD.sessions.clear()
            else:
                return self.reply_json(404, {})
        return self.reply_json(200, {})

    def kms(self, operation, body):
        credential = re.search(r"Credential=([^/,]+)", self.headers.get("Authorization", ""))
        key = json.loads(body or b"{}").get("KeyId", "")
        refused = WORLD.may(credential.group(1) if credential else "", operation, key)
        if refused:
            return self.reply_json(400, {"__type": refused, "message": "a rule of the test"})
        connection = http.client.HTTPConnection("127.0.0.1", self.kms_port)
        # moto takes the credentials that STS gave for those of another account.
        authorization = re.sub(r"Credential=[^/,]+", "Credential=test", self.headers.get("Authorization", ""))
        fields = {"X-Amz-Target": self.headers["X-Amz-Target"], "Authorization": authorization}
        fields["Content-Type"] = self.headers.get("Content-Type", "application/x-amz-json-1.1")
        connection.request("POST", "/", body, fields)
        answer = connection.getresponse()
        content = answer.read()
        if operation == "GetPublicKey" and answer.status == 200:
            # AWS names the key by its ARN, and its kind by KeySpec; moto by the id and by the older field only.
            told = json.loads(content)
            content = json.dumps({**told, "KeyId": key, "KeySpec": told["CustomerMasterKeySpec"]}).encode()
        return self.reply(answer.status, answer.getheader("Content-Type", "text/plain"), content)

    def sts(self, form):
        action = form.get("Action")
        if action == "GetCallerIdentity":
            arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/signpost/main"
            inner = f"<Arn>{arn}</Arn><UserId>AROATEST:main</UserId><Account>{ACCOUNT}</Account>"
            return self.reply_xml(200, action, inner)
        if action != "AssumeRole":
            return self.refuse_xml("InvalidAction")
        name = WORLD.assume(form)
        if name is None:
            return self.refuse_xml("AccessDenied")
        inner = (
            f"<Credentials><AccessKeyId>{name}</AccessKeyId><SecretAccessKey>of-{name}</SecretAccessKey>"
            f"<SessionToken>token-{name}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
            f"<AssumedRoleUser><Arn>{escape(form['RoleArn'])}</Arn><AssumedRoleId>A:B</AssumedRoleId></AssumedRoleUser>"
        )
        return self.reply_xml(200, action, inner)

    def refuse_xml(self, code):
        text = f'<ErrorResponse xmlns="{STS}"><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>'
        self.reply(403, "text/xml", text.encode())

    def reply_xml(self, status, action, inner):
        text = f'<{action}Response xmlns="{STS}"><{action}Result>{inner}</{action}Result></{action}Response>'
        self.reply(status, "text/xml", text.encode())

    def reply_json(self, status, value):
        self.reply(status, "application/x-amz-json-1.1", json.dumps(value).encode())

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port, Edge.kms_port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    server = ThreadingHTTPServer(("127.0.0.1", port), Edge)
    server.daemon_threads = True
    (folder / "ready").touch()
    server.serve_forever()


main()
