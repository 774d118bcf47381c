"""When the network of a parameter server becomes the limit, and steps a second here.

    python -m tests.bench.bench_cluster [--data_dir=data/demo/preprocessed]

1. In a step every worker fetches all variables and sends a gradient of each that is
   trained. With V bytes fetched, G sent, N workers, a step of t seconds and a link of b
   bytes a second each way, the link of one parameter server is full at

       N max(V, G) / t = b,   so at N = b t / max(V, G) workers.

   More parameter servers share this, but a variable is whole on one of them, so the
   largest one sets how far that goes.
2. Steps a second of one process, and of one and two workers with a parameter server, on
   this machine with the same batch in all. They share its cores, so that no speed-up
   can show: what is seen is what the exchange costs.
"""

import glob
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
import train
from tests.bench import bench_training

FLAGS = flags.FLAGS
CLASSES, SIZE, LENGTH = 101, 224, 10  # of UCF101
WIDTHS = {'spatial': 4096, 'motion': 4096}
STEPS, EVERY = 40, 10
LINK = 10e9 / 8  # bytes a second each way, of a 10 Gbit/s network


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('data_dir', None, 'Clips for steps a second; none without it.')
    flags.DEFINE_integer('batch_size', 16, 'Clips in a step, of all workers together.')
    flags.DEFINE_integer('port', 2222, 'First of four ports.')


def exchanged(stage, train_layers='all'):
    """(bytes fetched, bytes sent, bytes of the largest variable) of a step."""
    form = model.Architecture(
        *(CLASSES, SIZE, LENGTH, model.all_branches(), 'concat'),
        *(model.LSTM_UNITS, {}),
    )
    update = {**bench_training.FLAGS_OF_UPDATE, 'train_layers': train_layers}
    with tf.Graph().as_default():
        graph = train.build({'stage': stage, **update}, form, WIDTHS)
        weights = tf.trainable_variables()
        gradients = tf.gradients(graph.scalars['loss'], weights)
    sizes = {
        weight.op.name: weight.shape.num_elements() * weight.dtype.size
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None  # joint trains nothing above fc6
    }
    sent = sum(sizes[variable.op.name] for variable in graph.variables)
    return sum(sizes.values()), sent, max(sizes.values())


def print_limits():
    """The table of when one parameter server's link is full."""
    times = (0.1, 1.0, 10.0)
    print('MB that a worker fetches and sends in a step; how many workers fill a link')
    print('of 10 Gbit/s where a step takes 0.1, 1, 10 s; share of the largest variable')
    for name, stage, layers in (
        ('VGG-19', 'spatial', 'all'),
        ('VGG-19, --train_layers=fc', 'spatial', 'fc'),
        ('CNN-M-2048', 'motion', 'all'),
        ('hybrid', 'hybrid', 'all'),
        ('joint', 'joint', 'all'),
    ):
        fetched, sent, largest = exchanged(stage, layers)
        limits = [LINK * seconds / max(fetched, sent) for seconds in times]
        print(
            f'{name:26} {fetched / 1e6:6.0f} {sent / 1e6:6.0f}  '
            + ' '.join(f'{workers:7.1f}' for workers in limits)
            + f'  {largest / fetched:4.0%}',
            flush=True,
        )


def steps_a_second(train_dir, workers):
    """Trains the motion CNN; steps a second after the first lines of the log.

    Args:
      train_dir: new folder.
      workers: how many; 0 for one process without a parameter server.
    """
    share = FLAGS.batch_size // max(workers, 1)
    words = [sys.executable, 'train.py', '--stage=motion', '--motion_weights=random']
    words += [f'--data_dir={FLAGS.data_dir}', f'--train_dir={train_dir}']
    words += [f'--batch_size={share}', f'--max_steps={STEPS}', f'--log_every={EVERY}']
    ps, *hosts = (f'localhost:{FLAGS.port + n}' for n in range(1 + workers))
    if workers:
        words += [f'--ps_hosts={ps}', f'--worker_hosts={",".join(hosts)}']
    tasks = [('ps', 0), *(('worker', n) for n in range(workers))]
    started = [
        subprocess.Popen([*words, f'--job_name={job}', f'--task_index={task}'])
        for job, task in tasks
        if workers
    ] or [subprocess.Popen(words)]
    codes = [process.wait() for process in started]
    if any(codes):
        raise ValueError(f'train.py ended with {codes}')
    (events,) = glob.glob(f'{train_dir}/events.*')
    times = [
        event.wall_time
        for event in tf.train.summary_iterator(events)
        if any(value.tag == 'loss' for value in event.summary.value)
    ]
    return EVERY * (len(times) - 1) / (times[-1] - times[0])


def main(_):
    """Prints both tables."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    print_limits()
    if not FLAGS.data_dir:
        return
    cores = os.cpu_count()
    for workers, name in enumerate(
        ('one process', '1 parameter server, 1 worker', '1 parameter server, 2 workers')
    ):
        with tempfile.TemporaryDirectory() as folder:
            rate = steps_a_second(pathlib.Path(folder, 'run'), workers)
        print(
            f'{name}: {rate:.2f} steps a second of {FLAGS.batch_size} clips, all on '
            f'the same {cores} cores',
            flush=True,
        )
    print('the cores are shared, so no speed-up can show here')


if __name__ == '__main__':
    define_flags()
    app.run(main)
