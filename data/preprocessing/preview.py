"""Images of optical flow: the usual colours, contact sheets of preprocessed clips.

    python optical_flow.py --data_dir=data/ucf101 --preview=8

Used by optical_flow.py; `flow_to_color` also for the figures of runs and reports.
"""

import math
import os

import cv2
import numpy as np

from data import clips
from data import sampling
from data.preprocessing import videos

# Places of the hues on the colour wheel of Baker et al. (ICCV 2007), a circle of 55,
# starting at motion to the right: red, yellow, green, cyan, blue, magenta, red.
WHEEL = (0, 15, 21, 25, 36, 49, 55)
WHEEL_BLUE = (0, 0, 0, 255, 255, 255, 0)
WHEEL_GREEN = (0, 255, 255, 255, 0, 0, 0)
WHEEL_RED = (255, 255, 0, 0, 0, 255, 255)
ROWS = 5
TEXT_SCALE = 0.3  # the least that can be read; its lines are 10 pixels high


def flow_to_color(flow, radius=None, bound=clips.FLOW_BOUND):
    """Flow as colours: hue is direction, saturation is speed, white is no motion.

    Args:
      flow: float [..., H, W, 2] in pixels, or uint8 as stored.
      radius: speed in pixels of the full colour; None for the fastest pixel's, but
        not under 1.
      bound: of stored flow.

    Returns:
      uint8 [..., H, W, 3], BGR.
    """
    if flow.dtype == np.uint8:
        flow = (flow.astype(np.float32) - clips.FLOW_ZERO) * (bound / 127)
    x, y = flow[..., 0], flow[..., 1]
    speed = np.hypot(x, y)
    if radius is None:
        radius = max(1, speed.max())
    speed = np.minimum(speed / radius, 1)
    turn = np.arctan2(y, x) / (2 * math.pi) % 1 * WHEEL[-1]
    hues = np.stack(
        [np.interp(turn, WHEEL, c) for c in (WHEEL_BLUE, WHEEL_GREEN, WHEEL_RED)], -1
    )
    return np.rint(255 - speed[..., np.newaxis] * (255 - hues)).astype(np.uint8)


def write_sheets(data_dir, index, count):
    """Writes contact sheets of some clips, evenly spaced, and prints their paths.

    Args:
      data_dir: folder of preprocessed clips.
      index: dict from clip to its row, of any status.
      count: sheets, fewer where there are fewer clips.

    Returns:
      dict from clip to the reason, where that fails.
    """
    whole = [row for row in index.values() if row['status'] == 'ok']
    if not whole:
        print('no clip is ready, so there is no preview')
    bad = {}
    for n in sampling.evenly_spaced(len(whole), min(count, len(whole))):
        try:
            print(videos.printable(write_sheet(data_dir, whole[n])))
        except (ValueError, OSError, cv2.error) as error:
            bad[whole[n]['clip']] = videos.one_line(error)
    return bad


def write_sheet(data_dir, row):
    """Writes a clip's contact sheet: frames, their flow in colours, the colour wheel.

    Args:
      data_dir: folder of preprocessed clips.
      row: the clip's row of clips.csv.

    Returns:
      The path of the image, below <data_dir>/preview/.

    Raises:
      ValueError: the clip cannot be read or the image not written.
    """
    steps = sampling.evenly_spaced(row['frames'] - 1, ROWS)
    frames = clips.read_frames(data_dir, row['clip'], steps)
    stored = clips.read_flow(data_dir, row['clip'], steps)
    flow = (stored.astype(np.float32) - clips.FLOW_ZERO) * (row['bound'] / 127)
    radius = max(1, np.hypot(flow[..., 0], flow[..., 1]).max())
    pairs = np.concatenate([frames, flow_to_color(flow, radius)], axis=2)
    sheet = np.concatenate(pairs)
    wheel = _wheel(max(row['size'], 64), radius)  # narrower, its text does not fit
    legend = np.full((len(sheet), wheel.shape[1], 3), 255, np.uint8)
    legend[: len(wheel)] = wheel
    path = os.path.join(data_dir, 'preview', row['clip'] + '.png')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not cv2.imwrite(path, np.concatenate([sheet, legend], axis=1)):
        raise ValueError(f'{path} cannot be written')
    return path


def _wheel(size, radius):
    """The legend: a disc of motions, `radius` pixels a frame at its rim, and its text.

    Returns uint8 [H, size, 3], H more than `size` by two lines of text.
    """
    y, x = np.mgrid[-1.2 : 1.2 : size * 1j, -1.2 : 1.2 : size * 1j]
    inside = np.hypot(x, y) <= 1
    disc = np.where(inside, np.stack([x, y]), 0).transpose(1, 2, 0)
    scale = max(TEXT_SCALE, size / 400)
    height = round(10 * scale / TEXT_SCALE)
    legend = np.full((size + 2 * height + 4, size, 3), 255, np.uint8)
    legend[:size] = flow_to_color(disc, 1)
    for line, text in enumerate([f'rim: {radius:.1f}', 'pixels/frame']):
        place = (2, size + (line + 1) * height)
        cv2.putText(legend, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0))
    return legend
