"""VGG-19, the CNN of the spatial stream: one frame in, class scores out.

    logits, end_points = vgg.vgg_19(frames, num_classes=101)
    vgg.load_weights(session, 'weights/vgg19', 'vgg_19')

Source: Simonyan and Zisserman, 'Very deep convolutional networks for large-scale image
recognition', ICLR 2015, table 1, column E. Layer names are the published ones; frames
are BGR 0..255, as the published weights expect them.
"""

import tensorflow.compat.v1 as tf

from weights import dump
from weights import layers
from weights import published

NETWORK = 'vgg19'
SMALLEST = 32  # five poolings halve it to 1
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (filters, convolutions)
LAYERS = [f'conv{b}_{n}' for b in range(1, 6) for n in range(1, BLOCKS[b - 1][1] + 1)]
LAYERS += ['fc6', 'fc7', 'fc8']


def vgg_19(
    images,
    num_classes=1000,
    keep_prob=1.0,
    dropout_seed=None,
    scope='vgg_19',
):
    """Builds VGG-19 on frames.

    Args:
      images: uint8 or float [N, H, W, 3], BGR 0..255; H, W at least 32 and known.
      num_classes: number of classes C.
      keep_prob: float or scalar tensor, share of fc6 and fc7 units kept by dropout; the
        float 1.0 builds no dropout at all.
      dropout_seed: int32 [2] = (seed, step), needed with dropout; each layer adds a
        constant of its own.
      scope: variable scope, opened within the current one.

    Returns:
      (logits, end_points): float32 [N, C], and a dict of every layer by its published
      name, conv1_1 .. pool5, fc6, fc7, fc8; convolutions, fc6 and fc7 after ReLU, and
      before dropout.

    Raises:
      ValueError: the frames are too small or do not have three channels.
    """
    assert images.shape.rank == 4, 'images must be [N, H, W, C]'
    height, width, channels = images.shape[1:]
    if channels != 3:
        raise ValueError(f'VGG-19 reads BGR frames of 3 channels, not {channels}')
    if min(height, width) < SMALLEST:
        raise ValueError(
            f'VGG-19 needs frames of {SMALLEST}x{SMALLEST} pixels or more, '
            f'not {height}x{width}'
        )
    end_points = {}
    with tf.variable_scope(scope):
        mean = layers.constant('mean', published.MEAN)
        scale = layers.constant('scale', 1.0)
        x = (tf.cast(images, tf.float32) - mean) * scale
        for block, (filters, convolutions) in enumerate(BLOCKS, start=1):
            for number in range(1, convolutions + 1):
                name = f'conv{block}_{number}'
                x = end_points[name] = layers.conv(x, filters, name)
            x = tf.nn.max_pool2d(x, 2, 2, 'VALID', name=f'pool{block}')
            end_points[f'pool{block}'] = x  # [N, H/2^block, W/2^block, filters]
        x = tf.reshape(x, [-1, x.shape[1:].num_elements()])  # flattened H, W, C
        for name in ('fc6', 'fc7'):
            x = end_points[name] = tf.nn.relu(layers.fc(x, 4096, name))  # [N, 4096]
            x = layers.dropout(x, keep_prob, dropout_seed, name)
        logits = end_points['fc8'] = layers.fc(x, num_classes, 'fc8')  # [N, C]
    return logits, end_points


def load_weights(session, directory, scope):
    """Loads the dump in `directory` into the VGG-19 under `scope`.

    Args:
      session: a session whose graph holds the network.
      directory: a dump, such as weights.convert writes.
      scope: full variable prefix, such as 'spatial/vgg_19'.

    Returns:
      dump.Report of the variables loaded, missing and unexpected.

    Raises:
      ValueError: not a finite dump of VGG-19 for this frame size.
    """
    return dump.load(session, directory, scope, NETWORK)


def save_weights(session, directory, scope, origin='trained here'):
    """Saves the VGG-19 under `scope` as a dump; replaces one that is there.

    Args:
      session, directory, scope: as in load_weights.
      origin: text kept in the dump, where the weights came from.

    Raises:
      ValueError: a weight is not finite, or `directory` is not a dump.
    """
    dump.save(session, directory, scope, NETWORK, origin)
