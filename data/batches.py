"""Which clips make up a training step, and reading them ahead of the step.

Everything random here follows from (seed, step), so a run that was killed and resumed
sees the batches an undisturbed run would have seen. This is apart from `clips.py`
because preprocessing needs the stored format without any of it.
"""

import collections
import concurrent.futures

import numpy as np

from data import clips


def positions(step, batch_size, count, seed):
    """Places in the training list of the examples of one step.

    The list is walked in a new random order each epoch; a batch may span two epochs,
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


def random_starts(frame_counts, length, seed, step):
    """One random place in each clip from which `length` items can be read.

    Args:
      frame_counts: int [B], items in each clip (frames, or flow fields).
      length: items needed; a shorter clip starts at 0.
      seed: int.
      step: int.

    Returns:
      int64 [B].
    """
    room = np.maximum(np.asarray(frame_counts) - length, 0)
    return np.random.default_rng([seed, step, 1]).integers(0, room + 1)


def random_pictures(data_dir, stream, rows, stack_length, seed, step):
    """A random frame or a random stack of each clip.

    Args:
      data_dir: the preprocessed data set.
      stream: 'spatial' for frames, 'motion' for stacks.
      rows: the clips' rows of clips.csv.
      stack_length: L.
      seed, step: ints the choice follows from.

    Returns:
      uint8 [B, H, W, 3] or [B, H, W, 2L].
    """
    frames = np.array([row['frames'] for row in rows])
    if stream == 'spatial':
        starts = random_starts(frames, 1, seed, step)
        pictures = [
            clips.read_frames(data_dir, row['clip'], [start])
            for row, start in zip(rows, starts, strict=True)
        ]
    else:
        starts = random_starts(frames - 1, stack_length, seed, step)
        pictures = [
            clips.read_stacks(data_dir, row['clip'], [start], stack_length)
            for row, start in zip(rows, starts, strict=True)
        ]
    return np.concatenate(pictures)


def middle_pictures(data_dir, stream, rows, stack_length):
    """The middle frame or stack of each clip: uint8 [B, H, W, 3 or 2L]."""
    pictures = []
    for row in rows:
        if stream == 'spatial':
            middle = row['frames'] // 2
            pictures.append(clips.read_frames(data_dir, row['clip'], [middle]))
        else:
            middle = max(0, row['frames'] - stack_length) // 2
            pictures.append(
                clips.read_stacks(data_dir, row['clip'], [middle], stack_length)
            )
    return np.concatenate(pictures)


def sampled_clip(data_dir, stream, row, num_steps, stack_length):
    """The evenly spaced steps that stand for a clip, the same at every call.

    Args:
      data_dir: the preprocessed data set.
      stream: 'spatial' for frames, 'motion' for stacks.
      row: the clip's row of clips.csv.
      num_steps: steps wanted; a clip of fewer frames gives one step a frame.
      stack_length: L.

    Returns:
      uint8 [T, H, W, 3] or [T, H, W, 2L], T the same for both streams.
    """
    frames = row['frames']
    steps = min(frames, num_steps)
    if stream == 'spatial':
        places = clips.evenly_spaced(frames, steps)
        return clips.read_frames(data_dir, row['clip'], places)
    starts = clips.stack_starts(frames, steps, stack_length)
    return clips.read_stacks(data_dir, row['clip'], starts, stack_length)


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


def read_ahead(read, items, workers):
    """Yields read(item) in order, with up to 2 x workers results read ahead.

    OpenCV decodes without Python's lock, so threads are enough. An error in `read`
    comes up at its item.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
