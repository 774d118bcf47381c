"""Variables and layers of all networks: how they start, and how they are given values.

    with tf.variable_scope('vgg_19'):
        x = layers.conv(frames, 64, 'conv1_1')
    layers.assign(session, {'vgg_19/conv1_1/weights': array})

Initial values follow from (seed, variable name) alone. The seed is the graph's
(`tf.set_random_seed`). Nothing depends on the order in which variables are made, so a
network built beside another, or with one layer more, starts with the same numbers in
the layers it had before.
"""

import math
import zlib

import tensorflow.compat.v1 as tf

# Collection of a graph that has (part, parts) where its batches are a part of others.
PART = 'part_of_batch'


def variable(name, shape, stddev):
    """Makes the trainable variable `name` in the current scope, float32, normal.

    Args:
      name: name within the current variable scope.
      shape: list of ints.
      stddev: standard deviation of the normal it starts from; 0 for zeros.

    Returns:
      A resource variable of that shape, which `assign` can give a value.
    """
    if stddev == 0:
        zeros = tf.zeros_initializer()
        return assignable(tf.get_variable(name, shape, tf.float32, zeros))
    full_name = f'{tf.get_variable_scope().name}/{name}'
    seed = [tf.get_default_graph().seed or 0, zlib.crc32(full_name.encode())]

    def initial(shape, dtype, partition_info=None):
        # seeds are int32 pairs in the stateless ops; a checksum has 32 unsigned bits
        pair = tf.constant(seed, tf.int64)
        return tf.random.stateless_normal(shape, pair, stddev=stddev)

    return assignable(tf.get_variable(name, shape, tf.float32, initial))


def constant(name, value):
    """Makes the float32 variable `name` that starts as `value` and is not trained.

    Args:
      name: name within the current variable scope.
      value: number, or nested list of numbers.

    Returns:
      A resource variable of the value's shape, which `assign` can give a value.
    """
    value = tf.constant(value, tf.float32)
    return assignable(tf.get_variable(name, initializer=value, trainable=False))


def assignable(variable):
    """Gives a variable the placeholder and the assignment that `assign` runs.

    They are made with the variable, below its name, so that a graph that has been
    finalized can load, and TensorBoard shows them where the variable is.
    """
    scope = f'{variable.op.name}/load/'
    try:
        tf.get_default_graph().get_operation_by_name(f'{scope}assign')
    except KeyError:  # otherwise the variable is used for the second time
        with tf.name_scope(scope):
            # no shape here: TensorFlow makes an array of it when it optimizes the graph
            # (38 MB more for VGG-19), and the assignment checks the shape anyway
            value = tf.placeholder(tf.float32, None, 'value')
            variable.assign(value, name='assign', read_value=False)
    return variable


def assign(session, arrays):
    """Gives variables their values, all in one run.

    Arrays of np.load(..., mmap_mode='r') are not copied: the variable shares their
    pages until a training step writes to it.

    Args:
      session: a session; its graph may be finalized.
      arrays: dict from full variable name to float32 array of the variable's shape.
    """
    session.run(
        [f'{name}/load/assign' for name in arrays],
        {f'{name}/load/value:0': array for name, array in arrays.items()},
    )


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


def conv(x, filters, scope, size=3, stride=1, padding='SAME'):
    """Convolution and ReLU, [N, H, W, D] -> [N, H', W', filters].

    oneDNN has no gradients of convolutions whose padding is given in numbers, and
    TensorFlow's own take up to twice as long, so `padding` is 'SAME' or 'VALID'.
    """
    with tf.variable_scope(scope):
        weights, biases = weights_and_biases([size, size, x.shape[-1], filters])
        x = tf.nn.conv2d(x, weights, strides=stride, padding=padding)
        return tf.nn.relu(tf.nn.bias_add(x, biases))


def fc(x, units, scope):
    """Fully connected layer, [N, D] -> [N, units]."""
    with tf.variable_scope(scope):
        weights, biases = weights_and_biases([x.shape[-1], units])
        return tf.nn.bias_add(tf.matmul(x, weights), biases)


def dropout(x, keep_prob, seed, layer):
    """Keeps each unit with probability keep_prob; (seed, layer) fixes which.

    Args:
      x: float32, any shape.
      keep_prob: float or scalar tensor; the float 1.0 adds no op.
      seed: int32 [2] = (seed, step).
      layer: name, within the current variable scope, whose constant the seed gets.

    Returns:
      float32 of x's shape, units kept scaled by 1 / keep_prob.
    """
    if isinstance(keep_prob, (int, float)) and keep_prob == 1:
        return x
    assert seed is not None, 'dropout needs dropout_seed = (seed, step)'
    # the constant goes to the seed, not to the step, where the next step would meet it
    full_name = f'{tf.get_variable_scope().name}/{layer}'
    constant = zlib.crc32(full_name.encode()) % 2**30
    seed = seed + [constant, 0]
    if not tf.get_collection(PART):
        return tf.nn.experimental.stateless_dropout(x, 1 - keep_prob, seed)
    # one of several workers: its rows of what one process would draw for all of theirs
    ((part, parts),) = tf.get_collection(PART)
    rows = tf.shape(x)[0]
    whole = tf.ones(tf.concat([[parts * rows], tf.shape(x)[1:]], axis=0))
    kept = tf.nn.experimental.stateless_dropout(whole, 1 - keep_prob, seed)
    return x * kept[part * rows : (part + 1) * rows]
