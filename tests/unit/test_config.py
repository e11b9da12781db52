"""Settings come from the environment, and what is wrong with one is said in a sentence that names it."""

from dataclasses import FrozenInstanceError, fields

import pytest

from service.config import Config, parse_listen, table
from service.errors import ConfigError


def test_without_an_environment_the_defaults_hold() -> None:
    assert Config.from_env({}) == Config()


def test_a_setting_is_read_from_its_name_in_capitals() -> None:
    config = Config.from_env({"SLOTS": "4", "LEASE": "2.5", "LISTEN": "unix:/run/x.sock", "JOBS": "mine", "slots": "9"})
    assert (config.slots, config.lease, config.listen, config.jobs) == (4, 2.5, "unix:/run/x.sock", "mine")


def test_an_empty_variable_counts_as_unset() -> None:
    assert Config.from_env({"SLOTS": "", "BACKLOG": ""}) == Config()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().slots = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLOTS", "0"),
        ("SLOTS", "-1"),
        ("SLOTS", "four"),
        ("SLOTS", "2.5"),
        ("SLOTS", "1025"),
        ("PRODUCERS", "99999"),
        ("CALLBACK_HOSTS", "http://inside/"),
        ("CALLBACK_HOSTS", "inside:8080"),
        ("CALLBACK_HOSTS", "a b"),
        ("PRODUCERS", "-1"),
        ("LEASE", "0"),
        ("LEASE", "nan"),
        ("LEASE", "inf"),
        ("DRAIN", "-1"),
        ("COMMIT_TIMEOUT", "1s"),
        ("BODY_MAX", "1"),
        ("LOG_LEVEL", "loud"),
        ("BACKLOG", "var/data"),
        ("BACKLOG", "sqlite:"),
        ("BACKLOG", "redis://127.0.0.1"),
        ("BACKLOG", "memory:"),  # with more than one producer
        ("BACKLOG", "memory:path"),
        ("LISTEN", "8000"),
        ("LISTEN", ":8000"),
        ("LISTEN", "127.0.0.1"),
        ("LISTEN", "127.0.0.1:0"),
        ("LISTEN", "127.0.0.1:65536"),
        ("LISTEN", "127.0.0.1:http"),
        ("LISTEN", "unix:"),
        ("LISTEN", "127.0.0.1:²"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence_that_names_it(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable) as refused:
        Config.from_env({variable: value})
    assert "use " in str(refused.value) or "set " in str(refused.value)


def test_the_memory_engine_goes_with_one_producer() -> None:
    assert Config.from_env({"BACKLOG": "memory:", "PRODUCERS": "1"}).backlog == "memory:"


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:65535", ("localhost", 65535)),
        ("unix:/run/stormdrain.sock", ("/run/stormdrain.sock", 0)),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_path(listen: str, address: tuple[str, int]) -> None:
    assert parse_listen(listen) == address


def test_the_table_has_a_row_with_a_sentence_for_every_setting() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [f.name.upper() for f in fields(Config)]
    assert all(row.rstrip(" |").endswith(".") for row in rows)
