"""What a CNN, the hybrid and the feature cache get through, and what they wait for.

    python -m tests.bench.bench_rates [--steps=60] [--size=224] [--threads=8]

For each stage, on stored clips of drifting noise at full size (224 pixels, L 10, T 25,
batch 32):

    reading    inputs read and decoded, with nothing else to do
    fixed      training steps on one batch that is there already
    bfloat16   the same with --bfloat16, where the processor has it
    training   training steps that read their batches, as train.py does
    waiting    share of these that the step waits for its batch

and images a second through each frozen CNN to fc6, as `--stage=features` fills its
cache. One process; the first steps and the first clip, in which kernels are chosen and
compiled, are not counted. Runs on whatever TensorFlow finds, GPUs too: the first line
says what that is.
"""

import contextlib
import os
import tempfile
import time

from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
import train
from data import features
from data import feeds
from data import splits
from results import arithmetic
from results import extraction
from tests.bench import bench_training

BATCH, SEGMENTS, LENGTH, CLASSES = 32, 25, 10, 101
FRAMES = 40  # of a clip
WARM = 10  # steps that are not counted


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_integer('steps', 60, 'Training steps that are timed.', 1)
    flags.DEFINE_integer('size', 224, 'Height and width of the stored frames.')
    flags.DEFINE_integer('threads', os.cpu_count(), 'Threads that read clips.', 1)
    flags.DEFINE_list('stages', [*model.STREAMS, 'hybrid'], 'Which stages.')


def device():
    """The first GPU that TensorFlow finds, as it names it, or the processor."""
    with tf.Session() as session:
        names = [d.name for d in session.list_devices() if d.device_type == 'GPU']
    if not names:
        return f'no GPU, {os.cpu_count()} cores'
    details = tf.config.experimental.get_device_details(
        tf.config.list_physical_devices('GPU')[0]
    )
    return f'{details.get("device_name", names[0])}, {os.cpu_count()} cores'


def batches(stage, data_dir, rows, cnns, count, threads):
    """Iterator of `count` training batches of a stage, as train.py reads them."""
    examples = [
        splits.Example(row['clip'], n % CLASSES, row['clip'])
        for n, row in enumerate(rows)
    ]
    read_clip, span = bench_training.reader(stage, data_dir, cnns, SEGMENTS)
    request_of = feeds.training_requests(
        examples, {row['clip']: row for row in rows}, BATCH, 0, 0.5, span=span
    )
    return feeds.read(map(request_of, range(count)), read_clip, threads)


def per_second(count, call):
    """(units a second of a call that does `count`, what it returns)."""
    begun = time.perf_counter()
    found = call()
    return count / (time.perf_counter() - begun), found


def read_alone(feed, count):
    """Clips a second that are read where nothing uses them."""
    next(feed)
    rate, _ = per_second(BATCH * count, lambda: [None for _ in feed])
    return rate


def train_steps(stage, size, widths, feed, count):
    """Steps a second on one batch; the same with --bfloat16 (None: it is refused here);
    steps a second that read theirs, and the share of these that is spent waiting."""
    form = model.Architecture(
        CLASSES, size, LENGTH, model.all_branches(), 'concat', model.LSTM_UNITS, {}
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(tf.Graph().as_default())
        tf.set_random_seed(0)
        own = {'stage': stage, **bench_training.FLAGS_OF_UPDATE}
        graph = train.build(own, form, widths)
        scalars, train_op = graph.scalars, graph.train_op
        initializer = tf.global_variables_initializer()

        def begin(bfloat16):
            config = arithmetic.config(bfloat16)
            session = stack.enter_context(tf.Session(config=config))
            session.run(initializer)
            return session

        def step(session, batch):
            fed = {**train.feed_of(graph, batch), graph.rate: 1e-4}
            session.run([scalars, train_op], fed)

        def fixed(session, times):
            for _ in range(times):
                step(session, batch)

        def reading():
            waited = 0.0
            for _ in range(count):
                asked = time.perf_counter()
                found = next(feed)
                waited += time.perf_counter() - asked
                step(exact, found)
            return waited

        batch = next(feed)
        exact, rounded = begin(False), None
        fixed(exact, min(WARM, count))
        alone, _ = per_second(count, lambda: fixed(exact, count))
        if not arithmetic.lack_of_bfloat16():
            session = begin(True)
            fixed(session, min(WARM, count))
            rounded, _ = per_second(count, lambda: fixed(session, count))
        step(exact, next(feed))
        together, waited = per_second(count, reading)
    return alone, rounded, together, waited * together / count


def extract(stream, data_dir, rows, size, threads):
    """Images a second through a frozen CNN to fc6."""
    own = {
        'data_dir': data_dir,
        'train_dir': os.path.join(data_dir, 'runs'),
        'seed': 0,
        'view_seed': 0,
        'stack_length': LENGTH,
        'num_segments': SEGMENTS,
        'workers': threads,
        'cross_modality': False,
        f'{stream}_weights': 'random',
        **{name: name == 'norm2' for name in model.STREAMS[stream].options},
    }
    by_clip = {row['clip']: row for row in rows}
    cnn = extraction.cache_features(own, stream, by_clip, size, {0: list(by_clip)})
    folder = features.folders(data_dir, {stream: cnn})[stream][0]
    written = sorted(path.stat().st_mtime for path in folder.glob('*/*.npy'))
    return SEGMENTS * (len(written) - 1) / (written[-1] - written[0])


def main(values):
    """Measures and prints, one line each."""
    size, threads, count = values.size, values.threads, values.steps
    print(f'{device()}, {threads} threads that read, TensorFlow {tf.__version__}')
    print(f'{size} pixels, batch {BATCH}, L {LENGTH}, T {SEGMENTS}, {count} steps')
    with tempfile.TemporaryDirectory() as data_dir:
        rows = bench_training.store_clips(data_dir, 2 * BATCH, FRAMES, size)
        cnns = bench_training.store_features(data_dir, rows, SEGMENTS)
        columns = 'reading, clips/s | fixed, steps/s | bfloat16 | training | waiting'
        print(f'| stage | {columns} |\n|---|---|---|---|---|---|')
        for stage in values.stages:
            widths = {s: c['width'] for s, c in cnns.items()}
            of = (stage, data_dir, rows, cnns)
            clips = read_alone(batches(*of, count + 1, threads), count)
            feed = batches(*of, count + 2, threads)
            *rates, waiting = train_steps(stage, size, widths, feed, count)
            shown = ' | '.join(f'{rate:.3g}' if rate else '' for rate in rates)
            print(f'| {stage} | {clips:,.0f} | {shown} | {waiting:.0%} |', flush=True)
        for stream in model.STREAMS:
            if stream in values.stages:
                rate = extract(stream, data_dir, rows, size, threads)
                print(f'{stream} CNN to fc6: {rate:,.0f} inputs/s', flush=True)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
