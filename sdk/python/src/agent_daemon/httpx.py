# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Credentials on the way out for httpx.

    client = httpx.Client(auth=ReleaseAuth(daemon, "reports-api", {"reports.example.org"}))
"""

from __future__ import annotations

import threading
from collections.abc import Generator

import httpx

from .client import Client, Credential, Session, current_traceparent

#: Seconds before its end at which a credential is replaced.
MARGIN = 30.0


class ReleaseAuth(httpx.Auth):
    """Releases a credential for a destination when a request needs one, and replaces it before it ends.

    It goes to the hosts that are named and to no others: a redirect must not carry it away. `api.example.org` stands for
    `https://api.example.org`, and an origin (`http://127.0.0.1:8080`) for itself. An answer of 401 has it replaced once. In a
    step the request carries its `traceparent`.
    """

    def __init__(
        self,
        client: Client,
        destination: str,
        hosts: set[str] | frozenset[str],
        *,
        binding: str = "",
        session: Session | None = None,
    ):
        if not hosts:
            raise ValueError("hosts: name those that may get the credential")
        self._client, self._destination, self._binding, self._session = client, destination, binding, session
        self._origins = frozenset(_origin(httpx.URL(host if "://" in host else f"https://{host}")) for host in hosts)
        self._lock = threading.Lock()
        self._credential: Credential | None = None
        self._margin = MARGIN

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        traceparent = current_traceparent()
        if traceparent and "traceparent" not in request.headers:
            request.headers["traceparent"] = traceparent
        if _origin(request.url) not in self._origins:
            yield request
            return
        used = self._current(None)
        self._put(request, used)
        response = yield request
        if response.status_code == 401:
            self._put(request, self._current(used))
            yield request

    def _put(self, request: httpx.Request, credential: Credential) -> None:
        request.headers["Authorization"] = f"Bearer {credential.token}"

    def _current(self, refused: Credential | None) -> Credential:
        with self._lock:
            held = self._credential
            if held is None or held is refused or held.seconds_left() < self._margin:
                held = self._client.release(self._destination, binding=self._binding, session=self._session)
                self._credential = held
                # One that lives shorter than the margin would else be replaced for every request.
                self._margin = min(MARGIN, held.seconds_left() / 2)
            return held


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
