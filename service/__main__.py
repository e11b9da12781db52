"""`python -m service serve | settings`."""

from __future__ import annotations

import argparse
import logging
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m service", description="Stormdrain's server.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="bind the port, fork the producers, run jobs until SIGTERM")
    commands.add_parser("settings", help="print every setting: variable, default, unit, meaning")
    command = parser.parse_args().command
    return serve() if command == "serve" else settings()


EXIT_CONFIG = 2


def serve() -> int:
    from service.config import Config
    from service.errors import ConfigError

    try:
        config = Config.from_env()
        set_up_log(config.log_level)
        from service.master import Master

        return Master(config).run()
    except ConfigError as error:
        print(f"stormdrain: {error}", file=sys.stderr)
        return EXIT_CONFIG


def settings() -> int:
    from service.config import table

    print(table())
    return 0


def set_up_log(level: str) -> None:
    from service.handlers import request_id

    class WithRequest(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            record.request = request_id.get()
            return super().format(record)

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        WithRequest("%(asctime)s.%(msecs)03d %(levelname)s %(process)d [%(request)s] %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
