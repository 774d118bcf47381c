"""CNN-M-2048, the CNN of the motion stream: one stack of flow fields in, scores out.

    logits, end_points = cnnm.cnn_m_2048(stacks, num_classes=101, norm2=False)
    cnnm.load_weights(session, 'weights/cnnm', 'cnn_m_2048', cross_modality=True)

Source: Chatfield et al., 'Return of the devil in the details', BMVC 2014, table 1, as
distributed for MatConvNet and Caffe; its use on flow, without the second normalization,
is Simonyan and Zisserman, 'Two-stream convolutional networks', NIPS 2014, figure 1.
"""

import numpy as np
import tensorflow.compat.v1 as tf

from data import clips
from weights import dump
from weights import layers
from weights import published

NETWORK = 'cnnm'
FLOW_SCALE = 1 / 20  # brings flow near unit variance, so that training can start
SMALLEST = 41  # the three poolings end at 1
LAYERS = ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8']


def cnn_m_2048(
    images,
    num_classes=1000,
    keep_prob=1.0,
    dropout_seed=None,
    norm2=True,
    scope='cnn_m_2048',
):
    """Builds CNN-M-2048 on stacks of flow fields, or on frames.

    Args:
      images: uint8 or float [N, H, W, D], H and W at least 41 and known. D = 2L flow
        channels x1, y1, .. xL, yL as stored, or 3 for BGR frames 0..255.
      num_classes: number of classes C.
      keep_prob: float or scalar tensor, share of fc6 and fc7 units kept by dropout; the
        float 1.0 builds no dropout at all.
      dropout_seed: int32 [2] = (seed, step), needed with dropout; each layer adds a
        constant of its own.
      norm2: False leaves out the second normalization, as two-stream 2014 does.
      scope: variable scope, opened within the current one.

    Returns:
      (logits, end_points): float32 [N, C], and a dict of every layer by its published
      name, conv1, norm1, pool1 .. pool5, fc6, fc7, fc8; convolutions, fc6 and fc7 after
      ReLU, and before dropout.

    Raises:
      ValueError: the images are too small.
    """
    assert images.shape.rank == 4, 'images must be [N, H, W, D]'
    height, width, channels = images.shape[1:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f'CNN-M-2048 needs input of {SMALLEST}x{SMALLEST} pixels or more, '
            f'not {height}x{width}'
        )
    colour = channels == 3
    end_points = {}
    with tf.variable_scope(scope):
        mean = published.MEAN if colour else [clips.FLOW_ZERO] * channels
        mean = layers.constant('mean', mean)
        scale = layers.constant('scale', 1.0 if colour else FLOW_SCALE)
        x = (tf.cast(images, tf.float32) - mean) * scale
        # sizes in the comments are those of 224x224 input
        # 7x7 at stride 2 -> [N, 109, 109, 96]
        x = end_points['conv1'] = layers.conv(x, 96, 'conv1', 7, 2, 'VALID')
        x = end_points['norm1'] = local_response_norm(x)
        x = end_points['pool1'] = pool(x)  # [N, 54, 54, 96]
        # 5x5 at stride 2, padded by 1 -> [N, 26, 26, 256]
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = end_points['conv2'] = layers.conv(x, 256, 'conv2', 5, 2, 'VALID')
        if norm2:
            x = end_points['norm2'] = local_response_norm(x)
        x = end_points['pool2'] = pool(x)  # [N, 13, 13, 256]
        for name in ('conv3', 'conv4', 'conv5'):
            x = end_points[name] = layers.conv(x, 512, name)  # [N, 13, 13, 512]
        x = end_points['pool5'] = pool(x)  # [N, 6, 6, 512]
        x = tf.reshape(x, [-1, x.shape[1:].num_elements()])  # flattened H, W, C
        for name, units in (('fc6', 4096), ('fc7', 2048)):
            x = end_points[name] = tf.nn.relu(layers.fc(x, units, name))  # [N, units]
            x = layers.dropout(x, keep_prob, dropout_seed, name)
        logits = end_points['fc8'] = layers.fc(x, num_classes, 'fc8')  # [N, C]
    return logits, end_points


@tf.custom_gradient
def local_response_norm(x):
    """Local response normalization over 5 neighbouring channels c-2 .. c+2.

        s = 2 + 5e-4 / 5 * sum x^2          y = x s^-3/4
        dL/dx = g s^-3/4 - 3/2 * x * 5e-4 / 5 * sum (g y / s),    g = dL/dy

    The sums are a 1x1 convolution with a band matrix: with its gradient it takes a
    quarter of the processor time of `tf.nn.lrn`, which computes the same.

    Args:
      x: float32 [N, H, W, D].

    Returns:
      y, of the same shape.
    """
    channels = np.arange(x.shape[-1])
    near = np.abs(channels[:, np.newaxis] - channels) <= 2
    band = tf.constant(np.float32(5e-4 / 5 * near)[np.newaxis, np.newaxis])

    def summed(values):
        return tf.nn.conv2d(values, band, strides=1, padding='VALID')

    s = summed(tf.square(x)) + 2
    factor = tf.rsqrt(s * tf.sqrt(s))  # s^-3/4; tf.pow is ten times as slow
    y = x * factor

    def gradient(g):
        return g * factor - 1.5 * x * summed(g * y / s)

    return y, gradient


def pool(x):
    """Maximum of 3x3 at stride 2 with Caffe's ceil rule: no column is left out.

    An even size is one row or column too short. Zeros are added at the end, which never
    exceed a maximum because the input comes from a ReLU.
    """
    added = [1 - size % 2 for size in x.shape[1:3]]
    if any(added):
        x = tf.pad(x, [[0, 0], [0, added[0]], [0, added[1]], [0, 0]])
    return tf.nn.max_pool2d(x, 3, 2, 'VALID')


def subtract_mean_flow(stacks):
    """Subtracts each field's mean vector, the camera's share of the motion.

    Applied to stacks before cnn_m_2048 (two-stream 2014, section 3.1).

    Args:
      stacks: uint8 or float [N, H, W, 2L], as stored, zero flow being 128.

    Returns:
      float32 [N, H, W, 2L]; the mean over H and W of each channel is 128.
    """
    stacks = tf.cast(stacks, tf.float32)
    return stacks - tf.reduce_mean(stacks, axis=[1, 2], keepdims=True) + clips.FLOW_ZERO


def cross_modality(weights, channels):
    """First-layer filters for flow from those for colour: mean over B, G, R, repeated.

    Source: Wang et al., 'Towards good practices for very deep two-stream ConvNets'.

    Args:
      weights: float32 [7, 7, 3, 96].
      channels: number of flow channels 2L.

    Returns:
      float32 [7, 7, 2L, 96].

    Raises:
      ValueError: the filters are not for colour.
    """
    if weights.ndim != 4 or weights.shape[2] != 3:
        raise ValueError(
            f'--cross_modality needs conv1 of a dump for colour frames, [7, 7, 3, 96], '
            f'not {list(weights.shape)}'
        )
    return np.repeat(weights.mean(axis=2, keepdims=True), channels, axis=2)


def load_weights(session, directory, scope, cross_modality=False):
    """Loads the dump in `directory` into the CNN-M-2048 under `scope`.

    Args:
      session: a session whose graph holds the network.
      directory: a dump, such as weights.convert writes.
      scope: full variable prefix, such as 'motion/cnn_m_2048'.
      cross_modality: True starts a network for flow from a dump for colour frames:
        conv1 by the function of that name, mean 128, everything else from the dump,
        the scale that conv1 was trained with included.

    Returns:
      dump.Report of the variables loaded, missing and unexpected.

    Raises:
      ValueError: not a finite dump of CNN-M-2048 for this input size.
    """
    changes = start_from_colour(session.graph, scope) if cross_modality else {}
    return dump.load(session, directory, scope, NETWORK, changes)


def start_from_colour(graph, scope):
    """Changes, for dump.load, that make a colour dump fit the flow network there."""
    channels = dump.variables(graph, scope)['mean'].shape[0]
    return {
        'conv1/weights': lambda weights: cross_modality(weights, channels),
        'mean': lambda mean: np.full(channels, clips.FLOW_ZERO, np.float32),
    }


def save_weights(session, directory, scope, origin='trained here'):
    """Saves the CNN-M-2048 under `scope` as a dump; replaces one that is there.

    Args:
      session, directory, scope: as in load_weights.
      origin: text kept in the dump, where the weights came from.

    Raises:
      ValueError: a weight is not finite, or `directory` is not a dump.
    """
    dump.save(session, directory, scope, NETWORK, origin)
