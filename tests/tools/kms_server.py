"""The key management service of the tests: moto's KMS, where it differs from the real one made to agree with it.

usage: kms_server.py PORT FOLDER

Listens on 127.0.0.1:PORT and writes FOLDER/ready once it does. What moto 5.2.5 does otherwise than AWS, and this mends:

- `MessageType=DIGEST` is signed as it is (moto hashes it once more), and must have the length of the hash;
- a disabled key, and one whose deletion is scheduled, does not sign, encrypt or decrypt;
- `ECC_NIST_EDWARDS25519` with `ED25519_SHA_512` exists.

Beside the service's own protocol there is a door for tests:

- `GET /_test/calls`: how often each operation was called, `{"Sign": 3}`;
- `GET /_test/log`: every call for a signature in the order they came, `[{"at": ms, "key": ARN or id, "input": base64, "outcome": "ok" or the fault}]`;
- `POST /_test/fault?kind=KIND`: from now on Sign, Decrypt and GenerateDataKey go wrong: `other_key` (answers with a signature by another key of the same
  kind; Sign only), `throttled`, `denied`, `internal`, `garbage` (no JSON), `silent` (no answer until the fault is taken back), `reset` (the connection
  is reset in place of an answer), `none`. With `&percent=30` so many of a hundred calls do, by a fixed row of dice.
"""

import base64
import io
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import utils as digests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.core.exceptions import JsonRESTError
from moto.kms import models, responses
from moto.kms import utils as keys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ED25519_SPEC = "ECC_NIST_EDWARDS25519"
ED25519_ALGORITHM = "ED25519_SHA_512"
RAW_LIMIT = 4096
# What the door's faults are for.
FAULTY = {"Sign", "Decrypt", "GenerateDataKey"}
HASH_LENGTHS = {"SHA_256": 32, "SHA_384": 48, "SHA_512": 64}

# The MessageType of the request that this thread works on: moto's backend is not told of it.
request = threading.local()


def refuse(code, text):
    error = JsonRESTError(code, text)
    error.code = 400
    return error


def told_the_message_type(operation):
    def handle(self):
        kind = self._get_param("MessageType") or "RAW"
        length = len(self._get_param("Message") or b"")
        algorithm = self._get_param("SigningAlgorithm") or ""
        if kind == "RAW" and length > RAW_LIMIT:
            raise refuse("ValidationException", f"a raw message has at most {RAW_LIMIT} octets")
        if kind == "DIGEST" and length != HASH_LENGTHS.get(algorithm[-7:]):
            raise refuse("ValidationException", f"Digest is invalid length for algorithm {algorithm}")
        if kind == "DIGEST" and algorithm == ED25519_ALGORITHM:
            raise refuse("ValidationException", f"{algorithm} takes raw messages")
        request.message_type = kind
        try:
            return operation(self)
        finally:
            request.message_type = "RAW"

    return handle


def only_with_a_usable_key(operation):
    def handle(self, key_id, *arguments, **named):
        key = self.describe_key(key_id)
        if key.key_state == "PendingDeletion":
            raise refuse("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        if key.key_state == "Disabled":
            raise refuse("DisabledException", f"{key.arn} is disabled.")
        return operation(self, key_id, *arguments, **named)

    return handle


class Ed25519Key(keys.AbstractPrivateKey):
    def __init__(self):
        self.private_key = Ed25519PrivateKey.generate()

    def sign(self, message, signing_algorithm):
        return self.private_key.sign(message)

    def verify(self, message, signature, signing_algorithm):
        try:
            self.private_key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def public_key(self):
        return self.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def mend_moto():
    for name in ("sign", "verify"):
        setattr(responses.KmsResponse, name, told_the_message_type(getattr(responses.KmsResponse, name)))
        setattr(models.KmsBackend, name, only_with_a_usable_key(getattr(models.KmsBackend, name)))
    models.KmsBackend.encrypt = only_with_a_usable_key(models.KmsBackend.encrypt)
    decrypt = models.KmsBackend.decrypt

    def decrypt_with_a_usable_key(self, ciphertext_blob, encryption_context, key_id=None):
        plaintext, arn = decrypt(self, ciphertext_blob, encryption_context, key_id)
        return only_with_a_usable_key(lambda backend, key: (plaintext, arn))(self, arn)

    models.KmsBackend.decrypt = decrypt_with_a_usable_key

    hidden = "_RSAPrivateKey__padding_and_hash_algorithm"
    choose = getattr(keys.RSAPrivateKey, hidden)

    def choose_for_digests_too(self, algorithm):
        padding, chosen = choose(self, algorithm)
        is_digest = getattr(request, "message_type", "RAW") == "DIGEST"
        return padding, digests.Prehashed(chosen) if is_digest else chosen

    setattr(keys.RSAPrivateKey, hidden, choose_for_digests_too)

    specs, algorithms = keys.KeySpec.key_specs.__func__, keys.SigningAlgorithm.signing_algorithms.__func__
    keys.KeySpec.key_specs = classmethod(lambda cls: sorted([*specs(cls), ED25519_SPEC]))
    keys.SigningAlgorithm.signing_algorithms = classmethod(lambda cls: sorted([*algorithms(cls), ED25519_ALGORITHM]))
    generate = models.generate_private_key
    models.generate_private_key = lambda spec: Ed25519Key() if spec == ED25519_SPEC else generate(spec)
    of_key = models.Key.signing_algorithms.fget

    def algorithms_of_key(key):
        if key.key_spec == ED25519_SPEC and key.key_usage == "SIGN_VERIFY":
            return [ED25519_ALGORITHM]
        return of_key(key)

    models.Key.signing_algorithms = property(algorithms_of_key)


class Door:
    """The service with the tests' door in front of it."""

    ERRORS = {
        "throttled": (400, "ThrottlingException"),
        "denied": (400, "AccessDeniedException"),
        "internal": (500, "KMSInternalException"),
    }

    def __init__(self, service):
        self.service = service
        self.calls = Counter()
        self.lock = threading.Lock()
        self.fault = "none"
        self.percent = 100
        self.dice = random.Random(1)
        self.log = []
        self.speaks = threading.Event()
        self.speaks.set()
        self.other_keys = {}

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path == "/_test/calls":
            return self.answer(start_response, 200, json.dumps(self.calls).encode())
        if path == "/_test/fault":
            return self.change_fault(environ, start_response)
        if path == "/_test/log":
            with self.lock:
                body = json.dumps(self.log).encode()
            return self.answer(start_response, 200, body)
        operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")[2]
        asked = self.read(environ) if operation == "Sign" else None
        with self.lock:
            self.calls[operation] += 1
            goes_wrong = operation in FAULTY and self.dice.randrange(100) < self.percent
            fault = self.fault if goes_wrong else "none"
            if asked is not None:
                at = round(time.monotonic() * 1000)
                outcome = "ok" if fault == "none" else fault
                self.log.append({"at": at, "key": asked.get("KeyId"), "input": asked.get("Message"), "outcome": outcome})
        if fault == "silent":
            self.speaks.wait()
        if fault == "reset":
            return self.reset(environ)
        if fault in self.ERRORS:
            status, code = self.ERRORS[fault]
            return self.answer(start_response, status, json.dumps({"__type": code, "message": "a fault of the test"}).encode())
        if fault == "garbage":
            return self.answer(start_response, 200, b"<html>this is no KMS</html>")
        if fault == "other_key" and operation == "Sign":
            return self.as_other_key(environ, start_response)
        return self.service(environ, start_response)

    def change_fault(self, environ, start_response):
        query = parse_qs(environ.get("QUERY_STRING", ""))
        kind = query.get("kind", [""])[0]
        if kind not in {"none", "other_key", "garbage", "silent", "reset", *self.ERRORS}:
            return self.answer(start_response, 422, b"unknown kind of fault")
        with self.lock:
            self.fault = kind
            self.percent = int(query.get("percent", ["100"])[0])
        if kind == "silent":
            self.speaks.clear()
        else:
            self.speaks.set()
        return self.answer(start_response, 200, b"{}")

    @staticmethod
    def read(environ):
        """The request's JSON, left to be read once more."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        return json.loads(body)

    @staticmethod
    def reset(environ):
        """Ends the connection with RST (RFC 9293 3.10.7.1) in place of an answer."""
        connection = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Not close(): the handler's files keep the descriptor open.
        os.close(connection.detach())
        raise ConnectionResetError("a fault of the test")

    def as_other_key(self, environ, start_response):
        """Signs the very input, by the right algorithm, with a key that is not the one that was asked for."""
        body = self.read(environ)
        algorithm, message = body["SigningAlgorithm"], base64.b64decode(body["Message"])
        spec = ED25519_SPEC if algorithm == ED25519_ALGORITHM else "RSA_2048"
        with self.lock:
            key = self.other_keys.setdefault(spec, None) or models.generate_private_key(spec)
            self.other_keys[spec] = key
        request.message_type = body.get("MessageType", "RAW")
        try:
            signature = base64.b64encode(key.sign(message, algorithm)).decode()
        finally:
            request.message_type = "RAW"
        answer = {"KeyId": body["KeyId"], "Signature": signature, "SigningAlgorithm": algorithm}
        return self.answer(start_response, 200, json.dumps(answer).encode())

    @staticmethod
    def answer(start_response, status, body):
        fields = [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))]
        start_response(f"{status} ", fields)
        return [body]


class KeepsConnections(WSGIRequestHandler):
    # As the real service does; the default of werkzeug closes after each answer.
    protocol_version = "HTTP/1.1"


def main():
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    mend_moto()
    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", port, door, threaded=True, request_handler=KeepsConnections)
    (folder / "ready").touch()
    server.serve_forever()


main()
