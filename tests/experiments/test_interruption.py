"""Signals, and processes whose parent has ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from epic_pl.experiments.interruption import terminated_as_interrupted


def test_the_first_sigterm_is_an_interrupt_and_the_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    with terminated_as_interrupted():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # does not cut the cleaning up short
            time.sleep(0.1)
            ended = True
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


# a parent whose child prints a line and sleeps
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""
CHILD = """
import signal, sys, time
from epic_pl.experiments.interruption import end_with
{before}
end_with(int(sys.argv[1]), poll_s=0.05, grace_s=0.2)
print("started", flush=True)
time.sleep(30)
print("still running", flush=True)
"""


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_process_ends_when_its_parent_is_killed(before):
    command = [sys.executable, "-c", PARENT, CHILD.format(before=before)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        # the pipe ends with the last process that holds it, and before the child's last line
        assert parent.stdout.read() == ""
