"""Crops and mirrors: drawn in numpy from (seed, step), done in the graph on uint8.

The draws of two-stream 2014 and its successors: a square of 1, .875 or .75 of the
stored frame at the centre or a corner, resized back, mirrored half of the time. Flow
values are not rescaled with the crop, as is the custom.
"""

import numpy as np
import tensorflow.compat.v1 as tf

CROP_SCALES = (1.0, 0.875, 0.75)


def random_crops(count, seed, step):
    """A random crop and mirror for each of `count` clips (two-stream augmentation).

    Returns:
      dict, as the graph wants it: crop_scale float32 [count], side of the crop over
      side of the frame; place int32 [count], 0 centre, 1-4 corners; mirrored bool.
    """
    random = np.random.default_rng([seed, step, 2])
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


def crop_boxes(size, crop_scale, place):
    """Boxes of a crop for tf.image.crop_and_resize.

    Args:
      size: int, side of the stored frames in pixels.
      crop_scale: float [N], side of the crop over side of the frame.
      place: int32 [N]: 0 centre; 1, 2 top left and right; 3, 4 bottom left and right.

    Returns:
      float32 [N, 4]: y1, x1, y2, x2 in units of size - 1.
    """
    side = tf.round(size * crop_scale)  # [N]
    room = size - side
    down = tf.gather([0.5, 0.0, 0.0, 1.0, 1.0], place)
    right = tf.gather([0.5, 0.0, 1.0, 0.0, 1.0], place)
    top, left = tf.floor(down * room), tf.floor(right * room)
    box = tf.stack([top, left, top + side - 1, left + side - 1], axis=1)
    # rounding could put a crop's last row outside the frame, where everything is black
    inward = tf.where_v2(room > 0, 1 - 1e-6, 1.0)[:, None]
    return inward * box / (size - 1)  # [N, 4]


def mirror(images, flow):
    """Flips frames, or flow stacks, [N, H, W, D] from left to right.

    A mirrored movement goes the other way, so in `flow`, channels x1, y1, .. xL, yL,
    stored x = 128 + v becomes 256 - x.
    """
    flipped = tf.reverse(images, axis=[2])
    if not flow:
        return flipped
    is_x = tf.equal(tf.range(images.shape[-1]) % 2, 0)  # `==` would compare objects
    return tf.where_v2(is_x, 256 - flipped, flipped)


def crop_and_mirror(images, flow, crop_scale, place, mirrored):
    """Crops, resizes back and, where asked, mirrors each of N images.

    Args:
      images: uint8 [N, H, W, D], square.
      flow: whether the channels are flow, as in `mirror`.
      crop_scale: float [N].
      place: int32 [N], as in `crop_boxes`.
      mirrored: bool [N].

    Returns:
      float32 of the shape of `images`, still in 0..255.
    """
    size = int(images.shape[1])
    boxes = crop_boxes(size, crop_scale, place)
    rows = tf.range(tf.shape(images)[0])
    crops = tf.image.crop_and_resize(
        images, boxes, box_indices=rows, crop_size=[size, size]
    )
    crops.set_shape(images.shape)
    return tf.where_v2(mirrored[:, None, None, None], mirror(crops, flow), crops)
