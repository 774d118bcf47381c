"""Counts the demo's accuracies and holds them against what is possible.

    python -m data.synthetic.accuracies --runs=runs/demo --data=data/demo/preprocessed

Each figure is counted again from the run's predictions.csv. What is expected follows
from the demo's three binary factors: a model that cannot tell one of them is right half
of the time. Ends with exit code 1 where the full model misses 95 %, or an ablation is
more than three standard errors off what is expected (without LSTMs it may be lower):
then a clue leaks, or something does not learn.
"""

import csv
import glob
import json
import math
import os

from absl import flags

from results import command_line
from results import files

FULL_AT_LEAST = 0.95
# run -> (expected, what is left out). Without LSTMs the mean of features may be weaker.
EXPECTED = {
    'full': (1.0, 'nothing: both LSTMs and the fusion network'),
    'no_lstm': (0.5, 'the LSTMs, so the order'),
    'no_motion': (0.25, 'motion and fusion, so the way of moving and the order'),
    'no_spatial': (0.5, 'frames and fusion, so the shape'),
}


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('runs', 'runs/demo', 'Folder of the four runs.')
    flags.DEFINE_string('data', 'data/demo/preprocessed', 'Folder of the clips.')


def accuracy(path):
    """(share of right predictions, clips) counted from a predictions.csv.

    Raises:
      ValueError: the file is not there, or has no prediction.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{path} is missing: make demo writes it')
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f'{path} has no prediction')
    return sum(row['label'] == row['prediction'] for row in rows) / len(rows), len(rows)


def verdict(name, share, count):
    """'' where the figure is as it must be, else what is wrong with it."""
    expected, _ = EXPECTED[name]
    if name == 'full':
        return '' if share >= FULL_AT_LEAST else f'below {FULL_AT_LEAST:.0%}'
    band = 3 * math.sqrt(expected * (1 - expected) / count)
    if share > expected + band:
        return f'above {expected + band:.0%}: a clue leaks'
    if share < expected - band and name != 'no_lstm':
        return f'below {expected - band:.0%}'
    return ''


def main(values):
    """Writes results.json, prints the table and where the figures are."""
    counted = {
        name: accuracy(os.path.join(values.runs, name, 'predictions.csv'))
        for name in EXPECTED
    }
    results = os.path.join(values.runs, 'results.json')
    with files.whole(results, encoding='utf-8') as file:
        json.dump({name: share for name, (share, _) in counted.items()}, file, indent=1)
    print(f'\n{"run":<12}{"accuracy":>9}{"expected":>9}{"clips":>7}  left out')
    wrong = []
    for name, (share, count) in counted.items():
        expected, left_out = EXPECTED[name]
        trouble = verdict(name, share, count)
        wrong += [f'{name} {share:.1%} is {trouble}'] if trouble else []
        print(f'{name:<12}{share:>9.1%}{expected:>9.0%}{count:>7}  {left_out}')
    figures = glob.glob(os.path.join(values.runs, '*', '*.png'))
    figures += glob.glob(os.path.join(values.data, '**', '*.png'), recursive=True)
    figures += glob.glob(os.path.join(values.runs, '*', 'report.html'))
    print(f'\naccuracies: {results}\nfigures and reports:')
    for figure in sorted(figures):
        print(f'  {figure}')
    if wrong:
        raise ValueError('; '.join(wrong))


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
