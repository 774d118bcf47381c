"""Where the time of a CNN-M training step goes, and what would make it faster.

    python -m tests.bench.bench_profile [--batch=16] [--size=224]

1. Seconds of the operations of a step by kind, from TensorFlow's own trace: beside each
   product its GFLOP/s, counted as if every multiplication were done, and those of one
   large matrix product in the same run.
2. The step with other numbers of threads, and without what is not the network itself,
   in turns: what could be won there. Each has a process of its own, as the sessions of
   one process share their threads.
"""

import collections
import concurrent.futures
import contextlib
import functools
import multiprocessing
import statistics

import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import cnnm
import model
import train
from data import augmentation
from results import arithmetic
from tests.bench import bench_training
from tests.bench import bench_vgg
from tests.bench import table

CLASSES, ROUNDS, TRACED = 101, 5, 3
# what an operation is called after oneDNN has taken it over contains these
KINDS = {
    'Conv2DBackpropFilter': 'gradients of filters',
    'Conv2DBackpropInput': 'gradients of inputs of convolutions',
    'Conv2D': 'convolutions',
    'MatMul': 'fully connected, with gradients',
    'MaxPoolGrad': 'gradients of max pooling',
    'MaxPool': 'max pooling',
    'Momentum': 'momentum',
    'CropAndResize': 'crops',
}
SHOWN = 14  # kinds


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_integer('batch', 16, 'Stacks in a step.', 1)
    flags.DEFINE_integer('size', 224, 'Height and width of the stacks.', 48)


def step_of(batch, size, changes=None, inter_op=0, intra_op=0, bfloat16=False):
    """(function that does a step and takes options of session.run, the graph).

    Args:
      batch, size: the flags.
      changes: dict of flags of train.py that are not the usual.
      inter_op, intra_op: threads between and within operations; 0 for the default.
      bfloat16: as --bfloat16.
    """
    length = bench_training.LENGTH
    form = model.Architecture(CLASSES, size, length, [], 'concat', [], {'norm2': True})
    update = {**bench_training.FLAGS_OF_UPDATE, 'weight_decay': 5e-4, **(changes or {})}
    config = arithmetic.config(bfloat16)
    config.inter_op_parallelism_threads = inter_op
    config.intra_op_parallelism_threads = intra_op
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        graph = train.build({'stage': 'motion', **update}, form, {})
        session = tf.Session(config=config)
        session.run(tf.global_variables_initializer())
    random = np.random.default_rng(0)
    shape = model.input_shape('motion', size, length)
    stacks = {
        'images': random.integers(0, 256, [batch, *shape]).astype(np.uint8),
        'labels': random.integers(0, CLASSES, batch),
        'keep_prob': 0.5,
        'dropout_seed': [0, 0],
        **augmentation.random_crops(batch, 0, 0),
    }
    feed = {**train.feed_of(graph, stacks), graph.rate: 1e-3}

    def step(**options):
        session.run([graph.scalars, graph.train_op], feed, **options)

    return step, graph


def seconds_by_kind(step):
    """Seconds of a step's operations by kind: dict, the longest first."""
    found = collections.Counter()
    for _ in range(TRACED):
        trace = tf.RunMetadata()
        options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
        step(options=options, run_metadata=trace)
        for device in trace.step_stats.dev_stats:
            for node in device.node_stats:
                # 'name = Type(inputs)'
                of_type = node.timeline_label.partition(' = ')[2].partition('(')[0]
                kind = next((KINDS[k] for k in KINDS if k in of_type), of_type)
                found[kind] += node.all_end_rel_micros / 1e6 / TRACED
    return dict(found.most_common())


def multiply_adds(graph, batch):
    """Of the step, by the kinds that are products."""
    layers = model.STREAMS['motion'].layers
    conv = [name for name in layers if name.startswith('conv')]

    def count(names):
        return batch * bench_vgg.multiply_adds(
            graph.variables, graph.end_points, names
        )

    normalized = [graph.end_points[name].shape[1:] for name in ('norm1', 'norm2')]
    # their sums and those of their gradients are 1x1 convolutions
    sums = 2 * batch * sum(int(h * w * d * d) for h, w, d in normalized)
    return {
        KINDS['Conv2D']: count(conv) + sums,
        KINDS['Conv2DBackpropFilter']: count(conv),
        KINDS['Conv2DBackpropInput']: count(conv[1:]),  # nobody needs that of stacks
        KINDS['MatMul']: 3 * count([name for name in layers if name not in conv]),
    }


def print_kinds(step, graph, batch):
    """The table of kinds."""
    multiply, used = bench_vgg.product()
    took = table.take_turns({'product': multiply}, ROUNDS)['product']
    most = 2 * used / statistics.median(took) / 1e9
    step()
    found, counts = seconds_by_kind(step), multiply_adds(graph, batch)
    total = sum(found.values())
    print(f'a large matrix product: {most:.0f} GFLOP/s\n')
    print('| operations | seconds | share | GFLOP/s |\n|---|---|---|---|')
    for kind, seconds in list(found.items())[:SHOWN]:
        rate = 2 * counts[kind] / seconds / 1e9 if kind in counts else ''
        rate = f'{rate:.0f}, {rate / most:.0%} of the product' if rate else ''
        print(f'| {kind} | {seconds:.3f} | {seconds / total:.1%} | {rate} |')


CHANGES = {  # of the step: arguments of `begin`
    'inter_op 1': {'inter_op': 1},
    'inter_op 2 x cores': {'inter_op': 2 * bench_training.WORKERS},
    'intra_op 1': {'intra_op': 1},
    'no clipping': {'changes': {'clip_norm': 0}},
    'no decay': {'decayed': False},
    'no normalization': {'normalized': False},
    '--bfloat16': {'bfloat16': True},
}
STEP = []  # of a process of `compare`


def begin(batch, size, normalized=True, decayed=True, **how):
    """Makes the step of a process; `how` is of `step_of`."""
    if not decayed:  # with a lambda1 of 0 all of it would still be computed
        model.weight_decay = lambda variables: tf.constant(0.0)
    if not normalized:
        cnnm.local_response_norm = tf.identity
    STEP.append(step_of(batch, size, **how)[0])


def do_step():
    """Does the step of a process."""
    STEP[0]()


def compare(batch, size, change):
    """Seconds of the step as it is and of a changed one, by `take_turns`."""
    spawn = multiprocessing.get_context('spawn')
    with contextlib.ExitStack() as stack:
        calls = {}
        for name, how in (('usual', {}), ('changed', change)):
            prepare = functools.partial(begin, batch, size, **how)
            pool = concurrent.futures.ProcessPoolExecutor(1, spawn, prepare)
            stack.enter_context(pool)
            calls[name] = lambda pool=pool: pool.submit(do_step).result()
        return table.take_turns(calls, ROUNDS)


def print_changes(batch, size):
    """The table of changed steps, each against the step as it is."""
    print('\n| changed | seconds | as it is | times as fast |\n|---|---|---|---|')
    for name, change in CHANGES.items():
        if 'bfloat16' in change and (lack := arithmetic.lack_of_bfloat16()):
            print(f'no row {name}: it needs {lack}')
            continue
        times = compare(batch, size, change)
        usual, changed = times['usual'], times['changed']
        ratios = [a / b for a, b in zip(usual, changed, strict=True)]
        middle = [statistics.median(found) for found in (changed, usual, ratios)]
        spread = f'{min(ratios):.2f} to {max(ratios):.2f}'
        shown = ' | '.join(f'{value:.2f}' for value in middle)
        print(f'| {name} | {shown} ({spread}) |', flush=True)


def main(values):
    """Measures and prints both tables."""
    batch, size = values.batch, values.size
    print(f'CNN-M-2048 training step, B {batch}, {size} pixels, ', end='')
    print(f'{bench_training.WORKERS} cores, TensorFlow {tf.__version__}')
    print_kinds(*step_of(batch, size), batch)
    print_changes(batch, size)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
