"""Crops and mirrors: drawn in numpy from (seed, step), done in the graph on uint8.

The draws of two-stream 2014 and its successors: a square of 1, .875 or .75 of the
stored frame at the centre or a corner, resized back, mirrored half of the time. Flow
values are not rescaled with the crop, as is the custom.
"""

import zlib

import numpy as np
import tensorflow.compat.v1 as tf

from data import clips
from data import sampling

CROP_SCALES = (1.0, 0.875, 0.75)


def random_crops(count, *key):
    """A random crop and mirror for each of `count` clips (two-stream augmentation).

    Args:
      count: int.
      key: ints that the draws follow from, such as (seed, step).

    Returns:
      dict, as the graph wants it: crop_scale float32 [count], side of the crop over
      side of the frame; place int32 [count], 0 centre, 1-4 corners; mirrored bool.
    """
    random = np.random.default_rng([*key, 2])
    return {
        'crop_scale': random.choice(np.float32(CROP_SCALES), count),
        'place': random.integers(0, 5, count, np.int32),
        'mirrored': random.random(count) < 0.5,
    }


def whole_images(count):
    """No crop and no mirror, in the form of `random_crops`."""
    return {
        'crop_scale': np.ones(count, np.float32),
        'place': np.zeros(count, np.int32),
        'mirrored': np.zeros(count, bool),
    }


def view_crop(view, clip, seed):
    """The one crop and mirror of a view of a clip (`sampling.view_starts`).

    Returns:
      dict of arrays [1], in the form of `random_crops`.
    """
    if view not in (0, sampling.MIRROR):
        return random_crops(1, seed, zlib.crc32(clip.encode()), view)
    return {**whole_images(1), 'mirrored': np.array([view == sampling.MIRROR])}


def crop_boxes(size, crop_scale, place, mirrored):
    """Boxes of a crop for tf.image.crop_and_resize.

    Args:
      size: int, side of the stored frames in pixels.
      crop_scale: float [N], side of the crop over side of the frame.
      place: int32 [N]: 0 centre; 1, 2 top left and right; 3, 4 bottom left and right.
      mirrored: bool [N]; the sides of a mirrored crop's box are exchanged.

    Returns:
      float32 [N, 4]: y1, x1, y2, x2 in units of size - 1.
    """
    side = tf.round(size * crop_scale)  # [N]
    room = size - side
    down = tf.gather([0.5, 0.0, 0.0, 1.0, 1.0], place)
    along = tf.gather([0.5, 0.0, 1.0, 0.0, 1.0], place)
    top, left = tf.floor(down * room), tf.floor(along * room)
    bottom, right = top + side - 1, left + side - 1
    first = tf.where_v2(mirrored, right, left)
    last = tf.where_v2(mirrored, left, right)
    box = tf.stack([top, first, bottom, last], axis=1) / (size - 1)  # [N, 4]
    # rounding could put a crop's edge outside the frame, where everything is black
    edge = tf.where_v2(room > 0, 1e-6, 0.0)[:, None]
    return tf.minimum(tf.maximum(box, edge), 1 - edge)


def crop_and_mirror(images, flow, crop_scale, place, mirrored):
    """Crops, resizes back and, where asked, mirrors each of N images.

    A mirrored movement goes the other way, so in `flow`, channels x1, y1, .. xL, yL,
    stored x = 128 + v becomes 256 - x.

    Args:
      images: uint8 [N, H, W, D], square.
      flow: whether the channels are flow.
      crop_scale: float [N].
      place: int32 [N], as in `crop_boxes`.
      mirrored: bool [N].

    Returns:
      float32 of the shape of `images`, still in 0..255.
    """
    size = int(images.shape[1])
    boxes = crop_boxes(size, crop_scale, place, mirrored)
    rows = tf.range(tf.shape(images)[0])
    crops = tf.image.crop_and_resize(
        images, boxes, box_indices=rows, crop_size=[size, size]
    )
    crops.set_shape(images.shape)
    if not flow:
        return crops
    is_x = tf.equal(tf.range(images.shape[-1]) % 2, 0)  # `==` would compare objects
    opposite = mirrored[:, None, None, None] & is_x  # [N, 1, 1, D]
    sign = tf.where_v2(opposite, -1.0, 1.0)
    # as a sum and a product, which take a third of the time of a choice for each value
    return sign * crops + tf.where_v2(opposite, 2.0 * clips.FLOW_ZERO, 0.0)
