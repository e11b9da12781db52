"""One request, one attempt: how it is sent, and what it means when no answer comes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from ssl import SSLCertVerificationError
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import NewConnectionError

JSON: Mapping[str, str] = {"Content-Type": "application/json"}
NONE: Mapping[str, str] = {}


class Transport:
    """Keep-alive connections to one address, for several threads.

    timeout      seconds to connect, and again to wait for an answer
    connections  how many are kept
    environment  whether a proxy and a CA bundle named there are used. A loopback address is never asked of a proxy,
                 which would look for its own; .netrc never counts, since it would take the place of the key."""

    def __init__(
        self, url: str, key: str = "", *, timeout: float = 10.0, connections: int = 1, environment: bool = True
    ) -> None:
        self.url, self.timeout = base_url(url), timeout
        self._session = requests.Session()
        self._session.trust_env = False  # it would read the environment anew for every request
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))
        if environment and not is_loopback(self.url):
            self._session.proxies.update(get_environ_proxies(self.url))
            self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._headers = {name: str(value) for name, value in self._session.headers.items()}
        if key:
            self._headers["Authorization"] = f"Bearer {header_value(key)}"

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = NONE,
        wait: float = 0.0,
    ) -> requests.Response:
        """The answer, whatever it says. `wait` is seconds that the server may take beyond the time-out. Raises
        requests.RequestException; `blame` tells what it means."""
        # Prepared here: Session.request does the same in half as much time again, for what is never used here.
        request = requests.PreparedRequest()
        kind = JSON if body is not None else NONE
        request.prepare(method, self.url + path, headers={**self._headers, **kind, **headers}, data=body)
        # A redirect would repeat a request that enqueues, and hand the key to another host.
        return self._session.send(request, timeout=(self.timeout, self.timeout + wait), allow_redirects=False)

    def close(self) -> None:
        self._session.close()


def blame(error: requests.RequestException) -> tuple[str, bool]:
    """(reason, unknown). Once the connection stood, the request may have arrived and been done."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time", False
    if isinstance(error, requests.Timeout):
        return "time-out", True
    if isinstance(_cause(error), NewConnectionError):
        return "no connection", False  # refused, or no such host
    if isinstance(error, requests.ConnectionError):
        return "connection broken", True
    return type(error).__name__, True


def distrusted(error: requests.RequestException) -> bool:
    """Its certificate is not good: nothing was sent, and another attempt cannot help."""
    return any(isinstance(each, SSLCertVerificationError) for each in getattr(_cause(error), "args", ()))


def _cause(error: requests.RequestException) -> object:
    return getattr(error.args[0] if error.args else None, "reason", None)


def base_url(text: str) -> str:
    """Raises ValueError."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"an address such as http://127.0.0.1:8080 is needed, not {text!r}")
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def header_value(text: str) -> str:
    """Raises ValueError: a line end in it would be a second header."""
    if not (text.isascii() and text.isprintable() and text):
        raise ValueError("a header takes one line of printable ASCII")
    return text
