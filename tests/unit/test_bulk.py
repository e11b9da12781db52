"""Lines that are refused: a receipt each, and nothing that stays."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any, cast

from service.config import Config
from service.handlers.base import Server
from service.handlers.bulk import Bulk

LINES = [b"{'job': 'noop'}", b'{"job": "none of ours"}', b'{"job": "noop", "priority": 1.5}', b"\xff", None]


def test_a_line_that_is_refused_leaves_nothing_for_the_collector() -> None:
    """Its exceptions, were they kept until its answer: 16 objects a line, 10 MB of them between two collections."""
    nothing = cast(Any, None)
    bulk = Bulk(Server(Config(), *[nothing] * 5), "of this request")
    lines = LINES * 100

    async def put() -> bytes:
        return await bulk.put(lines)

    gc.collect()
    gc.disable()
    try:
        receipts = asyncio.run(put())
        left = gc.collect()
    finally:
        gc.enable()
    assert [json.loads(receipt)["problem"]["line"] for receipt in receipts.splitlines()] == [*range(1, 1 + len(lines))]
    assert left < len(lines)
