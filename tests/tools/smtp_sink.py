"""An SMTP receiver that records what it gets and behaves as the recipient's local part says.

    smtp_sink.py PORT FOLDER [--no-tls] [--require-tls] [--on-127.0.0.2]

FOLDER holds cert.pem and key.pem; events.jsonl there gets one JSON object a line:
    {"event": "rcpt", "address", "reply", "mail_from", "tls"}          every RCPT, also the refused ones
    {"event": "data", "mail_from", "rcpt", "tls", "ehlo", "reply", "octets" (base64)}

At RCPT:          tempfail 451, permfail 550, greylist 451 while FOLDER/open is absent
After the data:   datafail4 452, datafail5 554, drop closes the connection without a reply (the octets are recorded),
                  gate waits until FOLDER/open exists and then accepts
Anything else is accepted. `name+tag` behaves as `name`.
"""

import asyncio
import base64
import json
import pathlib
import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

AT_RCPT = {"tempfail": "451 4.7.1 come back later", "permfail": "550 5.1.1 no such mailbox"}
AFTER_DATA = {"datafail4": "452 4.3.1 no space left", "datafail5": "554 5.7.1 not wanted here"}


def behaviour(address: str) -> str:
    return address.rsplit("@", 1)[0].split("+", 1)[0]


class Sink:
    def __init__(self, folder: pathlib.Path):
        self.gate = folder / "open"
        self.events = open(folder / "events.jsonl", "a", buffering=1, encoding="utf-8")

    def record(self, event: str, **facts) -> None:
        self.events.write(json.dumps({"event": event, **facts}) + "\n")
        self.events.flush()

    async def handle_RCPT(self, server, session, envelope, address, options):
        what = behaviour(address)
        reply = AT_RCPT.get(what, "250 2.1.5 fine")
        if what == "greylist" and not self.gate.exists():
            reply = "451 4.7.1 come back later"
        self.record("rcpt", address=address, reply=reply, mail_from=envelope.mail_from, tls=session.ssl is not None)
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server, session, envelope):
        what = behaviour(envelope.rcpt_tos[0])
        reply = AFTER_DATA.get(what, "250 2.0.0 taken")
        if what == "drop":
            reply = ""
        facts = {
            "mail_from": envelope.mail_from,
            "rcpt": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "ehlo": session.host_name,
            "octets": base64.b64encode(envelope.original_content).decode(),
        }
        if what == "gate":
            self.record("waiting", **{k: v for k, v in facts.items() if k != "octets"})
            while not self.gate.exists():
                await asyncio.sleep(0.02)
        self.record("data", reply=reply, **facts)
        if what == "drop":
            server.transport.abort()
        return reply or "421 4.4.2 gone"


class SinkController(Controller):
    def __init__(self, handler, tls, **settings):
        self.tls = tls
        self.require_tls = settings.pop("require_tls")
        super().__init__(handler, **settings)

    def factory(self):
        return SMTP(
            self.handler,
            hostname="mx.receiver.test",
            tls_context=self.tls,
            require_starttls=self.require_tls,
            enable_SMTPUTF8=True,
            data_size_limit=64_000_000,
        )


def main() -> None:
    port, folder, flags = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    tls = None
    if "--no-tls" not in flags:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    address = "127.0.0.2" if "--on-127.0.0.2" in flags else "127.0.0.1"
    controller = SinkController(Sink(folder), tls, hostname=address, port=port, require_tls="--require-tls" in flags)
    controller.start()
    (folder / "ready").touch()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    controller.stop()


if __name__ == "__main__":
    main()
