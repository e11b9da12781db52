"""How a process ends."""

# The server, and what is done to its files.
BROKEN = 1  # something failed; another try may help
CONFIG = 2  # a setting or the jobs module is wrong; another try cannot help
BOOT = 3  # a producer cannot boot
CORRUPT = 4  # the backlog's file is damaged; another try cannot help

# A command of the client. Where several hold, the highest counts.
OK = 0
UNSUCCESSFUL = 1  # a job that was waited for has failed, was cancelled, has expired or is not known any more
USAGE = 2  # the command line is wrong; nothing was sent
REFUSED = 3  # something was refused, and was not done
NO_ANSWER = 4  # no answer came that settles it: what was asked for may have been done all the same
TIMED_OUT = 5  # jobs had not ended in time; they go on
STOPPED = 130  # Ctrl-C (128 + SIGINT, as shells say it); what was accepted goes on
PIPE = 141  # nobody reads the output any more (128 + SIGPIPE)
