# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Speaks SPIFFE by the Python library, and says what it saw, a JSON line each.

It finds the daemon by SPIFFE_ENDPOINT_SOCKET alone.
"""

import json
import sys
import threading
import warnings

from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffetls import ListenOptions, ServerTlsMode, dial, listen
from spiffetls.tlsconfig.authorize import authorize_id

warnings.simplefilter("ignore", DeprecationWarning)
PATIENCE = 15


def say(**line):
    print(json.dumps(line), flush=True)


def svids(audience):
    with WorkloadApiClient(default_timeout=PATIENCE) as client:
        context = client.fetch_x509_context()
        token = client.fetch_jwt_svid(audience={audience})
        bundles = client.fetch_jwt_bundles()
        bundle = bundles.get_bundle_for_trust_domain(TrustDomain("example.org"))
        # By the library's own cryptography, and by the daemon.
        offline = JwtSvid.parse_and_validate(token.token, bundle, {audience})
        online = client.validate_jwt_svid(token.token, audience)
        say(
            x509=[str(svid.spiffe_id) for svid in context.x509_svids],
            offline=str(offline.spiffe_id),
            online=str(online.spiffe_id),
        )
        try:
            client.fetch_jwt_svid(audience={audience}, subject=SpiffeId("spiffe://example.org/nobody"))
            say(refused=None)
        except Exception as error:  # noqa: BLE001
            say(refused=str(error))


def rotations(count):
    changed = threading.Semaphore(0)
    with X509Source(timeout_in_seconds=PATIENCE) as source:
        source.subscribe_for_updates(changed.release)
        serials = [source.get_x509_context().default_svid.leaf.serial_number]
        while len(serials) < count:
            if not changed.acquire(timeout=PATIENCE):
                raise RuntimeError("no update came")
            serial = source.get_x509_context().default_svid.leaf.serial_number
            if serial != serials[-1]:
                serials.append(serial)
    say(serials=[f"{serial:x}" for serial in serials])


def serve(peer):
    source = X509Source(timeout_in_seconds=PATIENCE)
    options = ListenOptions(tls_mode=ServerTlsMode.MTLS, authorize_fn=authorize_id(SpiffeId(peer)))
    listener = listen("127.0.0.1:0", source, options)
    say(port=listener.getsockname()[1])
    while True:
        try:
            connection, _ = listener.accept()
            received = connection.recv(1024)
            connection.sendall(b"echo:" + received)
            connection.shutdown()
            connection.close()
        except Exception as error:  # noqa: BLE001
            say(error=type(error).__name__, words=str(error))


def call(port, peer):
    source = X509Source(timeout_in_seconds=PATIENCE)
    try:
        connection = dial(f"127.0.0.1:{port}", source, authorize_fn=authorize_id(SpiffeId(peer)))
        connection.sendall(b"hello")
        say(answer=connection.recv(100).decode(), version=connection.get_protocol_version_name())
        connection.close()
    except Exception as error:  # noqa: BLE001
        say(refused=type(error).__name__, words=str(error))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["svids", audience]:
            svids(audience)
        case ["rotations", count]:
            rotations(int(count))
        case ["serve", peer]:
            serve(peer)
        case ["call", port, peer]:
            call(int(port), peer)
        case other:
            sys.exit(f"unknown arguments {other}")
