"""VGG-19's fc7 features against tf.keras.applications, and against the machine.

    python -m tests.bench.bench_vgg

Both networks have random weights and see the same batch of 8 frames of 224x224. Runs
are interleaved, so that whatever else the machine does meets both. The machine's rate
is that of one large float32 matrix product.
"""

import statistics
import time

import numpy as np
import tensorflow.compat.v1 as tf

import vgg

BATCH = 8
RUNS = 5
SIDE = 2048  # of the matrices


def multiply_adds(end_points):
    """Multiply-adds of one frame up to fc7, counted from the layers' shapes."""
    total, channels = 0, 3
    for name, value in end_points.items():
        if name.startswith('conv'):
            total += 9 * channels * int(np.prod(value.shape[1:]))
            channels = value.shape[-1]
        elif name == 'pool5':
            channels = int(np.prod(value.shape[1:]))
        elif name in ('fc6', 'fc7'):
            total += channels * value.shape[-1]
            channels = value.shape[-1]
    return total


def ours():
    """(function from frames to fc7, multiply-adds a frame)."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.uint8, [BATCH, 224, 224, 3])
        _, end_points = vgg.vgg_19(images)
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
    features = session.make_callable(end_points['fc7'], feed_list=[images])
    return features, multiply_adds(end_points)


def theirs():
    """Function from frames to Keras's fc2, compiled as Keras's predict does."""
    model = tf.keras.applications.VGG19(weights=None)
    features = tf.keras.Model(model.inputs, model.get_layer('fc2').output)

    @tf.function
    def compiled(frames):
        rgb = tf.cast(frames, tf.float32)[..., ::-1]
        return features(tf.keras.applications.vgg19.preprocess_input(rgb))

    return lambda frames: compiled(frames).numpy()


def product():
    """Function that multiplies two matrices of SIDE, result kept inside TensorFlow."""
    with tf.Graph().as_default() as graph:
        left, right = (
            tf.get_variable(name, initializer=tf.random.normal([SIDE, SIDE]))
            for name in ('left', 'right')
        )
        run = tf.matmul(left, right).op
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
    return session.make_callable(run)


def seconds(function, *arguments):
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main():
    """Prints medians, their ratio, and the share of the machine's rate."""
    frames = np.random.RandomState(0).randint(0, 256, [BATCH, 224, 224, 3])
    frames = frames.astype(np.uint8)
    ours_run, operations = ours()
    theirs_run, product_run = theirs(), product()
    times = {'ours': [], 'keras': [], 'product': []}
    for _ in range(RUNS + 1):
        times['ours'].append(seconds(ours_run, frames))
        times['keras'].append(seconds(theirs_run, frames))
        times['product'].append(seconds(product_run))
    # the first run compiles
    middle = {name: statistics.median(runs[1:]) for name, runs in times.items()}
    for name in ('ours', 'keras'):
        rate = BATCH / middle[name]
        print(f'{name:6}{middle[name]:8.3f} s a batch, {rate:.2f} frames/s')
    print(f'ours is {middle["keras"] / middle["ours"]:.2f} x as fast (at least 0.95)')
    rate = 2 * operations * BATCH / middle['ours']
    machine = 2 * SIDE**3 / middle['product']
    print(
        f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / machine:.0f} % of the machine's "
        f'{machine / 1e9:.0f} GFLOP/s in a matrix product'
    )


if __name__ == '__main__':
    main()
