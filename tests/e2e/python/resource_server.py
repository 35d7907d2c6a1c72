# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What a service does with an access token (RFC 9068 section 4), by a library that knows nothing of the daemon.

    resource_server.py KEYS TOKEN ISSUER AUDIENCE

Says the token's claims as a line of JSON, or why it is refused.
"""

import json
import sys

import jwt

REQUIRED = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]


def check(keys, token, issuer, audience):
    header = jwt.get_unverified_header(token)
    if header.get("typ") != "at+jwt":
        raise jwt.InvalidTokenError("it is no access token")
    key = jwt.PyJWKSet.from_dict(json.loads(keys))[header["kid"]]
    options = {"require": REQUIRED}
    return jwt.decode(token, key, algorithms=["ES256"], issuer=issuer, audience=audience, options=options)


try:
    print(json.dumps(check(*sys.argv[1:])), flush=True)
except (jwt.InvalidTokenError, KeyError) as error:
    print(json.dumps({"refused": str(error)}), flush=True)
