"""Training speed, as ratios within one run.

    python -m tests.bench.bench_training [--quick]

1. One LSTM training step (B 32, T 25, D 4096, U 1024) with the input projection as one
   product before the loop, as `model.lstm` does, against inside the loop.
2. One clip of a hybrid step on cached features (T 25, B 32) against one clip of the
   joint stage's step from pixels (T 25, B 1): an epoch has the same clips in both.
3. The share of a CNN-M-2048 training step (224 pixels, L 10) spent waiting for input
   that is decoded ahead by threads on the same cores.

--quick measures smaller sizes, to see that it runs.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
import numpy as np
import tensorflow.compat.v1 as tf
from absl import app
from absl import flags

import model
from data import augment
from data import batches
from data import clips
from weights import initial

FLAGS = flags.FLAGS
SETTINGS = {
    'optimizer': 'momentum',
    'learning_rate': 1e-3,
    'clip_norm': 10.0,
    'fusion_rate': 1e-2,
    'fusion_l1': 3e-5,
    'fusion_l21': 3e-5,
    'fusion_l2': 3e-5,
}


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_bool('quick', False, 'Smaller sizes, to see that it runs.')


def seconds(call, repeats):
    """Median time of `call`, after one call that is not counted."""
    call()
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return float(np.median(took))


def lstm_inside(inputs, lengths, units):
    """The LSTM of `model.lstm` with x_t W computed at each step of the loop."""
    depth, steps = int(inputs.shape[-1]), tf.shape(inputs)[1]
    kernel = initial.variable('kernel', [depth, 4 * units], depth**-0.5)
    recurrent = initial.variable('recurrent_kernel', [units, 4 * units], units**-0.5)
    bias = initial.variable('bias', [4 * units], 0)
    xs = tf.TensorArray(tf.float32, steps).unstack(tf.transpose(inputs, [1, 0, 2]))

    def step(t, c, h):
        gates = xs.read(t) @ kernel + bias + h @ recurrent
        i, j, f, o = tf.split(gates, 4, axis=1)
        new_c = tf.sigmoid(f + 1) * c + tf.sigmoid(i) * tf.tanh(j)
        new_h = tf.sigmoid(o) * tf.tanh(new_c)
        valid = (t < lengths)[:, None]
        return t + 1, tf.where_v2(valid, new_c, c), tf.where_v2(valid, new_h, h)

    zero = tf.zeros([tf.shape(inputs)[0], units])
    _, _, last = tf.while_loop(lambda t, *_: t < steps, step, (0, zero, zero))
    return last


def lstm_step(hoisted, batch, steps, depth, units):
    """(seconds of one training step, last [B, U] before it)."""
    features = np.random.RandomState(0).rand(batch, steps, depth).astype('f')
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        inputs = tf.placeholder(tf.float32, [None, None, depth])
        lengths = tf.fill([tf.shape(inputs)[0]], steps)
        if hoisted:
            _, last = model.lstm(inputs, lengths, units)
        else:
            last = lstm_inside(inputs, lengths, units)
        loss = tf.reduce_mean(tf.square(last))
        train_op = tf.train.GradientDescentOptimizer(1e-3).minimize(loss)
        session.run(tf.global_variables_initializer())
        begun = session.run(last, {inputs: features})
        took = seconds(lambda: session.run(train_op, {inputs: features}), 3)
    return took, begun


def train_step(inputs, logits, decay=3e-5):
    """Train op of a stage's graph."""
    variables = tf.trainable_variables()
    parts = model.loss_parts(logits, inputs['labels'], variables, decay)
    rate = tf.constant(1e-3)
    return model.training(parts['loss'], variables, rate, SETTINGS)


def common(count):
    """Labels, dropout and seeds of `count` clips, by input name."""
    return {
        'labels': np.arange(count) % 8,
        'keep_prob': 0.5,
        'dropout_seed': [0, 1],
    }


def hybrid_clip(batch, steps, width=4096):
    """Seconds a clip of a hybrid step on cached features."""
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, logits, _ = model.hybrid_classifier(
            dict.fromkeys(model.STREAMS, width),
            8,
            model.BRANCHES,
            'concat',
            model.LSTM_UNITS,
        )
        train_op = train_step(inputs, logits)
        session.run(tf.global_variables_initializer())
        named = {**common(batch), 'lengths': np.full(batch, steps)}
        for stream in model.STREAMS:
            named[stream] = random.rand(batch, steps, width).astype(np.float16)
        feed = {inputs[name]: value for name, value in named.items()}
        return seconds(lambda: session.run(train_op, feed), 3) / batch


def joint_clip(steps, size, stack_length=10):
    """Seconds of a joint step on one clip."""
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, logits, _ = model.joint_classifier(
            size, stack_length, 8, model.BRANCHES, 'concat', model.LSTM_UNITS
        )
        train_op = train_step(inputs, logits)
        session.run(tf.global_variables_initializer())
        named = {**common(1), **augment.whole_pictures(1), 'lengths': [steps]}
        for stream in model.STREAMS:
            shape = [1, steps, *inputs[stream].shape[2:]]
            named[stream] = random.randint(0, 256, shape).astype(np.uint8)
        feed = {inputs[name]: value for name, value in named.items()}
        return seconds(lambda: session.run(train_op, feed), 1)


def store_clips(data_dir, count, frames, size):
    """Stores clips of drifting noise; returns their rows as clips.csv has them."""
    random = np.random.RandomState(0)
    texture = random.randint(0, 256, [size // 8, size // 8, 3]).astype(np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    rows = []
    for number in range(count):
        clip = f'A/x{number}'
        for path in (clips.frames_path, clips.flow_path):
            pathlib.Path(path(data_dir, clip)).parent.mkdir(parents=True, exist_ok=True)
        writer = clips.open_flow_writer(clips.flow_path(data_dir, clip), size)
        for t in range(frames - 1):
            flow = np.roll(texture, (t, 2 * t), (0, 1))[:, :, :2] / 64.0
            writer.write(clips.flow_picture(clips.quantize_flow(flow.astype('f'))))
        writer.release()
        rows.append({'clip': clip, 'frames': frames})
    return rows


def waiting_share(batch, size, steps, stack_length=10):
    """(share of the time spent waiting, seconds a step) of CNN-M training."""
    with (
        tempfile.TemporaryDirectory() as data_dir,
        tf.Graph().as_default(),
        tf.Session() as session,
    ):
        rows = store_clips(data_dir, batch, 60, size)
        inputs, logits, _ = model.cnn_classifier('motion', size, stack_length, 8)
        train_op = train_step(inputs, logits)
        session.run(tf.global_variables_initializer())

        def read(step):
            images = batches.random_pictures(
                data_dir, 'motion', rows, stack_length, 0, step
            )
            draws = augment.random_crops(batch, 0, step)
            return {**common(batch), **draws, 'images': images}

        feeds = batches.read_ahead(read, range(steps + 1), os.cpu_count())
        waited = 0.0
        for step in range(steps + 1):
            begun = time.perf_counter()
            named = next(feeds)
            if step:
                waited += time.perf_counter() - begun
            else:
                since = None
            feed = {inputs[name]: value for name, value in named.items()}
            session.run(train_op, feed)
            since = since or time.perf_counter()  # the first step is not counted
        total = time.perf_counter() - since
    return waited / total, total / steps


def main(_):
    """Measures and prints, one line each."""
    quick = FLAGS.quick
    print(f'{os.cpu_count()} cores, TensorFlow {tf.__version__}', flush=True)

    shape = (4, 5, 64, 32) if quick else (32, 25, 4096, 1024)
    hoisted, one = lstm_step(True, *shape)
    inside, other = lstm_step(False, *shape)
    np.testing.assert_allclose(one, other, atol=1e-5)  # the same computation
    print(
        'LSTM step, B {} T {} D {} U {}: '.format(*shape)
        + f'projection inside the loop {inside:.2f} s, before it {hoisted:.2f} s: '
        f'{inside / hoisted:.2f} times as fast (1.8 wanted)',
        flush=True,
    )

    steps, size = (3, 48) if quick else (25, 224)
    cached = hybrid_clip(4 if quick else 32, steps)
    joint = joint_clip(steps, size)
    print(
        f'a clip of T {steps}: hybrid step {cached:.3f} s on cached features, joint '
        f'step {joint:.1f} s at {size} pixels: {joint / cached:.0f} times (100 wanted)',
        flush=True,
    )

    batch, steps = (4, 3) if quick else (32, 8)
    share, step = waiting_share(batch, size, steps)
    print(
        f'CNN-M-2048 step, {batch} stacks at {size} pixels: {step:.2f} s, '
        f'{share:.1%} of it waiting for input (5 % allowed)'
    )


if __name__ == '__main__':
    define_flags()
    app.run(main)
