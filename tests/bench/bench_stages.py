"""Time and memory of each stage at full size, and what that makes on UCF101.

    python -m tests.bench.bench_stages

Draws videos, preprocesses them at 224 pixels and runs the programs as a user does, each
for a few and for more steps or clips: the slope between the two leaves start-up out.
Peak memory is that of the longer run. UCF101 has 13,320 clips of 2.4 million frames,
9,537 of them to train on and 3,783 to test in split 1.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FRAMES, CLIPS, TESTED = 2.4e6, 13320, 3783
SEGMENTS = '--num_segments=25'
GROUPS = ('_g01_', '_g08_', '_g09_')  # one that is tested, two that are trained on
# stage -> steps of a run by default, steps of the two runs that are timed, flags
STAGES = {
    'spatial': (2000, (2, 6), ['--spatial_weights=random', '--train_layers=fc']),
    'motion': (10000, (2, 6), ['--motion_weights=random']),
    'hybrid': (2000, (5, 25), [SEGMENTS]),
    'joint': (2000, (1, 5), [SEGMENTS]),
}


def timed(*words):
    """Runs one of the programs; returns (seconds, peak memory in GiB)."""
    begun = time.perf_counter()
    words = [sys.executable, *map(str, words)]
    with open(os.devnull, 'w') as nowhere:
        actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        process = os.posix_spawn(
            sys.executable, words, os.environ, file_actions=actions
        )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f'{" ".join(words)} failed')
    return time.perf_counter() - begun, usage.ru_maxrss / 2**20


def slope(run, few, more):
    """(seconds a unit, peak memory in GiB) of run(count) between two counts."""
    (begin, _), (end, memory) = run(few), run(more)
    return (end - begin) / (more - few), memory


def report(name, unit, seconds, total, memory):
    """Prints a line of the table."""
    hours = seconds * total / 3600
    print(f'| {name} | {seconds:.3g} s a {unit} | {hours:.3g} h | {memory:.1f} GiB |')


def main():
    """Prints the table."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        videos, data = folder / 'videos', folder / 'data'
        timed('-m', 'data.synthetic.draw', f'--out={videos}', '--groups=9', '--clips=1')
        paths = sorted(str(p.relative_to(videos)) for p in videos.glob('*/*.avi'))

        def preprocess(count):
            listed = folder / f'{count}.txt'
            listed.write_text('\n'.join(paths[:count]) + '\n')
            to = f'--data_dir={folder / str(count)}'
            return timed(
                'optical_flow.py', f'--video_dir={videos}', to, f'--list={listed}'
            )

        seconds, memory = slope(preprocess, 8, 40)
        chosen = [path for path in paths if any(group in path for group in GROUPS)]
        (folder / 'list.txt').write_text('\n'.join(chosen) + '\n')
        listed = f'--list={folder / "list.txt"}'
        timed('optical_flow.py', f'--video_dir={videos}', f'--data_dir={data}', listed)
        rows = (data / 'clips.csv').read_text().splitlines()
        columns = rows[0].split(',')
        frames = [int(row.split(',')[columns.index('frames')]) for row in rows[1:]]
        mean = sum(frames) / len(frames)
        print(
            '| stage | measured | UCF101, computed | peak memory |\n|---|---|---|---|'
        )
        report('`optical_flow.py`', 'frame', seconds / mean, FRAMES, memory)

        for stage, (total, counts, words) in STAGES.items():
            if stage in ('hybrid', 'joint'):
                cnns = [
                    f'--{s}_weights={folder}/features' for s in ('spatial', 'motion')
                ]
                words = [*words, *cnns]
            if stage == 'hybrid':
                features(folder, data)

            def train(count, stage=stage, words=tuple(words)):
                train_dir = f'--train_dir={folder}/{stage}-{count}'
                steps = [f'--max_steps={count}', f'--checkpoint_every={10**6}']
                place = [f'--stage={stage}', f'--data_dir={data}', train_dir]
                return timed('train.py', *place, *words, *steps)

            seconds, memory = slope(train, *counts)
            report(f'`--stage={stage}`', 'step', seconds, total, memory)
        evaluate(folder)


def features(folder, data):
    """The feature cache of both streams."""
    words = ['train.py', '--stage=features', f'--data_dir={data}', SEGMENTS]
    words += [f'--train_dir={folder}/features', '--spatial_weights=random']
    words += ['--motion_weights=random']
    timed(*words, '--shard=0/12')  # saves the random CNNs, which is not timed
    made = len(list((data / 'features').glob('spatial-*/*/*.npy')))
    took, memory = timed(*words)
    count = len(list((data / 'features').glob('spatial-*/*/*.npy'))) - made
    start_up, _ = timed(*words)  # nothing is left to do
    seconds = (took - start_up) / count
    report('`--stage=features`, both streams', 'clip', seconds, CLIPS, memory)


def evaluate(folder):
    """Evaluation of the hybrid on its cached features, by its own clock."""
    run = pathlib.Path(folder, 'hybrid-25')
    _, memory = timed('evaluate.py', f'--train_dir={run}')
    rate = json.loads((run / 'evaluation.json').read_text())['clips_per_second']
    report('`evaluate.py`, hybrid', 'clip', 1 / rate, TESTED, memory)


if __name__ == '__main__':
    main()
