"""How a process of the server ends."""

BROKEN = 1  # something failed; another try may help
CONFIG = 2  # a setting or the jobs module is wrong; another try cannot help
BOOT = 3  # a producer cannot boot
CORRUPT = 4  # the backlog's file is damaged; another try cannot help
