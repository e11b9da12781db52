"""Pages for people: their own style, no script, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def read(name: str) -> str:
    return (FOLDER / name).read_text()


def policy(html: str) -> str:
    """A Content-Security-Policy that lets this page be as it is, and nothing else."""
    style = html.partition("<style>")[2].partition("</style>")[0]
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{allowed}'; frame-ancestors 'none'; base-uri 'none'"
