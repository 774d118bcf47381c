"""How time and memory grow with clips, with the length of a clip, and with T.

    python -m tests.bench.bench_growth [--quick]

Runs the programs on 30, 300 and 3,000 small clips, on one clip of 100, 1,000 and 10,000
frames, and on samples of T 5, 25 and 100 of each clip. Seconds a unit are the slope of
a line through the three times, so start-up is apart. The line is fitted to relative
errors, and the largest of them is printed: were time not linear, it would be large.
The growth of peak memory is that of the largest run over the one before.

--quick measures few and short clips, to see that it runs.
"""

import os
import pathlib
import shutil
import tempfile

import cv2
import numpy as np
from absl import flags

from results import command_line
from tests.bench import bench_stages

SIZE = 64  # of frames in pixels
LENGTH = 5  # flow fields in a stack, so that clips may be short
CLASSES, GROUPS = 3, 10
RANDOM = ['--spatial_weights=random', '--motion_weights=random']
# of the whole networks on small images, so that thousands of clips take minutes
SMALL = [f'--stack_length={LENGTH}', '--lstm_units=64,32']


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_bool('quick', False, 'Few and short clips, to see that it runs.')


def draw(path, frames, seed=0):
    """Writes a video of drifting texture."""
    random = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(random.uniform(-400, 655, (SIZE, SIZE, 3)), (0, 0), 3)
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25.0, (SIZE, SIZE))
    for t in range(frames):
        writer.write(np.roll(texture, (seed * t // 2, 2 * t), (0, 1)))
    writer.release()


def copies(folder, drawn, count):
    """A folder of `count` clips by UCF101's names, each one of the drawn videos.

    Groups 1 to 7 are tested in split 1, so with ten of them most clips are scored.
    """
    for n in range(count):
        label, group, number = f'C{n % CLASSES}', n // CLASSES % GROUPS + 1, n // 30
        path = folder / label / f'v_{label}_g{group:02}_c{number:03}.avi'
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn[n % len(drawn)], path)
    return folder


def preprocess(videos, data_dir):
    """(seconds, peak GiB) of optical_flow.py."""
    words = [f'--video_dir={videos}', f'--data_dir={data_dir}', f'--frame_size={SIZE}']
    return bench_stages.timed('optical_flow.py', *words)


def train(stage, data_dir, train_dir, cnns, *words):
    """(seconds, peak GiB) of a stage of train.py."""
    place = [f'--data_dir={data_dir}', f'--train_dir={train_dir}', *cnns, *SMALL]
    return bench_stages.timed('train.py', f'--stage={stage}', *place, *words)


def report(what, unit, counts, runs):
    """Prints a line of the table.

    Args:
      what: the program.
      unit: what it is repeated for.
      counts: three numbers of units.
      runs: (seconds, peak GiB) of each.
    """
    seconds, memory = np.array(runs).T
    line = np.polyfit(counts, seconds, 1, w=1 / seconds)
    error = np.abs(np.polyval(line, counts) / seconds - 1).max()
    shown = ', '.join(f'{value:.1f}' for value in seconds)
    print(
        f'| {what} | {", ".join(f"{n:,}" for n in counts)} {unit}s | {shown} s | '
        f'{1000 * line[0]:.3g} ms a {unit} | {error:.1%} | '
        f'{", ".join(f"{value:.2f}" for value in memory)} GiB | '
        f'{memory[-1] / memory[-2] - 1:+.1%} |',
        flush=True,
    )


def by_clips(folder, counts):
    """Preprocessing, features, a hybrid and its evaluation by the number of clips."""
    drawn = [folder / f'drawn/{n}.avi' for n in range(10)]
    for n, path in enumerate(drawn):
        draw(path, 12, n)
    runs = {'optical_flow.py': [], '--stage=features': [], 'evaluate.py': []}
    for count in counts:
        videos, data = folder / f'videos-{count}', folder / f'data-{count}'
        runs['optical_flow.py'].append(
            preprocess(copies(videos, drawn, count), data)
        )
        made = folder / f'features-{count}'
        segments = '--num_segments=2'
        taken = train('features', data, made, RANDOM, segments)
        runs['--stage=features'].append(taken)
        cnns = [f'--{s}_weights={made}' for s in ('spatial', 'motion')]
        run = folder / f'hybrid-{count}'
        train('hybrid', data, run, cnns, segments, '--max_steps=2')
        taken = bench_stages.timed('evaluate.py', f'--train_dir={run}')
        runs['evaluate.py'].append(taken)
    for what, taken in runs.items():
        report(f'`{what}`', 'clip', counts, taken)
    return run


def by_frames(folder, run, counts):
    """Preprocessing and classifying one video by its frames."""
    made, classified = [], []
    for count in counts:
        draw(folder / f'long-{count}/A/v_A_g01_c01.avi', count, 1)
        videos = folder / f'long-{count}'
        made.append(preprocess(videos, folder / f'data-long-{count}'))
        words = [f'--video={videos}', f'--out_dir={folder / f"shown-{count}"}']
        taken = bench_stages.timed('evaluate.py', f'--train_dir={run}', *words)
        classified.append(taken)
    report('`optical_flow.py`', 'frame', counts, made)
    report('`evaluate.py --video`', 'frame', counts, classified)


def by_segments(folder, counts):
    """Features and training by T, of clips that have as many different samples."""
    drawn = [folder / f'drawn/of-t{n}.avi' for n in range(10)]
    for n, path in enumerate(drawn):
        draw(path, counts[-1] + LENGTH, n)
    data = folder / 'data-t'
    preprocess(copies(folder / 'videos-t', drawn, 30), data)
    steps = {'hybrid': 200, 'joint': 5}
    runs = {'features': [], 'hybrid': [], 'joint': []}
    for count in counts:
        segments = f'--num_segments={count}'
        made = folder / f'features-t{count}'
        runs['features'].append(train('features', data, made, RANDOM, segments))
        cnns = [f'--{s}_weights={made}' for s in ('spatial', 'motion')]
        for stage, number in steps.items():
            run, limit = folder / f'{stage}-t{count}', f'--max_steps={number}'
            runs[stage].append(train(stage, data, run, cnns, segments, limit))
    for stage, taken in runs.items():
        report(f'`--stage={stage}`', 'sample', counts, taken)


def main(values):
    """Prints the table."""
    os.chdir(bench_stages.ROOT)
    quick = values.quick
    print(
        '| | units | seconds | slope | off the line | peak memory | last step |\n'
        '|---|---|---|---|---|---|---|'
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = by_clips(folder, (30, 60, 90) if quick else (30, 300, 3000))
        by_frames(folder, run, (20, 40, 60) if quick else (100, 1000, 10000))
        by_segments(folder, (2, 3, 4) if quick else (5, 25, 100))


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
