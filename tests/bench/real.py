"""Trains and measures every part of the method on a folder of real videos.

    python -m tests.bench.real --clips=FOLDER --group_regex='^([a-z]+)_'
    python -m tests.bench.real --clips=FOLDER --folds=1,2,3 --seeds=0 \\
        --flows=farneback,dis-medium --runs=motion-cnn
    python -m tests.bench.real --count

FOLDER holds videos/<class>/ and splits/ with lists in UCF101's format. Each step is a
command of the project, printed as it is run; finished ones are not repeated. The CNNs
are trained once a fold; the seeds vary what is trained on their cached features. Each
run's predictions.csv is kept in tests/bench/results/, so that another machine can
continue a table; keep the runs of one fold on one machine. From these files, tables
are written into tests/bench/README.md and a summary into README.md; --count does this
alone. With another --results both go into a README.md there.
"""

import concurrent.futures
import csv
import io
import json
import pathlib
import subprocess
import sys
import threading
import time

from absl import flags

from data import clips
from data import splits
from results import command_line
from tests.bench import flow_histogram
from tests.bench import real_plan
from tests.bench import real_tables

BENCH = pathlib.Path(__file__).parent
ROOT = BENCH.parent.parent
# with --jobs, several threads write the same JSON files
WRITING = threading.RLock()


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_string('clips', None, 'Folder with videos/ and lists.')
    flags.DEFINE_string('splits', 'splits', 'Folder of the lists in --clips.')
    flags.DEFINE_string(
        'group_regex', splits.UCF101_GROUP, "Finds a clip's group in its file name."
    )
    flags.DEFINE_list('folds', None, 'Which splits of the lists (default: all).')
    flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of what is trained on features.')
    flags.DEFINE_list('flows', ['farneback'], 'Flow algorithms, such as dis-medium.')
    flags.DEFINE_list('runs', list(real_plan.RUNS), f'Of {", ".join(real_plan.RUNS)}.')
    flags.DEFINE_integer('frame_size', 112, 'Stored height and width.')
    flags.DEFINE_string(
        'spatial_weights',
        'random',
        'Dump that the spatial CNN starts from; random: an untrained one is used.',
    )
    flags.DEFINE_integer(
        'validation_groups', 0, 'Train groups that every stage holds out.', 0
    )
    for stage in ('motion', 'spatial', 'hybrid'):
        flags.DEFINE_string(f'{stage}_flags', '', f'For train.py, stage {stage}.')
    flags.DEFINE_string(
        'compute_flags', '', 'For train.py: how it calculates, such as --bfloat16.'
    )
    flags.DEFINE_string('evaluate_flags', '', 'For evaluate.py.')
    # programs share the cores; on a GPU they share its memory as well, see README.md
    flags.DEFINE_integer('jobs', 1, 'Programs that run at once.', 1)
    flags.DEFINE_string('work', 'runs/real', 'Folder to work in.')
    flags.DEFINE_string('results', 'tests/bench/results', 'Where predictions go.')
    flags.DEFINE_bool('count', False, 'Only write the tables of --results again.')


# -- one run --------------------------------------------------------------------------


def command(work, made, *words):
    """Runs a program of the project unless that has been done; returns its minutes.

    Args:
      work: folder of minutes.json, which has minutes of each command by its words.
      made: file that the command makes.
      words: what follows `python`.

    Raises:
      ValueError: it failed.
    """
    path = work / 'minutes.json'
    key = ' '.join(map(str, words))
    with WRITING:
        minutes, finished = real_tables.read_json(path, {}).get(key, (0, False))
    if finished and made.exists():
        return minutes
    print(f'python {key}', flush=True)
    began = time.monotonic()
    code = None
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        code = done.returncode
    finally:  # Ctrl-C counts too
        minutes += (time.monotonic() - began) / 60
        with WRITING:
            known = real_tables.read_json(path, {})
            real_tables.write_json(path, {**known, key: (minutes, code == 0)})
    if code:
        raise ValueError(f'exit code {code}: python {key}')
    return minutes


def preprocess(plan, flow):
    """Frames and flow of all clips."""
    name, _, preset = flow.partition('-')
    command(
        plan.work,
        plan.data_dir(flow) / 'clips.csv',
        'optical_flow.py',
        f'--video_dir={plan.clips / "videos"}',
        f'--data_dir={plan.data_dir(flow).absolute()}',
        f'--frame_size={plan.frame_size}',
        f'--flow={name}',
        *([f'--dis_preset={preset}'] if preset else []),
    )


def train(plan, fold, flow, train_dir, *words):
    """Trains a run; returns minutes."""
    return command(
        plan.work,
        train_dir / 'run.json',
        'train.py',
        f'--data_dir={plan.data_dir(flow).absolute()}',
        f'--split_dir={plan.split_dir}',
        f'--split={fold}',
        f'--group_regex={plan.spec["group_regex"]}',
        f'--train_dir={train_dir.absolute()}',
        *words,
    )


def cache_features(plan, fold, flow):
    """Fills the feature cache of a fold; returns the flags that name its CNNs."""
    words = []
    for stream, run in real_plan.CNNS.items():
        train_dir = plan.train_dir(fold, run, flow, 0)
        if stream == 'spatial' and plan.spatial_weights == 'random':
            # an untrained network knows no clip, so one serves all folds
            train_dir = plan.train_dir('untrained', run, flow, 0)
            given = ['--stage=features', '--branches=spatial_lstm']
            given += ['--spatial_weights=random', *plan.words['hybrid']]
            train(plan, plan.folds[0], flow, train_dir, *given)
        words.append(f'--{stream}_weights={train_dir.absolute()}')
    given = ['--stage=features', *words, *plan.words['hybrid']]
    train_dir = plan.train_dir(fold, 'features', flow, 0)
    minutes = train(plan, fold, flow, train_dir, *given)
    note(plan, (fold, 'features', flow, 0), {'minutes': round(minutes, 2)})
    return words


def train_and_evaluate(plan, fold, run, flow, seed):
    """Makes a run's predictions and keeps them with its flags and minutes."""
    stage, words = real_plan.RUNS[run]
    train_dir = plan.train_dir(fold, run, flow, seed)
    given = [f'--stage={stage}', f'--seed={seed}', *words]
    if stage == 'hybrid':
        given += cache_features(plan, fold, flow)
    if stage == 'spatial':
        dump = pathlib.Path(plan.spatial_weights).absolute()
        given.append(f'--spatial_weights={dump}')
    given += [*plan.words.get('all', []), *plan.words[stage], *plan.words['compute']]
    minutes = train(plan, fold, flow, train_dir, *given)
    minutes += command(
        plan.work,
        train_dir / 'evaluation.json',
        'evaluate.py',
        f'--train_dir={train_dir.absolute()}',
        *plan.words['evaluate'],
        *(['--checkpoint=searched'] if run == 'searched' else []),
    )
    used = json.loads((train_dir / 'run.json').read_text('utf-8'))['flags']
    text = (train_dir / 'predictions.csv').read_text(**clips.TEXT)
    keep(plan, (fold, run, flow, seed), text, minutes, used)


def count_histograms(plan, fold, flow):
    """The predictions of the flow histograms, kept as those of a run."""
    began = time.monotonic()
    data_dir = plan.data_dir(flow)
    index = clips.read_index(data_dir)
    split = splits.load(index, plan.split_dir, fold, plan.spec['group_regex'])
    names = [example.clip for example in split.train + split.test]
    described = flow_histogram.describe_clips(data_dir, names)
    features = dict(zip(names, described, strict=True))
    predicted, strength = flow_histogram.classify(features, split)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['clip', 'label', 'prediction'])
    for example, label in zip(split.test, predicted, strict=True):
        shown, found = split.class_names[example.label], split.class_names[label]
        writer.writerow([example.clip, shown, found])
    minutes = (time.monotonic() - began) / 60
    keep(plan, (fold, 'histogram', flow, 0), text.getvalue(), minutes, {})
    print(f'flow histograms of fold {fold}: strength {strength:g}')


def keep(plan, of_run, text, minutes, used):
    """Keeps a run's predictions, and beside them its recipe, flags and minutes.

    Args:
      plan: the Plan.
      of_run: (fold, run, flow, seed).
      text: content of predictions.csv.
      minutes: of training and evaluation.
      used: flags of train.py, in full.
    """
    used = {k: v for k, v in used.items() if k not in real_tables.PLACES}
    recipe = real_plan.recipe_of(plan, *of_run[1:3])
    entry = {'recipe': recipe, 'minutes': round(minutes, 2), 'flags': used}
    note(plan, of_run, entry)
    real_tables.write_text(plan.csv(*of_run), text)


def note(plan, of_run, entry):
    """Writes what is known of a run into its fold's runs.json."""
    path = plan.csv(*of_run)
    with WRITING:
        known = real_tables.read_json(path.with_name('runs.json'), {})
        known[path.stem] = entry
        real_tables.write_json(path.with_name('runs.json'), known)


# -- all of them ----------------------------------------------------------------------


def kept(plan, fold, run, flow, seed):
    """Whether a run's predictions are there.

    Raises:
      ValueError: they are, but of a run with other flags.
    """
    path = plan.csv(fold, run, flow, seed)
    if not path.is_file():
        return False
    entry = real_tables.read_json(path.with_name('runs.json'), {}).get(path.stem, {})
    then, now = entry.get('recipe', []), real_plan.recipe_of(plan, run, flow)
    if then != now:
        gone, new = (
            ', '.join(word for word in words if word not in others) or 'another order'
            for words, others in ((then, now), (now, then))
        )
        raise ValueError(
            f'{path} was made with other flags ({gone}, not {new}): delete it, or give '
            'another --results'
        )
    return True


def missing(plan, fold, flow):
    """(run, seed) of what is to be done in a fold, CNNs first.

    What is trained on features belongs to the CNNs that gave them: where a CNN has to
    be trained again, all of it is.
    """
    wanted = [
        (run, seed)
        for run, of_flow, seeds in real_tables.rows_of(plan.spec)
        for seed in seeds
        if of_flow == flow
    ]
    todo = [which for which in wanted if not kept(plan, fold, which[0], flow, which[1])]
    stages = {real_plan.RUNS[run][0] for run, _ in todo}
    if 'hybrid' not in stages:
        return todo
    needed = [real_plan.CNNS['motion']]
    needed += [real_plan.CNNS['spatial']] * (plan.spatial_weights != 'random')
    absent = [
        run
        for run in needed
        if not (plan.train_dir(fold, run, flow, 0) / 'evaluation.json').is_file()
    ]
    if not absent:
        return todo
    redone = [(run, seed) for run, seed in wanted if real_plan.RUNS[run][0] == 'hybrid']
    if set(redone) - set(todo):
        print(
            f'fold {fold}: {", ".join(absent)} is not in {plan.work}, so it is trained '
            'again here, and so is all that is trained on its features'
        )
    others = [which for which in todo if which not in redone and which[0] not in absent]
    return others + [(run, 0) for run in absent] + redone


def run_all(plan, jobs=1):
    """Does what is missing, `jobs` programs at once; yields after each fold."""
    todo = {
        (fold, flow): missing(plan, fold, flow)
        for fold in plan.folds
        for flow in plan.spec['flows']
    }
    real_tables.write_json(plan.results / 'table.json', plan.spec)
    for flow in plan.spec['flows']:
        if any(todo[fold, flow] for fold in plan.folds):
            preprocess(plan, flow)
    # folds wait for their programs, so they have a pool of their own
    with (
        concurrent.futures.ThreadPoolExecutor(jobs) as programs,
        concurrent.futures.ThreadPoolExecutor(jobs) as folds,
    ):
        begun = [folds.submit(run_fold, plan, *of, todo[of], programs) for of in todo]
        try:
            for fold in begun:
                fold.result()
                yield
        finally:
            for fold in begun:
                fold.cancel()


def run_fold(plan, fold, flow, todo, programs):
    """Does what is missing in a fold: CNNs, then their features, then what is trained
    on them; each step by the pool `programs`."""

    def run_one(which):
        run, seed = which
        if run == 'histogram':
            return count_histograms(plan, fold, flow)
        return train_and_evaluate(plan, fold, run, flow, seed)

    on_features = [which for which in todo if real_plan.RUNS[which[0]][0] == 'hybrid']
    list(programs.map(run_one, [which for which in todo if which not in on_features]))
    if on_features:
        programs.submit(cache_features, plan, fold, flow).result()
        list(programs.map(run_one, on_features))


def main(values):
    """Runs what is missing and writes the tables."""
    page, readme = BENCH / 'README.md', ROOT / 'README.md'
    if values.results != values['results'].default:  # a trial
        page = readme = pathlib.Path(values.results, 'README.md')
    places = values.results, page, readme
    plan = None if values.count else real_plan.plan_of(values)
    for _ in run_all(plan, values.jobs) if plan else ():
        real_tables.write(*places)
    written, summarized = real_tables.write(*places)
    for name, lines in written.items():
        if not plan or name == plan.results.name:
            print('\n'.join(['', f'{name}:', '', *lines]))
    if not summarized:
        print(f'{readme} has no <!-- summary: begin --> and end: no summary written')


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
