# SPDX-License-Identifier: Apache-2.0 OR MIT
"""An OpenID Connect issuer on the loopback interface, written against the specifications and not against the daemon.

    issuer.py

Says its address as a line of JSON, then serves discovery and keys, and for the tests:

    /token?sub=ada&aud=agent-daemon&...   an ID token with these claims; `alg`, `kid`, `typ`, `exp_in`, `iat_in` and
                                          `nbf_in` (seconds from now) are special
    /rotate                               another key in place of the one that there is
    /down, /up                            answers nothing but errors for a while
"""

import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlparse

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def text(value):
    return urlsafe_b64encode(value).rstrip(b"=").decode()


class Issuer:
    def __init__(self):
        self.number = 0
        self.is_down = False
        self.rotate()

    def rotate(self):
        self.number += 1
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def kid(self):
        return f"key-{self.number}"

    def jwks(self):
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**jwk, "kid": self.kid(), "use": "sig", "alg": "RS256"}]}

    def token(self, url, asked):
        now = int(time.time())
        special = {name: asked.pop(name, None) for name in ("alg", "kid", "typ", "exp_in", "iat_in", "nbf_in")}
        claims = {"iss": url, "sub": "ada", "aud": "agent-daemon", "iat": now + int(special["iat_in"] or 0)}
        claims["exp"] = now + int(special["exp_in"] or 300)
        if special["nbf_in"]:
            claims["nbf"] = now + int(special["nbf_in"])
        claims.update(asked)
        headers = {"kid": special["kid"] or self.kid(), "typ": special["typ"] or "JWT"}
        alg = special["alg"] or "RS256"
        if alg in ("none", "HS256"):
            # The library refuses to make these.
            signed = f"{text(json.dumps({**headers, 'alg': alg}).encode())}.{text(json.dumps(claims).encode())}"
            # The public key as a shared secret: what a verifier that believes the header would check with.
            secret = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            return f"{signed}." if alg == "none" else f"{signed}.{text(hmac.digest(secret, signed.encode(), 'sha256'))}"
        return jwt.encode(claims, self.key, algorithm=alg, headers=headers)


class Handler(BaseHTTPRequestHandler):
    issuer = Issuer()

    def do_GET(self):
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        asked = urlparse(self.path)
        if asked.path in ("/down", "/up", "/rotate"):
            self.issuer.is_down = asked.path == "/down"
            if asked.path == "/rotate":
                self.issuer.rotate()
            return self.answer({})
        if asked.path == "/token":
            return self.answer({"token": self.issuer.token(url, dict(parse_qsl(asked.query, keep_blank_values=True)))})
        if self.issuer.is_down:
            return self.send_error(503)
        if asked.path == "/.well-known/openid-configuration":
            return self.answer({"issuer": url, "jwks_uri": f"{url}/keys"})
        if asked.path == "/keys":
            return self.answer(self.issuer.jwks())
        self.send_error(404)

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever).start()
print(json.dumps({"issuer": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
