"""How fast a run is measured and classifies video, and in how much memory.

    python -m tests.bench.bench_evaluate --train_dir=runs/demo/full \\
        --video=data/demo/videos --minutes=1,60

The videos are looped to each length; peak memory must not grow with it.
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

from data.preprocessing import decoding
from results import predict
from tests.bench import table

FLAGS = flags.FLAGS


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
    """Runs evaluate.py on the run; returns (seconds, peak memory in MB, its output)."""
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


def main(_):
    seconds, peak, output = timed()
    (rate,) = [line for line in output.splitlines() if line.endswith('a second')]
    print(f'test split: {rate}, {seconds:.0f} s with start, peak {peak:.0f} MB')
    if not FLAGS.video:
        return
    sources = [source for _, source in predict.find(FLAGS.video)]
    with contextlib.closing(decoding.open_video(sources[0])) as video:
        rate = video.rate
    with tempfile.TemporaryDirectory() as folder:
        for minutes in FLAGS.minutes:
            path = os.path.join(folder, f'{minutes}.mp4')
            loop(sources, path, round(float(minutes) * 60 * rate))
            _, peak, _ = timed(f'--video={path}', f'--out_dir={folder}')
            with open(f'{path}.json') as file:
                result = json.load(file)
            taken = result['seconds_taken']
            what = f'classifying {minutes} min of video'
            table.row(what, [taken], 'real time', [60 * float(minutes)])
            print(
                f'{minutes} min: {result["frames"]:,} frames in {taken:.0f} s, '
                f'{result["frames"] / taken:.0f} a second, real-time factor '
                f'{result["real_time_factor"]:.3f}, peak {peak:.0f} MB'
            )


if __name__ == '__main__':
    define_flags()
    app.run(main)
