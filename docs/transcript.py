"""Commands of a page, and what they answered: each ```sh block, and the ``` block right after it.

`python -m docs.transcript PAGE URL` runs the commands against the stack at URL, one after the other, and puts the
answers into the page. A test runs them again, and compares what of an answer does not change from run to run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = "localhost:8080"  # what the pages say of the stack's address
STEP = re.compile(r"```sh\n(?P<command>(?:(?!```).)*)```\n```\n(?P<answer>(?:(?!```).)*)```\n", re.DOTALL)
LIMIT = 60  # seconds for one command

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
# What is another thing each time, and what stands for it when two answers are compared.
CHANGES = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)": "TIME",
    r"Date: [^\n]*": "Date: …",
    r"\b[0-9a-f]{32}\b": "REQUEST",
    r"Content-Length: \d+": "Content-Length: …",
    r'"worker":"[^"]*"': '"worker":"…"',
    r'"(cpu_seconds|max_rss_bytes|oldest_queued_seconds|drained_per_second|log_bytes|position)":[0-9.e+-]+': r'"\1":…',
    r'"cursor=\d+': '"cursor=…',
    r"cursor=\d+": "cursor=…",
}


def steps(page: str) -> Iterator[tuple[str, str]]:
    for step in STEP.finditer(page):
        yield step["command"], step["answer"]


def run(command: str, address: str) -> str:
    """What a shell prints, at an address that is not HERE."""
    done = subprocess.run(
        ["bash", "-c", command.replace(HERE, address)], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    said = done.stdout if done.returncode == 0 else done.stdout + done.stderr  # a progress meter is no answer
    return said.replace("\r", "").replace(address, HERE).rstrip("\n") + "\n"


def plain(answer: str) -> str:
    """What of an answer is the same in every run."""
    for pattern, stands_for in {UUID.pattern: "ID", **CHANGES}.items():
        answer = re.sub(pattern, stands_for, answer)
    return answer


class Names:
    """The ids of an earlier run, and those of this one: a command that names the one means the other."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}

    def learn(self, before: str, now: str) -> None:
        self._now |= dict(zip(UUID.findall(before), UUID.findall(now), strict=False))

    def put_in(self, command: str) -> str:
        return UUID.sub(lambda found: self._now.get(found[0], found[0]), command)


def replay(page: str, address: str, differs: Callable[[str, str, str], None]) -> str:
    """The page with the answers of now. `differs(command, before, now)` is told of each that is another."""
    names, parts, end = Names(), [], 0
    for step in STEP.finditer(page):
        command, before = names.put_in(step["command"]), step["answer"]
        now = run(command, address)
        names.learn(before, now)
        if plain(now) != plain(before):
            differs(command, before, now)
        parts += [page[end : step.start()], f"```sh\n{command}```\n```\n{now}```\n"]
        end = step.end()
    return "".join([*parts, page[end:]])


if __name__ == "__main__":
    path, address = Path(sys.argv[1]), sys.argv[2].removeprefix("http://")
    path.write_text(replay(path.read_text(), address, lambda command, before, now: print(f"anew: {command}", end="")))
