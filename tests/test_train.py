"""train.py as a user calls it: every stage, its start, validation, what it shows."""

import collections
import csv
import shutil
import subprocess

import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny
import training

import cnnm
import evaluate
import model
import train
from data import augmentation
from data import clips
from data.synthetic import draw
from results import calibration
from results import runs
from weights import checkpoints
from weights import dump


@pytest.fixture
def run_train(run_narrow, data_dir):
    """Runs train.py on the clips: train_dir, words -> (stdout, stderr)."""

    def run(train_dir, *words, code=0, **environment):
        places = [f'--data_dir={data_dir}', f'--train_dir={train_dir}']
        return run_narrow('train.py', *places, *words, code=code, **environment)

    return run


# -- every stage ----------------------------------------------------------------------


@pytest.mark.parametrize('stage', ['spatial', 'motion'])
def test_twenty_steps_of_a_cnn_learn_its_layers(stage, run_train, tmp_path):
    words = [f'--stage={stage}', f'--{stage}_weights=random', '--batch_size=4']
    out, _ = run_train(tmp_path, *words, '--max_steps=20', '--log_every=5')
    assert '4 train clips, 2 test clips' in out
    lines = training.log_of(tmp_path)
    assert [line['step'] for line in lines] == [5, 10, 15, 20]
    assert all(np.isfinite(line['loss']) for line in lines)
    rate = lines[0]['learning_rate']
    assert np.isclose(lines[-1]['learning_rate'], rate / 10)  # after 70 %
    step, arrays = training.arrays_of(tmp_path)
    assert step == 20
    slots = [name for name in arrays if name.endswith('/Momentum')]
    assert slots and all(arrays[name].any() for name in slots if 'conv1' in name)
    scope = {'spatial': 'spatial/vgg_19', 'motion': 'motion/cnn_m_2048'}[stage]
    saved = tmp_path / 'weights' / stage
    for name in training.read_json(saved, 'dump.json')['arrays']:
        array = np.load(saved / f'{name}.npy')
        np.testing.assert_array_equal(array, arrays[f'{scope}/{name}'])
    run = training.read_json(tmp_path)
    assert run['flags']['stage'] == stage
    assert run['preprocessing']['size'] == training.SIZE
    assert run['class_names'] == sorted(draw.CLASSES[:4])


def test_steps_of_the_hybrid(undisturbed, data_dir):
    train_dir, _, out = undisturbed
    assert 'untrained, saved as' in out
    run = training.read_json(train_dir)
    names = clips.read_index(str(data_dir))
    for stream in ('spatial', 'motion'):
        cnn = run['cnns'][stream]
        folder = data_dir / 'features' / cnn['features'][0]
        found = {p.relative_to(folder).as_posix()[:-4] for p in folder.rglob('*.npy')}
        assert found == set(names)
        assert cnn['weights'] == f'weights/{stream}'  # from the run, which may move
        for path in folder.rglob('*.npy'):
            assert np.load(path).shape == (6, cnn['width'])
    lines = training.log_of(train_dir)
    assert [line['step'] for line in lines] == list(range(2, 61, 2))
    step, arrays = training.arrays_of(train_dir)
    assert step == 60
    # frozen CNNs are in their dumps; a scale was set from the features
    assert not any(n.startswith(('spatial/', 'motion/')) for n in arrays)
    for stream in ('spatial', 'motion'):
        scale = arrays[f'inputs/{stream}_scale']
        folder = data_dir / 'features' / run['cnns'][stream]['features'][0]
        trained = [np.load(p).astype(np.float64) for p in folder.rglob('*_g08_*.npy')]
        np.testing.assert_allclose(scale, np.concatenate(trained).std(), rtol=1e-5)
    fusion = model.FUSION_WEIGHTS
    assert [n for n in arrays if n.startswith(fusion)] == [fusion]
    kept = sorted(path.name for path in train_dir.glob('*.index'))
    assert kept == ['model.ckpt-54.index', 'model.ckpt-60.index']


def test_features_then_joint_from_the_stages_results(undisturbed, run_train, tmp_path):
    hybrid, _, _ = undisturbed
    weights = training.weights_of(hybrid)
    out, _ = run_train(
        tmp_path / 'features', '--stage=features', '--num_segments=6', *weights
    )
    assert 'untrained' not in out
    words = [f'--hybrid_weights={hybrid}', '--num_segments=3', '--lstm_units=7,5']
    words += ['--max_steps=20', '--log_every=10']
    out, _ = run_train(tmp_path / 'joint', '--stage=joint', *words, *weights)
    said = next(line for line in out.splitlines() if line.startswith('loaded from'))
    assert 'softmax/weights' in said and 'inputs/motion_scale' in said
    assert 'Adam' not in said and 'Momentum' not in said
    _, before = training.arrays_of(hybrid)
    step, after = training.arrays_of(tmp_path / 'joint')
    assert step == 20
    for name, array in after.items():
        if name in before and not name.startswith('inputs/'):
            assert not np.array_equal(array, before[name]), name
        if name in before and name.startswith('inputs/'):
            np.testing.assert_array_equal(array, before[name])
    for stream, layer in (('spatial', 'conv1_1'), ('motion', 'conv1')):
        began = np.load(hybrid / 'weights' / stream / layer / 'weights.npy')
        ended = after[f'{model.STREAMS[stream].scope}/{layer}/weights']
        assert not np.array_equal(began, ended)
        saved = np.load(tmp_path / 'joint/weights' / stream / layer / 'weights.npy')
        np.testing.assert_array_equal(saved, ended)


def test_bfloat16_rounds_and_changes_nothing_else(run_train, tmp_path):
    training.skip_without_bfloat16()
    words = ['--stage=motion', '--motion_weights=random', '--batch_size=4']
    words += ['--max_steps=3', '--log_every=1', '--keep_prob=1']
    run_train(tmp_path / 'exact', *words)
    run_train(tmp_path / 'rounded', *words, '--bfloat16')
    logs = [training.log_of(tmp_path / name) for name in ('exact', 'rounded')]
    for exact, rounded in zip(*logs, strict=True):
        assert rounded['cross_entropy'] != exact['cross_entropy']
        for name, value in exact.items():
            assert np.isclose(rounded[name], value, rtol=0.02), name
    for name, array in training.arrays_of(tmp_path / 'rounded')[1].items():
        if name.endswith(('/weights', '/weights/Momentum')):
            # bfloat16 is the upper half of float32
            assert (array.view(np.uint32) & 0xFFFF).any(), name


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['spatial', 'motion'])
def test_full_width_as_a_user_calls_it(stage, data_dir, tmp_path, run_script):
    words = [f'--stage={stage}', f'--{stage}_weights=random', '--max_steps=20']
    places = [f'--data_dir={data_dir}', f'--train_dir={tmp_path}']
    done = run_script('train.py', *places, *words, '--batch_size=4')
    assert 'CNN saved as' in done.stdout
    assert training.arrays_of(tmp_path)[0] == 20


def test_only_the_layers_named_are_trained(run_train, tmp_path):
    words = [*training.MOTION, '--nonorm2', '--subtract_mean_flow', '--max_steps=2']
    run_train(tmp_path / 'first', *words, '--train_layers=conv5')
    _, arrays = training.arrays_of(tmp_path / 'first')
    trained = {name.split('/')[2] for name in arrays if name.endswith('/Momentum')}
    assert trained == {'conv5', 'fc6', 'fc7', 'fc8'}

    second = [f'--motion_weights={tmp_path / "first"}', '--train_layers=fc']
    run_train(tmp_path / 'second', *words, *second)
    _, arrays = training.arrays_of(tmp_path / 'second')
    layers = {name.split('/')[2] for name in arrays if name.startswith('motion/')}
    # what stayed as its dump has it is not written again
    assert layers == {'mean', 'scale', 'fc6', 'fc7', 'fc8'}
    before = tmp_path / 'first/weights/motion'
    after = tmp_path / 'second/weights/motion'
    for name, kept in (('conv1', True), ('conv5', True), ('fc6', False)):
        arrays = [np.load(folder / f'{name}/weights.npy') for folder in (before, after)]
        assert np.array_equal(*arrays) == kept, name


def test_reading_ahead_changes_nothing(run_train, undisturbed, tmp_path):
    whole, words, _ = undisturbed
    words = [*words, *training.weights_of(whole), '--workers=3', '--read_ahead=0']
    run_train(tmp_path, *words)
    training.assert_same_run(tmp_path, whole)
    assert training.read_json(tmp_path)['flags']['read_ahead'] == 0


# -- what training starts from ---------------------------------------------------------

FLAGS = {  # that `train.build` and `train.start` read
    **tiny.FLAGS,
    'stage': 'joint',
    'train_layers': 'all',
    'search_combination': False,
    'combination': [],
    'weight_decay': 0.0,
    'optimizer': 'adam',
    'learning_rate': 1e-4,
    'clip_norm': 10.0,
    'fusion_rate': 1e-2,
    'fusion_l1': 0.0,
    'fusion_l21': 0.0,
    'fusion_l2': 0.0,
}


def started(session, train_dir, cnns=None, batch=None, **given):
    """Builds and starts a stage; (Graph, function name -> value of a variable)."""
    flags = {**FLAGS, 'train_dir': str(train_dir), **given}
    run = {
        'flags': flags,
        'class_names': ['a', 'b', 'c'],
        'preprocessing': {'size': training.SIZE},
    }
    graph = train.build(flags, runs.architecture(run), {})
    train.start(session, flags, cnns or {}, graph, [], lambda: [batch])
    by_name = {v.op.name: v for v in tf.global_variables()}
    return graph, lambda name: session.run(by_name[name])


def test_a_cnn_starts_from_its_dump_across_modalities(monkeypatch, tmp_path):
    narrow.patch(monkeypatch)
    with tf.Graph().as_default(), tf.Session() as session:
        cnnm.cnn_m_2048(
            tf.placeholder(tf.uint8, [None, training.SIZE, training.SIZE, 3])
        )
        session.run(tf.global_variables_initializer())
        cnnm.save_weights(session, tmp_path / 'colour', 'cnn_m_2048')
    colour = np.load(tmp_path / 'colour/conv1/weights.npy')
    cnns = {'motion': {'weights': tmp_path / 'colour'}}
    with tf.Graph().as_default(), tf.Session() as session:
        given = {'stage': 'motion', 'cross_modality': True}
        started(session, tmp_path / 'run', cnns, **given)
        found = dump.variables(session.graph, 'motion/cnn_m_2048')
        first = session.run(found['conv1/weights'])
    np.testing.assert_array_equal(first, cnnm.cross_modality(colour, 6))


def test_joint_scales_are_of_the_steps_that_are_there(monkeypatch, tmp_path):
    """Padding is zeros, which is the fastest flow there is."""
    narrow.patch(monkeypatch)
    random = np.random.default_rng(0)
    batch = {**augmentation.whole_images(2), 'lengths': [4, 1], 'labels': [0, 1]}
    batch.update(keep_prob=1.0, dropout_seed=[0, 0])
    for stream, channels in (('spatial', 3), ('motion', 6)):
        shape = [2, 4, training.SIZE, training.SIZE, channels]
        batch[stream] = random.integers(100, 156, shape).astype(np.uint8)
        batch[stream][1, 1:] = 0
    with tf.Graph().as_default(), tf.Session() as session:
        graph, value_of = started(session, tmp_path, batch=batch)
        for stream in model.STREAMS:
            fc6 = graph.end_points[f'{stream}/fc6']
            fc6 = session.run(fc6, train.feed_of(graph, batch))
            there = fc6.reshape(2, 4, -1)
            there = np.concatenate([there[0], there[1, :1]])
            scale = value_of(f'inputs/{stream}_scale')
            np.testing.assert_allclose(scale, there.std(), rtol=1e-5)
            assert abs(fc6.std() / there.std() - 1) > 0.1  # padding would show


def test_combination_that_joint_starts_from(monkeypatch, tmp_path):
    """A branch whose searched weight is next to 0 would learn nothing."""
    narrow.patch(monkeypatch)
    form = (model.all_branches(), 'late', [6, 4])
    hybrid = str(tmp_path / 'hybrid')
    with tf.Graph().as_default(), tf.Session() as session:
        architecture = model.Architecture(3, training.SIZE, 3, *form, {})
        model.hybrid_classifier({'spatial': 64, 'motion': 64}, architecture)
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        model.set_variable(session, model.COMBINATION, np.log([2, 1, 1]))
        checkpoints.save(saver, session, hybrid, 5)
        model.set_variable(session, model.COMBINATION, [-13.8, 0, -13.8])
        checkpoints.save(tf.train.Saver(), session, hybrid, 5, 'searched')
    with tf.Graph().as_default(), tf.Session() as session:
        flags = {'head': 'late', 'hybrid_weights': hybrid}
        graph, value_of = started(session, tmp_path / 'joint', **flags)
        flags = {**FLAGS, 'train_dir': str(tmp_path / 'joint'), **flags}
        for combination, expected in (
            ([], [0.5, 0.25, 0.25]),  # of the last checkpoint, not the searched one
            ([0.4, 0.4, 0.2], [0.4, 0.4, 0.2]),
            ([2.0, 0.0, 6.0], [0.25, 0, 0.75]),
        ):
            flags['combination'] = combination
            train.start(session, flags, {}, graph, [], None)
            weights = np.exp(value_of(model.COMBINATION))
            np.testing.assert_allclose(weights / weights.sum(), expected, atol=2e-6)


# -- held-out groups and late fusion ---------------------------------------------------

LATE = (*training.HYBRID, *training.HOLD_OUT, '--head=late', '--max_steps=12')


def combination_of(arrays):
    """The weights of late fusion in a checkpoint."""
    weights = np.exp(arrays[model.COMBINATION])
    return weights / weights.sum()


@pytest.fixture(scope='module')
def late(undisturbed, data_dir, run_narrow, tmp_path_factory):
    """A run of late fusion whose weights are searched, its words, what it printed."""
    train_dir = tmp_path_factory.mktemp('late') / 'run'
    words = [*LATE, *training.weights_of(undisturbed[0]), '--search_combination']
    words += ['--checkpoint_every=3', '--balanced']
    places = [f'--data_dir={data_dir}', f'--train_dir={train_dir}']
    out, _ = run_narrow('train.py', *places, *words)
    return train_dir, words, out


def test_validation_keeps_the_best(late):
    train_dir, _, out = late
    assert '1 train clips of groups' in out
    lines = [x for x in training.log_of(train_dir) if 'validation_accuracy' in x]
    assert [line['step'] for line in lines] == [3, 6, 9, 12]
    accuracies = [line['validation_accuracy'] for line in lines]
    _, step = checkpoints.latest(train_dir / 'best')
    assert step == lines[int(np.argmax(accuracies))]['step']


def test_a_temperature_is_fitted_for_each_checkpoint_and_only_once(late, run_train):
    train_dir, words, out = late
    lines = [x for x in training.log_of(train_dir) if 'validation_accuracy' in x]
    right = lines[-1]['validation_accuracy']
    assert right in (0, 1)  # of the one held-out clip
    for name in ('last', 'best', 'searched'):
        folder = train_dir / ('' if name == 'last' else name)
        checkpoint, step = checkpoints.latest(folder)
        temperature = calibration.read(checkpoint)
        assert f'temperature of {name}: {temperature:.2f}' in out
        if step == lines[-1]['step'] and name == 'last':
            # what is right can only be too uncertain, what is wrong too certain
            assert (temperature < 0.1) if right else (temperature > 1)
    before = (train_dir / 'temperature.json').read_bytes()
    out, _ = run_train(train_dir, *words)
    assert 'temperature' not in out
    assert (train_dir / 'temperature.json').read_bytes() == before


def test_views_of_train_clips_are_used(undisturbed, run_train, data_dir, tmp_path):
    words = [*training.weights_of(undisturbed[0]), *LATE[:1], '--num_segments=6']
    words += ['--lstm_units=7,5', '--batch_size=3', '--max_steps=6', '--log_every=1']
    for views in (1, 3):
        run_train(tmp_path / f'{views}', *words, f'--feature_views={views}')
    run = training.read_json(tmp_path / '3')
    for cnn in run['cnns'].values():
        folders = [data_dir / 'features' / name for name in cnn['features']]
        assert len(folders) == 3
        for view, folder in enumerate(folders):
            clips_of = {f'{p.parent.name}/{p.stem}' for p in folder.rglob('*.npy')}
            every_clip = clips.read_index(str(data_dir))
            assert clips_of == set(run['train_clips'] if view else every_clip)
    losses = [
        [line['loss'] for line in training.log_of(tmp_path / f'{views}')]
        for views in (1, 3)
    ]
    assert losses[0] != losses[1]


def test_the_combination_is_searched_once_after_training(late, run_train):
    train_dir, words, out = late
    for folder in (train_dir, train_dir / 'best'):
        _, arrays = training.arrays_of(folder)
        assert not arrays[model.COMBINATION].any()  # neither learned nor searched
        assert not [n for n in arrays if n.startswith(f'{model.COMBINATION}/')]
    (step, searched), (_, last) = map(
        training.arrays_of, (train_dir / 'searched', train_dir)
    )
    assert step == 12 and np.ptp(searched[model.COMBINATION]) > 0.1
    for name in set(searched) - {model.COMBINATION}:
        np.testing.assert_array_equal(searched[name], last[name], name)
    shown = combination_of(searched).round(3).tolist()
    shown = dict(zip(model.all_branches(), shown, strict=True))
    assert f'searched on held-out groups: {shown}' in out
    before = training.files_of(train_dir / 'searched')
    out, _ = run_train(train_dir, *words)  # the same command again
    assert 'searched' not in out
    assert training.files_of(train_dir / 'searched') == before


def test_a_run_killed_before_the_search_searches(late, run_train, tmp_path):
    train_dir, words, _ = late
    run = tmp_path / 'run'
    shutil.copytree(train_dir, run)
    shutil.rmtree(run / 'searched')  # as a kill after the last step leaves it
    out, _ = run_train(run, *words)
    assert 'searched on held-out groups' in out
    training.assert_same_arrays(run / 'searched', train_dir / 'searched')


def test_weights_of_late_fusion_by_hand(run_train, undisturbed, tmp_path):
    words = [*LATE, *training.weights_of(undisturbed[0]), '--combination=3,0,1']
    run_train(tmp_path, *words)
    _, arrays = training.arrays_of(tmp_path)
    np.testing.assert_allclose(combination_of(arrays), [0.75, 0, 0.25], atol=2e-6)
    assert not [n for n in arrays if n.startswith(f'{model.COMBINATION}/')]
    slots = {name for name in arrays if name.endswith('/Adam')}
    assert 'softmax/motion_lstm/weights/Adam' in slots  # the rest is learned


def test_evaluation_takes_the_checkpoint_that_is_named(late):
    train_dir, _, _ = late
    probabilities = {}
    for name in ('last', 'best', 'searched'):
        result = evaluate.evaluate(train_dir, name)
        folder = train_dir / name.replace('last', '')
        assert result['step'] == checkpoints.latest(folder)[1]
        with open(train_dir / 'predictions.csv', newline='') as file:
            probabilities[name] = [row['probability'] for row in csv.DictReader(file)]
    assert probabilities['last'] != probabilities['searched']


# -- what a run shows and says of itself -----------------------------------------------


def test_what_a_run_shows_and_says_of_itself(run_train, tmp_path):
    words = [*training.MOTION, '--log_every=1', '--histograms', '--max_steps=2']
    run_train(tmp_path, *words)
    (path,) = tmp_path.glob('events.*')
    events = list(tf.train.summary_iterator(str(path)))
    tags = collections.Counter(v.tag for e in events for v in e.summary.value)
    for name in ('loss', 'cross_entropy', 'accuracy', 'clips_per_second', 'waiting'):
        assert tags[name] == 2
    assert tags['images/0'] == tags['images/1'] == 1
    assert tags['motion/cnn_m_2048/conv1/weights/values'] == 2
    graph = next(event.graph_def for event in events if event.graph_def)
    graph = tf.GraphDef.FromString(graph)
    top = {node.name.split('/')[0] for node in graph.node}
    assert top == {'inputs', 'motion', 'loss', 'train'}  # as the method reads
    run = training.read_json(tmp_path)
    assert run['versions']['numpy'] == np.__version__
    git = ['git', 'describe', '--always', '--dirty']
    done = subprocess.run(git, cwd=training.ROOT, capture_output=True, text=True)
    assert run['revision'] == done.stdout.strip()


@pytest.mark.parametrize(
    'words, wrong',
    [
        # the first step's loss is finite, and what it leads to is not
        (['--fusion_rate=1e38', '--clip_norm=0', '--max_steps=1'], 'step 1: a weight'),
        (['--learning_rate=1e20', '--max_steps=9'], "step 2: the loss ({'cross"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_is_not_saved(
    words, wrong, undisturbed, run_train, tmp_path
):
    weights = training.weights_of(undisturbed[0])
    _, err = run_train(tmp_path, *training.HYBRID, *weights, *words, code=1)
    line = err.splitlines()[-1]
    assert wrong in line and 'is not finite; give a lower --learning_rate' in line
    assert checkpoints.latest(tmp_path) == (None, 0)
