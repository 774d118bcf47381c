"""Counts the tables of real.py from the predictions that are kept with the project.

    python -m tests.bench.real --count

    tests/bench/results/<table>/table.json            what the table compares
    tests/bench/results/<table>/<fold>/runs.json      flags and minutes of each run
    tests/bench/results/<table>/<fold>/<run>-seed<k>.csv   predictions.csv of the run

Accuracies, intervals and tests come from the csv files alone. A fold is counted once
every run of the table has its file there. Tables go between `<!-- NAME: begin -->` and
`<!-- NAME: end -->`.
"""

import json
import os
import pathlib
import re
import shlex
import textwrap
from typing import NamedTuple

import numpy as np

from data import clips
from data import splits
from results import measures
from results import tables

WHOLE = 'everything'  # the run that is tested against each other one
FLOOR = 'histogram'
TITLES = {
    FLOOR: 'flow histogram + ridge regression',
    'motion-cnn': 'motion CNN',
    'spatial-cnn': 'spatial CNN',
    'motion-lstm': 'motion LSTM',
    'spatial-lstm': 'spatial LSTM',
    'fusion': 'fusion network',
    WHOLE: 'everything, one softmax',
    'late': 'everything, late fusion, learned',
    'searched': 'everything, late fusion, searched',
}
PARTS = ('motion-cnn', 'spatial-cnn', 'motion-lstm', 'spatial-lstm', 'fusion')
# of these one run serves all seeds, which vary from the cached features on
ONE_SEED = (FLOOR, 'motion-cnn', 'spatial-cnn')
# flags of train.py that may differ between the runs of one row
PLACES = {
    'data_dir', 'train_dir', 'split_dir', 'split', 'seed', 'spatial_weights',
    'motion_weights', 'workers', 'read_ahead', 'shard', 'log_every', 'histograms',
}  # fmt: skip
# these may follow from the number of clips, which differs between folds
BY_CLIPS = {'max_steps', 'decay_steps', 'checkpoint_every'}
ROUNDING = {'bfloat16'}  # may differ as a machine's rounding does
SHOWN = 4  # confusions and groups in the line of mistakes


class Table(NamedTuple):
    """A table's runs, counted."""

    name: str
    spec: dict  # content of table.json
    folds: list
    labels: np.ndarray  # true classes by name, [N]
    groups: list  # of N names
    predicted: dict  # (run, flow) -> predicted classes by name, [S, N], one row a seed
    minutes: dict  # (run, flow) -> mean minutes of training


def stem(spec, run, flow, seed):
    """Name of a run's csv file without its ending."""
    of_flow = f'-{flow}' if len(spec['flows']) > 1 else ''
    return f'{run}{of_flow}-seed{seed}'


def rows_of(spec):
    """(run, flow, seeds) of each row of the table."""
    return [
        (run, flow, [0] if run in ONE_SEED else spec['seeds'])
        for flow in spec['flows']
        for run in spec['runs']
    ]


def title_of(spec, run, flow):
    """What a row is called."""
    return f'{TITLES[run]}, {flow}' if len(spec['flows']) > 1 else TITLES[run]


def read_json(path, default=None):
    """Content of a JSON file, or `default` where there is none."""
    path = pathlib.Path(path)
    return json.loads(path.read_text('utf-8')) if path.is_file() else default


def write_json(path, content):
    """Writes a JSON file, whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}')
    temporary.write_text(json.dumps(content, indent=1) + '\n', 'utf-8')
    os.replace(temporary, path)


# -- counting -------------------------------------------------------------------------


def complete_folds(folder, spec):
    """Numbers of the folds in which every run of the table has its file."""
    stems = [
        stem(spec, run, flow, seed)
        for run, flow, seeds in rows_of(spec)
        for seed in seeds
    ]
    return [
        fold
        for fold in sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
        if all((folder / f'{fold}/{name}.csv').is_file() for name in stems)
    ]


def group_of(clip, group_regex):
    """The recording or person that a clip shows; UCF101 numbers them in each class."""
    group = splits.group_of(clip, group_regex)
    of_class = group_regex == splits.UCF101_GROUP
    return f'{clip.split("/")[0]}/{group}' if of_class else group


def check_same_flags(entries):
    """Raises ValueError where runs of one row were trained with different flags.

    Args:
      entries: dict path of a run's csv -> its entry of runs.json.
    """
    free, first = PLACES | BY_CLIPS | ROUNDING, None
    for path, entry in entries.items():
        flags = {k: v for k, v in entry['flags'].items() if k not in free}
        first = first or (path, flags)
        for name in sorted(first[1].keys() | flags.keys()):
            then, now = first[1].get(name), flags.get(name)
            if then != now:
                raise ValueError(
                    f'{first[0]} was trained with {name} {then}, {path} with {now}: '
                    'delete the older of the two and run the same command again'
                )


def load(folder):
    """Reads a table's csv files.

    Args:
      folder: tests/bench/results/<table>.

    Returns:
      A Table, or None where no fold is complete.

    Raises:
      ValueError: files of one fold list different clips, or runs of one row were
        trained with different flags.
    """
    folder = pathlib.Path(folder)
    spec = read_json(folder / 'table.json')
    folds = complete_folds(folder, spec)
    if not folds:
        return None
    runs = {fold: read_json(folder / f'{fold}/runs.json', {}) for fold in folds}
    truth, predicted, minutes = None, {}, {}
    for run, flow, seeds in rows_of(spec):
        entries, found = {}, []
        for seed in seeds:
            shown, answers = [], []
            for fold in folds:
                name = stem(spec, run, flow, seed)
                path = folder / f'{fold}/{name}.csv'
                rows = tables.read_predictions(path)
                shown += [(fold, clip, rows[clip][0]) for clip in sorted(rows)]
                answers += [rows[clip][1] for clip in sorted(rows)]
                entries[path] = runs[fold].get(name, {'flags': {}, 'minutes': 0})
            truth = truth or shown
            if shown != truth:
                raise ValueError(
                    f'{folder}: the files of {stem(spec, run, flow, seed)} list other '
                    'clips or classes than those of the first row: delete them and '
                    'run the same command again'
                )
            found.append(answers)
        check_same_flags(entries)
        predicted[run, flow] = np.array(found)
        minutes[run, flow] = np.mean([entry['minutes'] for entry in entries.values()])
    labels = np.array([label for _, _, label in truth])
    groups = [group_of(clip, spec['group_regex']) for _, clip, _ in truth]
    return Table(folder.name, spec, folds, labels, groups, predicted, minutes)


def figures_of(right, groups):
    """Accuracy and intervals of one row.

    Seeds are not further clips: both intervals are of the N clips, Wilson's of the mean
    number of right ones, rounded, the other of each clip's share of right answers.

    Args:
      right: bool [S, N], one row a seed.
      groups: list of N group names.

    Returns:
      dict: `top1`, `of_seeds` [S], `wilson` and `group` [low, high].
    """
    of_clip = right.mean(axis=0)
    return {
        'top1': float(of_clip.mean()),
        'of_seeds': right.mean(axis=1).tolist(),
        'wilson': measures.wilson_interval(round(of_clip.sum()), len(of_clip)),
        'group': measures.group_interval(of_clip, groups),
    }


def versus(right, other, groups):
    """One row against another on the same clips.

    Args:
      right, other: bool [S, N]; a row of one seed meets each seed of the other.
      groups: list of N group names.

    Returns:
      dict: `difference` of the mean accuracies, its `group` interval, and lists by
      seed: `only_this`, `only_other` (clips right in one alone), `mcnemar_p`.
    """
    pairs = np.broadcast_arrays(right, other)
    of_seeds = [measures.compare(a, b, groups) for a, b in zip(*pairs, strict=True)]
    difference = right.mean(axis=0) - other.mean(axis=0)
    return {
        'difference': float(difference.mean()),
        'group': measures.group_interval(difference, groups),
        'only_this': [found['only_this_right'] for found in of_seeds],
        'only_other': [found['only_other_right'] for found in of_seeds],
        'mcnemar_p': [found['mcnemar_p'] for found in of_seeds],
    }


def pairs_of(spec):
    """[((run, flow), (run, flow))] that are tested: everything against each other run,
    or, of several flow algorithms, each against the first."""
    first, *others = spec['flows']
    if others:
        return [((run, flow), (run, first)) for flow in others for run in spec['runs']]
    if WHOLE not in spec['runs']:
        return []
    return [((WHOLE, first), (run, first)) for run in spec['runs'] if run != WHOLE]


def mistakes(table, row):
    """One sentence on what a row gets wrong: classes and groups."""
    predicted = table.predicted[row]
    names, true = np.unique(table.labels, return_inverse=True)
    wrong = predicted != table.labels
    if not wrong.any():
        return f'{TITLES[row[0]].capitalize()} has no clip wrong.'
    kinds = {}
    for seed, place in zip(*np.nonzero(wrong), strict=True):
        kind = names[true[place]], predicted[seed, place]
        kinds[kind] = kinds.get(kind, 0) + 1
    by_group = {}
    for group, count in zip(table.groups, wrong.sum(axis=0), strict=True):
        by_group[group] = by_group.get(group, 0) + int(count)
    kinds = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    by_group = sorted(by_group.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    said = ', '.join(f'{a} for {b} {n}' for (b, a), n in kinds)
    where = ', '.join(f'{group} {n}' for group, n in by_group if n)
    return (
        f'Mistakes of "{TITLES[row[0]]}": {wrong.sum()} of {wrong.size} answers; the '
        f'most frequent: {said}; by group: {where}.'
    )


# -- writing --------------------------------------------------------------------------


def percent(value):
    return f'{100 * value:.1f}%'


def interval(low_high):
    return '-'.join(f'{100 * value:.0f}%' for value in low_high)


def lines_of(table):
    """The lines of one table: command, figures, paired tests, mistakes."""
    spec, folds = table.spec, ','.join(map(str, table.folds))
    words = ['python -m tests.bench.real']
    for flag in [*spec['command'], f'--folds={folds}']:
        flag, _, value = flag.partition('=')
        # a line must not end within quotes
        words.append(f'{flag}={shlex.quote(value)}'.replace(' ', '\0'))
    words = textwrap.wrap(
        ' '.join(words), 74, break_on_hyphens=False, break_long_words=False
    )
    words = [line.replace('\0', ' ') for line in words]
    most = np.unique(table.labels, return_counts=True)[1].max() / len(table.labels)
    lines = [
        '    ' + ' \\\n        '.join(words),
        '',
        f'{len(table.labels):,} clips of {len(set(table.groups)):,} groups, none of '
        f'which was trained on; the most frequent class has {percent(most)}.',
        '',
        '| trained | top-1 | by seed | 95 %, clips | 95 %, groups | minutes a run |',
        '|---|---|---|---|---|---|',
    ]
    right = {row: found == table.labels for row, found in table.predicted.items()}
    for row, of_row in right.items():
        figures = figures_of(of_row, table.groups)
        by_seed = ', '.join(f'{100 * share:.1f}' for share in figures['of_seeds'])
        lines.append(
            f'| {title_of(spec, *row)} | {percent(figures["top1"])} | {by_seed} | '
            f'{interval(figures["wilson"])} | {interval(figures["group"])} | '
            f'{table.minutes[row]:.1f} |'
        )
    if pairs_of(spec):
        lines += [
            '',
            '| against | points | 95 %, groups | only one correct | McNemar p |',
            '|---|---|---|---|---|',
        ]
    for row, other in pairs_of(spec):
        found = versus(right[row], right[other], table.groups)
        alone = zip(found['only_this'], found['only_other'], strict=True)
        lines.append(
            f'| {title_of(spec, *row)} against {title_of(spec, *other)} | '
            f'{100 * found["difference"]:+.1f} | '
            f'{" to ".join(f"{100 * value:+.1f}" for value in found["group"])} | '
            f'{", ".join(f"{a}:{b}" for a, b in alone)} | '
            f'{", ".join(f"{p:.2g}" for p in found["mcnemar_p"])} |'
        )
    whole = (WHOLE, spec['flows'][0])
    if whole in table.predicted:
        lines += ['', *textwrap.wrap(mistakes(table, whole), 88)]
    return lines


def summary_of(counted):
    """The summary's lines: one row for each table that has a part of the method."""
    lines = [
        '| data set | clips, folds | flow histogram | best part alone | '
        'everything, one softmax | late fusion |',
        '|---|---|---|---|---|---|',
    ]
    for table in counted:
        flow = table.spec['flows'][0]
        found = {
            run: figures_of(of_row == table.labels, table.groups)
            for (run, of_flow), of_row in table.predicted.items()
            if of_flow == flow
        }
        parts = [run for run in PARTS if run in found]
        if not parts and WHOLE not in found:
            continue
        cells = dict.fromkeys((FLOOR, WHOLE, 'late'), 'not run')
        for run in cells.keys() & found.keys():
            shown = percent(found[run]['top1']), interval(found[run]['wilson'])
            cells[run] = '{} ({})'.format(*shown)
        best = max(parts, key=lambda run: found[run]['top1'], default=None)
        part = f'{TITLES[best]} {percent(found[best]["top1"])}' if best else ''
        lines.append(
            f'| {table.name} | {len(table.labels):,}, {len(table.folds)} | '
            f'{cells[FLOOR]} | {part} | {cells[WHOLE]} | {cells["late"]} |'
        )
    return lines


def replaced(text, name, lines):
    """`text` with `lines` between the marks of `name`; None where it has no marks."""
    begin, end = (f'<!-- {name}: {word} -->' for word in ('begin', 'end'))
    pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(end)}', re.DOTALL)
    if not pattern.search(text):
        return None
    return pattern.sub(lambda _: '\n'.join([begin, *lines, end]), text, count=1)


def write_text(path, text):
    """Writes a text file, whole or not at all."""
    temporary = f'{path}.{os.getpid()}'
    pathlib.Path(temporary).write_text(text, **clips.TEXT)
    os.replace(temporary, path)


def write(results, page, readme, name='summary'):
    """Counts every table below `results`; writes tables and summary.

    Args:
      results: folder of the tables' folders.
      page: markdown file of the tables, made if it is not there; a table that is new
        there is added at its end.
      readme: markdown file of the summary.
      name: of the summary's marks.

    Returns:
      (dict name of each table -> its lines, whether `readme` has marks for the summary;
      without them it is left alone).
    """
    folders = sorted(p.parent for p in pathlib.Path(results).glob('*/table.json'))
    counted = [table for table in map(load, folders) if table]
    written = {table.name: lines_of(table) for table in counted}
    text = pathlib.Path(page).read_text('utf-8') if os.path.exists(page) else ''
    for table, lines in written.items():
        if replaced(text, table, lines) is None:
            text += f'\n## {table}\n\n<!-- {table}: begin -->\n<!-- {table}: end -->\n'
        text = replaced(text, table, lines)
    write_text(page, text)
    text = pathlib.Path(readme).read_text('utf-8')
    summary = replaced(text, name, summary_of(counted))
    if summary is not None:
        write_text(readme, summary)
    return written, summary is not None
