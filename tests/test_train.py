"""train.py as a user calls it: every stage, kills and resumes, wrong use."""

import collections
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny

import cnnm
import model
import train
from data import augmentation
from data import clips
from data.synthetic import draw
from weights import checkpoints
from weights import dump

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = 48  # CNN-M-2048 wants 41 pixels or more
# The program with narrow networks, the rest being as it is: what kills and wrong use
# show does not depend on widths, and 600 MB of weights a run would take minutes.
NARROW = """
import runpy
import sys
sys.path[:0] = [ROOT, ROOT + '/tests']
import narrow
import pytest
narrow.patch(pytest.MonkeyPatch())
runpy.run_path('train.py', run_name='__main__')
""".replace('ROOT', repr(str(ROOT)))
HYBRID = ['--num_steps=6', '--lstm_units=7,5', '--batch_size=3', '--log_every=2']


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    """Two groups a class of drawn clips, one tested and one trained, preprocessed."""
    folder = tmp_path_factory.mktemp('demo')
    for group in (1, 8):
        drawing = draw.CLASSES[:2] if group == 1 else draw.CLASSES[:4]
        for number, name in enumerate(draw.CLASSES[:4]):
            if name not in drawing and group == 1:
                continue
            look = draw.group_look(np.random.default_rng(group))
            what = 'Discs' if name.startswith('Discs') else 'Squares'
            how = 'Horizontal' if 'Horizontal' in name else 'Vertical'
            order = name.removeprefix(what + how)
            path = folder / 'videos' / name / f'v_{name}_g{group:02d}_c01.avi'
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = draw.draw(
                np.random.default_rng([group, number]), what, how, order, look
            )
            draw.write_clip(path, list(drawn)[: 20 + 3 * number])
    words = [f'--video_dir={folder}/videos', f'--data_dir={folder}/data']
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words, f'--frame_size={SIZE}'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / 'data'


def start(data_dir, train_dir, *words):
    """Starts train.py with narrow networks; a Popen whose stdout is a pipe."""
    words = [f'--data_dir={data_dir}', f'--train_dir={train_dir}', *words]
    return subprocess.Popen(
        [sys.executable, '-c', NARROW, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def narrow_train(data_dir, train_dir, *words, code=0):
    """Runs it to its end; (stdout, stderr)."""
    process = start(data_dir, train_dir, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f'{out[-2000:]}\n{err[-2000:]}'
    return out, err


def log_of(train_dir):
    text = (pathlib.Path(train_dir) / 'log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def arrays_of(train_dir):
    """{variable: array} of the last checkpoint, optimizer's own included."""
    path, step = checkpoints.latest(train_dir)
    reader = tf.train.load_checkpoint(path)
    arrays = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
    return step, arrays


def assert_same_arrays(one, other):
    """Bit-identical last checkpoints."""
    (step, arrays), (other_step, other_arrays) = arrays_of(one), arrays_of(other)
    assert step == other_step and set(arrays) == set(other_arrays)
    for name, array in arrays.items():
        assert array.tobytes() == other_arrays[name].tobytes(), name


def assert_same_run(one, other):
    """Bit-identical last checkpoints and logs."""
    assert_same_arrays(one, other)
    logs = [(pathlib.Path(d) / 'log.jsonl').read_bytes() for d in (one, other)]
    assert logs[0] == logs[1]


@pytest.fixture(scope='session')
def undisturbed(data_dir, tmp_path_factory):
    """A hybrid run of 60 steps that fills the feature cache, and what it printed."""
    train_dir = tmp_path_factory.mktemp('runs') / 'hybrid'
    words = [*HYBRID, '--steps=60', '--checkpoint_every=9']
    random_weights = ['--spatial_weights=random', '--motion_weights=random']
    out, _ = narrow_train(data_dir, train_dir, *words, *random_weights)
    return train_dir, words, out


# -- every stage ----------------------------------------------------------------------


@pytest.mark.parametrize('stage', ['spatial', 'motion'])
def test_twenty_steps_of_a_cnn_learn_its_layers(stage, data_dir, tmp_path):
    out, _ = narrow_train(
        data_dir,
        tmp_path,
        f'--stage={stage}',
        f'--{stage}_weights=random',
        '--steps=20',
        '--batch_size=4',
        '--log_every=5',
    )
    assert '4 train clips, 2 test clips' in out
    lines = log_of(tmp_path)
    assert [line['step'] for line in lines] == [5, 10, 15, 20]
    assert all(np.isfinite(line['loss']) for line in lines)
    rate = lines[0]['learning_rate']
    assert np.isclose(lines[-1]['learning_rate'], rate / 10)  # after 70 %
    step, arrays = arrays_of(tmp_path)
    assert step == 20
    slots = [name for name in arrays if name.endswith('/Momentum')]
    assert slots and all(arrays[name].any() for name in slots if 'conv1' in name)
    scope = {'spatial': 'spatial/vgg_19', 'motion': 'motion/cnn_m_2048'}[stage]
    saved = tmp_path / 'weights' / stage
    described = json.loads((saved / 'dump.json').read_text())
    for name in described['arrays']:
        array = np.load(saved / f'{name}.npy')
        np.testing.assert_array_equal(array, arrays[f'{scope}/{name}'])
    run = json.loads((tmp_path / 'run.json').read_text())
    assert run['settings']['stage'] == stage and run['preprocessing']['size'] == SIZE
    assert run['class_names'] == sorted(draw.CLASSES[:4])


def test_steps_of_the_hybrid(undisturbed, data_dir):
    train_dir, _, out = undisturbed
    assert 'untrained, saved as' in out
    run = json.loads((train_dir / 'run.json').read_text())
    names = clips.read_index(str(data_dir))
    for stream in ('spatial', 'motion'):
        cnn = run['cnns'][stream]
        folder = data_dir / 'features' / cnn['features']
        found = {p.relative_to(folder).as_posix()[:-4] for p in folder.rglob('*.npy')}
        assert found == set(names)
        assert cnn['weights'] == str(train_dir / 'weights' / stream)
        for path in folder.rglob('*.npy'):
            assert np.load(path).shape == (6, cnn['width'])
    lines = log_of(train_dir)
    assert [line['step'] for line in lines] == list(range(2, 61, 2))
    step, arrays = arrays_of(train_dir)
    assert step == 60
    # frozen CNNs stand in their dumps; a scale was set from the features
    assert not any(n.startswith(('spatial/', 'motion/')) for n in arrays)
    for stream in ('spatial', 'motion'):
        scale = arrays[f'inputs/{stream}_scale']
        trained = [
            np.load(path).astype(np.float64)
            for path in (data_dir / 'features' / run['cnns'][stream]['features']).rglob(
                '*_g08_*.npy'
            )
        ]
        np.testing.assert_allclose(scale, np.concatenate(trained).std(), rtol=1e-5)
    fusion = 'regularized_fusion_network/fusion/weights'
    assert [n for n in arrays if n.startswith(fusion)] == [fusion]
    kept = sorted(path.name for path in train_dir.glob('*.index'))
    assert kept == ['model.ckpt-54.index', 'model.ckpt-60.index']


def test_features_then_joint_from_the_stages_results(undisturbed, data_dir, tmp_path):
    hybrid, _, _ = undisturbed
    weights = [f'--spatial_weights={hybrid}', f'--motion_weights={hybrid}']
    out, _ = narrow_train(
        data_dir, tmp_path / 'features', '--stage=features', '--num_steps=6', *weights
    )
    assert 'untrained' not in out
    out, _ = narrow_train(
        data_dir,
        tmp_path / 'joint',
        '--stage=joint',
        f'--hybrid_weights={hybrid}',
        '--num_steps=3',
        '--lstm_units=7,5',
        '--steps=20',
        '--log_every=10',
        *weights,
    )
    said = next(line for line in out.splitlines() if line.startswith('loaded from'))
    assert 'softmax/weights' in said and 'inputs/motion_scale' in said
    assert 'Adam' not in said and 'Momentum' not in said
    _, before = arrays_of(hybrid)
    step, after = arrays_of(tmp_path / 'joint')
    assert step == 20
    for name, array in after.items():
        if name in before and not name.startswith('inputs/'):
            assert not np.array_equal(array, before[name]), name
        if name in before and name.startswith('inputs/'):
            np.testing.assert_array_equal(array, before[name])
    for stream, scope, layer in (
        ('spatial', 'vgg_19', 'conv1_1'),
        ('motion', 'cnn_m_2048', 'conv1'),
    ):
        began = np.load(hybrid / 'weights' / stream / layer / 'weights.npy')
        ended = after[f'{stream}/{scope}/{layer}/weights']
        assert not np.array_equal(began, ended)
        saved = np.load(tmp_path / 'joint/weights' / stream / layer / 'weights.npy')
        np.testing.assert_array_equal(saved, ended)


# -- kills and resumes ----------------------------------------------------------------


def wait_for_step(train_dir, step, process, seconds=120):
    """Until log.jsonl holds the step."""
    deadline = time.monotonic() + seconds
    path = pathlib.Path(train_dir) / 'log.jsonl'
    while time.monotonic() < deadline and process.poll() is None:
        text = path.read_text() if path.exists() else ''
        if f'"step": {step},' in text:
            return
        time.sleep(0.005)
    out, err = process.communicate(timeout=10)
    raise AssertionError(f'no step {step} in {path}\n{out}\n{err}')


def weights_of(train_dir):
    return [f'--{s}_weights={train_dir}' for s in ('spatial', 'motion')]


def test_killed_run_ends_with_the_same_bits(undisturbed, data_dir, tmp_path):
    whole, words, _ = undisturbed
    words = [*words, *weights_of(whole)]
    process = start(data_dir, tmp_path / 'run', *words)
    wait_for_step(tmp_path / 'run', 24, process)
    process.kill()
    process.communicate()
    step, _ = arrays_of(tmp_path / 'run')
    assert 18 <= step < 60  # it was killed in the middle
    out, _ = narrow_train(data_dir, tmp_path / 'run', *words)
    assert 'continuing at step' in out
    assert_same_run(tmp_path / 'run', whole)
    kept = {path.name for path in (tmp_path / 'run').glob('model.ckpt-*')}
    assert len(kept) == 4, kept  # two checkpoints of two files


@pytest.mark.parametrize(
    'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_signals_save_first(undisturbed, data_dir, tmp_path, number):
    whole, words, _ = undisturbed
    words = [*words, *weights_of(whole), '--checkpoint_every=1000']
    process = start(data_dir, tmp_path / 'run', *words)
    wait_for_step(tmp_path / 'run', 6, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    step, _ = arrays_of(tmp_path / 'run')
    assert f'stopped at step {step}' in out and 6 <= step < 60
    if number == signal.SIGINT:  # going on is the same, and takes a while
        narrow_train(data_dir, tmp_path / 'run', *words)
        assert_same_run(tmp_path / 'run', whole)


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['hybrid', 'motion'])
def test_ten_kills_at_random_moments(stage, undisturbed, data_dir, tmp_path):
    words = ['--stage=motion', '--motion_weights=random', '--batch_size=2']
    if stage == 'hybrid':
        words = [*HYBRID, *weights_of(undisturbed[0])]
    words += ['--steps=400', '--log_every=2', '--checkpoint_every=7']
    words += ['--group_regex=v_(.*)', '--validation_groups=1']
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    narrow_train(data_dir, whole, *words)
    log, moments = run / 'log.jsonl', random.Random(0)
    for _ in range(10):
        before = log.stat().st_ino if log.exists() else None
        process = start(data_dir, run, *words)
        while not log.exists() or log.stat().st_ino == before:  # it is written anew
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        _, saved = checkpoints.latest(run)
        wait_for_step(run, saved + saved % 2 + 2 * moments.randint(1, 8), process)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not ended by itself
    out, _ = narrow_train(data_dir, run, *words)
    assert 'continuing at step' in out
    assert_same_run(run, whole)
    assert_same_arrays(run / 'best', whole / 'best')


@pytest.mark.slow
def test_run_that_is_done_stays_as_it_is(undisturbed, data_dir):
    train_dir, words, _ = undisturbed
    before = (train_dir / 'log.jsonl').read_bytes(), arrays_of(train_dir)[0]
    weights = ['--spatial_weights=random', '--motion_weights=random']
    narrow_train(data_dir, train_dir, *words, *weights)
    assert before == ((train_dir / 'log.jsonl').read_bytes(), arrays_of(train_dir)[0])


# -- wrong use ------------------------------------------------------------------------


@pytest.fixture(scope='session')
def wrong_use(undisturbed, data_dir, tmp_path_factory):
    """Runs many wrong commands after one import of TensorFlow, each in a fork.

    Returns a function words -> (exit code, stderr).
    """
    folder = tmp_path_factory.mktemp('wrong')
    server = """
import json, os, runpy, sys
sys.path.insert(0, ROOT)
import train
for line in sys.stdin:
    words = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open('err', os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ['train.py', *words]
        os.chdir(ROOT)
        runpy.run_path('train.py', run_name='__main__')
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""".replace('ROOT', repr(str(ROOT)))
    process = subprocess.Popen(
        [sys.executable, '-c', server],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(*words):
        print(json.dumps(list(map(str, words))), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return code, (folder / 'err').read_text()

    yield run
    process.stdin.close()
    process.wait(timeout=20)


RANDOM = ['--spatial_weights=random', '--motion_weights=random']


@pytest.mark.parametrize(
    'words, expected',
    [
        (['--data_dir=DATA', '--train_dir=NEW', '--lerning_rate=1'], 'lerning_rate'),
        (['--data_dir=DATA', '--train_dir=NEW', 'stray'], 'stray'),
        (['--data_dir=DATA', '--train_dir=NEW', '--stage=fusion'], 'stage'),
        (['--train_dir=NEW', *RANDOM], '--data_dir'),
        (['--data_dir=DATA', *RANDOM], '--train_dir'),
        (['--data_dir=NEW', '--train_dir=NEW', *RANDOM], 'clips.csv'),
        (['--data_dir=EMPTY', '--train_dir=NEW', *RANDOM], 'clip'),
        (['--data_dir=DATA', '--train_dir=NEW', '--split=3', *RANDOM], 'split'),
        (['--data_dir=DATA', '--train_dir=NEW', '--split_dir=NEW', *RANDOM], 'NEW'),
        (['--data_dir=DATA', '--train_dir=NEW'], '--spatial_weights'),
        (
            ['--data_dir=DATA', '--train_dir=NEW', RANDOM[0], '--motion_weights=NEW'],
            '--motion_weights=',
        ),
        (
            ['--data_dir=DATA', '--train_dir=RUN', '--stage=motion', RANDOM[1]],
            'holds a run of stage hybrid',
        ),
        (
            ['--data_dir=DATA', '--train_dir=RUN', *RANDOM, *HYBRID]
            + ['--steps=60', '--seed=3'],
            '--seed=0',
        ),
        *[
            (
                ['--data_dir=DATA', '--train_dir=NEW', *RANDOM, flag],
                flag.partition('=')[0],
            )
            for flag in (
                '--group_regex=(',
                '--branches=lstm',
                '--lstm_units=a',
                '--lstm_units=',
                '--lstm_units=4,0',
                '--decay_steps=x',
                '--decay_steps=-3',
                '--batch_size=0',
                '--checkpoint_every=0',
                '--workers=0',
                '--seed=-1',
                '--learning_rate=0',
                '--learning_rate=nan',
                '--keep_prob=0',
                '--keep_prob=2',
                '--fusion_l1=-1',
                '--validation_groups=-1',
                '--train_layers=fc',  # a hybrid trains none of a CNN
                '--shard=0/4',
                '--hybrid_weights=NEW',
                '--search_combination',
            )
        ],
    ],
)
def test_wrong_use_ends_in_one_line(
    words, expected, wrong_use, undisturbed, data_dir, tmp_path
):
    (tmp_path / 'empty').mkdir()
    clips.write_index(tmp_path / 'empty/clips.csv', [])
    places = {
        'DATA': data_dir,
        'NEW': tmp_path / 'new',
        'EMPTY': tmp_path / 'empty',
        'RUN': undisturbed[0],
    }
    for name, path in places.items():
        words = [word.replace(f'={name}', f'={path}') for word in words]
    before = (undisturbed[0] / 'run.json').read_text()
    code, err = wrong_use(*words)
    lines = [x for x in err.splitlines() if 'cuda' not in x.lower()]
    assert code == 1, err
    assert len(lines) == 1 and expected.replace('NEW', '') in lines[0], err
    assert not (tmp_path / 'new').exists()  # nothing is left to stand in the way
    assert (undisturbed[0] / 'run.json').read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['spatial', 'motion'])
def test_full_width_as_a_user_calls_it(stage, data_dir, tmp_path, run_script):
    done = run_script(
        'train.py',
        f'--stage={stage}',
        f'--data_dir={data_dir}',
        f'--train_dir={tmp_path}',
        f'--{stage}_weights=random',
        '--steps=20',
        '--batch_size=4',
    )
    assert 'CNN saved as' in done.stdout
    assert arrays_of(tmp_path)[0] == 20


# -- held-out groups, frozen layers, shards --------------------------------------------


def test_validation_keeps_the_best_and_searches_the_combination(
    undisturbed, data_dir, tmp_path
):
    weights = [f'--{s}_weights={undisturbed[0]}' for s in ('spatial', 'motion')]
    out, _ = narrow_train(
        data_dir,
        tmp_path,
        *HYBRID,
        *weights,
        '--steps=12',
        '--checkpoint_every=3',
        '--group_regex=v_(.*)',
        '--validation_groups=1',
        '--balanced',
        '--head=late',
        '--search_combination',
    )
    assert '1 train clips of groups' in out
    lines = [x for x in log_of(tmp_path) if 'validation_accuracy' in x]
    assert [line['step'] for line in lines] == [3, 6, 9, 12]
    accuracies = [line['validation_accuracy'] for line in lines]
    _, step = checkpoints.latest(tmp_path / 'best')
    assert step == lines[int(np.argmax(accuracies))]['step']
    for folder in (tmp_path, tmp_path / 'best'):
        _, arrays = arrays_of(folder)
        scores = arrays['softmax/combination/scores']
        assert np.ptp(scores) > 0.1  # searched, where training would start even
    assert not [name for name in arrays if 'scores/' in name]  # and not learned
    shown = arrays_of(tmp_path)[1]['softmax/combination/scores']
    shown = (np.exp(shown) / np.exp(shown).sum()).round(3).tolist()
    assert f'{dict(zip(model.BRANCHES, shown, strict=True))}' in out


@pytest.mark.slow
def test_what_was_trained_on_the_other_side_is_refused(data_dir, tmp_path):
    """A CNN that has seen the clips a hybrid is measured on would measure memory."""
    motion = ['--stage=motion', '--motion_weights=random', '--steps=1']
    narrow_train(data_dir, tmp_path / 'cnn', *motion, '--batch_size=2', '--split=1')
    hybrid = [*HYBRID, '--branches=motion_lstm', '--steps=1']
    weights = f'--motion_weights={tmp_path / "cnn"}'
    for words, cure in (
        (['--split=2'], '--split_dir and --split'),
        (['--group_regex=v_(.*)', '--validation_groups=1'], '--validation_groups'),
    ):
        _, err = narrow_train(
            data_dir, tmp_path / 'hybrid', *hybrid, weights, *words, code=1
        )
        line = err.splitlines()[-1]
        assert f'{weights} was trained on Discs' in line and cure in line
    assert not (tmp_path / 'hybrid').exists()
    narrow_train(data_dir, tmp_path / 'hybrid', *hybrid, weights)


def test_only_the_layers_named_are_trained(data_dir, tmp_path):
    words = ['--stage=motion', '--nonorm2', '--subtract_mean_flow', '--steps=2']
    words += ['--batch_size=2']
    first = ['--motion_weights=random', '--train_layers=conv5']
    narrow_train(data_dir, tmp_path / 'first', *words, *first)
    _, arrays = arrays_of(tmp_path / 'first')
    trained = {name.split('/')[2] for name in arrays if name.endswith('/Momentum')}
    assert trained == {'conv5', 'fc6', 'fc7', 'fc8'}

    second = [f'--motion_weights={tmp_path / "first"}', '--train_layers=fc']
    narrow_train(data_dir, tmp_path / 'second', *words, *second)
    _, arrays = arrays_of(tmp_path / 'second')
    layers = {name.split('/')[2] for name in arrays if name.startswith('motion/')}
    # what stayed as its dump has it is not written again
    assert layers == {'mean', 'scale', 'fc6', 'fc7', 'fc8'}
    before = tmp_path / 'first/weights/motion'
    after = tmp_path / 'second/weights/motion'
    for name, kept in (('conv1', True), ('conv5', True), ('fc6', False)):
        arrays = [np.load(folder / f'{name}/weights.npy') for folder in (before, after)]
        assert np.array_equal(*arrays) == kept, name


def test_what_a_run_shows_and_says_of_itself(data_dir, tmp_path):
    words = ['--stage=motion', '--motion_weights=random', '--batch_size=2']
    words += ['--log_every=1', '--histograms', '--steps=2']
    narrow_train(data_dir, tmp_path, *words)
    (path,) = tmp_path.glob('events.*')
    events = list(tf.train.summary_iterator(str(path)))
    tags = collections.Counter(v.tag for e in events for v in e.summary.value)
    for name in ('loss', 'cross_entropy', 'accuracy', 'clips_per_second', 'waiting'):
        assert tags[name] == 2
    assert tags['images/0'] == tags['images/1'] == 1
    assert tags['motion/cnn_m_2048/conv1/weights/values'] == 2
    graph = tf.GraphDef.FromString(
        next(event.graph_def for event in events if event.graph_def)
    )
    top = {node.name.split('/')[0] for node in graph.node}
    assert top == {'inputs', 'motion', 'loss', 'train'}  # as the method reads
    run = json.loads((tmp_path / 'run.json').read_text())
    assert run['versions']['numpy'] == np.__version__
    git = ['git', 'describe', '--always', '--dirty']
    revision = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout
    assert run['revision'] == revision.strip()


@pytest.mark.parametrize(
    'words, wrong',
    [
        # the first step's loss is finite, and what it leads to is not
        (['--fusion_rate=1e38', '--clip_norm=0', '--steps=1'], 'step 1: a weight'),
        (['--learning_rate=1e20', '--steps=9'], "step 2: the loss ({'cross_entropy'"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_is_not_saved(
    words, wrong, undisturbed, data_dir, tmp_path
):
    weights = weights_of(undisturbed[0])
    _, err = narrow_train(data_dir, tmp_path, *HYBRID, *weights, *words, code=1)
    line = err.splitlines()[-1]
    assert wrong in line and 'is not finite' in line
    assert '--learning_rate' in line and str(tmp_path) in line
    assert checkpoints.latest(tmp_path) == (None, 0)


def test_features_of_another_network_or_sampling_stand_elsewhere(monkeypatch, tmp_path):
    narrow.patch(monkeypatch)
    settings = {
        **tiny.SETTINGS,
        'data_dir': str(tmp_path),
        'train_dir': str(tmp_path / 'one'),
        'norm2': True,
        'subtract_mean_flow': False,
    }
    cnn = train.cache_features(settings, 'motion', {}, SIZE)
    settings['motion_weights'] = cnn['weights']
    folders = {cnn['features']}
    assert train.cache_features(settings, 'motion', {}, SIZE) == cnn
    for name, value in (('num_steps', 4), ('norm2', False), ('subtract_mean_flow', 1)):
        other = train.cache_features({**settings, name: value}, 'motion', {}, SIZE)
        assert other['fingerprint'] == cnn['fingerprint']
        folders.add(other['features'])
    again = {'train_dir': str(tmp_path / 'two'), 'motion_weights': 'random', 'seed': 4}
    other = train.cache_features({**settings, **again}, 'motion', {}, SIZE)
    folders.add(other['features'])
    assert len(folders) == 5


def test_a_cnn_starts_from_its_dump_across_modalities(monkeypatch, tmp_path):
    narrow.patch(monkeypatch)
    with tf.Graph().as_default(), tf.Session() as session:
        cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, SIZE, SIZE, 3]))
        session.run(tf.global_variables_initializer())
        cnnm.save_weights(session, tmp_path / 'colour', 'cnn_m_2048')
    colour = np.load(tmp_path / 'colour/conv1/weights.npy')
    with tf.Graph().as_default(), tf.Session() as session:
        settings = {**tiny.SETTINGS, 'stage': 'motion', 'cross_modality': True}
        model.classifier(settings, 3, SIZE)
        cnns = {'motion': {'weights': tmp_path / 'colour'}}
        model.initialize(session, settings, cnns)
        found = dump.variables(session.graph, 'motion/cnn_m_2048')
        first = session.run(found['conv1/weights'])
    np.testing.assert_array_equal(first, cnnm.cross_modality(colour, 6))


def test_joint_scales_are_of_the_steps_that_are_there(monkeypatch, graph):
    """Padding is zeros, which is the fastest flow there is."""
    narrow.patch(monkeypatch)
    settings = {**tiny.SETTINGS, 'stage': 'joint', 'hybrid_weights': None}
    inputs, _, end_points = model.classifier(settings, 3, SIZE)
    random = np.random.default_rng(0)
    batch = {**augmentation.whole_pictures(2), 'lengths': [4, 1], 'labels': [0, 1]}
    batch.update(keep_prob=1.0, dropout_seed=[0, 0])
    for stream, channels in (('spatial', 3), ('motion', 6)):
        shape = [2, 4, SIZE, SIZE, channels]
        batch[stream] = random.integers(100, 156, shape).astype(np.uint8)
        batch[stream][1, 1:] = 0
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        train.start_joint(session, settings, inputs, end_points, lambda step: batch)
        feed = {inputs[name]: value for name, value in batch.items()}
        by_name = {v.op.name: v for v in tf.global_variables()}
        for stream in model.STREAMS:
            scale = by_name[f'inputs/{stream}_scale']
            fc6 = session.run(end_points[f'{stream}/fc6'], feed)
            there = fc6.reshape(2, 4, -1)
            there = np.concatenate([there[0], there[1, :1]])
            np.testing.assert_allclose(session.run(scale), there.std(), rtol=1e-5)
            assert abs(fc6.std() / there.std() - 1) > 0.1  # padding would show


def test_joint_does_not_start_from_searched_weights(monkeypatch, tmp_path):
    """A branch whose searched weight is next to 0 would learn nothing."""
    narrow.patch(monkeypatch)
    form = (3, model.BRANCHES, 'late', [6, 4])
    scores = np.float32([-13.8, 0, -13.8])
    with tf.Graph().as_default(), tf.Session() as session:
        model.hybrid_classifier({'spatial': 64, 'motion': 64}, *form)
        session.run(tf.global_variables_initializer())
        model.set_variable(session, model.COMBINATION, scores)
        checkpoints.save(tf.train.Saver(), session, str(tmp_path), 5)
    for searched in (True, False):
        settings = {
            **tiny.SETTINGS,
            'stage': 'joint',
            'head': 'late',
            'hybrid_weights': str(tmp_path),
            'search_combination': searched,
        }
        run = dict.fromkeys(checkpoints.FIXED, [])
        run.update(settings={**settings, 'stage': 'hybrid'}, cnns={})
        checkpoints.write_json(tmp_path / 'run.json', run)
        with tf.Graph().as_default(), tf.Session() as session:
            inputs, _, end_points = model.classifier(settings, 3, SIZE)
            session.run(tf.global_variables_initializer())
            names = train.start_joint(session, settings, inputs, end_points, None)
            assert 'softmax/motion_lstm/weights' in names
            by_name = {v.op.name: v for v in tf.global_variables()}
            found = session.run(by_name[model.COMBINATION])
        np.testing.assert_array_equal(found, np.zeros(3) if searched else scores)


def test_shards_fill_the_cache_together(undisturbed, data_dir, tmp_path):
    weights = [f'--{s}_weights={undisturbed[0]}' for s in ('spatial', 'motion')]
    found = []
    for part in '01':
        words = ['--stage=features', '--num_steps=3', f'--shard={part}/2']
        narrow_train(data_dir, tmp_path, *words, *weights)
        run = json.loads((tmp_path / 'run.json').read_text())
        folder = data_dir / 'features' / run['cnns']['spatial']['features']
        found.append(len(list(folder.rglob('*.npy'))))
    assert 0 < found[0] < found[1] == len(clips.read_index(str(data_dir)))
