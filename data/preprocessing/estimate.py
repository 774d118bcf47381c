"""What a run will take, from the first frames of a few videos: disk and hours.

    tasks = estimate.sample(todo, sizes)
    for line in estimate.lines(trials, sum(sizes.values()), processes, data_dir):
        print(line)

Used by optical_flow.py alone. Frames are taken to be in proportion to bytes.
"""

import shutil
from typing import NamedTuple

VIDEOS = 4  # of a sample, less where there are few
FRAMES = 16  # tried of each
SECONDS = 0.2  # spent on each, at most


class Trial(NamedTuple):
    """What the first frames of one video took."""

    size: int  # bytes of the video
    expected: int  # frames it seems to have, 0 where nothing is known
    frames: int  # tried
    seconds: float
    stored: int  # bytes


def sample(tasks, sizes):
    """Some of the tasks, evenly spaced by the size of their videos.

    Args:
      tasks: list of (clip, path).
      sizes: dict from clip to bytes.
    """
    count = min(len(tasks), VIDEOS, 1 + len(tasks) // 25)
    ordered = sorted(tasks, key=lambda task: sizes[task[0]])
    return [ordered[(2 * n + 1) * len(tasks) // (2 * count)] for n in range(count)]


def lines(trials, total_bytes, processes, data_dir):
    """Lines that say what all videos will take, none where nothing is known.

    Args:
      trials: list of Trial, or None where one failed.
      total_bytes: of all videos to do.
      processes: that will work.
      data_dir: folder whose disk is asked for room.

    Returns:
      list of str.
    """
    known = [trial for trial in trials if trial and trial.expected and trial.frames]
    if not known:
        return []
    per_byte = sum(t.expected for t in known) / sum(t.size for t in known)
    tried = sum(t.frames for t in known)
    frames = total_bytes * per_byte
    stored = frames * sum(t.stored for t in known) / tried
    seconds = frames * sum(t.seconds for t in known) / tried / processes
    free = shutil.disk_usage(data_dir).free
    found = [
        f'about {frames:,.0f} frames, which will take {_size(stored)} of disk and '
        f'{_duration(seconds)} ({processes} processes)'
    ]
    if stored > free:
        found.append(
            f'the disk of {data_dir} has {_size(free)} free, which is too little: make '
            'room, or stop and give another --data_dir'
        )
    return found


def _size(count):
    return f'{count / 1e9:.1f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'


def _duration(seconds):
    if seconds < 90:
        return f'{seconds:.0f} seconds'
    if seconds < 5400:
        return f'{seconds / 60:.0f} minutes'
    return f'{seconds / 3600:.1f} hours'
