"""Trains and measures everything on real video, the Weizmann action set.

    python -m tests.bench.weizmann --clips=FOLDER --folds=1 --readme

FOLDER holds videos/<class>/<actor>_<class>.avi and splits/ with three folds in UCF101's
list format, three unseen actors tested in each. Every step is a command of the project,
printed as it is run; finished ones are not repeated. The figures are counted again from
the runs' predictions.csv, pooled over the folds, and with --readme written into
README.md between its marks.
"""

import csv
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import flags

from data import command_line
from results import measures

# what is trained on the cached features -> its flags
HYBRIDS = {
    'everything, one softmax': [],
    'everything, late fusion': ['--head=late'],
    'motion LSTM': ['--branches=motion_lstm'],
    'fusion network': ['--branches=fusion'],
}
MARKS = ('<!-- weizmann: begin -->', '<!-- weizmann: end -->')
ACTOR = '^([a-z]+)_'


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('clips', None, 'Folder with videos/ and splits/.')
    flags.DEFINE_string('work', 'runs/weizmann', 'Folder to work in.')
    flags.DEFINE_list('folds', ['1', '2', '3'], 'Which folds.')
    flags.DEFINE_integer('frame_size', 224, 'Stored height and width.')
    flags.DEFINE_integer('motion_steps', 400, 'Steps of the motion stage.')
    flags.DEFINE_integer('num_steps', 12, 'Steps that stand for a clip.')
    flags.DEFINE_integer('hybrid_steps', 400, 'Steps of each hybrid.')
    flags.DEFINE_bool('readme', False, 'Write the table into README.md.')


def command(work, *words):
    """Runs a command of the project unless it has been; returns its minutes.

    Raises:
      ValueError: it failed.
    """
    done = pathlib.Path(work, 'minutes.json')
    minutes = json.loads(done.read_text()) if done.exists() else {}
    key = ' '.join(words)
    print(f'python {key}', flush=True)
    if key not in minutes:
        began = time.monotonic()
        ended = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL)
        if ended.returncode:
            raise ValueError(f'exit code {ended.returncode}: python {key}')
        minutes[key] = (time.monotonic() - began) / 60
        done.write_text(json.dumps(minutes, indent=1))
    return minutes[key]


def read_predictions(train_dir):
    """(right bool [N], group 'class/actor' [N]) of a run's predictions.csv."""
    with open(pathlib.Path(train_dir, 'predictions.csv'), encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    right = np.array([row['label'] == row['prediction'] for row in rows])
    return right, [row['clip'].split('/')[1].split('_')[0] for row in rows]


def run_folds(values):
    """Runs every command; returns [(name, list of train_dirs, minutes a fold)]."""
    work, folder = pathlib.Path(values.work), pathlib.Path(values.clips)
    work.mkdir(parents=True, exist_ok=True)
    data_dir = work / f'preprocessed-{values.frame_size}'
    flow_minutes = command(
        work,
        'optical_flow.py',
        f'--video_dir={folder / "videos"}',
        f'--data_dir={data_dir}',
        f'--frame_size={values.frame_size}',
    )
    print(f'preprocessing: {flow_minutes:.1f} minutes')
    spatial = work / f'spatial-{values.frame_size}'  # untrained, one for all folds
    runs = {name: ([], []) for name in ['motion CNN', *HYBRIDS]}
    for fold in values.folds:
        common = [
            'train.py',
            f'--data_dir={data_dir}',
            f'--split_dir={folder / "splits"}',
            f'--split={fold}',
            f'--group_regex={ACTOR}',
            f'--num_steps={values.num_steps}',
        ]
        motion = work / f'motion-{values.frame_size}-{fold}'
        for name, (train_dirs, minutes) in runs.items():
            if name == 'motion CNN':
                train_dir = motion
                words = [
                    '--stage=motion',
                    '--motion_weights=random',
                    f'--steps={values.motion_steps}',
                ]
            else:
                command(  # once: it is the same command for every fold
                    work,
                    *common[:3],
                    '--split=1',
                    *common[4:],
                    f'--train_dir={spatial}',
                    '--stage=features',
                    '--branches=spatial_lstm',
                    '--spatial_weights=random',
                )
                slug = name.replace(',', '').replace(' ', '-')
                train_dir = work / f'{slug}-{values.frame_size}-{fold}'
                words = [
                    f'--spatial_weights={spatial}',
                    f'--motion_weights={motion}',
                    '--lstm_units=256,128',
                    f'--steps={values.hybrid_steps}',
                    *HYBRIDS[name],
                ]
            took = command(work, *common, f'--train_dir={train_dir}', *words)
            command(work, 'evaluate.py', f'--train_dir={train_dir}')
            train_dirs.append(train_dir)
            minutes.append(took)
    return [(name, dirs, np.mean(minutes)) for name, (dirs, minutes) in runs.items()]


def table(runs, values):
    """The README's lines: commands, figures with intervals, minutes."""
    folds = ','.join(values.folds)
    names = ('frame_size', 'motion_steps', 'num_steps', 'hybrid_steps')
    words = ' '.join(f'--{name}={values[name].value}' for name in names)
    lines = [
        '    python -m tests.bench.weizmann --clips=FOLDER --readme \\',
        f'        --folds={folds} {words}',
        '',
        f'Fold {folds}; every clip shows an actor not trained on; chance is 10 %.',
        '',
        '| trained | top-1 | right | 95 % by clips | 95 % by actors | minutes a fold |',
        '|---|---|---|---|---|---|',
    ]
    for name, train_dirs, minutes in runs:
        found = [read_predictions(train_dir) for train_dir in train_dirs]
        right = np.concatenate([one for one, _ in found])
        groups = sum((names for _, names in found), [])
        low, high = measures.wilson_interval(int(right.sum()), len(right))
        group_low, group_high = measures.group_interval(right, groups)
        lines.append(
            f'| {name} | {right.mean():.1%} | {right.sum()} of {len(right)} | '
            f'{low:.0%}-{high:.0%} | {group_low:.0%}-{group_high:.0%} | {minutes:.1f} |'
        )
    return lines


def main(values):
    """Runs, prints and, where asked, writes the table into README.md."""
    if not values.clips:
        raise ValueError('--clips=FOLDER is needed: videos/ and splits/ of Weizmann')
    lines = table(run_folds(values), values)
    print('\n'.join(['', *lines]))
    if values.readme:
        path = pathlib.Path('README.md')
        before, rest = path.read_text(encoding='utf-8').split(MARKS[0])
        _, after = rest.split(MARKS[1])
        text = '\n'.join([before + MARKS[0], *lines, MARKS[1] + after])
        path.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
