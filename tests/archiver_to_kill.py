"""Runs machserial, and kills it as kill -9 would, just before or after a step of an archive.

python archiver_to_kill.py before|after STEP ARGUMENT…     STEP: one of archiving.STEPS, or os.NAME:N, which is the
                                                           Nth call of os.NAME
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from machserial.audit import archiving
from machserial.cli import main


def deadly(original: Callable, moment: str, on_call: int = 1) -> Callable:
    calls = 0

    def replacement(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls < on_call:
            return original(*arguments)
        if moment == "after":
            original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    return replacement


if __name__ == "__main__":
    moment, step, *arguments = sys.argv[1:]
    if step.startswith("os."):
        name, _, on_call = step.removeprefix("os.").partition(":")
        setattr(os, name, deadly(getattr(os, name), moment, int(on_call)))
    else:
        archiving.STEPS[step] = deadly(archiving.STEPS[step], moment)
    main(arguments)
