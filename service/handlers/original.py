"""The original form, kept word for word."""

from __future__ import annotations

from service import registry
from service.errors import Malformed
from service.handlers.base import ANY
from service.handlers.body import Original, Submission
from service.handlers.intake import Intake
from service.handlers.page import policy, read

LANDING = read("landing.html")
PAGE_POLICY = policy(LANDING)


class Root(Intake):
    """The original form: a request with a JSON body, whether GET or POST, puts a job. Without a body: a person."""

    methods = ("GET", "HEAD", "POST")

    def changes(self) -> bool:
        return bool(self.request.body)  # not the method: nginx makes a POST of a person's click on a link, too

    def scope(self) -> str:
        method = "POST" if self.changes() else "GET"  # of what is asked, whatever was sent
        return self.scopes[method] if self.request.method in self.methods else ANY

    async def get(self) -> None:
        if self.request.body:
            return await self.post()
        if "text/html" not in self.request.headers.get("Accept", ""):
            raise Malformed('send {"job_id": 7} to run sleep, or POST a job to /jobs', known=registry.names())
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", PAGE_POLICY)
        self.finish(LANDING)

    async def post(self) -> None:
        if not self.request.body:
            return await self.get()  # nginx hands every request for / on as a POST, see nginx/original.conf
        job_id = self.body(Original).job_id
        await self.accept(Submission("sleep", {"job_id": job_id}))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{job_id} add\n")
