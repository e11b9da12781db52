"""The container's command: supervisord, and an exit code that tells how it ended."""

import os
import sys
from pathlib import Path

from exit_on_fatal import FATAL
from supervisor.supervisord import main

from service import exits
from service.config import Config
from service.errors import ConfigError

EXIT_FATAL = 3
# Above the server's drain time (20 s by default) and its master's grace; below compose's stop_grace_period.
STOP_MARGIN = 8

FATAL.unlink(missing_ok=True)
try:
    drain = Config.from_env().drain
except ConfigError as error:
    print(f"stormdrain: {error}", file=sys.stderr)
    sys.exit(exits.CONFIG)
os.environ.update(STOP_SECONDS=str(int(drain) + STOP_MARGIN), SERVER_LOG="/dev/fd/1", SERVER_LOG_MAX="0")
main(["--nodaemon", "--configuration", str(Path(__file__).with_name("supervisord.conf"))])
sys.exit(EXIT_FATAL if FATAL.exists() else 0)
