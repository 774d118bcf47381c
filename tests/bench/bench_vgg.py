"""VGG-19's fc7 features against tf.keras.applications, and against the machine.

    python -m tests.bench.bench_vgg

Both networks have random weights and see the same batch of 8 frames of 224x224. Runs
are interleaved, so that whatever else the machine does meets both. The limit is the
time of as many operations in a large float32 matrix product; kernels that need fewer
multiplications than they replace, such as Winograd's for 3x3 filters, can be faster.
Wanted: 0.95 times as fast as Keras or more.
"""

import numpy as np

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import vgg
from tests.bench import table

BATCH = 8
ROUNDS = 5
SIDE = 2048  # of the matrices


def product():
    """(function that multiplies two matrices in TensorFlow, its multiply-adds)."""
    with tf.Graph().as_default() as graph:
        left, right = (
            tf.get_variable(name, initializer=tf.random.normal([SIDE, SIDE]))
            for name in ('left', 'right')
        )
        run = tf.matmul(left, right).op
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
    return session.make_callable(run), SIDE**3


def compare(what, ours, name, theirs, used, rounds=ROUNDS):
    """Measures both in turns, beside a matrix product.

    Args:
      what, name: of the work and of what it is compared with, as of `table.row`.
      ours, theirs: functions without arguments.
      used: multiply-adds of one call.
      rounds: int.

    Returns:
      (the row of the table, seconds of each by `ours`, `theirs` and `limit`).
    """
    multiply, count = product()
    calls = {'ours': ours, 'theirs': theirs, 'limit': multiply}
    times = table.take_turns(calls, rounds)
    times['limit'] = [seconds * used / count for seconds in times['limit']]
    limit = 'as many operations in a matrix product', times['limit']
    return table.row(what, times['ours'], name, times['theirs'], *limit), times


def multiply_adds(variables, end_points, layers):
    """Multiply-adds of one image through a CNN.

    Args:
      variables: list of the network's variables.
      end_points: its layers' outputs by name, [N, H, W, D] or [N, D].
      layers: names of the layers that count.
    """
    weights = {v.op.name.split('/')[-2]: v for v in variables if v.shape.rank > 1}
    return sum(
        int(np.prod(weights[name].shape)) * int(np.prod(end_points[name].shape[1:-1]))
        for name in layers
    )


def ours():
    """(function from frames to fc7, multiply-adds of a batch)."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.uint8, [BATCH, 224, 224, 3])
        _, end_points = vgg.vgg_19(images)
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
        variables = tf.trainable_variables()
    features = session.make_callable(end_points['fc7'], feed_list=[images])
    used = multiply_adds(variables, end_points, vgg.LAYERS[:-1])
    return features, BATCH * used


def theirs():
    """Function from frames to Keras's fc2, compiled as Keras's predict does."""
    model = tf.keras.applications.VGG19(weights=None)
    features = tf.keras.Model(model.inputs, model.get_layer('fc2').output)

    @tf.function
    def compiled(frames):
        rgb = tf.cast(frames, tf.float32)[..., ::-1]
        return features(tf.keras.applications.vgg19.preprocess_input(rgb))

    return lambda frames: compiled(frames).numpy()


def main(_):
    """Prints a row of the table."""
    frames = np.random.RandomState(0).randint(0, 256, [BATCH, 224, 224, 3])
    frames = frames.astype(np.uint8)
    (our_run, used), their_run = ours(), theirs()
    what = f'VGG-19 fc7 of {BATCH} frames, 224 pixels'
    calls = lambda: our_run(frames), 'Keras', lambda: their_run(frames)
    line, _ = compare(what, *calls, used)
    print(table.HEAD, line, sep='\n')


if __name__ == '__main__':
    command_line.run(main)
