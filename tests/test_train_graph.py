"""What train.py builds of its flags: the update, what is trained, late fusion."""

import types

import hybrids
import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import model
import train
from data import augmentation

FLAGS = {
    'stage': 'hybrid',
    'train_layers': 'all',
    'weight_decay': 0.1,
    'optimizer': 'momentum',
    'learning_rate': 0.1,
    'clip_norm': 0.0,
    'fusion_rate': 0.05,
    'fusion_l1': 0.01,
    'fusion_l21': 0.02,
    'fusion_l2': 0.03,
    'search_combination': False,
    'combination': [],
    'histograms': False,
}
WIDTHS = {'spatial': hybrids.D, 'motion': hybrids.D}


def build(branches=None, head='concat', **flags):
    """`train.build` of the hybrid at small sizes."""
    form = hybrids.architecture(branches, head)
    flags = {**FLAGS, 'branches': form.branches, **flags}
    return train.build(flags, form, WIDTHS)


def feed(graph, rate, seed=1):
    named = {
        'lengths': hybrids.LENGTHS,
        'labels': np.array([0, 3, 1, 2, 0]),
        'keep_prob': 1.0,
        'dropout_seed': [0, 0],
        'mirrored': np.zeros(5, bool),  # which the hybrid does not read
        **hybrids.some_features(seed),
    }
    return {**train.feed_of(graph, named), graph.rate: rate}


def test_fusion_rate_falls_with_the_learning_rate(graph):
    built, rate = build(), 0.01  # a tenth of the initial one
    fusion = next(v for v in built.variables if v.op.name == model.FUSION_WEIGHTS)
    biases = next(v for v in built.variables if v.op.name == 'softmax/biases')
    gradients = tf.gradients(built.scalars['loss'], [fusion, biases])
    stepped = model.proximal_step(fusion, gradients[0], 0.1 * 0.05, 0.01, 0.02, 0.03)
    with tf.Session() as session:
        hybrids.start(session)
        expected, before, of_biases = session.run(
            [stepped, biases, gradients[1]], feed(built, rate)
        )
        session.run(built.train_op, feed(built, rate))
        after = session.run([fusion, biases])
    np.testing.assert_allclose(after[0], expected, atol=2e-6)
    np.testing.assert_allclose(after[1], before - rate * of_biases, atol=2e-6)


def test_what_is_logged_is_of_before_the_step(graph):
    built = build()
    with tf.Session() as session:
        hybrids.start(session)
        alone = session.run(built.scalars, feed(built, 0.5))
        logged, _ = session.run([built.scalars, built.train_op], feed(built, 0.5))
        later = session.run(built.scalars, feed(built, 0.5))
    assert logged == alone and logged['loss'] != later['loss']


@pytest.mark.parametrize('head', ['concat', 'late'])
@pytest.mark.parametrize('stage', ['spatial', 'motion', 'hybrid', 'joint'])
def test_no_sum_depends_on_which_op_is_done_first(graph, monkeypatch, stage, head):
    """AddN of three or more tensors begins with one whose memory it may reuse, which
    is another one in another run: its last bits are not the same in every run."""
    narrow.patch(monkeypatch)
    build(head=head, stage=stage)
    whole = graph.as_graph_def()
    bodies = [function.node_def for function in whole.library.function]
    sums = [
        node
        for nodes in (whole.node, *bodies)
        for node in nodes
        if node.op in ('AddN', 'AccumulateNV2')
    ]
    assert sums and {node.attr['N'].i for node in sums} == {2}


def test_finite_is_of_every_trained_variable(graph):
    built = build()
    names = {model.FUSION_WEIGHTS, 'softmax/biases', 'motion_lstm/layer_2/kernel'}
    chosen = [v for v in built.variables if v.op.name in names]
    assert len(chosen) == 3
    with tf.Session() as session:
        hybrids.start(session)
        assert session.run(built.finite)
        for variable in chosen:
            whole = session.run(variable)
            spoiled = whole.copy()
            spoiled.flat[-1] = np.nan
            model.set_variable(session, variable.op.name, spoiled)
            assert not session.run(built.finite), variable.op.name
            model.set_variable(session, variable.op.name, whole)


@pytest.mark.parametrize(
    'given, learned', [({}, True), ({'combination': [1.0, 2.0, 1.0]}, False)]
)
def test_given_weights_of_late_fusion_are_not_learned(graph, given, learned):
    built = build(head='late', **given)
    names = [variable.op.name for variable in built.variables]
    assert (model.COMBINATION in names) == learned
    assert built.branch_probabilities == {}


def test_searched_weights_are_not_learned_and_branches_are_scored(graph):
    built = build(['fusion', 'spatial_lstm'], 'late', search_combination=True)
    assert model.COMBINATION not in [v.op.name for v in built.variables]
    with tf.Session() as session:
        hybrids.start(session)
        found = session.run(built.branch_probabilities, feed(built, 0.1))
    assert set(found) == {'fusion', 'spatial_lstm'}
    for values in found.values():
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)


def test_weights_of_late_fusion_go_to_the_branches_they_are_named_for(graph):
    """--branches may name them in another order than the graph has them."""
    built = build(['fusion', 'spatial_lstm'], 'late')
    with tf.Session() as session:
        hybrids.start(session)
        train.set_combination(session, {'fusion': 3.0, 'spatial_lstm': 1.0})
        parts = {
            name: model.probabilities(built.end_points[f'{name}/logits'])
            for name in ('fusion', 'spatial_lstm')
        }
        p, parts = session.run(
            [model.probabilities(built.logits), parts], feed(built, 0.1)
        )
    expected = 0.75 * parts['fusion'] + 0.25 * parts['spatial_lstm']
    np.testing.assert_allclose(p, expected, rtol=1e-5, atol=1e-6)


def test_a_branch_of_weight_zero_counts_nothing(graph):
    built = build(head='late')
    with tf.Session() as session:
        hybrids.start(session)
        given = {'spatial_lstm': 0.0, 'motion_lstm': 2.0, 'fusion': 0.0}
        train.set_combination(session, given)
        part = model.probabilities(built.end_points['motion_lstm/logits'])
        p, part = session.run(
            [model.probabilities(built.logits), part], feed(built, 0.1)
        )
    np.testing.assert_allclose(p, part, atol=1e-5)


def test_searched_weights_are_the_best_of_the_branches(graph, capsys):
    """One branch knows the labels of the held-out clips: its place differs in the two
    orders."""
    branches = ['fusion', 'motion_lstm', 'spatial_lstm']
    built = build(branches, 'late', search_combination=True)
    labels = np.array([0, 3, 1, 2, 0])
    batch = {
        'lengths': hybrids.LENGTHS,
        'keep_prob': 1.0,
        'dropout_seed': [0, 0],
        **hybrids.some_features(),
    }
    with tf.Session() as session:
        hybrids.start(session)
        units = session.run(built.end_points['fusion'], train.feed_of(built, batch))
        weights = np.linalg.pinv(units) @ (30 * np.eye(hybrids.C)[labels])
        model.set_variable(session, 'softmax/fusion/weights', weights)
        model.set_variable(session, 'softmax/fusion/biases', np.zeros(hybrids.C))
        validation = train.Validation(labels, lambda: iter([batch]), list('abcd'))
        train.search_combination(session, built, validation)
        scores = session.run(tf.trainable_variables(model.COMBINATION)[0])
    shares = dict(zip(model.all_branches(), np.exp(scores), strict=True))
    assert shares['fusion'] > 0.99
    assert 'searched on held-out groups' in capsys.readouterr().out


def test_the_first_random_layer_gives_outputs_of_mean_square_1(graph, monkeypatch):
    """Above layers of a dump whose outputs are in the hundreds."""
    narrow.patch(monkeypatch)
    inputs, _, end_points = model.classifier('spatial', hybrids.architecture())
    built = types.SimpleNamespace(inputs=inputs, end_points=end_points)
    random = np.random.default_rng(0)
    size = [4, hybrids.SIZE, hybrids.SIZE, 3]
    images = {'images': random.integers(0, 256, size).astype(np.uint8)}
    batch = {**images, **augmentation.whole_images(4)}
    scope = model.STREAMS['spatial'].scope
    of_dump = [f'{scope}/{layer}/weights' for layer in ('conv1_1', 'conv1_2')]

    def square(session, layer):
        outputs = session.run(end_points[layer], train.feed_of(built, batch))
        return np.square(outputs).mean()

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = hybrids.values_of(session)
        model.set_variable(session, of_dump[0], 300 * before[of_dump[0]])
        assert square(session, 'conv2_1') > 1000
        first = (session, 'spatial', built, of_dump, lambda: [batch])
        train.normalize_first_random(*first)
        np.testing.assert_allclose(square(session, 'conv2_1'), 1, rtol=1e-4)
        after = hybrids.values_of(session)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    first = f'{scope}/conv2_1/weights'
    assert changed == {of_dump[0], first}
    ratios = after[first] / before[first]
    np.testing.assert_allclose(ratios, ratios.ravel()[0], rtol=1e-4)
