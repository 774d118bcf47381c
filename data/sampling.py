"""Which frames and flow stacks represent a clip: the only file that decides it.

    starts = sampling.segment_starts(num_frames, span, num_segments=25)
    clip = sampling.stored_clip(data_dir, row)
    images = model.STREAMS['motion'].read(clip, starts, stack_length)

An input of a network begins at a frame and spans some frames: a frame spans 1, a stack
of L flow fields L + 1. Training takes a random start in each clip, features, evaluation
and prediction evenly spaced ones (two-stream 2014, section 5), validation of one CNN
the middle one.
"""

import collections
import functools
import hashlib
import json
from typing import Callable
from typing import NamedTuple

import numpy as np

from data import clips

# Lengths and spans whose starts identify the rule.
RULE_FRAMES = (1, 2, 10, 11, 29, 64, 301)
RULE_SPANS = (1, 2, 11)


class Clip(NamedTuple):
    """A clip as streams read it, from disk or from memory; frames count from 0."""

    num_frames: int
    read_frames: Callable  # ints [n] -> uint8 [n, H, W, 3]
    read_stacks: Callable  # ints [n], L -> uint8 [n, H, W, 2L]


def stored_clip(data_dir, row):
    """The preprocessed clip of a row of clips.csv."""
    return Clip(
        row['frames'],
        functools.partial(clips.read_frames, data_dir, row['clip']),
        functools.partial(clips.read_stacks, data_dir, row['clip']),
    )


def num_starts(num_frames, span):
    """Frames at which an input of `span` frames can begin; a shorter clip has one."""
    return max(1, num_frames - span + 1)


def evenly_spaced(count, n):
    """int64 [n]: numbers from 0 to count - 1, evenly spaced, both ends included."""
    return np.rint(np.linspace(0, count - 1, n)).astype(np.int64)


def segment_starts(num_frames, span, num_segments):
    """Evenly spaced starts, the same at every call.

    Args:
      num_frames: frames of the clip.
      span: frames that an input covers.
      num_segments: starts wanted; a clip of fewer frames gives one for each frame, so
        that every stream of a clip has the same number.

    Returns:
      int64 [min(num_frames, num_segments)].
    """
    count = min(num_frames, num_segments)
    return evenly_spaced(num_starts(num_frames, span), count)


def random_starts(num_frames, span, seed, step):
    """One random start in each clip.

    Args:
      num_frames: int [B], frames of each clip.
      span: frames that an input covers.
      seed, step: ints the choice follows from.

    Returns:
      int64 [B].
    """
    counts = [num_starts(frames, span) for frames in num_frames]
    return np.random.default_rng([seed, step, 1]).integers(0, counts)


def middle_start(num_frames, span):
    """The start in the middle of a clip."""
    return num_starts(num_frames, span) // 2


def sliding_windows(items, length, stride):
    """Yields (first, list of items) of windows over a stream, in bounded memory.

    A window begins every `stride` items. Where the last would be short, the last
    `length` items are one. A stream shorter than `length` is one window.
    """
    window, count, due = collections.deque(maxlen=length), 0, length
    for item in items:
        window.append(item)
        count += 1
        if count == due:
            yield count - length, list(window)
            due += stride
    uncovered = count - (due - stride)
    if 0 < count < length or count >= length and uncovered > 0:
        yield count - len(window), list(window)


def rule(num_segments):
    """Identifies the sampling rule: a hash of the starts it gives for a few lengths.

    It is kept with cached features and with runs, so that a change of the rule is
    noticed.
    """
    starts = [
        segment_starts(frames, span, num_segments).tolist()
        for frames in RULE_FRAMES
        for span in RULE_SPANS
    ]
    return hashlib.sha256(json.dumps(starts).encode()).hexdigest()[:16]
