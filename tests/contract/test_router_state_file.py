"""What is remembered beside a proxy has one writer at a time, and nobody waits for ever for one that is frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.wait import exit_status
from tidegate.drivers.routers.state_file import BackendState, RouterStateFile
from tidegate.errors import RouterError

WRITER = """\
import sys, time
from pathlib import Path
from tidegate.drivers.routers.state_file import RouterStateFile
with RouterStateFile(Path(sys.argv[1])).locked():
    print("writes", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_writer(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a write."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "writes\n"
        yield writer
    finally:
        writer.kill()
        exit_status(writer)
        writer.stdout.close()


def test_a_frozen_writer_is_named_and_its_lock_is_not_taken_away(tmp_path: Path) -> None:
    memory = RouterStateFile(tmp_path, lock_seconds=0.2)
    with another_writer(tmp_path) as writer:
        os.kill(writer.pid, signal.SIGSTOP)
        for _ in range(2):
            said = rf"process {writer.pid} has held it for 0\.2 s\. .*resume or kill it"
            with pytest.raises(RouterError, match=said) as found, memory.locked():
                pass
            assert found.value.retryable
    memory = RouterStateFile(tmp_path)
    with memory.locked() as state:
        memory.save({**state, "shop": BackendState("shop")})
    assert list(memory.load()) == ["shop"]


def test_a_thread_that_hangs_holds_up_the_others_no_longer(tmp_path: Path) -> None:
    memory, inside, over = RouterStateFile(tmp_path, lock_seconds=0.2), threading.Event(), threading.Event()

    def hang() -> None:
        with memory.locked():
            inside.set()
            over.wait(300)

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(RouterError, match=f"process {os.getpid()} has held it"), memory.locked():
            pass
    finally:
        over.set()
        thread.join()
    with RouterStateFile(tmp_path).locked() as state:
        assert state == {}
