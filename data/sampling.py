"""Which frames and flow stacks represent a clip: the only file that decides it.

    starts = sampling.segment_starts(num_frames, span, num_segments=25)
    clip = sampling.stored_clip(data_dir, row)
    images = model.STREAMS['motion'].read(clip, starts, stack_length)

An input of a network begins at a frame and spans some frames: a frame spans 1, a stack
of L flow fields L + 1. Training of one CNN takes a random start in each clip and its
validation the middle one; features, joint training, evaluation and prediction take
evenly spaced ones (two-stream 2014, section 5). The further views of a clip, which the
hybrid is trained on, have their starts drawn one in each of equal segments.
"""

import collections
import functools
import hashlib
import json
import zlib
from typing import Callable
from typing import NamedTuple

import numpy as np

from data import clips

MIRROR = -1  # the view that is view 0 mirrored
INSTANT = 1e-6  # seconds that are no difference between two times
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


def view_starts(num_frames, span, num_segments, view, clip, seed):
    """The starts of one view of a clip, the same at every call.

    View 0 and its mirror image have evenly spaced starts. Each further view has one in
    each of equal segments. A view has the same moments in every stream.

    Args:
      num_frames, span, num_segments: as in `segment_starts`.
      view: int, or MIRROR.
      clip, seed: 'Class/stem' and int that the choice follows from.

    Returns:
      int64 [min(num_frames, num_segments)].
    """
    if view in (0, MIRROR):
        return segment_starts(num_frames, span, num_segments)
    segments = np.arange(min(num_frames, num_segments))
    random = np.random.default_rng([seed, zlib.crc32(clip.encode()), view, 1])
    moments = (segments + random.random(len(segments))) / len(segments)  # 0 to 1
    count = num_starts(num_frames, span)
    return np.minimum(moments * count, count - 1).astype(np.int64)


def random_views(batch_size, num_views, seed, step):
    """int64 [batch_size]: which view of each clip a training step takes."""
    return np.random.default_rng([seed, step, 4]).integers(0, num_views, batch_size)


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


class Window(NamedTuple):
    """Consecutive frames of a longer video."""

    first: int  # number of the first frame
    from_seconds: float
    to_seconds: float
    items: list


def sliding_windows(items, length, stride):
    """Yields the windows of a stream, in bounded memory.

    A window begins every `stride` seconds and holds what comes within `length` seconds.
    Where the last would be short, the last `length` seconds are one. A shorter stream
    is one window. Seconds in which nothing comes have no window, and one item alone is
    joined by its neighbour, so that there is flow between two frames.

    Args:
      items: iterable of (seconds, item), seconds growing from 0.
      length, stride: seconds.

    Yields:
      Window.
    """
    kept, begin, dropped, covered = collections.deque(), 0.0, 0, 0
    for seconds, item in items:
        while kept and seconds > begin + length - INSTANT:
            skip = sum(t < begin - INSTANT for t, _ in kept)
            inside = [*kept][skip:]
            if inside:
                end = begin + length
                if len(inside) == 1:
                    inside.append((seconds, item))
                    end = seconds
                first = dropped + skip
                yield _window(first, inside, min(end, seconds))
                covered = first + len(inside)
                begin += stride
                del inside  # or it would hold a second window
            else:  # a pause, perhaps of hours
                begin += stride * ((seconds - length - begin) // stride + 1)
        kept.append((seconds, item))
        oldest = min(begin, seconds - length) - INSTANT
        while len(kept) > 2 and kept[0][0] < oldest:
            kept.popleft()
            dropped += 1
    if covered < dropped + len(kept):
        times = [t for t, _ in kept]
        end = times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0)
        skip = sum(t < end - length - INSTANT for t in times)
        skip = max(0, min(skip, len(kept) - 2))
        yield _window(dropped + skip, [*kept][skip:], end)


def _window(first, pairs, to_seconds):
    return Window(first, pairs[0][0], to_seconds, [item for _, item in pairs])


def rule(num_segments, view=0, seed=0):
    """Identifies the sampling rule: a hash of the starts it gives for a few lengths.

    It is kept with cached features and with runs, so that a change of the rule is
    noticed.
    """
    starts = [
        view_starts(frames, span, num_segments, view, 'Class/clip', seed).tolist()
        for frames in RULE_FRAMES
        for span in RULE_SPANS
    ]
    return hashlib.sha256(json.dumps(starts).encode()).hexdigest()[:16]
