"""Imported by multiprocessing's fork server, and nowhere else: the import is what it does.

Slots are forked from that server, so two things are settled here, before the first of them:
a stop signal sent to the producer's process group must not reach it (every running job would fail on an
ordinary deploy), and it must not outlive its producer (a killed producer would leave slots computing).
"""

from service import linux

linux.leave_process_group()
linux.die_with_parent()
