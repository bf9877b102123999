"""JWTs taken apart and put together again, honestly or not."""

import base64
import hashlib
import hmac
import json
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key


def encode_part(data):
    data = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_part(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def header_of(token):
    return json.loads(decode_part(token.split(".")[0]))


def claims_of(token):
    return json.loads(decode_part(token.split(".")[1]))


def signing_keys(server):
    """{kid: key} of the server's own signing keys, oldest first."""
    found = {}
    for path in sorted((server.data / "keys").glob("*.json")):
        file = json.loads(path.read_text())
        found[file["kid"]] = load_der_private_key(base64.b64decode(file["private_key"]), None)
    return found


def sign(header, claims, key):
    """A JWT signed with Ed25519."""
    message = f"{encode_part(header)}.{encode_part(claims)}"
    return f"{message}.{encode_part(key.sign(message.encode()))}"


def forged(server, token, header=None, **claims):
    """The same token with other claims, signed by the server's own key: what only somebody who has it could make."""
    key = signing_keys(server)[header_of(token)["kid"]]
    return sign(header_of(token) | (header or {}), claims_of(token) | claims, key)


def expired(server, token, seconds=1):
    """The same token as it would be when it has expired."""
    now, claims = int(time.time()), claims_of(token)
    shift = claims["exp"] - now + seconds
    return forged(server, token, iat=claims["iat"] - shift, nbf=claims["nbf"] - shift, exp=claims["exp"] - shift)


def forgeries(server, token):
    """{code that the answer must have: token}, one for each way to be wrong."""
    now, header, claims = int(time.time()), header_of(token), claims_of(token)
    # Another id for sure: the last digit of this one may be any.
    other = claims["sub"][:-1] + ("1" if claims["sub"].endswith("0") else "0")
    stranger = Ed25519PrivateKey.generate()
    head, body, signature = token.split(".")
    public = next(iter(signing_keys(server).values())).public_key().public_bytes_raw()
    hs256 = f"{encode_part(header | {'alg': 'HS256'})}.{body}"
    cases = [
        ("malformed_token", "a.b.c"),
        ("malformed_token", f"{head}.{body}"),
        ("malformed_token", f"{token}.x"),
        ("malformed_token", forged(server, token, header={"crit": ["exp"]})),
        ("token_too_long", f"{head}.{body}.{signature}" + "A" * 8000),
        ("token_wrong_algorithm", f"{encode_part(header | {'alg': 'none'})}.{body}."),
        ("token_wrong_algorithm", f"{encode_part(header | {'alg': 'nOnE'})}.{body}."),
        ("token_wrong_algorithm", f"{hs256}.{encode_part(hmac.digest(public, hs256.encode(), hashlib.sha256))}"),
        ("token_unknown_key", sign(header | {"kid": "made-up"}, claims, stranger)),
        ("token_unknown_key", sign({k: v for k, v in header.items() if k != "kid"}, claims, stranger)),
        ("token_bad_signature", sign(header, claims, stranger)),
        ("token_bad_signature", f"{head}.{encode_part(claims | {'sub': other})}.{signature}"),
        ("token_wrong_issuer", forged(server, token, iss="somebody-else")),
        ("token_wrong_audience", forged(server, token, aud="somebody-else")),
        ("token_wrong_type", forged(server, token, typ="refresh")),
        ("token_wrong_type", forged(server, token, header={"typ": "rt+jwt"})),
        ("token_expired", expired(server, token)),
        ("token_not_yet_valid", forged(server, token, nbf=now + 600, exp=now + 900)),
        ("token_lifetime_too_long", forged(server, token, exp=now + 10 * 365 * 86400)),
    ]
    return cases
