"""Does a folder of preprocessed clips hold what its clips.csv says?

    python optical_flow.py --data_dir=data/ucf101 --check

Every file is decoded to its end. Used by optical_flow.py alone.
"""

import functools
import os

import numpy as np
import tqdm

from data import clips
from data.preprocessing import journal
from data.preprocessing import workers

# Images held at once, so that memory does not grow with a clip's length.
CHUNK = 256
# Stored steps, of 0.16 pixels, up to which a clip counts as still: between equal frames
# the flow of Farneback is a little off 0 at some pixels.
STILL = 2


def verify(data_dir, index, processes):
    """Checks every file; damaged clips become `outdated`, so that they are made again.

    Args:
      data_dir: folder of preprocessed clips.
      index: dict from clip to its row, of any status.
      processes: how many.

    Returns:
      dict from clip to what is wrong with it.
    """
    function = functools.partial(problems_of, data_dir)
    wrong, damaged = {}, []
    for clip in strangers(data_dir, index):
        wrong[clip] = 'no row in clips.csv: delete its files, or run with its video'
    work = workers.run(function, list(index.values()), processes)
    for row, found, death in tqdm.tqdm(work, 'check', len(index), disable=None):
        problem, again = found or (death, False)
        if problem:
            wrong[row['clip']] = problem
        if again:
            damaged.append(row)
    print(f'{len(index)} clips checked, {len(wrong)} wrong')
    if damaged:
        journal.outdate(data_dir, damaged)
        print(
            f'{len(damaged)} of them are outdated now in clips.csv: '
            'optical_flow.py --video_dir=VIDEOS makes them again'
        )
    return wrong


def problems_of(data_dir, row):
    """What does not hold for one clip.

    Args:
      data_dir: folder of preprocessed clips.
      row: the clip's row of clips.csv.

    Returns:
      (str, '' if everything holds; bool, whether the files must be made again).
    """
    if row['status'] != 'ok':
        reason = row['error'] or 'optical_flow.py --video_dir=VIDEOS makes it again'
        return f'{row["status"] or "without a status"}: {reason}', False
    clip, size, count = row['clip'], row['size'], row['frames']
    try:
        found = clips.verify_frames(data_dir, clip), clips.verify_flow(data_dir, clip)
        if found != (count, count - 1):
            counts = '{} frames and {} fields of flow'.format
            said = counts(count, count - 1)
            return f'its files hold {counts(*found)}, clips.csv says {said}', True
        for steps in _chunks(count):
            frames = clips.read_frames(data_dir, clip, steps)
            if frames.shape[1:] != (size, size, 3):
                width_height = f'{frames.shape[2]}x{frames.shape[1]}'
                return f'the frames are {width_height}, not {size}', True
        x_is_y, low, high = True, 255, 0
        for steps in _chunks(count - 1):
            flow = clips.read_flow(data_dir, clip, steps)
            if flow.shape[1:] != (size, size, 2):
                width_height = f'{flow.shape[2]}x{flow.shape[1]}'
                return f'the flow is {width_height}, not {size}', True
            low, high = min(low, int(flow.min())), max(high, int(flow.max()))
            x_is_y &= np.array_equal(flow[..., 0], flow[..., 1])
    except (ValueError, OSError) as error:
        return str(error), True
    around_zero = max(high - clips.FLOW_ZERO, clips.FLOW_ZERO - low) <= STILL
    if low == high or around_zero:
        return 'the flow is constant (leave a still video out)', False
    return ('the flow has the same x and y', True) if x_is_y else ('', False)


def strangers(data_dir, index):
    """Clips whose files are in `data_dir` though `index` has no row of them."""
    found = set()
    for kind in ('resized', 'optical-flow'):
        for folder, _, names in os.walk(os.path.join(data_dir, kind)):
            label = os.path.basename(folder)
            found |= {f'{label}/{os.path.splitext(name)[0]}' for name in names}
    return sorted(found - set(index))


def _chunks(count):
    return (range(n, min(n + CHUNK, count)) for n in range(0, count, CHUNK))
