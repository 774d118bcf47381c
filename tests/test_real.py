"""What real.py runs, skips and refuses, and the tables it counts."""

import json
import pathlib

import numpy as np
import pytest
import tiny
from absl import flags

from data import splits
from results import measures
from tests.bench import real
from tests.bench import real_plan
from tests.bench import real_tables

REGEX = '^([a-z]+)_'


def plan_of(tmp_path, *words):
    """The plan of a command line, with lists of two folds in place."""
    folder = tmp_path / 'clips'
    for name in ('videos', 'splits'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for fold in (1, 2):
        (folder / f'splits/testlist{fold:02d}.txt').touch()
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(flags, 'FLAGS', values)
        defaults = dict(flag_values=values)
        for name in ('string', 'list', 'integer', 'bool'):
            define = getattr(flags, f'DEFINE_{name}')
            monkeypatch.setattr(
                flags,
                f'DEFINE_{name}',
                lambda *given, define=define: define(*given, **defaults),
            )
        real.define_flags()
    given = [
        f'--clips={folder}',
        f'--group_regex={REGEX}',
        f'--work={tmp_path / "work"}',
        f'--results={tmp_path / "results"}',
    ]
    values(['real', *given, *words])
    return real_plan.plan_of(values)


# -- plans ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'lists, flows, expected',
    [
        ('splits', ['farneback'], 'set-64'),
        ('splits-one-actor', ['farneback'], 'set-one-actor-64'),
        ('official', ['dis-fast'], 'set-official-64-dis-fast'),
        ('splits', ['farneback', 'dis-fast'], 'set-64-flows'),
    ],
)
def test_tables_that_differ_have_names_that_do(lists, flows, expected):
    assert real_plan.table_name('set', lists, 64, flows) == expected


def test_plan_by_default(tmp_path, capsys):
    plan = plan_of(tmp_path)
    assert plan.folds == [1, 2] and plan.spec['seeds'] == [0, 1, 2]
    expected = [run for run in real_plan.RUNS if run not in ('spatial-cnn', 'searched')]
    assert plan.spec['runs'] == expected
    said = capsys.readouterr().out
    assert 'give --spatial_weights=DUMP' in said
    assert 'give --validation_groups=N' in said
    assert plan.results.name == 'clips-112'


def test_plan_of_everything(tmp_path):
    words = ['--spatial_weights=/far/vgg19', '--validation_groups=2', '--seeds=4,5']
    plan = plan_of(tmp_path, *words, '--motion_flags=--a=1 --b="2 3"')
    assert plan.spec['runs'] == list(real_plan.RUNS)
    assert plan.words['motion'] == ['--a=1', '--b=2 3']
    assert plan.words['all'] == ['--validation_groups=2']
    # nobody else has our folders
    command = ' '.join(plan.spec['command'])
    assert str(tmp_path) not in command and '/far' not in command
    assert '--seeds=4,5' in command and '--frame_size' not in command


@pytest.mark.parametrize(
    'words, said',
    [
        (['--runs=motion-ccn'], '--runs=motion-ccn: choose from'),
        (['--seeds=0,one'], '--folds, --seeds: '),
        (['--splits=other'], 'other/testlist01.txt not found'),
        (['--group_regex=x'], 'put the part that names the group'),
        (['--clips='], '--clips=FOLDER is needed'),
    ],
)
def test_plans_that_cannot_be(tmp_path, words, said):
    with pytest.raises(ValueError, match=said.replace('(', r'\(')):
        plan_of(tmp_path, *words)


def test_titles_and_runs_are_the_same():
    assert list(real_plan.RUNS) == list(real_tables.TITLES)


def test_recipe_tells_what_a_run_follows_from(tmp_path):
    def changed(*words):
        then, now = plan_of(tmp_path), plan_of(tmp_path, *words)
        return {
            run
            for run in then.spec['runs']
            if real_plan.recipe_of(then, run, 'farneback')
            != real_plan.recipe_of(now, run, 'farneback')
        }

    runs = set(plan_of(tmp_path).spec['runs'])
    networks = runs - {'histogram'}
    assert changed('--motion_flags=--max_steps=9') == networks
    assert changed('--hybrid_flags=--max_steps=9') == networks - {'motion-cnn'}
    assert changed('--evaluate_flags=--x') == networks
    assert changed('--validation_groups=1') == networks
    assert changed('--frame_size=64') == runs
    free = ['--seeds=7', '--folds=2', '--work=elsewhere', '--compute_flags=--bfloat16']
    assert changed(*free) == set()


# -- what is done and what is not -----------------------------------------------------


@pytest.fixture
def programs(monkeypatch):
    """Takes the place of the programs; the list of what would have been run."""
    ran = []

    def command(work, made, *words):
        ran.append(words)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text('{}')
        if words[0] == 'train.py':
            made.write_text(json.dumps({'flags': {'rate': 1, 'seed': 2}}))
        if words[0] == 'evaluate.py':
            text = 'clip,label,prediction\nA/x_1,A,A\nB/y_1,B,A\n'
            made.with_name('predictions.csv').write_text(text)
        return 1.5

    monkeypatch.setattr(real, 'command', command)
    return ran


def short(ran):
    """(stage, name of the train_dir) of each training."""
    given = [
        dict(word.lstrip('-').split('=', 1) for word in words[1:] if '=' in word)
        for words in ran
        if words[0] == 'train.py'
    ]
    return [(g['stage'], pathlib.Path(g['train_dir']).name) for g in given]


def test_one_fold_from_nothing(tmp_path, programs):
    words = ['--runs=motion-cnn,fusion,late', '--seeds=0,1', '--folds=2']
    words += ['--hybrid_flags=--num=4', '--compute_flags=--bfloat16']
    plan = plan_of(tmp_path, *words)
    for _ in real.run_all(plan):
        pass
    assert programs[0][0] == 'optical_flow.py'
    found = short(programs)
    assert found[0] == ('motion', 'motion-cnn-seed0')
    hybrids = [name for stage, name in found if stage == 'hybrid']
    assert hybrids == ['fusion-seed0', 'fusion-seed1', 'late-seed0', 'late-seed1']
    caches = [words for words in programs if '--stage=features' in words]
    assert all('--num=4' in words for words in caches)
    trainings = [words for words in programs if words[0] == 'train.py']
    assert [w for w in trainings if '--bfloat16' not in w] == caches
    last = next(w for w in programs if w[0] == 'train.py' and '--seed=1' in w)
    motion = plan.train_dir(2, 'motion-cnn', 'farneback', 0)
    assert f'--motion_weights={motion}' in last and '--split=2' in last

    kept = sorted(path.name for path in (plan.results / '2').iterdir())
    assert kept == [f'{n}.csv' for n in sorted([*hybrids, 'motion-cnn-seed0'])] + [
        'runs.json'
    ]
    notes = json.loads((plan.results / '2/runs.json').read_text())
    assert notes['late-seed1']['minutes'] == 3
    assert notes['late-seed1']['flags'] == {'rate': 1}  # a seed is no recipe


def test_finished_runs_are_not_repeated(tmp_path, programs):
    words = ['--runs=motion-cnn,fusion,late', '--seeds=0,1', '--folds=1']
    plan = plan_of(tmp_path, *words)
    list(real.run_all(plan))
    programs.clear()
    list(real.run_all(plan))
    assert programs == []
    plan.csv(1, 'fusion', 'farneback', 1).unlink()
    list(real.run_all(plan))
    assert [run for run in short(programs) if run[0] != 'features'] == [
        ('hybrid', 'fusion-seed1')
    ]


def test_another_machine_does_its_own_cnn_and_all_that_is_trained_on_it(
    tmp_path, programs, capsys
):
    words = ['--runs=histogram,motion-cnn,fusion,late', '--seeds=0', '--folds=1']
    plan = plan_of(tmp_path, *words)
    for run in ('histogram', 'motion-cnn', 'fusion'):
        real.keep(plan, (1, run, 'farneback', 0), 'clip,label,prediction\n', 1, {})
    assert real.missing(plan, 1, 'farneback') == [
        ('motion-cnn', 0),
        ('fusion', 0),
        ('late', 0),
    ]
    assert 'motion-cnn is not in' in capsys.readouterr().out
    here = plan.train_dir(1, 'motion-cnn', 'farneback', 0)
    here.mkdir(parents=True)
    (here / 'evaluation.json').touch()
    assert real.missing(plan, 1, 'farneback') == [('late', 0)]


def test_predictions_of_other_flags_are_refused(tmp_path):
    plan = plan_of(tmp_path, '--motion_flags=--max_steps=9')
    real.keep(plan, (1, 'motion-cnn', 'farneback', 0), 'clip\n', 1, {})
    assert real.kept(plan, 1, 'motion-cnn', 'farneback', 0)
    assert not real.kept(plan, 2, 'motion-cnn', 'farneback', 0)
    other = plan_of(tmp_path, '--motion_flags=--max_steps=8')
    said = r'motion --max_steps=9, not motion --max_steps=8\): delete it'
    with pytest.raises(ValueError, match=said):
        real.kept(other, 1, 'motion-cnn', 'farneback', 0)


def test_commands_are_run_once(tmp_path):
    made = tmp_path / 'made'
    words = ['-c', f'open({str(made)!r}, "a").write("x")']
    for _ in range(2):
        minutes = real.command(tmp_path, made, *words)
    assert made.read_text() == 'x' and 0 < minutes < 1
    made.unlink()  # deleted by a user
    again = real.command(tmp_path, made, *words)
    assert made.read_text() == 'x' and again > minutes


def test_a_command_that_fails_ends_it_and_is_run_again(tmp_path):
    made, words = tmp_path / 'made', ['-c', 'import sys; sys.exit(3)']
    made.touch()
    for _ in range(2):
        with pytest.raises(ValueError, match='exit code 3: python -c'):
            real.command(tmp_path, made, *words)


# -- tables ---------------------------------------------------------------------------

SPEC = {
    'command': ['--clips=FOLDER', '--motion_flags=--a=1 --b=2'],
    'group_regex': REGEX,
    'flows': ['farneback'],
    'seeds': [0, 1],
    'runs': ['histogram', 'motion-cnn', 'everything'],
}
# fold -> clips (class/actor_class) with their class
TESTED = {1: ['run/ann_run', 'skip/ann_skip'], 2: ['run/bob_run', 'skip/bob_skip']}
# run and seed -> what is answered to the four clips
ANSWERS = {
    'histogram-seed0': ['run', 'run', 'run', 'run'],
    'motion-cnn-seed0': ['run', 'skip', 'run', 'run'],
    'everything-seed0': ['run', 'skip', 'run', 'skip'],
    'everything-seed1': ['run', 'skip', 'skip', 'skip'],
}


def write_results(folder, answers=None, spec=None, folds=(1, 2), used=None):
    """A table's folder as real.py keeps it."""
    real_tables.write_json(folder / 'table.json', spec or SPEC)
    for place, fold in enumerate(folds):
        notes = {}
        for name, said in (answers or ANSWERS).items():
            lines = ['clip,label,prediction,probability']
            for clip, answer in zip(TESTED[fold], said[2 * place :], strict=False):
                lines.append(f'{clip},{clip.split("/")[0]},{answer},0.5')
            path = folder / f'{fold}/{name}.csv'
            path.parent.mkdir(exist_ok=True)
            path.write_text('\n'.join(lines) + '\n')
            flags_used = (used or {}).get((fold, name), {'rate': 0.1})
            notes[name] = {'minutes': fold, 'flags': flags_used}
        real_tables.write_json(folder / f'{fold}/runs.json', notes)


def test_a_table_counted_by_hand(tmp_path):
    write_results(tmp_path / 'set')
    table = real_tables.load(tmp_path / 'set')
    assert table.folds == [1, 2] and table.groups == ['ann', 'ann', 'bob', 'bob']
    assert table.labels.tolist() == ['run', 'skip', 'run', 'skip']
    lines = '\n'.join(real_tables.lines_of(table))
    assert "real --clips=FOLDER --motion_flags='--a=1 --b=2' \\\n" in lines
    assert '4 clips of 2 groups' in lines and 'has 50.0%.' in lines
    assert '| motion CNN | 75.0% | 75.0 | 30%-95% | 50%-100% | 1.5 |' in lines
    # 4 and 3 right: the mean is 3.5, rounded to the even 4
    assert '| everything, one softmax | 87.5% | 100.0, 75.0 | 51%-100% |' in lines
    # against the CNN: one clip more; then one more and one less
    assert 'against motion CNN | +12.5 | +0.0 to +25.0 | 1:0, 1:1 | 1, 1 |' in lines
    assert '"everything, one softmax": 1 of 8 answers' in lines
    assert lines.endswith('frequent: skip for run\n1; by group: bob 1.')


def test_only_complete_folds_count(tmp_path):
    write_results(tmp_path)
    (tmp_path / '1/everything-seed1.csv').unlink()
    table = real_tables.load(tmp_path)
    assert table.folds == [2] and table.labels.tolist() == ['run', 'skip']
    (tmp_path / '2/motion-cnn-seed0.csv').unlink()
    assert real_tables.load(tmp_path) is None


def test_other_clips_are_refused(tmp_path):
    write_results(tmp_path)
    path = tmp_path / '2/everything-seed1.csv'
    path.write_text(path.read_text().replace('bob_run', 'bob_ran'))
    with pytest.raises(ValueError, match='everything-seed1 list other clips'):
        real_tables.load(tmp_path)


def test_runs_of_other_flags_do_not_mix(tmp_path):
    fine = {'rate': 0.1, 'seed': 5, 'train_dir': 'x', 'max_steps': 9, 'bfloat16': True}
    write_results(tmp_path, used={(2, 'everything-seed1'): fine})
    assert real_tables.load(tmp_path)
    write_results(tmp_path, used={(2, 'everything-seed1'): {'rate': 0.2}})
    said = 'everything-seed0.csv was trained with rate 0.1, .*2/everything-seed1.csv'
    with pytest.raises(ValueError, match=said):
        real_tables.load(tmp_path)


def test_ucf101_groups_are_of_one_class():
    name = 'v_Run_g07_c01'
    assert real_tables.group_of(f'Run/{name}', splits.UCF101_GROUP) == 'Run/07'
    assert real_tables.group_of('run/ann_run', REGEX) == 'ann'


def test_figures_do_not_take_seeds_for_clips():
    right = np.random.default_rng(3).random((1, 60)) < 0.8
    groups = [str(n % 12) for n in range(60)]
    one = real_tables.figures_of(right, groups)
    three = real_tables.figures_of(np.repeat(right, 3, axis=0), groups)
    assert three == {**one, 'of_seeds': one['of_seeds'] * 3}
    assert one['wilson'] == measures.wilson_interval(int(right.sum()), 60)
    assert one['group'] == measures.group_interval(right[0], groups)


def test_versus_pairs_seeds_and_clips():
    random = np.random.default_rng(4)
    right, other = random.random((3, 40)) < 0.9, random.random((3, 40)) < 0.6
    groups = [str(n % 8) for n in range(40)]
    found = real_tables.versus(right, other, groups)
    for seed in range(3):
        of_seed = measures.compare(right[seed], other[seed], groups)
        assert found['only_this'][seed] == of_seed['only_this_right']
        assert found['only_other'][seed] == of_seed['only_other_right']
        assert found['mcnemar_p'][seed] == of_seed['mcnemar_p']
    assert found['difference'] == pytest.approx(right.mean() - other.mean())
    alone = real_tables.versus(right, other[:1], groups)
    assert len(alone['mcnemar_p']) == 3
    assert alone['only_this'][0] == found['only_this'][0]


def test_flow_algorithms_are_tested_against_the_first(tmp_path):
    spec = {**SPEC, 'flows': ['farneback', 'dis-fast'], 'runs': ['motion-cnn']}
    answers = {
        'motion-cnn-farneback-seed0': ANSWERS['motion-cnn-seed0'],
        'motion-cnn-dis-fast-seed0': ANSWERS['histogram-seed0'],
    }
    write_results(tmp_path, answers, spec)
    lines = '\n'.join(real_tables.lines_of(real_tables.load(tmp_path)))
    assert '| motion CNN, dis-fast | 50.0% |' in lines
    assert '| motion CNN, dis-fast against motion CNN, farneback | -25.0 |' in lines


def test_marks():
    text = 'a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb <!-- xy: begin -->'
    new = 'a\n<!-- x: begin -->\nnew \\1\n<!-- x: end -->\nb <!-- xy: begin -->'
    assert real_tables.replaced(text, 'x', ['new \\1']) == new
    assert real_tables.replaced(new, 'x', ['new \\1']) == new
    assert real_tables.replaced(text, 'xy', []) is None  # it has no end


def test_tables_and_summary_are_written(tmp_path):
    page, readme = tmp_path / 'page.md', tmp_path / 'README.md'
    page.write_text('Before.\n\n<!-- b: begin -->\nbygone\n<!-- b: end -->\n\nAfter.\n')
    readme.write_text('One.\n<!-- summary: begin -->\n<!-- summary: end -->\nTwo.\n')
    for name in 'ab':
        write_results(tmp_path / 'results' / name)
    written, summarized = real_tables.write(tmp_path / 'results', page, readme)
    assert list(written) == ['a', 'b'] and summarized
    text = page.read_text()
    assert text.startswith('Before.\n\n<!-- b: begin -->\n    python -m')
    assert 'bygone' not in text
    assert '<!-- b: end -->\n\nAfter.\n\n## a\n\n<!-- a' in text
    text = readme.read_text()
    row = '| 4, 2 | 50.0% (15%-85%) | motion CNN 75.0% | 87.5% (51%-100%) | not run |\n'
    assert text.startswith('One.\n') and text.endswith('-->\nTwo.\n')
    assert f'| a {row}' in text and f'| b {row}' in text
    before = page.read_text(), readme.read_text()
    real_tables.write(tmp_path / 'results', page, readme)
    assert before == (page.read_text(), readme.read_text())

    readme.write_text('No marks.\n')
    assert not real_tables.write(tmp_path / 'results', page, readme)[1]
    assert readme.read_text() == 'No marks.\n'


def test_the_floor_as_a_user_runs_it(tmp_path, run_script):
    names = {'go': 1, 'stay': 2}
    folder, listed = tmp_path / 'set', {'train': [], 'test': []}
    for place, name in enumerate(names):
        for number, actor in enumerate(['ann', 'bob', 'cid']):
            path = f'{name}/{actor}_{name}.avi'
            tiny.draw_video(folder / 'videos' / path, 6, 10 * place + number)
            side = 'test' if actor == 'cid' else 'train'
            listed[side].append(path)
    (folder / 'splits').mkdir()
    for side, paths in listed.items():
        text = ''.join(f'{path}\n' for path in paths)
        (folder / f'splits/{side}list01.txt').write_text(text)
    (folder / 'splits/classInd.txt').write_text('1 go\n2 stay\n')
    words = [
        '-m',
        'tests.bench.real',
        f'--clips={folder}',
        f'--group_regex={REGEX}',
        '--runs=histogram',
        '--frame_size=64',
        f'--work={tmp_path / "work"}',
        f'--results={tmp_path / "results"}',
    ]
    done = run_script(*words)
    assert '| flow histogram + ridge regression |' in done.stdout
    kept = (tmp_path / 'results/set-64/1/histogram-seed0.csv').read_text()
    assert kept.startswith('clip,label,prediction\ngo/cid_go,go,')
    assert '<!-- set-64: begin -->' in (tmp_path / 'results/README.md').read_text()
    assert 'optical_flow.py' not in run_script(*words).stdout
