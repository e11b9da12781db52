"""Without keys, only this machine reaches the server."""

from __future__ import annotations

import pytest

from service.config import Config
from service.errors import ConfigError

REACHED_BY_OTHERS = [
    {"BIND": "0.0.0.0"},
    {"BIND": "192.168.1.5"},
    {"BIND": "[::]"},
    {"BIND": "[2001:db8::1]"},
    {"BIND": "0.0.0.0", "LISTEN": "unix:/run/x.sock"},
    {"LISTEN": "0.0.0.0:8000"},
    {"LISTEN": "[::]:8000"},
    {"LISTEN": "192.168.1.5:8000"},
    {"LISTEN": "example.org:8000"},
    {"LISTEN": "0.0.0.0:8000", "BIND": ""},
    {"LISTEN": "0.0.0.0:8000", "API_KEYS_FILE": ""},
]


@pytest.mark.parametrize("env", REACHED_BY_OTHERS)
def test_a_server_that_others_reach_and_that_asks_for_no_key_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"where others reach the server.*`make key`.*API_KEYS_FILE") as refused:
        Config.from_env(env)
    assert str(refused.value).startswith(("BIND" if env.get("BIND") else "LISTEN") + " is ")


@pytest.mark.parametrize("env", REACHED_BY_OTHERS)
def test_with_keys_it_may_be_reached(env: dict[str, str]) -> None:
    Config.from_env(env | {"API_KEYS_FILE": "keys/api_keys"})


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"BIND": "127.0.0.1"},
        {"BIND": "127.8.7.6"},
        {"BIND": "[::1]"},
        {"LISTEN": "localhost:8000"},
        {"LISTEN": "[::1]:8000"},
        {"LISTEN": "unix:/run/x.sock"},
        {"LISTEN": "unix:x.sock"},
        # As in a container: the port is in a network of its own, and nginx before it says who reaches that.
        {"LISTEN": "0.0.0.0:8000", "BIND": "127.0.0.1"},
    ],
)
def test_on_loopback_no_key_is_needed(env: dict[str, str]) -> None:
    assert Config.from_env(env).api_keys_file == ""


@pytest.mark.parametrize("bind", ["localhost", "::1", "[127.0.0.1]", "127.0.0.1:80", "*", "[::1", "0.0.0.0; }"])
def test_what_is_not_an_address_is_refused(bind: str) -> None:
    with pytest.raises(ConfigError, match="use an address such as"):
        Config.from_env({"BIND": bind, "API_KEYS_FILE": "keys/api_keys"})
