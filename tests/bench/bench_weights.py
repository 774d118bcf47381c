"""What loading VGG-19 costs, by several ways: seconds, and growth of anonymous memory.

    python -m tests.bench.bench_weights

Each way runs in a process of its own, over a session that is already there:
  mapped    vgg.load_weights: memory-mapped arrays fed to all placeholders in one run
  one feed  a pickled dict read whole and fed to the same placeholders in one run
  constant  the arrays as constants of the graph
  copy      the arrays copied once from the files, for nothing; mapped copies none, as
            TensorFlow takes the mapped pages for the fed values
Anonymous memory is what cannot be dropped and read again from a file (RssAnon of
proc(5)); its peak is sampled every two milliseconds. The mapped way is followed by a
run of the gradients, which is what a training step itself needs, and by a step.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import vgg
from tests.bench import table
from weights import dump
from weights import layers

MB = 2**20


def anonymous():
    """Anonymous resident memory of this process in bytes."""
    status = pathlib.Path('/proc/self/status').read_text()
    return int(status.partition('RssAnon:')[2].split()[0]) * 1024


def measured(function):
    """Runs a function; its seconds, and memory growth at peak and after, in bytes."""
    before = peak = anonymous()
    ended = threading.Event()

    def sample():
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    ended.set()
    sampler.join()
    return {
        'seconds': seconds,
        'peak': max(peak, anonymous()) - before,
        'after': anonymous() - before,
    }


def make_files(folder):
    """Random weights of VGG-19 as a dump and as a pickled dict; their size in bytes."""
    random = np.random.RandomState(0)
    with tf.Graph().as_default() as graph:
        vgg.vgg_19(tf.placeholder(tf.uint8, [1, 224, 224, 3]))
        arrays = {
            name: random.standard_normal(variable.shape).astype(np.float32) * 0.01
            for name, variable in dump.variables(graph, 'vgg_19').items()
        }
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    dump.write(folder / 'dump', vgg.NETWORK, 'random', arrays.items())
    np.save(folder / 'pickled.npy', arrays, allow_pickle=True)
    return sum(array.nbytes for array in arrays.values())


def read_pickled(folder):
    """The pickled dict, made by make_files in this run."""
    return np.load(folder / 'pickled.npy', allow_pickle=True).item()


def one_way(way, folder):
    """Measures one way in this process; prints the figures as JSON."""
    images = tf.placeholder(tf.uint8, [1, 224, 224, 3])
    logits, _ = vgg.vgg_19(images)
    found = dump.variables(tf.get_default_graph(), 'vgg_19')
    loss = tf.reduce_mean(tf.square(logits))
    optimizer = tf.train.GradientDescentOptimizer(1e-6)
    gradients = optimizer.compute_gradients(loss)
    step = optimizer.apply_gradients(gradients)
    # their sums, since the graph's optimizer drops what nothing reads
    gradients = tf.add_n([tf.reduce_sum(gradient) for gradient, _ in gradients])
    session = tf.Session()
    session.run([found['mean'].initializer, found['scale'].initializer])

    def one_feed():
        arrays = read_pickled(folder)
        layers.assign(session, {v.op.name: arrays[n] for n, v in found.items()})

    def constant():
        arrays = read_pickled(folder)
        session.run([found[name].assign(tf.constant(arrays[name])) for name in found])

    def copy():
        for path in sorted((folder / 'dump').rglob('*.npy')):
            np.array(np.load(path, mmap_mode='r'))

    ways = {
        'copy': copy,
        'mapped': lambda: vgg.load_weights(session, folder / 'dump', 'vgg_19'),
        'one feed': one_feed,
        'constant': constant,
    }
    figures = {'load': measured(ways[way])}
    if way == 'mapped':
        feed = {images: np.zeros([1, 224, 224, 3], np.uint8)}
        figures['gradients'] = measured(lambda: session.run(gradients, feed))
        figures['step'] = measured(lambda: session.run(step, feed))
        dump.verify(folder / 'dump')
    print(json.dumps(figures))


def run(way, folder):
    """Measures one way in a fresh process."""
    words = [sys.executable, '-m', 'tests.bench.bench_weights', way, str(folder)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Prints the table and the three figures that are promised."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        size = make_files(folder)
        print(f'VGG-19, {size / MB:.0f} MB of weights')
        print(f'{"way":12}{"seconds":>10}{"peak MB":>10}{"after MB":>10}')
        seconds, growth, loads = {}, {}, {}
        ways = (('copy', 3), ('mapped', 3), ('one feed', 3), ('constant', 1))
        for way, repeats in ways:
            runs = [run(way, folder) for _ in range(repeats)]
            loads[way] = [figures['load']['seconds'] for figures in runs]
            for part in runs[0]:
                middle = {
                    key: statistics.median(figures[part][key] for figures in runs)
                    for key in ('seconds', 'peak', 'after')
                }
                print_row(way if part == 'load' else f'  {part}', middle)
                if part == 'load':
                    seconds[way], growth[way] = middle['seconds'], middle['peak']
                if part == 'step':
                    extra = middle['peak'] / size
        for name, other in (('one feed', 'one feed'), ('copying the arrays', 'copy')):
            what = f'loading VGG-19, {size / MB:.0f} MB'
            table.row(what, loads['mapped'], name, loads[other])
        print(f'mapped grows by {growth["mapped"] / MB:.1f} MB (at most 5)')
        print(
            f'mapped takes {seconds["mapped"] / seconds["one feed"]:.2f} of the time '
            f'of one feed (at most 0.33)'
        )
        print(
            f'a training step makes {extra:.2f} x the weights of memory beyond its '
            f'gradients (at most 1.05)'
        )


def print_row(name, figures):
    """Prints one row of the table."""
    print(
        f'{name:12}{figures["seconds"]:10.2f}{figures["peak"] / MB:10.1f}'
        f'{figures["after"] / MB:10.1f}'
    )


if __name__ == '__main__':
    if len(sys.argv) == 3:
        with tf.Graph().as_default():
            one_way(sys.argv[1], pathlib.Path(sys.argv[2]))
    else:
        main()
