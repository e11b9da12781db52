"""`python -m service serve | check | settings | key NAME | backup FILE | restore FILE | stage NAME`, and the client's
commands: `submit | status | wait | list | cancel | retry`. Installed, it is called `stormdrain`."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

CHECKED = "the settings and the jobs are good"


def main() -> int:
    from service import cli  # here, as all others: a slot imports this module too, and needs none of them

    installed = Path(sys.argv[0]).name == cli.PROGRAM
    parser = argparse.ArgumentParser(
        prog=cli.PROGRAM if installed else "python -m service", description="Stormdrain: the server, and its client."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="bind the port, fork the producers, run jobs until SIGTERM")
    commands.add_parser("check", help="read the settings and import the jobs module, as a start would")
    commands.add_parser("settings", help="print every setting: variable, default, unit, meaning")
    for name, told in (("backup", "copy the backlog to FILE, while it is used"), ("restore", "put FILE in its place")):
        commands.add_parser(name, help=told).add_argument("file", metavar="FILE")
    keys = commands.add_parser("key", help="create an API key of the client NAME, or revoke one")
    keys.add_argument("name", metavar="NAME", nargs="?", default="", help="the key is called NAME-1 or NAME-2")
    keys.add_argument("--scopes", default="submit,read", help="of submit, read and admin (default: submit,read)")
    keys.add_argument("--revoke", metavar="ID", default="", help="take the key NAME-1, for instance, out of the file")
    commands.add_parser("stage", help="run one of the teaching servers", add_help=False)
    cli.add_to(commands)
    command, rest = parser.parse_known_args()
    if command.command == "stage":
        return stage(rest)
    if wrong := cli.complete(command, rest):
        parser.error(wrong)
    if command.command in cli.COMMANDS:
        return cli.run(command)
    if command.command in ("backup", "restore"):
        return copy(command.command, command.file)
    if command.command == "key":
        return key(command.name, command.scopes, command.revoke)
    return {"serve": serve, "check": check, "settings": settings}[command.command]()


def serve() -> int:
    from service import exits, log
    from service.config import Config
    from service.errors import ConfigError
    from service.master import Master

    try:
        config = Config.from_env()
        log.set_up(config.log_level)

        return Master(config).run()
    except ConfigError as error:
        print(f"stormdrain: {error}", file=sys.stderr)
        return exits.CONFIG


def check() -> int:
    from service import exits, registry
    from service.config import Config
    from service.errors import ConfigError
    from service.keys import open_keys

    try:
        config = Config.from_env()
        open_keys(config.api_keys_file)
        registry.load(config.jobs)
    except ConfigError as error:
        print(f"stormdrain: {error}", file=sys.stderr)
        return exits.CONFIG
    print(CHECKED)  # a module that ends the process when it is imported would otherwise pass
    return 0


def settings() -> int:
    from service.config import table

    print(table())
    return 0


def key(name: str, scopes: str, revoked: str) -> int:
    from pathlib import Path

    from service import exits, keyfile
    from service.config import Config
    from service.errors import ConfigError

    try:
        file = Path(Config.from_env().api_keys_file or ".")
        if not file.name:
            raise ConfigError("API_KEYS_FILE is not set: it says where the keys are kept")
        if bool(name) == bool(revoked):
            raise ConfigError(
                "say either whose key is created, NAME, or which one is revoked, --revoke ID (in make: REVOKE=ID)"
            )
        if revoked:
            keyfile.revoke(file, revoked)
            print(f"{revoked} is not in {file} any more; servers refuse it at once", file=sys.stderr)
        else:
            print(keyfile.create(file, name, scopes))
            print(f"only the hash of its secret is kept, in {file}: this is the one time you see it", file=sys.stderr)
    except ConfigError as error:
        print(f"stormdrain: {error}", file=sys.stderr)
        return exits.CONFIG
    return 0


def copy(direction: str, file: str) -> int:
    from service import backup, exits
    from service.config import Config
    from service.errors import ConfigError

    try:
        config = Config.from_env()
        if direction == "backup":
            copied = backup.backup(config.backlog, Path(file), config.disk_reserve)
            print(f"{copied} jobs are in the copy; its integrity is checked")
        else:
            jobs, before = backup.restore(config.backlog, Path(file))
            print(f"{jobs} jobs are restored" + (f"; what was there before is in {before}" if before else ""))
    except ConfigError as error:
        print(f"stormdrain: {error}", file=sys.stderr)
        return exits.CONFIG
    return 0


def stage(arguments: list[str]) -> int:
    # By name: nothing that serves may import what teaches.
    sys.argv[1:] = arguments
    runpy.run_module("service.stages", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
