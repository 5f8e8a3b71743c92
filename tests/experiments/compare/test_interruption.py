"""Signals, and processes whose parent is gone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from epic_pl.experiments.compare.interruption import terminated_as_interrupted


def test_sigterm_is_an_interrupt_once_and_then_what_it_was_before():
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    with terminated_as_interrupted():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # does not cut short what is done now
            time.sleep(0.1)
            ended = True
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_signals_alone():
    entered = []

    def enter():
        with terminated_as_interrupted():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered


# a parent that starts a child, which says that it is there, and sleeps
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""
CHILD = """
import signal, sys, time
from epic_pl.experiments.compare.interruption import end_with
{before}
end_with(int(sys.argv[1]), poll_s=0.05, grace_s=0.2)
print("there", flush=True)
time.sleep(30)
print("still there", flush=True)
"""


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_process_ends_when_its_parent_was_killed(before):
    command = [sys.executable, "-c", PARENT, CHILD.format(before=before)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "there\n"
        parent.kill()
        # the pipe is at its end when nobody is left who could write to it
        start = time.monotonic()
        assert parent.stdout.read() == ""
        assert time.monotonic() - start < 10


def test_a_process_ends_at_once_where_its_parent_was_gone_before_it_looked():
    nobody = subprocess.Popen([sys.executable, "-c", ""])
    nobody.wait()
    done = subprocess.run([sys.executable, "-c", CHILD.format(before=""), str(nobody.pid)])
    assert done.returncode == -signal.SIGTERM
