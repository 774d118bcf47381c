"""Pictures of optical flow: the usual colours, contact sheets of preprocessed clips.

    python optical_flow.py --data_dir=data/ucf101 --preview=8

Used by optical_flow.py; `flow_to_color` also for a user's own video in evaluation.
"""

import math
import os

import cv2
import numpy as np

from data import clips

# Where the hues of the colour wheel of Baker et al. (ICCV 2007) stand on its circle of
# 55, starting at motion to the right: red, yellow, green, cyan, blue, magenta, red.
WHEEL = (0, 15, 21, 25, 36, 49, 55)
WHEEL_BLUE = (0, 0, 0, 255, 255, 255, 0)
WHEEL_GREEN = (0, 255, 255, 255, 0, 0, 0)
WHEEL_RED = (255, 255, 0, 0, 0, 255, 255)
ROWS = 5


def flow_to_color(flow, radius=None, bound=clips.FLOW_BOUND):
    """Flow as colours: hue is direction, saturation is speed, white stands still.

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


def write_sheets(data_dir, rows):
    """Writes a contact sheet a clip: frames, their flow in colours, the colour wheel.

    Args:
      data_dir: folder of preprocessed clips.
      rows: rows of the clips to show.

    Returns:
      The paths of the pictures, below <data_dir>/preview/.
    """
    paths = []
    for row in rows:
        steps = clips.evenly_spaced(row['frames'] - 1, ROWS)
        frames = clips.read_frames(data_dir, row['clip'], steps)
        stored = clips.read_flow(data_dir, row['clip'], steps)
        flow = (stored.astype(np.float32) - clips.FLOW_ZERO) * (row['bound'] / 127)
        radius = max(1, np.hypot(flow[..., 0], flow[..., 1]).max())
        pairs = np.concatenate([frames, flow_to_color(flow, radius)], axis=2)
        sheet = np.concatenate(pairs)
        legend = np.full((len(sheet), row['size'], 3), 255, np.uint8)
        legend[: row['size']] = _wheel(row['size'], radius)
        path = os.path.join(data_dir, 'preview', row['clip'] + '.png')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not cv2.imwrite(path, np.concatenate([sheet, legend], axis=1)):
            raise ValueError(f'{path} cannot be written')
        paths.append(path)
    return paths


def _wheel(size, radius):
    """The legend: a disc of motions, `radius` pixels a frame at its rim."""
    y, x = np.mgrid[-1.2 : 1.2 : size * 1j, -1.2 : 1.2 : size * 1j]
    inside = np.hypot(x, y) <= 1
    disc = np.where(inside, np.stack([x, y]), 0).transpose(1, 2, 0)
    picture = flow_to_color(disc, 1)
    text = f'rim: {radius:.1f} pixels/frame'
    place = (size // 12, size - 2)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size / 560, (0, 0, 0))
    return picture
