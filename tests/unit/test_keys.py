"""Who has a key may do what its scopes say; the file may change, break and vanish; no secret is ever written down."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import keyfile
from service.errors import ConfigError
from service.handlers import application as application  # brings all of them
from service.handlers.base import Handler
from service.keys import ADMIN, READ, SUBMIT, Keys, hmac, open_keys, read
from tests.support import ROOT

HASH = "0123456789abcdef" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api_keys"


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_a_created_key_is_found_with_its_scopes(file: Path) -> None:
    token = keyfile.create(file, "shop", "submit,read")
    key = Keys(file).find(bearer(token))
    assert key is not None
    assert (key.id, key.scopes) == ("shop-1", {SUBMIT, READ})
    assert (key.may(SUBMIT), key.may(READ), key.may(ADMIN)) == (True, True, False)


def test_admin_may_everything(file: Path) -> None:
    token = keyfile.create(file, "boss", "admin")
    key = Keys(file).find(bearer(token))
    assert key is not None
    assert all(key.may(scope) for scope in (SUBMIT, READ, ADMIN))


def test_the_file_is_its_owners_alone_and_has_the_hash_only(file: Path) -> None:
    secret = keyfile.create(file, "shop", "read").partition(".")[2]
    assert len(secret) == 43  # 32 bytes
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_what_is_not_the_key_is_not_found(file: Path) -> None:
    token = keyfile.create(file, "shop", "read")
    other = keyfile.create(file, "other", "read")
    keys, secret = Keys(file), token.partition(".")[2]
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer .",
        token,
        f"Basic {token}",
        bearer(token[:-1]),
        bearer(token + "x"),
        bearer(secret),
        bearer(f".{secret}"),
        bearer(f"nobody-1.{secret}"),
        bearer(f"other-1.{secret}"),
        bearer(f"{token}, {bearer(token)}"),
        bearer(f"shop-1.{HASH}"),
    ):
        assert keys.find(header) is None, header
    assert keys.find(f"bearer   {token} ") is not None
    assert keys.find(bearer(other)) is not None


@given(header=st.text(st.characters(max_codepoint=255)))
def test_no_header_is_too_strange(tmp_path_factory: pytest.TempPathFactory, header: str) -> None:
    file = tmp_path_factory.getbasetemp() / "strange"
    if not file.exists():
        keyfile.create(file, "shop", "read")
    keys = Keys(file)
    assert keys.find(header) is None
    assert keys.find(bearer(header)) is None
    assert keys.find(bearer(f"shop-1.{header}")) is None


def test_an_unknown_id_is_compared_as_a_known_one_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile.create(file, "shop", "read")
    keys, compared, compare = Keys(file), [], hmac.compare_digest

    def note(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", note)
    for header in ("", "Bearer shop-1.wrong", "Bearer nobody.wrong"):
        assert keys.find(header) is None
    assert compared == [(32, 32)] * 3


def test_comments_and_blank_lines_are_skipped_and_survive_every_change(file: Path) -> None:
    token = keyfile.create(file, "shop", "read")
    lines = f"# who may what\n\n  {file.read_text().strip()}  # the shop's\n# no end of line"
    file.write_text(lines)
    keys = Keys(file)
    assert keys.find(bearer(token)) is not None
    other = keyfile.create(file, "other", "read")
    assert file.read_text().startswith(f"{lines}\nother-1 ")
    assert keys.find(bearer(other)) is not None
    keyfile.revoke(file, "shop-1")
    assert "# who may what" in file.read_text()
    assert (keys.find(bearer(token)), keys.find(bearer(other)) is None) == (None, False)


@pytest.mark.parametrize(
    "line",
    [
        "shop-1",
        f"shop-1 {HASH}",
        f"shop-1 {HASH} ",
        f"shop-1 {HASH[1:]} read",
        f"shop-1 {HASH.upper()} read",
        f"shop-1 {HASH} write",
        f"shop-1 {HASH} read,,submit",
        f"shop-1 {HASH} read submit",
        f"-shop {HASH} read",
        f"sh/op {HASH} read",
        f"{HASH} read",
        f"good-1 {HASH} read",  # a second time
    ],
)
def test_a_bad_line_is_told_by_its_number_and_never_quoted(file: Path, line: str) -> None:
    file.write_text(f"good-1 {HASH} read\n{line}\n")
    with pytest.raises(ConfigError) as refused:
        Keys(file)
    said = str(refused.value)
    assert f"API_KEYS_FILE is {file}: line 2 " in said
    assert not [word for word in (HASH, HASH[1:], HASH.upper(), "shop", "write") if word in said.replace(str(file), "")]


def test_what_cannot_be_read_is_told_in_a_sentence(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keys(file)
    with pytest.raises(ConfigError, match="is not a file"):
        Keys(file.parent)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a text") as refused:
        Keys(file)
    assert "xff" not in str(refused.value)
    file.unlink()
    os.mkfifo(file)  # to read it would wait for a writer
    with pytest.raises(ConfigError, match="is not a file"):
        Keys(file)


def test_without_a_file_there_are_no_keys_and_an_empty_file_lets_nobody_in(file: Path) -> None:
    assert open_keys("") is None
    file.write_text("")
    keys = open_keys(str(file))
    assert keys is not None
    assert keys.find(bearer(f"shop-1.{HASH}")) is None


def test_new_keys_hold_and_revoked_ones_do_not_without_a_restart(file: Path) -> None:
    first = keyfile.create(file, "shop", "read")
    keys = Keys(file)
    second = keyfile.create(file, "shop", "read,submit")
    assert keys.find(bearer(second)) is not None
    keyfile.revoke(file, "shop-1")
    assert (keys.find(bearer(first)), keys.find(bearer(second)) is None) == (None, False)
    file.write_text("")  # by an editor, in its place
    assert keys.find(bearer(second)) is None


def test_the_file_is_read_when_it_has_changed_and_not_otherwise(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = keyfile.create(file, "shop", "read")
    reads: list[Path] = []
    monkeypatch.setattr("service.keys.read", lambda it: reads.append(it) or read(it))
    keys = Keys(file)
    for seen in (1, 2, 3):
        assert all(keys.find(bearer(token)) is not None for _ in range(3))
        assert len(reads) == seen
        file.write_text(file.read_text() + "# changed\n" if seen == 1 else "damaged")


def test_a_file_that_breaks_or_vanishes_changes_nothing_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys.AGAIN", 0.0)
    token = keyfile.create(file, "shop", "read")
    keys, good = Keys(file), file.read_text()

    def asked(times: int = 3) -> list[str]:
        caplog.clear()
        assert all(keys.find(bearer(token)) is not None for _ in range(times))
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

    assert asked() == []
    file.write_text(good + "nonsense\n")
    (line,) = asked()
    assert "line 2 is not `id sha256 scopes`; the keys of before hold" in line
    assert asked() == []
    file.unlink()
    (line,) = asked()
    assert "cannot be read: No such file" in line
    file.write_text(good)
    assert asked() == []
    file.unlink()
    assert len(asked()) == 1  # again, since it was good in between
    file.write_text("")
    assert keys.find(bearer(token)) is None


def test_a_client_has_two_keys_at_most(file: Path) -> None:
    tokens = [keyfile.create(file, "shop", "read") for _ in range(2)]
    assert [token.partition(".")[0] for token in tokens] == ["shop-1", "shop-2"]
    with pytest.raises(ConfigError, match="shop has 2 keys already: revoke shop-1 or shop-2 first"):
        keyfile.create(file, "shop", "read")
    assert keyfile.create(file, "shop-1", "read").startswith("shop-1-1.")
    keyfile.revoke(file, "shop-1")
    assert keyfile.create(file, "shop", "read").startswith("shop-1.")


@pytest.mark.parametrize("name", ["", "a.b", "a b", "-a", "a#", "a\nb", "a" * 65, "ä"])
def test_a_name_that_would_spoil_the_file_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a client's name"):
        keyfile.create(file, name, "read")
    assert not file.exists()


@pytest.mark.parametrize("scopes", ["", "write", "read,,submit", "read;submit", "read\nx"])
def test_an_unknown_scope_is_refused(file: Path, scopes: str) -> None:
    with pytest.raises(ConfigError, match="there is no scope"):
        keyfile.create(file, "shop", scopes)
    assert not file.exists()


def test_a_file_that_is_damaged_is_not_made_worse(file: Path) -> None:
    file.write_text("nonsense\n")
    for change in (lambda: keyfile.create(file, "shop", "read"), lambda: keyfile.revoke(file, "shop-1")):
        with pytest.raises(ConfigError, match="line 1"):
            change()
    assert file.read_text() == "nonsense\n"


def test_what_is_not_there_cannot_be_revoked(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be changed: No such file"):
        keyfile.revoke(file, "shop-1")
    keyfile.create(file, "shop", "read")
    with pytest.raises(ConfigError, match="there is no key shop-2"):
        keyfile.revoke(file, "shop-2")


def test_keys_that_are_created_at_once_are_all_there(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda n: keyfile.create(file, f"client{n}", "read"), range(16)))
    keys = Keys(file)
    assert all(keys.find(bearer(token)) is not None for token in tokens)


def test_a_link_stays_a_link_and_an_owner_the_owner(file: Path) -> None:
    real = file.parent / "real"
    real.mkdir()
    file.symlink_to(real / "keys")
    token = keyfile.create(file, "shop", "read")
    assert file.is_symlink()
    if os.geteuid() == 0:
        os.chown(real / "keys", 12345, 54321)
    keyfile.create(file, "other", "read")
    assert file.is_symlink()
    if os.geteuid() == 0:
        assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)
    assert Keys(file).find(bearer(token)) is not None


def test_only_two_handlers_are_open_to_everybody() -> None:
    def below(kind: type[Handler]) -> set[type[Handler]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    everyone = below(Handler)
    assert len(everyone) > 10
    assert {kind.__name__ for kind in everyone if kind.open} == {"Health", "Ready"}
    for kind in everyone - {Handler}:
        assert kind.admit is Handler.admit, kind


def run(*arguments: str, file: Path | str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "key", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "API_KEYS_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_prints_the_key_once_and_alone(file: Path) -> None:
    done = run("shop", "--scopes", "read, admin", file=file)
    assert done.returncode == 0
    token = done.stdout.strip()
    assert done.stdout == f"{token}\n"
    assert str(file) in done.stderr
    assert token.partition(".")[2] not in done.stderr
    key = Keys(file).find(bearer(token))
    assert key is not None
    assert key.scopes == {READ, ADMIN}
    assert file.read_text().rstrip().endswith(" read,admin")
    revoked = run("--revoke", "shop-1", file=file)
    assert (revoked.returncode, revoked.stdout) == (0, "")
    assert Keys(file).find(bearer(token)) is None


def test_the_command_makes_the_folder_that_is_missing(file: Path) -> None:
    place = file.parent / "a/b/keys"
    assert run("shop", file=place).returncode == 0
    assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "with_file", "sentence"),
    [
        (["shop"], False, "API_KEYS_FILE is not set"),
        ([], True, "say either whose key is created"),
        (["shop", "--revoke", "shop-1"], True, "say either whose key is created"),
        (["shop", "--scopes", "write"], True, "there is no scope 'write'"),
        (["--revoke", "shop-1"], True, "cannot be changed: No such file"),
    ],
)
def test_what_the_command_cannot_do_it_says_in_a_sentence(
    file: Path, arguments: list[str], with_file: bool, sentence: str
) -> None:
    done = run(*arguments, file=file if with_file else "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stormdrain: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not file.exists()
