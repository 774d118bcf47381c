"""workers.py: a process that dies fails its task alone, signals reach the parent."""

import functools
import os
import signal
import socket

import pytest

from data.preprocessing import journal
from data.preprocessing import workers


class Deadly:
    """Kills the process that receives it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_worker_that_dies_before_its_task_fails_it_alone():
    ended = list(workers.run(Deadly(), ['a', 'b', 'c'], 2))
    assert sorted(task for task, _, _ in ended) == ['a', 'b', 'c']
    assert {death for _, _, death in ended} == {'its process died (3)'}


def test_workers_keep_the_run_alive(tmp_path):
    folder = str(tmp_path / f'{socket.gethostname()}-1-1')  # a run of this machine
    os.mkdir(folder)
    ((_, dead, _),) = workers.run(journal._is_dead, [folder], 1, folder)
    assert dead is False
    assert journal._is_dead(folder)  # the worker has ended


def test_ctrl_c_while_a_worker_starts_is_not_lost(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Context:
        def Pipe(self):
            return os, os  # whatever can be closed

        def Process(self, **_):
            return self

        def start(self):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        workers._begin(Context(), len, None, [], {}, 'task')
    blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    ((_, signals, _),) = workers.run(blocked, [[]], 1)
    assert signal.SIGINT in signals
