"""One client process and its keep-alive connection: one submit, one look-up, by the Python client's transport."""

import json
import os
import time
from contextlib import closing
from multiprocessing.synchronize import Semaphore

import requests

from service.client.transport import Transport, blame

from .answer import Answer, Sighting, judge, judge_stage, sight
from .exits import Unusable
from .settings import JOBS, STAGE, Settings


def connect(url: str, timeout: float) -> Transport:
    """Without the client's patience: each attempt is one request, timed and judged. Without proxies: a Compose service,
    too, is asked directly. Raises Unusable."""
    try:
        return Transport(url, os.environ.get("STORMDRAIN_KEY", ""), timeout=timeout, environment=False)
    except ValueError as error:
        raise Unusable(f"STORMDRAIN_KEY cannot be sent: {error}.") from None


def check_health(settings: Settings) -> None:
    """One GET /healthz before any process is made; raises Unusable when the target does not answer."""
    hint = "Start the stack with `make up`, or name another address in URL."
    try:
        with closing(connect(settings.url, settings.timeout)) as transport:
            status = transport.send("GET", "/healthz").status_code
    except requests.RequestException as error:
        raise Unusable(f"Nothing answers at {settings.url} ({blame(error)[0]}). {hint}") from None
    if status != 200:
        raise Unusable(f"{settings.url}/healthz answered HTTP {status}, not 200. {hint}")


class Client:
    """What one client process holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.transport = connect(settings.url, settings.timeout)
        self.job = json.dumps({"job": settings.job, "args": settings.args}).encode()

    def submit(self, number: int) -> Answer:
        began = time.perf_counter()
        try:
            response = self.send(number)
            if self.settings.form == STAGE:
                id, reason, unknown = judge_stage(response, number)
            else:
                id, reason, unknown = judge(response, self.expected(number))
        except requests.RequestException as error:
            id, (reason, unknown) = "", blame(error)
        return Answer(time.perf_counter() - began, id, reason, unknown)

    def send(self, number: int) -> requests.Response:
        new = self.settings.form == JOBS
        method, path = ("POST", "/jobs") if new else ("GET", "/")
        body = self.job if new else json.dumps({"job_id": number}).encode()
        return self.transport.send(method, path, body)

    def expected(self, number: int) -> tuple[int, str]:
        """The status and, in the original form, the text of a job that was accepted."""
        return (202, "") if self.settings.form == JOBS else (200, f"{number} add")

    def look_up(self, id: str) -> Sighting:
        try:
            response = self.transport.send("GET", f"/jobs/{id}")
        except requests.RequestException as error:
            return Sighting(id, problem=blame(error)[0])
        return sight(id, response)


_client: Client  # of this process, set by `start`


def start(settings: Settings, ready: Semaphore) -> None:
    """Runs once in each new client process."""
    global _client
    _client = Client(settings)
    ready.release()


def submit(number: int) -> Answer:
    return _client.submit(number)


def look_up(id: str) -> Sighting:
    return _client.look_up(id)
