"""What a command of real.py asks for: the runs of a table, their folders and flags."""

import pathlib
import shlex
from typing import NamedTuple

from data import splits
from tests.bench import real_tables

# run -> (stage, flags of train.py); titles are in real_tables
RUNS = {
    'histogram': ('histogram', []),
    'motion-cnn': ('motion', ['--motion_weights=random']),
    'spatial-cnn': ('spatial', []),
    'motion-lstm': ('hybrid', ['--branches=motion_lstm']),
    'spatial-lstm': ('hybrid', ['--branches=spatial_lstm']),
    'fusion': ('hybrid', ['--branches=fusion']),
    'everything': ('hybrid', []),
    'late': ('hybrid', ['--head=late']),
    'searched': ('hybrid', ['--head=late', '--search_combination']),
}
CNNS = {'motion': 'motion-cnn', 'spatial': 'spatial-cnn'}


class Plan(NamedTuple):
    """What is run, from the flags."""

    clips: pathlib.Path
    split_dir: pathlib.Path
    frame_size: int
    folds: list  # of int
    spec: dict  # of the table: runs, flows, seeds, group_regex, command
    words: dict  # stage, 'compute', 'evaluate' or 'all' -> list of flags
    spatial_weights: str
    work: pathlib.Path
    results: pathlib.Path  # folder of this table

    def data_dir(self, flow):
        """Folder of the clips with the flow of one algorithm; tables share it."""
        return self.work / f'{self.clips.name}-{self.frame_size}-{flow}'

    def train_dir(self, fold, run, flow, seed):
        """Folder of a run."""
        name = real_tables.stem(self.spec, run, flow, seed)
        return self.work / self.results.name / str(fold) / name

    def csv(self, fold, run, flow, seed):
        """Where the predictions of a run are kept."""
        name = real_tables.stem(self.spec, run, flow, seed)
        return self.results / str(fold) / f'{name}.csv'


def table_name(folder, split_dir, frame_size, flows):
    """What a table is called: the data set, its lists, the size, the flow if not the
    default one."""
    lists = split_dir.removeprefix('splits').strip('-')
    flow = 'flows' if len(flows) > 1 else flows[0]
    parts = [folder, lists, str(frame_size), flow if flow != 'farneback' else '']
    return '-'.join(part for part in parts if part)


def chosen_runs(runs, spatial_weights, validation_groups):
    """The runs of a table, in its order, without those that cannot be made.

    Raises:
      ValueError: there is no such run.
    """
    for run in runs:
        if run not in RUNS:
            raise ValueError(f'--runs={run}: choose from {", ".join(RUNS)}')
    without = {}
    if spatial_weights == 'random':
        without['spatial-cnn'] = 'it is untrained: give --spatial_weights=DUMP'
    if not validation_groups:
        without['searched'] = 'it needs held-out groups: give --validation_groups=N'
    for run in runs:
        if run in without:
            print(f'no row "{real_tables.TITLES[run]}": {without[run]}')
    return [run for run in RUNS if run in runs and run not in without]


def command_of(values):
    """The flags that give the table again, for its reader; folders by a word."""
    names = 'splits group_regex seeds flows runs frame_size spatial_weights '
    names += 'validation_groups motion_flags spatial_flags hybrid_flags compute_flags '
    names += 'evaluate_flags'
    words = ['--clips=FOLDER']
    for name in names.split():
        flag = values[name]
        if flag.value == flag.default:
            continue
        value = ','.join(flag.value) if isinstance(flag.value, list) else flag.value
        value = 'DUMP' if name == 'spatial_weights' else value
        words.append(f'--{name}={value}')
    return words


def plan_of(values):
    """The plan that the flags ask for.

    Raises:
      ValueError: a flag has a value that cannot work.
    """
    if not values.clips:
        raise ValueError('--clips=FOLDER is needed: videos/ and splits/ of a data set')
    folder = pathlib.Path(values.clips).resolve()
    split_dir = folder / values.splits
    lists = sorted(split_dir.glob('testlist[0-9][0-9].txt'))
    for needed in (
        folder / 'videos',
        lists[0] if lists else split_dir / 'testlist01.txt',
    ):
        if not needed.exists():
            raise ValueError(f'{needed} not found: check --clips and --splits')
    splits.check_regex(values.group_regex)
    try:
        folds = [int(n) for n in values.folds or [path.stem[-2:] for path in lists]]
        seeds = [int(seed) for seed in values.seeds]
    except ValueError as error:
        raise ValueError(f'--folds, --seeds: {error}') from error
    runs = chosen_runs(values.runs, values.spatial_weights, values.validation_groups)
    spec = {
        'command': command_of(values),
        'group_regex': values.group_regex,
        'flows': values.flows,
        'seeds': seeds,
        'runs': runs,
    }
    words = {
        stage: shlex.split(values[f'{stage}_flags'].value)
        for stage in ('motion', 'spatial', 'hybrid', 'compute', 'evaluate')
    }
    if values.validation_groups:
        words['all'] = [f'--validation_groups={values.validation_groups}']
    name = table_name(folder.name, values.splits, values.frame_size, values.flows)
    return Plan(
        clips=folder,
        split_dir=split_dir,
        frame_size=values.frame_size,
        folds=folds,
        spec=spec,
        words=words,
        spatial_weights=values.spatial_weights,
        work=pathlib.Path(values.work),
        results=pathlib.Path(values.results) / name,
    )


def recipe_of(plan, run, flow):
    """All that was asked of a run, without folders and --compute_flags: equal recipes
    make runs that are equal but for rounding."""
    stage, words = RUNS[run]
    recipe = [f'flow={flow}', f'size={plan.frame_size}']
    recipe.append(f'group_regex={plan.spec["group_regex"]}')
    if stage == 'histogram':
        return recipe
    stages = {'hybrid': ['motion', 'spatial', 'hybrid']}.get(stage, [stage])
    if 'spatial' in stages:
        recipe.append(f'spatial_weights={pathlib.Path(plan.spatial_weights).name}')
    for name in ('all', *stages, 'evaluate'):
        recipe += [f'{name} {word}' for word in plan.words.get(name, [])]
    return recipe + [f'{run} {word}' for word in words]
