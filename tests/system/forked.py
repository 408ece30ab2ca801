"""Doing something in a process of its own, in tests that change what it is."""

from __future__ import annotations

import gc
import json
import os
import traceback
import typing as t
from collections.abc import Callable


def in_child(do: Callable[[], object]) -> t.Any:
    """Do something in a forked process.

    :return: What it returned there.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        # What earlier tests have left isn't to be collected here: it may close
        # descriptors whose numbers are others' by now.
        gc.freeze()
        try:
            os.write(write, json.dumps(do()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as reader:
        answer = reader.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(answer)
