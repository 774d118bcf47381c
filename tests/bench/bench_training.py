"""Training speed and memory, as ratios within one run.

    python -m tests.bench.bench_training [--quick]

1. One LSTM training step (B 32, T 25, D 4096, U 1024) with the input projection as one
   product before the loop, as `model.lstm` does, against inside the loop.
2. An epoch of the same stored clips (T 25) in the hybrid stage, from cached features,
   and in the joint stage, from pixels at 224, both with the readers and the update of
   train.py. The joint one is counted from each of its steps of two clips.
3. The share of a CNN-M-2048 training step (224 pixels, L 10) spent waiting for input
   that is decoded ahead by threads on the same cores.
4. Peak memory of joint training for T 8, 16, 25, and for clips 50 times as long.

--quick measures smaller sizes, to see that it runs.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
from absl import app
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
import train
from data import clips
from data import features
from data import feeds
from data import splits
from tests.bench import bench_vgg
from tests.bench import table
from weights import layers

FLAGS = flags.FLAGS
CLASSES = 8
WORKERS = os.cpu_count()  # threads that read ahead
LENGTH = 10  # L
FLAGS_OF_UPDATE = {
    'train_layers': 'all',
    'weight_decay': 3e-5,
    'optimizer': 'momentum',
    'learning_rate': 1e-3,
    'clip_norm': 10.0,
    'fusion_rate': 1e-2,
    'fusion_l1': 3e-5,
    'fusion_l21': 3e-5,
    'fusion_l2': 3e-5,
    'search_combination': False,
    'combination': [],
    'histograms': False,
}


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_bool('quick', False, 'Smaller sizes, to see that it runs.')


def lstm_inside(inputs, lengths, units):
    """The LSTM of `model.lstm` with x_t W computed at each step of the loop."""
    depth, steps = int(inputs.shape[-1]), tf.shape(inputs)[1]
    kernel = layers.variable('kernel', [depth, 4 * units], depth**-0.5)
    recurrent = layers.variable('recurrent_kernel', [units, 4 * units], units**-0.5)
    bias = layers.variable('bias', [4 * units], 0)
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


def lstm_multiply_adds(batch, steps, depth, units):
    """Of a training step: with the gradients of the weights, but not of the features,
    which nobody needs."""
    return batch * steps * 4 * units * (2 * depth + 3 * units)


def lstm_step(hoisted, batch, steps, depth, units):
    """(function that does a training step, last [B, U] before the first)."""
    features = np.random.RandomState(0).rand(batch, steps, depth).astype('f')
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        inputs = tf.placeholder(tf.float32, [None, None, depth])
        lengths = tf.fill([tf.shape(inputs)[0]], steps)
        if hoisted:
            _, last = model.lstm(inputs, lengths, units)
        else:
            last = lstm_inside(inputs, lengths, units)
        loss = tf.reduce_mean(tf.square(last))
        train_op = tf.train.GradientDescentOptimizer(1e-3).minimize(loss)
        session = tf.Session()
        session.run(tf.global_variables_initializer())
    begun = session.run(last, {inputs: features})
    return lambda: session.run(train_op, {inputs: features}), begun


def store_clips(data_dir, count, frames, size):
    """Stores clips of drifting noise; returns their rows as clips.csv has them."""
    random = np.random.RandomState(0)
    texture = random.randint(0, 256, [size // 8, size // 8, 3]).astype(np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    rows = []
    for number in range(count):
        clip = f'A/x{number}'
        frames_file = clips.frames_path(data_dir, clip)
        flow_file = clips.flow_path(data_dir, clip)
        for file in (frames_file, flow_file):
            pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
        with (
            clips.frames_writer(frames_file) as frames_writer,
            clips.flow_writer(flow_file) as flow_writer,
        ):
            for t in range(frames):
                frame = np.roll(texture, (t, 2 * t), (0, 1))
                frames_writer.append(frame)
                if t:
                    flow = clips.quantize_flow(frame[:, :, :2] / np.float32(64))
                    flow_writer.append(flow)
        rows.append({'clip': clip, 'frames': frames})
    return rows


def store_features(data_dir, rows, steps, width=4096):
    """Stores random features of the clips; returns the CNNs as run.json keeps them."""
    random = np.random.RandomState(0)
    cnns = {}
    for stream in model.STREAMS:
        folder = features.directory(data_dir, stream, {})
        for row in rows:
            clip, values = row['clip'], random.rand(steps, width).astype(np.float32)
            stamp = features.stamp(data_dir, clip)
            features.write(folder / f'{clip}.npy', clip, values, stamp)
        cnns[stream] = {'features': [folder.name], 'width': width}
    return cnns


def reader(stage, data_dir, cnns, num_segments):
    """(function that reads a clip for the stage, frames that an input of it spans)."""
    if stage in model.STREAMS:
        stream = model.STREAMS[stage]
        return feeds.image_reader(data_dir, stream, LENGTH), stream.span(LENGTH)
    if stage == 'hybrid':
        return features.reader(features.folders(data_dir, cnns)), None
    return feeds.segment_reader(data_dir, model.STREAMS, num_segments, LENGTH), None


def run_steps(stage, data_dir, rows, size, count, batch_size, steps=None, cnns=None):
    """Trains `count` steps of a stage, after one that is not counted.

    Args:
      stage: as of train.py.
      data_dir: folder of the clips.
      rows: their rows as clips.csv has them.
      size: height and width of the stored frames in pixels.
      count: steps.
      batch_size: B.
      steps: T.
      cnns: of `store_features`, for the hybrid.

    Returns:
      (seconds of each counted step, seconds of each spent waiting for input).
    """
    examples = [
        splits.Example(row['clip'], n % CLASSES, row['clip'])
        for n, row in enumerate(rows)
    ]
    read_clip, span = reader(stage, data_dir, cnns, steps)
    request_of = feeds.training_requests(
        examples, {row['clip']: row for row in rows}, batch_size, 0, 0.5, span=span
    )
    batches = feeds.read(map(request_of, range(1 + count)), read_clip, WORKERS)
    form = model.Architecture(
        CLASSES, size, LENGTH, model.all_branches(), 'concat', model.LSTM_UNITS, {}
    )
    widths = {stream: cnn['width'] for stream, cnn in (cnns or {}).items()}
    with tf.Graph().as_default(), tf.Session() as session:
        graph = train.build({'stage': stage, **FLAGS_OF_UPDATE}, form, widths)
        session.run(tf.global_variables_initializer())
        took, waited = [], []
        for _ in range(1 + count):
            begun = time.perf_counter()
            batch = next(batches)
            waited.append(time.perf_counter() - begun)
            feed = {**train.feed_of(graph, batch), graph.rate: 1e-3}
            session.run([graph.scalars, graph.train_op], feed)
            took.append(time.perf_counter() - begun)
    return took[1:], waited[1:]


def joint_peak(data_dir, rows, size, steps):
    """Peak memory in bytes of a process that trains two joint steps."""
    run_steps('joint', data_dir, rows, size, 1, len(rows), steps)
    # ru_maxrss would begin with what the parent held when it started this process
    status = pathlib.Path('/proc/self/status').read_text()
    return int(status.partition('VmHWM:')[2].split()[0]) * 1024


def bench_lstm(shape):
    """The input projection of an LSTM before its loop against inside it."""
    hoisted, one = lstm_step(True, *shape)
    inside, other = lstm_step(False, *shape)
    np.testing.assert_allclose(one, other, atol=1e-5)  # the same computation
    what = 'LSTM training step, B {} T {} D {} U {}'.format(*shape)
    against = hoisted, 'the projection in the loop', inside
    line, times = bench_vgg.compare(what, *against, lstm_multiply_adds(*shape))
    print(line, flush=True)
    ratio = statistics.median(times['theirs']) / statistics.median(times['ours'])
    print(f'{ratio:.2f} times as fast (1.8 wanted)', flush=True)


def bench_epochs(data_dir, rows, size, steps):
    """An epoch of the hybrid on cached features against one of the joint stage."""
    count, pair = len(rows), 2
    cnns = store_features(data_dir, rows, steps)
    place, rounds = (data_dir, rows, size), count // pair
    cached, waited = run_steps('hybrid', *place, rounds, count, cnns=cnns)
    of_steps, _ = run_steps('joint', *place, rounds, pair, steps)
    joint = [rounds * seconds for seconds in of_steps]
    what = f'hybrid epoch of {count} clips, T {steps}, from the feature cache'
    limit = ('its step alone', without(cached, waited))
    line = table.row(what, cached, f'joint from {size} pixels', joint, *limit)
    print(line, flush=True)
    ratio = statistics.median(joint) / statistics.median(cached)
    print(f'{ratio:.0f} times as fast (100 wanted)', flush=True)


def without(took, waited):
    """Seconds of steps without the waiting in them."""
    return [seconds - wait for seconds, wait in zip(took, waited, strict=True)]


def bench_waiting(data_dir, rows, size, count):
    """How long the motion stage waits for input."""
    took, waited = run_steps('motion', data_dir, rows, size, count, len(rows))
    what = f'CNN-M-2048 step with reading, {len(rows)} stacks, {size} pixels'
    alone = without(took, waited)
    limit = ('the step alone', alone)
    print(table.row(what, took, 'without waiting', alone, *limit), flush=True)
    share = sum(waited) / sum(took)
    print(f'{share:.1%} of it waiting for input (5 % allowed)', flush=True)


def bench_memory(data_dir, size, frames, all_steps):
    """Peak memory of joint training by T, and by the length of the clips."""
    spawn = multiprocessing.get_context('spawn')
    for length in (frames, 50 * frames):
        rows = store_clips(data_dir, 2, length, size)
        for steps in all_steps:
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                call = pool.submit(joint_peak, data_dir, rows, size, steps)
                peak = call.result() / 2**30
            print(
                f'joint training, 2 clips of {length:,} frames, T {steps}, {size} '
                f'pixels: peak {peak:.2f} GiB',
                flush=True,
            )
        all_steps = all_steps[:1]  # one T is enough to see that length costs nothing


def main(_):
    """Measures and prints, one line each."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    quick = FLAGS.quick
    print(f'{WORKERS} cores, TensorFlow {tf.__version__}', flush=True)
    print(table.HEAD, flush=True)
    bench_lstm((4, 5, 64, 32) if quick else (32, 25, 4096, 1024))
    size = 48 if quick else 224
    with tempfile.TemporaryDirectory() as data_dir:
        rows = store_clips(data_dir, 4 if quick else 32, 60, size)
        bench_epochs(data_dir, rows[: 4 if quick else 16], size, 3 if quick else 25)
        bench_waiting(data_dir, rows, size, 3 if quick else 8)
        bench_memory(data_dir, size, 100, (2, 3) if quick else (8, 16, 25))


if __name__ == '__main__':
    define_flags()
    app.run(main)
