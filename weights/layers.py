"""How a variable starts: values that follow from (seed, variable name) alone.

The seed is the graph's (`tf.set_random_seed`). Nothing depends on the order in which
variables are made, so a network built beside another, or with one layer more, starts
with the same numbers in the layers it had before.
"""

import math
import zlib

import tensorflow.compat.v1 as tf


def variable(name, shape, stddev):
    """Makes the trainable variable `name` in the current scope, float32, normal.

    Args:
      name: name within the current variable scope.
      shape: list of ints.
      stddev: standard deviation of the normal it starts from; 0 for zeros.

    Returns:
      A resource variable of that shape.
    """
    if stddev == 0:
        return tf.get_variable(name, shape, tf.float32, tf.zeros_initializer())
    full_name = f'{tf.get_variable_scope().name}/{name}'
    seed = [tf.get_default_graph().seed or 0, zlib.crc32(full_name.encode())]

    def initial(shape, dtype, partition_info=None):
        # seeds are int32 pairs in the stateless ops; a checksum has 32 unsigned bits
        pair = tf.constant(seed, tf.int64)
        return tf.random.stateless_normal(shape, pair, stddev=stddev)

    return tf.get_variable(name, shape, tf.float32, initial)


def weights_and_biases(shape):
    """Makes `weights` and `biases` of one layer that passes signal under ReLU.

    He initialization (He et al. 2015, eq. 10): the variance of the activations stays
    the same from layer to layer, so an untrained network is not silent.

    Args:
      shape: [height, width, in, out] of a convolution or [in, out] of a matrix.

    Returns:
      (weights, biases), biases zeros of shape [out].
    """
    fan_in = math.prod(shape[:-1])
    weights = variable('weights', shape, stddev=math.sqrt(2 / fan_in))
    return weights, variable('biases', shape[-1:], stddev=0)
