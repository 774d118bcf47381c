"""How fast a run is measured and classifies video, and in how much memory.

    python -m tests.bench.bench_evaluate --train_dir=runs/demo/full \\
        --video=data/demo/videos --minutes=1,60

The videos are looped to each length; peak memory must not grow with it. The limit of
prediction is decoding and flow alone, that of a hybrid's evaluation the network on a
batch that is there already.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

import cv2
from absl import app
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import evaluate
import model
import optical_flow
from data import features
from data import feeds
from data.preprocessing import decoding
from results import inference
from results import predict
from results import runs
from results import scoring
from tests.bench import table

FLAGS = flags.FLAGS
CLIPS, BATCH, ROUNDS = 2000, 16, 3  # of evaluation


def define_flags():
    flags.DEFINE_string('train_dir', None, 'A trained run.', required=True)
    flags.DEFINE_string('video', None, 'Video or folder of videos to loop.')
    flags.DEFINE_list('minutes', ['1', '60'], 'Lengths to try.')


def loop(sources, path, frames):
    """Writes `frames` frames of the sources, over and over, in the first one's size."""
    writer, written = None, 0
    while written < frames:
        for source in sources:
            video = decoding.open_video(source)
            for _, frame in itertools.islice(video.frames(), frames - written):
                if writer is None:
                    size, fourcc = frame.shape[1::-1], cv2.VideoWriter_fourcc(*'mp4v')
                    rate = video.rate
                    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, fourcc, rate, size)
                writer.write(cv2.resize(frame, size))
                written += 1
            video.close()
    writer.release()


def timed(*words):
    """(seconds, peak memory in MB, output) of evaluate.py on the run."""
    command = [sys.executable, 'evaluate.py', f'--train_dir={FLAGS.train_dir}', *words]
    begun, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with open(f'/proc/{process.pid}/status') as status:
                found = [line for line in status if line.startswith('VmHWM')]
            peak = max(peak, int(found[0].split()[1])) if found else peak
            time.sleep(0.2)
        output = process.stdout.read()
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - begun, peak / 1024, output


def bench_scoring(run, checkpoint):
    """A hybrid's test clips, over and over, by batches and one by one."""
    of_run, protocol = run['flags'], scoring.Protocol(test_segments=1)
    data_dir = of_run['data_dir']
    _, examples, rows = evaluate.read_subset(
        run, FLAGS.train_dir, data_dir, None, protocol
    )
    examples = list(itertools.islice(itertools.cycle(examples), CLIPS))

    def score(batch_size):
        where = (run, checkpoint, data_dir, examples, rows, protocol)
        scoring.score(*where, batch_size, os.cpu_count())

    (request,) = feeds.evaluation_requests(examples[:BATCH], rows, BATCH)
    read_clip = features.reader(features.folders(data_dir, run['cnns']))
    (batch,) = feeds.read([request], read_clip, 1)
    widths = {stream: cnn['width'] for stream, cnn in run['cnns'].items()}
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, logits, _ = model.classifier('hybrid', runs.architecture(run), widths)
        probabilities = model.probabilities(logits)
        inference.restore(session, checkpoint, run)
        feed = {inputs[name]: x for name, x in batch.items() if name in inputs}

        def forward():
            for _ in range(CLIPS // BATCH):
                session.run(probabilities, feed)

        calls = {'ours': lambda: score(BATCH), 'single': lambda: score(1)}
        times = table.take_turns({**calls, 'limit': forward}, ROUNDS)
    what = f'evaluating a hybrid on {CLIPS:,} clips in the feature cache'
    limit = ('its network alone', times['limit'])
    print(table.row(what, times['ours'], 'one by one', times['single'], *limit))


def decode_and_flow(run, path):
    """Seconds that a video's frames and flow take, without a network."""
    begun = time.perf_counter()
    with contextlib.closing(decoding.open_video(path)) as video:
        for _ in optical_flow.frames_and_flow(video.frames(), run['preprocessing']):
            pass
    return time.perf_counter() - begun


def bench_video(run, path, minutes, folder):
    """Classifying a video of so many minutes; an hour once, as it takes long."""
    taken, alone = [], []
    for _ in range(ROUNDS if minutes < 10 else 1):
        _, peak, _ = timed(f'--video={path}', f'--out_dir={folder}')
        with open(f'{path}.json') as file:
            result = json.load(file)
        taken.append(result['seconds_taken'])
        alone.append(decode_and_flow(run, path))
    what = f'classifying {minutes:g} min of video'
    plays = [60 * minutes] * len(taken)
    limit = ('decoding and flow alone', alone)
    print(table.row(what, taken, 'real time', plays, *limit))
    print(f'{result["frames"]:,} frames, peak {peak:.0f} MB', flush=True)


def main(_):
    """Measures and prints, one line each."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    seconds, peak, output = timed()
    (rate,) = [line for line in output.splitlines() if line.endswith('a second')]
    print(f'test split: {rate}, {seconds:.0f} s with start, peak {peak:.0f} MB')
    run, checkpoint, _ = evaluate.find_run(FLAGS.train_dir)
    if run['flags']['stage'] == 'hybrid':
        bench_scoring(run, checkpoint)
    if not FLAGS.video:
        return
    sources = [source for _, source in predict.find(FLAGS.video)]
    with contextlib.closing(decoding.open_video(sources[0])) as video:
        rate = video.rate
    with tempfile.TemporaryDirectory() as folder:
        for minutes in FLAGS.minutes:
            path = os.path.join(folder, f'{minutes}.mp4')
            loop(sources, path, round(float(minutes) * 60 * rate))
            bench_video(run, path, float(minutes), folder)


if __name__ == '__main__':
    define_flags()
    app.run(main)
