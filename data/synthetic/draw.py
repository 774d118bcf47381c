"""Draws real video files whose classes need every part of the method.

    python -m data.synthetic.draw --out=data/demo/videos

Eight classes, the product of three binary factors, one for each part:

    what    orange discs or blue squares             needs the spatial stream
    how     drift along x or along y                 needs the motion stream
    order   plus then minus, or minus then plus      needs an LSTM

A frame is a field of short-lived dots: frames some steps apart share none of them, so
positions betray no motion. Discs and squares have the same area and the same grey
value, so the flow betrays no shape. Still pauses before, between and after the two
drifts are longer than a flow stack: no stack sees both directions, and every start and
stop of a drift occurs in both orders, so the mean over time knows no order.

Names are UCF101's, `v_<Class>_gNN_cNN.avi`, so its group rule splits them. All clips
of a group share their dots' size, number, speed and brightness.
"""

import itertools
import os
import pathlib

import cv2
import numpy as np
import tqdm
from absl import flags

from results import command_line

WHAT = ('Discs', 'Squares')
HOW = ('Horizontal', 'Vertical')
ORDER = ('PlusMinus', 'MinusPlus')
CLASSES = [''.join(parts) for parts in itertools.product(WHAT, HOW, ORDER)]

WIDTH, HEIGHT, FPS = 128, 96, 25.0
STACK_LENGTH = 10  # fields of a flow stack, which every pause is longer than
DOT_LIFE = 8  # frames
SHIFT = 4  # cv2 draws at 1/16 pixel, else slow drifts would jump
# BGR of the same grey value (about 150) in OpenCV's weights .114, .587, .299
COLOUR = {'Discs': (40, 130, 230), 'Squares': (255, 160, 90)}


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('out', 'data/demo/videos', 'Folder to write class folders to.')
    flags.DEFINE_integer('groups', 16, 'Groups a class; 1-7 are tested in split 1.')
    flags.DEFINE_integer('clips', 2, 'Clips a group.')
    flags.DEFINE_integer('seed', 0, 'Fixes everything drawn.')


def velocities(random, order, speed):
    """Signed speed of each frame: pause, drift, pause, opposite drift, pause.

    Args:
      random: np.random.Generator.
      order: one of ORDER.
      speed: pixels a frame.

    Returns:
      float64 [T].
    """
    sign = 1 if order == 'PlusMinus' else -1
    parts = []
    for direction in (0, sign, 0, -sign, 0):
        shortest = STACK_LENGTH + 2
        frames = random.integers(shortest, shortest + 5)
        parts.append(np.full(frames, direction * speed))
    return np.concatenate(parts)


def draw(random, what, how, order, look):
    """Draws the frames of one clip.

    Args:
      random: np.random.Generator of the clip.
      what, how, order: the three factors.
      look: dict of the group's `dots`, `radius`, `speed`, `brightness`, `background`.

    Yields:
      uint8 [HEIGHT, WIDTH, 3] BGR.
    """
    extent = np.array([WIDTH, HEIGHT], np.float64)
    axis = np.array([1.0, 0.0] if how == 'Horizontal' else [0.0, 1.0])
    places = random.random((look['dots'], 2)) * extent
    ages = random.integers(0, DOT_LIFE, look['dots'])
    colour = [int(c * look['brightness']) for c in COLOUR[what]]
    for velocity in velocities(random, order, look['speed']):
        places = (places + velocity * axis) % extent
        ages += 1
        reborn = ages >= DOT_LIFE
        places[reborn] = random.random((reborn.sum(), 2)) * extent
        ages[reborn] = 0
        frame = np.full((HEIGHT, WIDTH, 3), look['background'], np.uint8)
        for x, y in places:
            draw_dot(frame, what, x, y, look['radius'], colour)
        noise = random.normal(0, 3, frame.shape)
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)


def draw_dot(frame, what, x, y, radius, colour):
    """Draws a disc of that radius, or a square of the same area."""
    unit = 1 << SHIFT
    if what == 'Discs':
        centre = (int(x * unit), int(y * unit))
        cv2.circle(frame, centre, int(radius * unit), colour, -1, cv2.LINE_AA, SHIFT)
        return
    # cv2 draws discs .55 and squares .7 pixels wider; this evens their areas out
    half = radius * np.sqrt(np.pi) / 2 - 0.21
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    points = ((np.array([x, y]) + half * signs) * unit).astype(np.int32)
    cv2.fillConvexPoly(frame, points, colour, cv2.LINE_AA, SHIFT)


def group_look(random):
    """What all clips of a group have in common."""
    return {
        'dots': int(random.integers(20, 36)),
        'radius': random.uniform(3.5, 5.5),
        'speed': random.uniform(1.8, 2.6),
        'brightness': random.uniform(0.7, 1.0),
        'background': int(random.integers(10, 50)),
    }


def write_clip(path, frames):
    """Writes frames as a Motion JPEG video, whole or not at all."""
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    fourcc = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(temporary), fourcc, FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise ValueError(f'{temporary} cannot be written: check --out')
    for frame in frames:
        writer.write(frame)
    writer.release()
    os.replace(temporary, path)


def make(out, groups, clips, seed):
    """Draws clips for every class and group; returns how many."""
    names = list(itertools.product(range(groups), range(clips), WHAT, HOW, ORDER))
    for group, clip, what, how, order in tqdm.tqdm(
        names, 'demo videos', unit='clip', disable=None
    ):
        name = what + how + order
        look = group_look(np.random.default_rng([seed, group]))
        random = np.random.default_rng([seed, group, clip, CLASSES.index(name)])
        path = pathlib.Path(out, name, f'v_{name}_g{group + 1:02d}_c{clip + 1:02d}.avi')
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, draw(random, what, how, order, look))
    return len(names)


def main(values):
    """Draws the videos and says where they are."""
    count = make(values.out, values.groups, values.clips, values.seed)
    print(f'{count} videos of {len(CLASSES)} classes in {values.out}')


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
