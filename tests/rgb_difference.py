"""RGB difference as a third stream: a reader and an entry of model.STREAMS."""

import numpy as np

import cnnm
import model

NAME = 'rgb_difference'
FRAMES = 3  # of which the differences of neighbours are taken


def read(clip, starts, stack_length):
    """Differences d of neighbouring frames, stored as 128 + d / 2.

    Args:
      clip: sampling.Clip.
      starts: ints [n], first frames; past the end the last frame repeats.
      stack_length: not needed.

    Returns:
      uint8 [n, H, W, 6], channels b1, g1, r1, b2, g2, r2.
    """
    steps = np.asarray(starts)[:, np.newaxis] + np.arange(FRAMES)
    steps = np.minimum(steps, clip.num_frames - 1)
    frames = clip.read_frames(steps.ravel()).astype(np.float32)
    frames = frames.reshape(*steps.shape, *frames.shape[1:])  # [n, 3, H, W, 3]
    stored = np.rint(128 + np.diff(frames, axis=1) / 2).clip(0, 255).astype(np.uint8)
    count, differences, height, width, colours = stored.shape
    stored = stored.transpose(0, 2, 3, 1, 4)
    return stored.reshape(count, height, width, differences * colours)


ENTRY = model.Stream(
    cnn=cnnm.cnn_m_2048,
    network=cnnm,
    scope=f'{NAME}/cnn_m_2048',
    layers=cnnm.LAYERS,
    last_maps='conv5',
    channels=lambda stack_length: 6,
    span=lambda stack_length: FRAMES,
    read=read,
    from_colour=True,
    options=('norm2',),
)
