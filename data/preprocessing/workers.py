"""Processes that work through a list of tasks, one OpenCV thread each.

    for task, result, death in workers.run(function, tasks, count, folder):

Not a concurrent.futures pool: there a decoder that crashes on one video takes the whole
pool with it and it is not known which video it was; here that task alone fails. Workers
end with their parent, whatever ends it.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import threading

import cv2
import numpy as np

from data.preprocessing import journal

# Bytes that a worker takes and frees once. The C library of Linux gives blocks larger
# than it has seen freed back to the system at each free and fetches them again page by
# page (mallopt(3), M_MMAP_THRESHOLD): Farneback's images would cost 15 % of its time.
FREED = 8 << 20


def processes(count):
    """`count`, or for 0 the cores that this process may use, where the system tells."""
    allowed = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count()))
    return count or len(allowed(0))


def run(function, tasks, count, folder=None):
    """Yields each task with its result, as they end, from `count` processes.

    Args:
      function: picklable function of one task.
      tasks: list of picklable tasks, begun in this order.
      count: processes.
      folder: folder of a run, where each worker keeps a file locked, or None.

    Yields:
      (task, result, death): death is '' or how the process ended over this task; then
      result is None.
    """
    context = multiprocessing.get_context('spawn')
    waiting = iter(tasks)
    busy = {}
    processes = []
    try:
        for task in itertools.islice(waiting, count):
            _begin(context, function, folder, processes, busy, task)
        while busy:
            for pipe in multiprocessing.connection.wait(list(busy)):
                process, task = busy.pop(pipe)
                try:
                    result, death = pipe.recv(), ''
                except (EOFError, ConnectionError):  # the latter left its task unread
                    process.join()
                    result, death = None, f'its process died ({process.exitcode})'
                following = next(waiting, None)
                if following is not None and death:
                    _begin(context, function, folder, processes, busy, following)
                elif following is not None:
                    _give(busy, pipe, process, following)
                yield task, result, death
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _begin(context, function, folder, processes, busy, task):
    """Starts a process on `task` and notes it in `processes` and `busy`."""
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_work, args=(theirs, function, folder), daemon=True
    )
    with _interrupt_blocked():
        process.start()
        processes.append(process)
    theirs.close()
    _give(busy, ours, process, task)


@contextlib.contextmanager
def _interrupt_blocked():
    """Lets a process start that never sees Ctrl-C.

    Ctrl-C reaches every process of a terminal; only the parent decides what it means. A
    signal that is blocked here stays blocked in the new process from its start, and
    waits for the parent. The tracker, which start() needs, would unblock it.
    """
    if not hasattr(signal, 'pthread_sigmask'):  # Windows: see _work
        yield
        return
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _give(busy, pipe, process, task):
    with contextlib.suppress(ConnectionError):  # it has died, as reading will tell
        pipe.send(task)
    busy[pipe] = process, task


def _work(pipe, function, folder):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not hasattr(signal, 'pthread_sigmask'):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    np.empty(FREED, np.uint8)
    if folder is not None:
        journal.hold(folder, f'{os.getpid()}.worker')
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        while True:
            pipe.send(function(pipe.recv()))


def _end_with_parent():
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
