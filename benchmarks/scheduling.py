"""The scheduling class of a measurement: in the default one a virtual machine may put both threads on one core."""

import os


def command_prefix() -> str:
    """What stood before the command: "chrt -r 1 " in the real-time class, nothing in any other."""
    return "chrt -r 1 " if os.sched_getscheduler(0) == os.SCHED_RR else ""
