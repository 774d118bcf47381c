"""Which clips make up a training step, and reading them ahead of the step.

Everything random here follows from (seed, step), so a run that was killed and resumed
sees the batches an undisturbed run would have seen.
"""

import collections
import concurrent.futures
import contextlib

import numpy as np


def positions(step, batch_size, count, seed):
    """Positions in the training list of the examples of one step.

    The list is walked in a new random order each epoch. A batch may span two epochs,
    so no example is left out or seen twice in an epoch.

    Args:
      step: int from 0.
      batch_size: int.
      count: length of the training list.
      seed: int.

    Returns:
      int64 [batch_size].
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(count)
        for epoch in np.unique(places // count)
    }
    return np.array([orders[place // count][place % count] for place in places])


def balanced_positions(step, batch_size, labels, seed):
    """As `positions`, but each draw takes a class first, then a clip of it.

    Args:
      step: int from 0.
      batch_size: int.
      labels: int [N] of the training list.
      seed: int.

    Returns:
      int64 [batch_size].
    """
    random = np.random.default_rng([seed, step, 3])
    drawn = random.choice(np.unique(labels), batch_size)
    return np.array([random.choice(np.flatnonzero(labels == c)) for c in drawn])


def pad(sequences):
    """Stacks sequences of different lengths, zeros after the end of each.

    Args:
      sequences: list of arrays [T_i, ...].

    Returns:
      (array [B, max T_i, ...], lengths int32 [B]).
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    shape = (len(sequences), lengths.max(), *sequences[0].shape[1:])
    padded = np.zeros(shape, sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths


def read_ahead(batches, read, workers, ahead=2):
    """Yields [read(item) for item in batch] of each batch in order.

    While one batch is used, the items of the next `ahead` batches are read, each by one
    worker, so that the first batch is there after the time of its slowest item and
    memory holds no more than it must. Decoding releases Python's lock, so threads are
    enough.

    Args:
      batches: iterable of lists of items.
      read: function of an item; an error in it is raised at its batch.
      workers: threads.
      ahead: batches read ahead, at least 0.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(read, item) for item in batch])
                if len(waiting) > ahead:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for future in (future for batch in waiting for future in batch):
                future.cancel()


def made_ahead(iterator):
    """Yields what the iterator does, the next item made while one is used.

    Args:
      iterator: a generator, closed when this one is.
    """
    ended = object()
    with contextlib.closing(iterator), concurrent.futures.ThreadPoolExecutor(1) as pool:
        made = pool.submit(next, iterator, ended)
        while (item := made.result()) is not ended:
            made = pool.submit(next, iterator, ended)
            yield item
