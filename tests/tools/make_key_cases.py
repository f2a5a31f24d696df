"""Makes tests/cases/keys/import.jsonl: private keys in every form, good ones and bad ones. None of them is used anywhere else.

usage: make_key_cases.py > tests/cases/keys/import.jsonl

Each run makes other keys, of the same kinds; the committed file is the result of one run.
"""

import base64
import json
import secrets
from math import gcd

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from datetime import datetime, timezone

E = 65537
SMALL = [p for p in range(3, 2000) if all(p % d for d in range(2, int(p**0.5) + 1))]


def is_prime(n):
    if any(n % p == 0 for p in SMALL):
        return False
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for _ in range(24):
        x = pow(secrets.randbelow(n - 3) + 2, d, n)
        if x not in (1, n - 1) and not any((x := pow(x, 2, n)) == n - 1 for _ in range(s - 1)):
            return False
    return True


def prime(bits, e=E):
    """Its two highest bits are set, so that the product of two has twice the bits."""
    while True:
        p = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if gcd(p - 1, e) == 1 and is_prime(p):
            return p


def next_prime(n):
    n += 2
    while gcd(n - 1, E) != 1 or not is_prime(n):
        n += 2
    return n


def roca_prime(bits):
    """k * M + (65537^a mod M), M the product of the first 126 primes, as the faulty chips do for 1024 bits."""
    m = 1
    for p in [2] + [p for p in SMALL if p <= 701]:
        m *= p
    while True:
        k = secrets.randbits(bits - m.bit_length() + 1)
        p = k * m + pow(E, secrets.randbelow(m), m)
        if p.bit_length() == bits and p >> (bits - 2) == 3 and gcd(p - 1, E) == 1 and is_prime(p):
            return p


def der(tag, body):
    length = len(body)
    if length >= 128:
        octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
        return bytes([tag, 0x80 | len(octets)]) + octets + body
    return bytes([tag, length]) + body


def integer(n):
    return der(2, n.to_bytes(n.bit_length() // 8 + 1, "big"))


def pkcs1(n, e, d, p, q, version=0, others=b""):
    numbers = [version, n, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p) if gcd(p, q) == 1 else 0]
    return der(0x30, b"".join(map(integer, numbers)) + others)


def pkcs8(key, oid=b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"):
    return der(0x30, integer(0) + der(0x30, oid) + der(4, key))


def of_primes(p, q, e=E):
    return pkcs1(p * q, e, pow(e, -1, (p - 1) * (q - 1)), p, q)


def pem(label, octets):
    text = base64.b64encode(octets).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def b64(octets):
    return base64.b64encode(octets).decode()


def private(key, form=ser.PrivateFormat.PKCS8, encoding=ser.Encoding.PEM, encryption=ser.NoEncryption()):
    text = key.private_bytes(encoding, form, encryption)
    return text.decode() if encoding == ser.Encoding.PEM else text


def spki(key):
    return key.public_key().public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)


def case(id, title, rfc, private_key, **expect):
    print(json.dumps({"id": id, "title": title, "rfc": rfc, "private_key": private_key, "expect": expect}))


def ed25519_cases():
    # The key of RFC 8463 A.1.
    seed = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    public = base64.b64decode("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    oid = b"\x06\x03\x2b\x65\x70"
    text = pem("PRIVATE KEY", pkcs8(der(4, seed), oid))
    second = der(0x30, integer(1) + der(0x30, oid) + der(4, der(4, seed)) + der(0x81, b"\0" + public))
    third = der(0x30, integer(1) + der(0x30, oid) + der(4, der(4, seed)) + der(0x81, b"\0" + bytes(32)))
    good = {"algorithm": "ed25519", "public_key": b64(public)}
    rfc = "RFC 8463 A.1; RFC 8410 7"
    case("ed25519-seed", "the seed in base64", rfc, b64(seed), **good)
    case("ed25519-seed-unpadded", "the seed without its padding", rfc, b64(seed).rstrip("="), **good)
    case("ed25519-seed-public", "seed and public key, 64 octets", rfc, b64(seed + public), **good)
    case("ed25519-pkcs8", "PKCS#8", rfc, text, **good)
    case("ed25519-pkcs8-public", "PKCS#8 with the public key", "RFC 5958 2", pem("PRIVATE KEY", second), **good)
    case("ed25519-der", "PKCS#8 in base64", rfc, b64(pkcs8(der(4, seed), oid)), **good)
    case("ed25519-escaped", "line ends as backslash and n", "RFC 7468 3", text.replace("\n", "\\n"), **good)
    case("ed25519-escaped-twice", "and escaped once more", "RFC 7468 3", text.replace("\n", "\\\\n"), **good)
    case("ed25519-crlf-escaped", "CRLF as escapes", "RFC 7468 3", text.replace("\n", "\\r\\n"), **good)
    case("ed25519-one-line", "no line ends", "RFC 7468 3", text.replace("\n", ""), **good)
    case("ed25519-blanks", "blanks for line ends", "RFC 7468 3", text.replace("\n", " "), **good)
    case("ed25519-quoted", "in quotes", "RFC 7468 3", json.dumps(text), **good)
    case("ed25519-text-around", "explanatory text before and after", "RFC 7468 2", f"Key of the mail server\n{text}\nend", **good)
    for length in (1, 16, 31, 33, 48, 63, 65, 96):
        refused = "31" if length == 31 else f"has {length}"
        case(f"ed25519-{length}", f"{length} octets", "RFC 8032 5.1.5", b64(b"\x01" * length), refused=refused)
    case("ed25519-other-public", "another key's public half after the seed", rfc, b64(seed + bytes(31) + b"\x01"), refused="not that of the seed")
    case("ed25519-pkcs8-other-public", "another public key in PKCS#8", "RFC 5958 2", pem("PRIVATE KEY", third), refused="not that of the seed")
    case("ed25519-short-inside", "31 octets in PKCS#8", rfc, pem("PRIVATE KEY", pkcs8(der(4, seed[:31]), oid)), refused="this one has 31")


def rsa_forms():
    key = rsa.generate_private_key(E, 2048)
    old = ser.PrivateFormat.TraditionalOpenSSL
    good = {"algorithm": "rsa-2048", "public_key": b64(spki(key))}
    new, traditional = private(key), private(key, old)
    rfc1, rfc8 = "RFC 8017 A.1.2", "RFC 5958 2"
    case("rsa-pkcs8", "PKCS#8", rfc8, new, **good)
    case("rsa-pkcs1", "PKCS#1", rfc1, traditional, **good)
    case("rsa-pkcs8-der", "PKCS#8 in base64", rfc8, b64(private(key, encoding=ser.Encoding.DER)), **good)
    case("rsa-pkcs1-der", "PKCS#1 in base64", rfc1, b64(private(key, old, ser.Encoding.DER)), **good)
    case("rsa-pkcs8-crlf", "CRLF", "RFC 7468 3", new.replace("\n", "\r\n"), **good)
    case("rsa-pkcs1-crlf", "PKCS#1 with CRLF", "RFC 7468 3", traditional.replace("\n", "\r\n"), **good)
    case("rsa-escaped", "line ends as backslash and n", "RFC 7468 3", new.replace("\n", "\\n"), **good)
    case("rsa-one-line", "no line ends", "RFC 7468 3", traditional.replace("\n", ""), **good)
    case("rsa-pem-in-base64", "the whole file in base64", "RFC 7468 2", b64(new.encode()), **good)
    case("rsa-label", "PKCS#8 under the label of PKCS#1", "RFC 7468 10", new.replace("PRIVATE", "RSA PRIVATE"), **good)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.com")])
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    unsigned = unsigned.serial_number(1).not_valid_before(at).not_valid_after(at.replace(year=2027))
    certificate = unsigned.sign(key, hashes.SHA256()).public_bytes(ser.Encoding.PEM).decode()
    case("rsa-and-certificate", "a certificate before it", "RFC 7468 2", certificate + new, **good)
    case("certificate", "a certificate", "RFC 7468 5", certificate, refused="certificate")
    public = key.public_key()
    case("rsa-public", "the public key", "RFC 5280 4.1", public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode(), refused="public key")
    case("rsa-public-pkcs1", "the public key, PKCS#1", "RFC 8017 A.1.1", public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.PKCS1).decode(), refused="public key")
    case("rsa-public-p", "the p= value", "RFC 6376 3.6.1", b64(spki(key)), refused="public key")
    secret = ser.BestAvailableEncryption(b"a passphrase")
    case("encrypted", "PKCS#8 under a passphrase", "RFC 5958 3", private(key, encryption=secret), refused="openssl pkey")
    case("encrypted-old", "PKCS#1 under a passphrase", "RFC 1421 4.6", private(key, old, encryption=secret), refused="openssl pkey")
    case("encrypted-der", "under a passphrase, in base64", "RFC 5958 3", b64(private(key, encoding=ser.Encoding.DER, encryption=secret)), refused="openssl pkey")
    case("two-keys", "two private keys", "RFC 7468 2", new + traditional, refused="more than one")
    case("cut", "cut off", "RFC 7468 3", new[:900], refused="END line")
    lines = new.split("\n")
    case("line-lost", "a line lost in the middle", "RFC 5958 2", "\n".join(lines[:5] + lines[6:]), refused="damaged")
    case("not-base64", "characters that are none of base64", "RFC 7468 3", "\n".join([lines[0], *(line.replace("A", "*") for line in lines[1:-2]), *lines[-2:]]), refused="not base64")
    restricted = pkcs8(private(key, old, ser.Encoding.DER), b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a")
    case("rsa-pss", "restricted to PSS", "RFC 4055 1.2", pem("PRIVATE KEY", restricted), refused="PSS")


def other_kinds():
    elliptic = ec.generate_private_key(ec.SECP256R1())
    case("ec", "ECDSA, PKCS#8", "RFC 5915 3", private(elliptic), refused="elliptic-curve")
    case("ec-old", "ECDSA, SEC 1", "RFC 5915 4", private(elliptic, ser.PrivateFormat.TraditionalOpenSSL), refused="elliptic-curve")
    case("x25519", "X25519", "RFC 8410 7", private(x25519.X25519PrivateKey.generate()), refused="kind")
    ssh = private(ed25519.Ed25519PrivateKey.generate(), ser.PrivateFormat.OpenSSH)
    case("openssh", "OpenSSH's format", "RFC 7468 2", ssh, refused="OpenSSH")
    case("empty", "nothing", "RFC 7468 2", "", refused="empty")
    case("blank", "white space only", "RFC 7468 2", " \n\\n", refused="empty")
    case("garbage", "a sentence", "RFC 7468 2", "this is not a key, it is a sentence!", refused="no private key")
    case("garbage-octets", "random octets", "RFC 7468 2", b64(b"\x31" + bytes(range(200))), refused="no private key")
    case("long", "17,000 characters", "RFC 7468 2", "A" * 17_000, refused="longer than")
    case("empty-pem", "BEGIN and END", "RFC 7468 2", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", refused="an Ed25519 private key has 32 octets")


def rsa_numbers():
    rfc = "RFC 8017 3.2"
    case("rsa-512", "512 bits", "RFC 8301 3.2", pem("RSA PRIVATE KEY", of_primes(prime(256), prime(256))), refused="512 bits")
    case("rsa-1024", "1024 bits", "RFC 8301 3.2", private(rsa.generate_private_key(E, 1024)), refused="1024 bits")
    case("rsa-2047", "2047 bits", "RFC 8301 3.2", pem("RSA PRIVATE KEY", pkcs1((1 << 2046) + 3, E, 3, 5, 7)), refused="2047 bits")
    case("rsa-2560", "2560 bits", rfc, private(rsa.generate_private_key(E, 2560)), refused="2048, 3072 and 4096")
    for bits in (3072, 4096):
        key = rsa.generate_private_key(E, bits)
        case(f"rsa-{bits}", f"{bits} bits", rfc, private(key), algorithm=f"rsa-{bits}", public_key=b64(spki(key)))
    p, q = prime(1024, 3 * E), prime(1024, 3 * E)
    n, f = p * q, (p - 1) * (q - 1)

    def numbers(id, title, fault, *parts, rfc=rfc, **more):
        case(id, title, rfc, pem("RSA PRIVATE KEY", pkcs1(*parts, **more)), refused=fault)

    three = rsa.RSAPublicNumbers(3, n).public_key()
    public = three.public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)
    case("rsa-e-3", "exponent 3", rfc, pem("RSA PRIVATE KEY", of_primes(p, q, 3)), algorithm="rsa-2048", public_key=b64(public))
    d = pow(E, -1, f)
    numbers("rsa-e-even", "an even exponent", "even", n, 65536, d, p, q)
    numbers("rsa-e-1", "exponent 1", "between 3 and 2^32", n, 1, 1, p, q)
    large = (1 << 32) + 15
    while gcd(large, f) != 1:
        large += 2
    numbers("rsa-e-large", "an exponent above 2^32", "between 3 and 2^32", n, large, pow(large, -1, f), p, q)
    numbers("rsa-e-huge", "an exponent of 2048 bits", "between 3 and 2^32", n, n - 2, d, p, q)
    numbers("rsa-product", "another modulus", "not the product", prime(1024) * q, E, d, p, q)
    numbers("rsa-d", "another private exponent", "private exponent", n, E, d + 2, p, q)
    numbers("rsa-d-of-3", "the private exponent of another public one", "private exponent", n, E, pow(3, -1, f), p, q)
    numbers("rsa-swapped", "modulus and exponent of two keys", "not the product", prime(1024) * prime(1024), E, d, p, q)
    close = next_prime(p)
    numbers("rsa-close", "primes that are neighbours", "close together", p * close, E, pow(E, -1, (p - 1) * (close - 1)), p, close, rfc="FIPS 186-5 A.1.3")
    # Fermat's method finds these after some 2^20 steps: (p - q)^2 / (8 sqrt(n)).
    step = next_prime(p + (1 << (10 + 1 + 512)))
    numbers("rsa-close-fermat", "primes that Fermat's method finds", "close together", p * step, E, pow(E, -1, (p - 1) * (step - 1)), p, step, rfc="FIPS 186-5 A.1.3")
    numbers("rsa-twice", "a prime twice", "close together", p * p, E, pow(E, -1, p * (p - 1)), p, p)
    small = 65521
    cofactor = prime(2048 - 16)
    numbers("rsa-small-factor", "a factor of 16 bits", "small factor", small * cofactor, E, pow(E, -1, (small - 1) * (cofactor - 1)), small, cofactor)
    short, long = prime(768), prime(1280)
    numbers("rsa-unbalanced", "primes of 768 and 1280 bits", "differ in length", short * long, E, pow(E, -1, (short - 1) * (long - 1)), short, long)
    half = prime(512) * prime(512)
    while half.bit_length() != 1024 or gcd(half - 1, E) != 1:
        half = prime(512) * prime(512)
    numbers("rsa-composite", "a factor that is no prime", "not prime", half * q, E, pow(E, -1, (half - 1) * (q - 1)), half, q)
    a, b = roca_prime(1024), roca_prime(1024)
    numbers("rsa-roca", "the fingerprint of ROCA", "ROCA", a * b, E, pow(E, -1, (a - 1) * (b - 1)), a, b, rfc="CVE-2017-15361")
    others = der(0x30, der(0x30, integer(7) + integer(5) + integer(3)))
    numbers("rsa-multi-prime", "three primes", "more than two primes", n, E, d, p, q, version=1, others=others)
    numbers("rsa-zero", "primes that are zero", "small factor", n, E, d, 0x10000, 0x10000)


def main():
    ed25519_cases()
    rsa_forms()
    other_kinds()
    rsa_numbers()


main()
