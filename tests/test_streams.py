"""The graphs from pixels, and the table of streams: a third one is another entry."""

import csv
import json

import cv2
import hybrids
import narrow
import numpy as np
import programs
import pytest
import rgb_difference
import tensorflow.compat.v1 as tf

import cnnm
import evaluate
import model
import train
from data import features
from data import sampling
from results import runs
from weights import checkpoints

C = hybrids.C


def pixels(inputs, batch=2, steps=3):
    """A feed for the joint graph: random pixels, lengths 3 and 2."""
    random = np.random.RandomState(0)
    feed = {
        inputs['lengths']: np.array([steps, steps - 1]),
        inputs['labels']: np.array([0, 2]),
        inputs['keep_prob']: 1.0,
        inputs['dropout_seed']: [0, 0],
        inputs['crop_scale']: np.array([1.0, 0.875]),
        inputs['place']: np.array([0, 4]),
        inputs['mirrored']: np.array([True, False]),
    }
    for stream in model.STREAMS:
        shape = [batch, steps, *inputs[stream].shape[2:]]
        feed[inputs[stream]] = random.randint(1, 256, shape).astype(np.uint8)
    return feed


@pytest.mark.parametrize('head', ['concat', 'late'])
def test_one_joint_step_changes_everything(graph, monkeypatch, head):
    narrow.patch(monkeypatch)
    inputs, logits, points = model.joint_classifier(hybrids.architecture(head=head))
    variables = tf.trainable_variables()
    scalars = model.logged_scalars(logits, inputs['labels'], variables, 0.0)
    optimizer = tf.train.MomentumOptimizer(0.1, 0.9)
    proximal = model.Proximal(tf.constant(0.05), 0.0, 0.0, 0.0)
    update = model.Update(optimizer, 0.0, proximal)
    train_op = model.training(scalars, variables, update)
    feed = pixels(inputs)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        fc6 = session.run({s: points[f'{s}/fc6'] for s in model.STREAMS}, feed)
        model.set_scales(session, {s: x.std() for s, x in fc6.items()})
        before = hybrids.values_of(session)
        session.run(train_op, feed)
        after = hybrids.values_of(session)
    changed = {v.op.name for v in variables} - {
        n for n in before if np.array_equal(before[n], after[n])
    }
    weights = [
        'spatial/vgg_19/conv1_1/weights',
        'spatial/vgg_19/fc6/weights',
        'motion/cnn_m_2048/conv1/weights',
        'motion/cnn_m_2048/fc6/weights',
        *(
            f'{stream}_lstm/layer_{layer}/{kernel}'
            for stream in model.STREAMS
            for layer in (1, 2)
            for kernel in ('kernel', 'recurrent_kernel')
        ),
        'regularized_fusion_network/spatial/weights',
        'regularized_fusion_network/motion/weights',
        model.FUSION_WEIGHTS,
    ]
    heads = ['softmax/weights']
    if head == 'late':
        heads = [f'softmax/{name}/weights' for name in model.all_branches()]
    assert set(weights + heads) <= changed
    # what no logit comes from is not trained
    idle = {v.op.name for v in variables} - changed
    assert all('/fc7/' in name or '/fc8/' in name for name in idle), idle


def test_joint_graph_is_the_hybrid_on_fc6_of_its_clips(graph, monkeypatch):
    """[B, T] images are taken apart and put together in the same order."""
    narrow.patch(monkeypatch)
    inputs, logits, points = model.joint_classifier(hybrids.architecture())
    feed = pixels(inputs)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        joint, fc6 = session.run(
            [logits, {s: points[f'{s}/fc6'] for s in model.STREAMS}], feed
        )
        # one clip alone gives what it gave beside the other
        for clip in (0, 1):
            common = (inputs['keep_prob'], inputs['dropout_seed'])
            alone = {p: v if p in common else v[[clip]] for p, v in feed.items()}
            np.testing.assert_allclose(
                session.run(logits, alone), joint[[clip]], rtol=1e-4, atol=1e-4
            )
        features = {s: tf.constant(x.reshape(2, 3, -1)) for s, x in fc6.items()}
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            again, _ = model.hybrid(
                features, tf.constant([3, 2]), hybrids.C, lstm_units=hybrids.UNITS
            )
        np.testing.assert_allclose(session.run(again), joint, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('stream, channels', [('spatial', 3), ('motion', 4)])
def test_cnn_classifier_has_no_dropout_in_evaluation(
    graph, monkeypatch, stream, channels
):
    narrow.patch(monkeypatch)
    inputs, logits, _ = model.cnn_classifier(stream, hybrids.architecture())
    assert inputs['images'].shape.as_list() == [None, 48, 48, channels]
    images = np.random.RandomState(0).randint(0, 256, [3, 48, 48, channels])
    feed = {
        inputs['images']: images,
        inputs['crop_scale']: np.ones(3),
        inputs['place']: np.zeros(3),
        inputs['mirrored']: np.zeros(3, bool),
    }
    on = {inputs['keep_prob']: 0.5}
    off = {inputs['keep_prob']: 1.0}
    seeds = [{inputs['dropout_seed']: [0, step]} for step in (1, 2)]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        quiet = [session.run(logits, {**feed, **off, **seed}) for seed in seeds]
        loud = [session.run(logits, {**feed, **on, **seed}) for seed in seeds]
    np.testing.assert_array_equal(*quiet)
    assert not np.array_equal(*loud)


def test_top_level_scopes_read_as_the_method(graph, monkeypatch):
    narrow.patch(monkeypatch)
    model.joint_classifier(hybrids.architecture())
    scopes = {op.name.split('/')[0] for op in graph.get_operations()}
    assert scopes == {
        'inputs',
        'spatial',
        'motion',
        'spatial_lstm',
        'motion_lstm',
        'regularized_fusion_network',
        'softmax',
    }


# -- the table -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'stream, span, shape', [('spatial', 1, [48, 48, 3]), ('motion', 11, [48, 48, 20])]
)
def test_an_input_spans_what_its_stream_says(stream, span, shape):
    assert model.STREAMS[stream].span(10) == span
    assert model.input_shape(stream, 48, 10) == shape


def test_streams_read_frames_and_stacks_of_a_clip():
    clip = sampling.Clip(
        9,
        lambda starts: ('frames', starts),
        lambda starts, length: ('stacks', starts, length),
    )
    assert model.STREAMS['spatial'].read(clip, [3], 10) == ('frames', [3])
    assert model.STREAMS['motion'].read(clip, [3], 10) == ('stacks', [3], 10)


@pytest.mark.parametrize('stream, taken', [('spatial', []), ('motion', ['norm2'])])
def test_a_cnn_takes_the_options_of_its_entry(graph, monkeypatch, stream, taken):
    narrow.patch(monkeypatch)
    images = tf.zeros(model.input_shape(stream, 48, 2))[None]
    _, with_norm2 = model.cnn(stream, images, 3, options={'norm2': True})
    with tf.Graph().as_default():
        images = tf.zeros(images.shape)
        _, without = model.cnn(stream, images, 3, options={'norm2': False})
    assert sorted(set(with_norm2) - set(without)) == taken


# -- a third stream --------------------------------------------------------------------


@pytest.fixture(scope='module')
def third(tiny_runs):
    """Narrow networks and the third stream, for the tests below."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        monkeypatch.setitem(model.STREAMS, rgb_difference.NAME, rgb_difference.ENTRY)
        yield


@pytest.fixture(scope='module')
def folder(tiny_runs, third, tmp_path_factory):
    """Folder of a run of its CNN, `rgb`, and of a hybrid of all three, `hybrid`."""
    folder = tmp_path_factory.mktemp('third')
    common = [f'--data_dir={tiny_runs}/data', f'--split_dir={tiny_runs}/lists']
    common += ['--max_steps=3', '--log_every=1', '--batch_size=3', '--workers=2']
    common += ['--num_segments=3', '--stack_length=3']
    stage = [f'--train_dir={folder}/rgb', '--stage=rgb_difference']
    code = programs.call(train, *common, *stage, '--rgb_difference_weights=random')
    assert not code
    hybrid = [f'--train_dir={folder}/hybrid', '--lstm_units=6,4']
    hybrid += [f'--{s}_weights={tiny_runs}/hybrid' for s in ('spatial', 'motion')]
    hybrid += [f'--rgb_difference_weights={folder}/rgb', '--learning_rate=0.01']
    assert not programs.call(train, *common, *hybrid)
    return folder


def log_of(train_dir):
    lines = (train_dir / 'log.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_differences_are_those_of_the_frames(third):
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, [5, 4, 6, 3], np.uint8)
    clip = sampling.Clip(5, lambda steps: frames[steps], None)
    found = rgb_difference.read(clip, [0, 3, 4], 10)
    assert found.shape == (3, 4, 6, 6) and found.dtype == np.uint8
    for values, (first, second, third) in zip(
        found, [(0, 1, 2), (3, 4, 4), (4, 4, 4)], strict=True
    ):
        for channels, (before, after) in (
            (slice(0, 3), (first, second)),
            (slice(3, 6), (second, third)),
        ):
            d = frames[after].astype(int) - frames[before]
            assert np.abs(values[..., channels] - (128 + d / 2)).max() <= 0.5
    assert (found[2] == 128).all()


def test_it_may_start_from_a_dump_for_colour(third, refused, tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, 48, 48, 3]), scope='colour')
        session.run(tf.global_variables_initializer())
        cnnm.save_weights(session, tmp_path / 'dump', 'colour')
        conv1 = session.run(tf.global_variables('colour/conv1/weights')[0])
    with tf.Graph().as_default(), tf.Session() as session:
        model.cnn(
            rgb_difference.NAME, tf.placeholder(tf.uint8, [None, 48, 48, 6]), 1000
        )
        dumps = {rgb_difference.NAME: tmp_path / 'dump'}
        model.initialize(session, dumps, cross_modality=True)
        (started,) = tf.global_variables(f'{rgb_difference.ENTRY.scope}/conv1/weights')
        expected = np.repeat(conv1.mean(axis=2, keepdims=True), 6, axis=2)
        np.testing.assert_array_equal(session.run(started), expected)
    words = ['--data_dir=D', f'--train_dir={tmp_path}/run', '--stage=rgb_difference']
    words += ['--rgb_difference_weights=random', '--cross_modality']
    refused(
        lambda: programs.call(train, *words),
        '--cross_modality needs --motion_weights or --rgb_difference_weights',
    )


def test_its_cnn_trains_from_its_own_inputs(folder):
    lines = log_of(folder / 'rgb')
    assert [line['step'] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line['loss']) for line in lines)
    saved = np.load(folder / 'rgb/weights/rgb_difference/conv1/weights.npy')
    assert saved.shape[:3] == (7, 7, 6)
    checkpoint, _ = checkpoints.latest(folder / 'rgb')
    names = checkpoints.variables_in(checkpoint)
    assert 'rgb_difference/cnn_m_2048/conv1/weights' in names
    result = evaluate.evaluate(str(folder / 'rgb'))
    assert result['stage'] == 'rgb_difference'
    assert list(result['figures']) == ['video', 'one_sample']


def test_the_hybrid_has_three_branches_and_the_fusion(folder, tiny_runs):
    run = runs.read(folder / 'hybrid')
    assert run['flags']['branches'] == [
        'spatial_lstm',
        'motion_lstm',
        'rgb_difference_lstm',
        'fusion',
    ]
    cached = features.folders(tiny_runs / 'data', run['cnns'])
    assert set(cached) == {'spatial', 'motion', 'rgb_difference'}
    assert run['cnns']['rgb_difference']['weights'].startswith(str(folder / 'rgb'))
    assert all(np.isfinite(line['loss']) for line in log_of(folder / 'hybrid'))
    checkpoint, step = checkpoints.latest(folder / 'hybrid')
    shapes = checkpoints.variables_in(checkpoint)
    assert step == 3
    assert shapes[model.FUSION_WEIGHTS] == [3 * model.FUSION_UNITS, model.FUSION_UNITS]
    assert shapes['rgb_difference_lstm/layer_2/kernel'] == [6, 16]
    assert shapes['softmax/weights'] == [3 * 4 + model.FUSION_UNITS, 3]


def test_the_hybrid_is_evaluated_and_predicts_alike(folder, tiny_runs):
    code = programs.call(evaluate, f'--train_dir={folder}/hybrid')
    assert code == 0
    result = json.loads((folder / 'hybrid/evaluation.json').read_text())
    parts = ['spatial_lstm', 'motion_lstm', 'rgb_difference_lstm', 'fusion']
    expected = ['video', 'one_sample']
    expected += [name for part in parts for name in (part, f'without_{part}')]
    assert list(result['figures']) == expected
    report = (folder / 'hybrid/report.html').read_text()
    # four parts and four scores without one
    assert report.count('only the part of the scores that this branch adds') == 4
    assert report.count('the scores without what this branch adds') == 4
    with open(folder / 'hybrid/predictions.csv', newline='', encoding='utf-8') as file:
        row = next(csv.DictReader(file))
    video = tiny_runs / 'videos' / f'{row["clip"]}.avi'
    words = [f'--train_dir={folder}/hybrid', f'--video={video}', '--explain']
    assert programs.call(evaluate, *words) == 0
    (path,) = (folder / 'hybrid/videos').glob('*.json')
    (name, probability), *_ = json.loads(path.read_text())['best']
    assert name == row['prediction']
    assert abs(probability - float(row['probability'])) < 1e-4
    drawn = cv2.imread(str(folder / f'hybrid/videos/{video.name}_explain.png'))
    assert drawn.shape[0] > drawn.shape[1]  # six rows of three steps


def test_the_hybrid_is_exported(folder):
    words = [f'--train_dir={folder}/hybrid', f'--export={folder}/saved']
    assert programs.call(evaluate, *words) == 0


def test_runs_of_another_table_are_refused(folder, tiny_runs, third, refused):
    """The fusion of an earlier run has two streams."""
    refused(
        lambda: evaluate.evaluate(str(tiny_runs / 'hybrid')),
        'was trained on the streams spatial, motion, and model.STREAMS',
    )
