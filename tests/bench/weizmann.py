"""Trains and measures everything on real video, the Weizmann action set.

    python -m tests.bench.weizmann --clips=FOLDER --frame_size=112 --readme
    python -m tests.bench.weizmann --clips=FOLDER --frame_size=112 --readme \\
        --flows=farneback,dis-medium,dis-fast

With one flow algorithm: the motion CNN, and what is trained on its features. With
several: the motion CNN on each, since all that the algorithm changes passes through it.

FOLDER holds videos/<class>/<actor>_<class>.avi and splits/ with three folds in UCF101's
list format, three unseen actors tested in each. Every step is a command of the project,
printed as it is run; finished ones are not repeated. The figures are counted again from
the runs' predictions.csv, pooled over the folds, and with --readme written into
README.md between the marks of this frame size, or of the comparison of flow.
"""

import csv
import json
import pathlib
import re
import subprocess
import sys
import textwrap
import time

import numpy as np
from absl import flags

from results import command_line
from results import measures

# what is trained on the cached features -> its flags
HYBRIDS = {
    'everything, one softmax': [],
    'everything, late fusion': ['--head=late'],
    'motion LSTM': ['--branches=motion_lstm'],
    'fusion network': ['--branches=fusion'],
}
# what one table compares in pairs, first against second
PAIRS = [
    ('everything, one softmax', 'everything, late fusion'),
    ('everything, one softmax', 'motion CNN'),
]
ACTOR = '^([a-z]+)_'


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('clips', None, 'Folder with videos/ and splits/.')
    flags.DEFINE_string('work', 'runs/weizmann', 'Folder to work in.')
    flags.DEFINE_list('folds', ['1', '2', '3'], 'Which folds.')
    flags.DEFINE_list('flows', ['farneback'], 'Flow algorithms, the first for all.')
    flags.DEFINE_integer('frame_size', 224, 'Stored height and width.')
    flags.DEFINE_integer('motion_steps', 800, 'Steps of the motion stage.')
    flags.DEFINE_integer('motion_batch', 16, 'Stacks in each of them.')
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


def read_predictions(train_dirs):
    """(right bool [N], groups, list of N actors) of the runs' predictions.csv."""
    rows = []
    for train_dir in train_dirs:
        path = pathlib.Path(train_dir, 'predictions.csv')
        with open(path, encoding='utf-8') as file:
            rows += csv.DictReader(file)
    right = np.array([row['label'] == row['prediction'] for row in rows])
    return right, [re.search(ACTOR, row['clip'].split('/')[1])[1] for row in rows]


def preprocess(values, flow):
    """Frames and flow of all clips by the algorithm `flow`; returns their folder."""
    data_dir = pathlib.Path(values.work, f'{flow}-{values.frame_size}')
    name, _, preset = flow.partition('-')
    command(
        values.work,
        'optical_flow.py',
        f'--video_dir={pathlib.Path(values.clips, "videos")}',
        f'--data_dir={data_dir}',
        f'--frame_size={values.frame_size}',
        f'--flow={name}',
        *([f'--dis_preset={preset}'] if preset else []),
    )
    return data_dir


def train_and_evaluate(values, data_dir, fold, name, *words):
    """Trains one fold's run and scores it; returns (train_dir, minutes of training)."""
    slug = name.replace(',', '').replace(' ', '-')
    train_dir = f'{data_dir}-{slug}-{fold}'
    minutes = command(
        values.work,
        'train.py',
        f'--data_dir={data_dir}',
        f'--split_dir={pathlib.Path(values.clips, "splits")}',
        f'--split={fold}',
        f'--group_regex={ACTOR}',
        f'--num_steps={values.num_steps}',
        f'--train_dir={train_dir}',
        *words,
    )
    if '--stage=features' not in words:
        command(values.work, 'evaluate.py', f'--train_dir={train_dir}')
    return train_dir, minutes


def train_motion(values, data_dir, fold):
    """The motion CNN of one fold, from random weights: (train_dir, minutes)."""
    return train_and_evaluate(
        values,
        data_dir,
        fold,
        'motion CNN',
        '--stage=motion',
        '--motion_weights=random',
        f'--steps={values.motion_steps}',
        f'--batch_size={values.motion_batch}',
    )


def run_flows(values):
    """The motion CNN on each flow algorithm: dict name -> list of (train_dir, minutes),
    one a fold."""
    runs = {}
    for flow in values.flows:
        data_dir = preprocess(values, flow)
        runs[flow] = [train_motion(values, data_dir, fold) for fold in values.folds]
    return runs


def run_ablation(values):
    """The motion CNN and the hybrids on its features, as `run_flows` returns them."""
    data_dir = preprocess(values, values.flows[0])
    # the spatial CNN stays untrained, one for all folds
    random = ['--stage=features', '--branches=spatial_lstm', '--spatial_weights=random']
    spatial, _ = train_and_evaluate(values, data_dir, 1, 'spatial CNN', *random)
    runs = {name: [] for name in ('motion CNN', *HYBRIDS)}
    for fold in values.folds:
        motion = train_motion(values, data_dir, fold)
        runs['motion CNN'].append(motion)
        common = [
            f'--spatial_weights={spatial}',
            f'--motion_weights={motion[0]}',
            '--lstm_units=256,128',
            f'--steps={values.hybrid_steps}',
        ]
        for name, words in HYBRIDS.items():
            run = train_and_evaluate(values, data_dir, fold, name, *common, *words)
            runs[name].append(run)
    return runs


def table(runs, pairs, values, names):
    """The README's lines: commands, figures with intervals, minutes, paired tests.

    Args:
      runs: of `run_flows` or `run_ablation`.
      pairs: list of (name, other) to be tested on the same clips.
      values: the flags.
      names: of the flags that the command shows.
    """
    given = {name: values[name].value for name in names}
    words = ' '.join(
        f'--{name}={",".join(value) if isinstance(value, list) else value}'
        for name, value in given.items()
    )
    words = textwrap.wrap(words, 78, break_on_hyphens=False)
    folds = ', '.join(values.folds)
    found = {name: read_predictions([d for d, _ in of]) for name, of in runs.items()}
    lines = [
        '    python -m tests.bench.weizmann --clips=FOLDER --readme \\',
        '        ' + ' \\\n        '.join(words),
        '',
        f'{"Folds" if len(values.folds) > 1 else "Fold"} {folds}, '
        f'{len(next(iter(found.values()))[0])} clips; each shows an actor not trained '
        'on; chance is 10 %.',
        '',
        '| trained | top-1 | right | 95 % by clips | 95 % by actors | minutes a fold |',
        '|---|---|---|---|---|---|',
    ]
    for name, (right, actors) in found.items():
        low, high = measures.wilson_interval(int(right.sum()), len(right))
        group_low, group_high = measures.group_interval(right, actors)
        minutes = np.mean([of_fold for _, of_fold in runs[name]])
        lines.append(
            f'| {name} | {right.mean():.1%} | {right.sum()} of {len(right)} | '
            f'{low:.0%}-{high:.0%} | {group_low:.0%}-{group_high:.0%} | {minutes:.1f} |'
        )
    lines += [
        '',
        '| against | points | 95 % by actors | right alone | McNemar p |',
        '|---|---|---|---|---|',
    ]
    for name, other in pairs:
        (right, actors), (other_right, _) = found[name], found[other]
        versus = measures.compare(right, other_right, actors)
        low, high = versus['difference_group_bootstrap_95']
        lines.append(
            f'| {name} against {other} | {100 * versus["difference"]:+.1f} | '
            f'{100 * low:+.1f} to {100 * high:+.1f} | {versus["only_this_right"]}, '
            f'{versus["only_other_right"]} | {versus["mcnemar_p"]:.2g} |'
        )
    return lines


def around(name):
    """README.md up to the mark that begins the table `name`, and from its end on.

    Raises:
      ValueError: the marks are not there.
    """
    text = pathlib.Path('README.md').read_text(encoding='utf-8')
    begin, end = (f'<!-- weizmann {name}: {word} -->' for word in ('begin', 'end'))
    if begin not in text or end not in text:
        raise ValueError(f'README.md has no marks {begin} and {end} to write between')
    return text.partition(begin)[0] + begin, end + text.partition(end)[2]


def main(values):
    """Runs, prints and, where asked, writes the table into README.md."""
    if not values.clips:
        raise ValueError('--clips=FOLDER is needed: videos/ and splits/ of Weizmann')
    pathlib.Path(values.work).mkdir(parents=True, exist_ok=True)
    several = len(values.flows) > 1
    name = 'flow' if several else str(values.frame_size)
    if values.readme:
        around(name)  # said before hours of training
    names = ['frame_size', 'folds', 'motion_steps', 'motion_batch']
    if several:
        runs, names = run_flows(values), ['flows', *names]
        pairs = [(other, values.flows[0]) for other in values.flows[1:]]
    else:
        runs, names = run_ablation(values), [*names, 'num_steps', 'hybrid_steps']
        pairs = PAIRS
    lines = table(runs, pairs, values, names)
    print('\n'.join(['', *lines]))
    if values.readme:
        before, after = around(name)
        text = '\n'.join([before, *lines, after])
        pathlib.Path('README.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
