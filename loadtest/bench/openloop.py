"""Latency at a rate that does not wait for answers.

A client that sends its next request after the last answer sends nothing while the server hangs, and so hides the hang.
Here the moment of each request is fixed beforehand, and its time counts from that moment."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from service import linux

from ..exits import Unusable

CONNECTIONS = 16  # more than are ever under way at once, unless the server hangs
PATIENCE = 10.0  # seconds


def latencies(url: str, body: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each request was due to its 202. Raises Unusable for any other answer."""
    start = time.monotonic() + 0.1
    due = [start + number / rate for number in range(round(rate * seconds))]
    # A client elsewhere does not wait until a job of the server gives it a core.
    with ThreadPoolExecutor(CONNECTIONS, initializer=linux.run_at_once) as threads:
        parts = threads.map(lambda first: send(url, body, due[first::CONNECTIONS]), range(CONNECTIONS))
        return [1000 * took for part in parts for took in part]


def send(url: str, body: str, due: list[float]) -> list[float]:
    """One connection's share."""
    address, took = urlsplit(url), []
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    for moment in due:
        time.sleep(max(0.0, moment - time.monotonic()))
        connection.request("POST", "/jobs", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        if response.status != 202:
            raise Unusable(f"POST /jobs was answered {response.status}.")
        took.append(time.monotonic() - moment)
    connection.close()
    return took
