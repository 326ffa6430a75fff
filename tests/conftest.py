"""How a run of the tests ends."""

from __future__ import annotations

import atexit
import os
import sys

import pytest

_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # Ray Serve's router lives in a thread that nothing can end, and keeps Ray's native threads alive after
    # ray.shutdown(). The interpreter is now and then torn down under them, and crashes after a passed run.
    if "ray" not in sys.modules or _status not in config.stash:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash[_status])
