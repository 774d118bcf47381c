"""The hybrid against numpy: LSTM, fusion, heads, proximal step, one step of all."""

import subprocess
import sys

import narrow
import numpy as np
import pytest
import scipy.optimize
import tensorflow.compat.v1 as tf

import model

# odd and all different, so that swapped axes cannot pass
B, T, D, U1, U2, C = 5, 7, 6, 3, 2, 4
LENGTHS = np.array([7, 1, 4, 6, 2], np.int32)
SETTINGS = {
    'optimizer': 'momentum',
    'learning_rate': 0.1,
    'clip_norm': 0.0,
    'fusion_rate': 0.05,
    'fusion_l1': 0.01,
    'fusion_l21': 0.02,
    'fusion_l2': 0.03,
}
MODULES = (
    'model train vgg cnnm data.splits data.batches data.augmentation data.features '
    'data.synthetic.draw data.synthetic.ceilings data.clips '
    'weights.checkpoints weights.layers '
    'weights.dump weights.convert evaluate results.inference results.predict '
    'results.measures results.report results.tables results.summaries'
)


def test_importing_does_no_work(tmp_path):
    code = f"""
import os, sys
from absl import flags
import tensorflow.compat.v1 as tf
before = set(flags.FLAGS)
os.chdir({str(tmp_path)!r})
import importlib
for name in {MODULES!r}.split():
    importlib.import_module(name)
assert set(flags.FLAGS) == before, set(flags.FLAGS) - before
assert not tf.get_default_graph().get_operations()
assert not os.listdir('.')
"""
    root = narrow.__file__.rsplit('/', 2)[0]
    subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {root!r})\n' + code],
        check=True,
        timeout=120,
    )


def start(session, seed=0):
    """Random values for every trainable variable, biases too; {name: array}."""
    random = np.random.RandomState(seed)
    session.run(tf.global_variables_initializer())
    variables = tf.trainable_variables()
    arrays = [random.normal(0, 0.5, v.shape).astype('f') for v in variables]
    feed = {v.initializer.inputs[1]: a for v, a in zip(variables, arrays, strict=True)}
    session.run([v.initializer for v in variables], feed)  # one run: each costs time
    return {v.op.name: a for v, a in zip(variables, arrays, strict=True)}


def values_of(session):
    return session.run({v.op.name: v for v in tf.global_variables()})


def some_features(seed=1):
    random = np.random.RandomState(seed)
    return {s: random.normal(0, 1, [B, T, D]).astype('f') for s in model.STREAMS}


# -- LSTM -----------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_lstm(inputs, lengths, kernel, recurrent, bias):
    """One LSTM layer, step by step; (list of [T_i, U], last [B, U])."""
    outputs, last = [], []
    for clip, length in zip(inputs, lengths, strict=True):
        c = h = np.zeros(recurrent.shape[0])
        hs = []
        for x in clip[:length]:
            i, j, f, o = np.split(x @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            hs.append(h)
        outputs.append(np.array(hs))
        last.append(h)
    return outputs, np.array(last)


def plain_stack(features, lengths, arrays, scope):
    """Two LSTM layers on one stream: last valid step [B, U2]."""
    parts = ('kernel', 'recurrent_kernel', 'bias')
    outputs, _ = plain_lstm(
        features, lengths, *(arrays[f'{scope}layer_1/{part}'] for part in parts)
    )
    second = [arrays[f'{scope}layer_2/{part}'] for part in parts]
    return plain_lstm(outputs, lengths, *second)[1]


def test_lstm_equals_a_plain_loop(graph):
    features = some_features()['spatial']
    with tf.variable_scope('one'):
        outputs, last = model.lstm(tf.constant(features), tf.constant(LENGTHS), U1)
    assert last.shape.as_list()[1:] == [U1]
    with tf.Session() as session:
        arrays = start(session)
        got, got_last = session.run([outputs, last])
    assert got.shape == (B, T, U1)
    expected, expected_last = plain_lstm(features, LENGTHS, *arrays.values())
    np.testing.assert_allclose(got_last, expected_last, atol=2e-6)
    for clip, plain, length in zip(got, expected, LENGTHS, strict=True):
        np.testing.assert_allclose(clip[:length], plain, atol=2e-6)
        # past the end the state stands still
        np.testing.assert_array_equal(clip[length:], clip[[length - 1] * (T - length)])


def test_lstm_stack_equals_two_plain_layers(graph):
    features = some_features()['spatial']
    last = model.lstm_stack(
        tf.constant(features), tf.constant(LENGTHS), (U1, U2), 1.0, None
    )
    with tf.Session() as session:
        arrays = start(session)
        got = session.run(last)
    np.testing.assert_allclose(
        got, plain_stack(features, LENGTHS, arrays, ''), atol=2e-6
    )


def test_lstm_gradient_equals_differences(graph):
    features = some_features()['spatial'][:2, :3, :2]
    lengths = [3, 2]
    _, last = model.lstm(tf.constant(features), tf.constant(lengths), U1)
    loss = tf.reduce_sum(tf.square(last) * [1.0, 2.0, 3.0])
    gradients = tf.gradients(loss, tf.trainable_variables())
    with tf.Session() as session:
        arrays = start(session)
        got = session.run(gradients)
    doubles = [a.astype(np.float64) for a in arrays.values()]

    def plain_loss(flat):
        ends = np.cumsum([a.size for a in doubles])[:-1]
        parts = np.split(flat, ends)
        shaped = [p.reshape(a.shape) for p, a in zip(parts, doubles, strict=True)]
        return (plain_lstm(features, lengths, *shaped)[1] ** 2 * [1, 2, 3]).sum()

    flat = np.concatenate([a.ravel() for a in doubles])
    expected = scipy.optimize.approx_fprime(flat, plain_loss, 1e-6)
    got = np.concatenate([g.ravel() for g in got])
    np.testing.assert_allclose(got, expected, atol=2e-5)


# -- fusion ---------------------------------------------------------------------------


def plain_fusion(features, lengths, arrays, scope='regularized_fusion_network/'):
    hidden = []
    for stream in model.STREAMS:
        mean = np.stack(
            [x[:n].mean(axis=0) for x, n in zip(features[stream], lengths, strict=True)]
        )
        weights = arrays[f'{scope}{stream}/weights']
        hidden.append(np.maximum(mean @ weights + arrays[f'{scope}{stream}/biases'], 0))
    both = np.concatenate(hidden, axis=1)
    weights = arrays[f'{scope}fusion/weights']
    return np.maximum(both @ weights + arrays[f'{scope}fusion/biases'], 0)


def test_mean_over_time_ignores_padding(graph):
    features = some_features()['motion']
    expected = [x[:n].mean(axis=0) for x, n in zip(features, LENGTHS, strict=True)]
    for clip, length in zip(features, LENGTHS, strict=True):
        clip[length:] = 1e4
    mean = model.mean_over_time(tf.constant(features), tf.constant(LENGTHS))
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(mean), expected, atol=1e-6)


# -- the hybrid and its heads ---------------------------------------------------------


class Hybrid:
    """The hybrid on cached features of width D, in the default graph."""

    def __init__(self, branches=model.BRANCHES, head='concat', units=(U1, U2)):
        widths = dict.fromkeys(model.streams_of(branches), D)
        self.inputs, self.logits, self.end_points = model.hybrid_classifier(
            widths, C, branches, head, units
        )

    def feed(self, features, **changes):
        named = {
            'lengths': LENGTHS,
            'labels': np.array([0, 3, 1, 2, 0]),
            'keep_prob': 1.0,
            'dropout_seed': [0, 0],
            **features,
            **changes,
        }
        return {self.inputs[n]: v for n, v in named.items() if n in self.inputs}


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def plain_branches(features, arrays):
    """Each branch's features in numpy, from float16 as they are cached."""
    rounded = {s: x.astype(np.float16).astype(np.float64) for s, x in features.items()}
    return {
        'spatial_lstm': plain_stack(
            rounded['spatial'], LENGTHS, arrays, 'spatial_lstm/'
        ),
        'motion_lstm': plain_stack(rounded['motion'], LENGTHS, arrays, 'motion_lstm/'),
        'fusion': plain_fusion(rounded, LENGTHS, arrays),
    }


def test_concat_head_equals_numpy_and_its_blocks_add_up(graph):
    hybrid, features = Hybrid(), some_features()
    with tf.Session() as session:
        arrays = start(session)
        logits, points = session.run(
            [hybrid.logits, hybrid.end_points], hybrid.feed(features)
        )
    plain = plain_branches(features, arrays)
    for name, value in plain.items():
        np.testing.assert_allclose(points[name], value, rtol=1e-5, atol=1e-5)
    row = np.concatenate([plain[name] for name in model.BRANCHES], axis=1)
    assert row.shape == (B, U2 + U2 + model.FUSION_UNITS)
    biases = arrays['softmax/biases']
    expected = row @ arrays['softmax/weights'] + biases
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    blocks = sum(points[f'{name}/logits'] for name in model.BRANCHES)
    np.testing.assert_allclose(blocks, logits - biases, atol=1e-4)


def test_late_head_is_the_log_of_a_linear_combination(graph):
    hybrid, features = Hybrid(head='late'), some_features()
    with tf.Session() as session:
        arrays = start(session)
        logits, points = session.run(
            [hybrid.logits, hybrid.end_points], hybrid.feed(features)
        )
    scores = arrays['softmax/combination/scores']
    a = np.exp(scores) / np.exp(scores).sum()
    expected = 0
    for weight, (name, value) in zip(
        a, plain_branches(features, arrays).items(), strict=True
    ):
        own = value @ arrays[f'softmax/{name}/weights']
        own += arrays[f'softmax/{name}/biases']
        np.testing.assert_allclose(points[f'{name}/logits'], own, atol=1e-4)
        expected += weight * np.exp(log_softmax(own))
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)


def test_late_head_starts_with_equal_weights(graph):
    hybrid = Hybrid(head='late')
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        feed = hybrid.feed(some_features())
        logits, points = session.run([hybrid.logits, hybrid.end_points], feed)
    parts = [np.exp(log_softmax(points[f'{name}/logits'])) for name in model.BRANCHES]
    np.testing.assert_allclose(np.exp(logits), np.mean(parts, axis=0), atol=1e-5)


@pytest.mark.parametrize('head', ['concat', 'late'])
def test_what_stands_in_the_padding_does_not_matter(graph, head):
    hybrid, features = Hybrid(head=head), some_features()
    spoiled = {s: x.copy() for s, x in features.items()}
    for array in spoiled.values():
        for clip, length in zip(array, LENGTHS, strict=True):
            clip[length:] = 1000
    gradients = tf.gradients(tf.reduce_sum(hybrid.logits), tf.trainable_variables())
    with tf.Session() as session:
        start(session)
        clean = session.run([hybrid.logits, gradients], hybrid.feed(features))
        dirty = session.run([hybrid.logits, gradients], hybrid.feed(spoiled))
    np.testing.assert_array_equal(clean[0], dirty[0])
    for one, other in zip(clean[1], dirty[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    'branches, streams',
    [
        (['spatial_lstm'], ['spatial']),
        (['motion_lstm'], ['motion']),
        (['fusion'], ['spatial', 'motion']),
        (['fusion', 'motion_lstm'], ['spatial', 'motion']),
    ],
)
def test_branches_build_only_what_they_need(graph, branches, streams):
    hybrid = Hybrid(branches)
    assert model.streams_of(branches) == streams
    scopes = {v.op.name.split('/')[0] for v in tf.trainable_variables()}
    wanted = {b if b != 'fusion' else 'regularized_fusion_network' for b in branches}
    assert scopes == wanted | {'softmax'}
    scales = {v.op.name for v in tf.global_variables()} - {
        v.op.name for v in tf.trainable_variables()
    }
    assert scales == {f'inputs/{stream}_scale' for stream in streams}
    with tf.Session() as session:
        start(session)
        features = {s: x for s, x in some_features().items() if s in streams}
        assert session.run(hybrid.logits, hybrid.feed(features)).shape == (B, C)


def test_names_and_shapes_of_the_full_hybrid(graph):
    widths = {'spatial': 4096, 'motion': 4096}
    model.hybrid_classifier(widths, 101, model.BRANCHES, 'concat', model.LSTM_UNITS)
    expected = {'softmax/weights': [1224, 101], 'softmax/biases': [101]}
    for stream in model.STREAMS:
        layers = {'layer_1': (4096, 1024), 'layer_2': (1024, 512)}
        for layer, (depth, units) in layers.items():
            scope = f'{stream}_lstm/{layer}'
            expected[f'{scope}/kernel'] = [depth, 4 * units]
            expected[f'{scope}/recurrent_kernel'] = [units, 4 * units]
            expected[f'{scope}/bias'] = [4 * units]
        scope = f'regularized_fusion_network/{stream}'
        expected |= {f'{scope}/weights': [4096, 200], f'{scope}/biases': [200]}
    expected['regularized_fusion_network/fusion/weights'] = [400, 200]
    expected['regularized_fusion_network/fusion/biases'] = [200]
    found = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert found == expected
    fixed = {v.op.name for v in tf.global_variables()} - set(found)
    assert fixed == {'inputs/spatial_scale', 'inputs/motion_scale'}


def test_scales_divide_features(graph):
    hybrid, features = Hybrid(), some_features()
    scaled = {'spatial': features['spatial'] * 8, 'motion': features['motion'] / 4}
    with tf.Session() as session:
        start(session)
        before = session.run(hybrid.logits, hybrid.feed(features))
        model.set_scales(session, {'spatial': 8.0, 'motion': 0.25})
        after = session.run(hybrid.logits, hybrid.feed(scaled))
    np.testing.assert_array_equal(before, after)


def test_dropout_is_off_in_evaluation_and_follows_the_step(graph):
    hybrid, features = Hybrid(units=(30, 20)), some_features()

    def logits(session, **changes):
        return session.run(hybrid.logits, hybrid.feed(features, **changes))

    with tf.Session() as session:
        start(session)
        off = logits(session, dropout_seed=[0, 1])
        np.testing.assert_array_equal(off, logits(session, dropout_seed=[5, 9]))
        on = logits(session, keep_prob=0.5, dropout_seed=[0, 1])
        assert not np.array_equal(off, on)
        again = logits(session, keep_prob=0.5, dropout_seed=[0, 1])
        np.testing.assert_array_equal(on, again)
        other = logits(session, keep_prob=0.5, dropout_seed=[0, 2])
        assert not np.array_equal(on, other)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = {s: tf.constant(x.astype(np.float16)) for s, x in features.items()}
        inputs = {s: tf.cast(x, tf.float32) for s, x in inputs.items()}
        built_without, _ = model.hybrid(
            inputs, tf.constant(LENGTHS), C, lstm_units=(30, 20)
        )
        start(session)
        np.testing.assert_allclose(off, session.run(built_without), rtol=1e-5)


# -- loss -----------------------------------------------------------------------------


def test_labels_count_from_zero(graph):
    logits = np.array([[5.0, 0, 0], [0, 5, 0], [0, 0, 5]], np.float32)
    parts = model.loss_parts(
        tf.constant(logits), tf.constant([0, 1, 2]), [tf.get_variable('w', [2, 2])], 0.0
    )
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = session.run(parts)
    assert values['accuracy'] == 1
    np.testing.assert_allclose(
        values['cross_entropy'], -log_softmax(logits)[0, 0], rtol=1e-5
    )


def test_decay_covers_matrices_but_not_biases_nor_fusion_weights(graph):
    hybrid = Hybrid()
    variables = tf.trainable_variables()
    parts = model.loss_parts(hybrid.logits, hybrid.inputs['labels'], variables, 0.25)
    with tf.Session() as session:
        arrays = start(session)
        values = session.run(parts, hybrid.feed(some_features()))
    decayed = [a for n, a in arrays.items() if a.ndim > 1 and n != model.FUSION_WEIGHTS]
    expected = 0.25 / 2 * sum((a.astype(np.float64) ** 2).sum() for a in decayed)
    np.testing.assert_allclose(values['weight_decay'], expected, rtol=1e-5)
    total = values['cross_entropy'] + values['weight_decay']
    np.testing.assert_allclose(values['loss'], total, rtol=1e-6)


def test_gradients_are_clipped_together(graph):
    w = tf.get_variable('w', initializer=[3.0, 4.0])
    v = tf.get_variable('v', initializer=[12.0])
    loss = tf.reduce_sum(w * w + 0) / 2 + tf.reduce_sum(v * v) / 2
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for limit, scale in ((6.5, 0.5), (26.0, 1.0), (0.0, 1.0)):
            got = session.run(model.clipped_gradients(loss, [w, v], limit))
            np.testing.assert_allclose(got[0], np.array([3, 4]) * scale, rtol=1e-6)
            np.testing.assert_allclose(got[1], [12 * scale], rtol=1e-6)


# -- the proximal step ----------------------------------------------------------------


def plain_proximal(weights, gradient, rate, l1, l21, l2):
    v = weights - rate * gradient
    v = np.sign(v) * np.maximum(np.abs(v) - rate * l1, 0)
    for column in v.T:
        norm = np.sqrt((column**2).sum())
        column *= max(0, 1 - rate * l21 / norm) if norm > 0 else 0
    return v / (1 + rate * l2)


def proximal(*arguments):
    with tf.Graph().as_default(), tf.Session() as session:
        arguments = [tf.constant(x, tf.float32) for x in arguments]
        return session.run(model.proximal_step(*arguments))


PROXIMAL = {'rate': 0.5, 'l1': 0.3, 'l21': 0.8, 'l2': 0.7}


def some_matrix():
    random = np.random.RandomState(3)
    weights, gradient = random.normal(0, 1, [2, 4, 3])
    weights[:, 2] *= 0.2  # this column is switched off
    return weights, gradient * [1, 1, 0.1]


def test_proximal_step_equals_numpy():
    weights, gradient = some_matrix()
    expected = plain_proximal(weights, gradient, **PROXIMAL)
    assert (expected[:, 2] == 0).all() and expected[:, :2].any()
    np.testing.assert_allclose(
        proximal(weights, gradient, *PROXIMAL.values()), expected, atol=1e-6
    )


def test_proximal_step_of_zeros_is_zeros():
    zeros = np.zeros([4, 3])
    got = proximal(zeros, zeros, *PROXIMAL.values())
    np.testing.assert_array_equal(got, zeros)


def test_proximal_step_minimizes_its_objective():
    """argmin_x |x - v|^2 / 2 + rate (l1 |x|_1 + l21 |x|_2,1 + l2/2 |x|^2), numerically.

    And so does no other order of its three parts.
    """
    weights, gradient = some_matrix()
    rate, l1, l21, l2 = PROXIMAL.values()
    v = weights - rate * gradient

    def objective(flat):
        # x = positive - negative makes |x|_1 smooth; only the norm of zero is not
        positive, negative = flat.reshape(2, 4, 3)
        x = positive - negative
        norms = np.sqrt((x**2).sum(axis=0) + 1e-18)
        return ((x - v) ** 2).sum() / 2 + rate * (
            l1 * (positive + negative).sum() + l21 * norms.sum() + l2 / 2 * (x**2).sum()
        )

    begin = np.stack([np.maximum(v, 0), np.maximum(-v, 0)]).ravel() + 0.01
    found = scipy.optimize.minimize(
        objective,
        begin,
        bounds=[(0, None)] * begin.size,
        options={'maxiter': 10000, 'maxfun': 10**6, 'ftol': 1e-15, 'gtol': 1e-10},
    )
    positive, negative = found.x.reshape(2, 4, 3)
    got = proximal(weights, gradient, rate, l1, l21, l2)
    np.testing.assert_allclose(got, positive - negative, atol=2e-4)

    norms = np.sqrt((v**2).sum(axis=0))
    wrong = v * np.maximum(1 - rate * l21 / norms, 0)  # groups before entries
    wrong = np.sign(wrong) * np.maximum(np.abs(wrong) - rate * l1, 0) / (1 + rate * l2)
    assert np.abs(wrong - got).max() > 0.01

    def value(x):
        return objective(np.stack([np.maximum(x, 0), np.maximum(-x, 0)]).ravel())

    assert value(got) < value(wrong) - 1e-4
    assert value(got) < found.fun + 1e-6


def test_element_wise_part_gives_the_published_vector():
    w = np.array([[1.0, 2.0]])
    for _ in range(10):
        w = proximal(w, [[0.1, 0.2]], 3.0, 0.001, 0.0, 2.0)
    np.testing.assert_allclose(w, [[-0.0495, -0.0995]], atol=1e-6)


def test_groups_are_columns(graph):
    """All that enters one fusion unit, from both streams, is switched off together."""
    weights = np.array([[3.0, 0.1], [4.0, 0.1]])
    got = proximal(weights, np.zeros([2, 2]), 1.0, 0.0, 1.0, 0.0)
    np.testing.assert_allclose(got, [[3 * 0.8, 0], [4 * 0.8, 0]], atol=1e-6)
    norms = model.group_norms(tf.constant(weights))
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(norms), [5, 0.1 * np.sqrt(2)])


# -- one step -------------------------------------------------------------------------


@pytest.mark.parametrize('optimizer, clip_norm', [('momentum', 0.0), ('adam', 0.05)])
def test_fusion_weights_take_the_proximal_step_and_nothing_else(
    graph, optimizer, clip_norm
):
    hybrid = Hybrid()
    settings = {**SETTINGS, 'optimizer': optimizer, 'clip_norm': clip_norm}
    variables = tf.trainable_variables()
    parts = model.loss_parts(hybrid.logits, hybrid.inputs['labels'], variables, 0.1)
    gradients = tf.gradients(parts['loss'], variables)
    rate = tf.placeholder(tf.float32, [])
    train_op = model.training(parts['loss'], variables, rate, settings)
    slots = [v.op.name for v in tf.global_variables() if v not in variables]
    assert not [name for name in slots if model.FUSION_WEIGHTS in name]
    assert [name for name in slots if 'softmax/weights/' in name]

    with tf.Session() as session:
        start(session)
        for step in range(3):  # momentum would show from the second step on
            feed = {**hybrid.feed(some_features(step)), rate: 0.02}
            before = values_of(session)
            grads = session.run(gradients, feed)
            norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
            scale = min(1, clip_norm / norm) if clip_norm else 1
            session.run(train_op, feed)
            after = values_of(session)
            for variable, gradient in zip(variables, grads, strict=True):
                name = variable.op.name
                assert not np.array_equal(before[name], after[name]), name
                if name == model.FUSION_WEIGHTS:
                    expected = plain_proximal(
                        before[name].astype(np.float64),
                        scale * gradient,
                        0.02 * 0.05 / 0.1,  # the fusion rate falls with the other
                        0.01,
                        0.02,
                        0.03,
                    )
                    np.testing.assert_allclose(after[name], expected, atol=2e-6)
                elif optimizer == 'momentum' and step == 0:
                    expected = before[name] - 0.02 * scale * gradient
                    np.testing.assert_allclose(after[name], expected, atol=2e-6)


def test_fusion_branch_is_alive_at_the_start_and_learns(graph):
    """Zeros under ReLU would leave it silent for ever."""
    hybrid = Hybrid(['fusion'])
    variables = tf.trainable_variables()
    parts = model.loss_parts(hybrid.logits, hybrid.inputs['labels'], variables, 0.0)
    rate = tf.placeholder(tf.float32, [])
    train_op = model.training(parts['loss'], variables, rate, SETTINGS)
    features = {s: np.abs(x) for s, x in some_features().items()}  # as after ReLU
    feed = {**hybrid.feed(features), rate: 0.1}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        units = session.run(hybrid.end_points['fusion'], feed)
        assert (units > 0).mean() > 0.25
        assert 0.1 < units.std() < 10
        before = values_of(session)
        first = session.run(parts['loss'], feed)
        for _ in range(30):
            session.run(train_op, feed)
        after = values_of(session)
        assert session.run(parts['loss'], feed) < first / 4
    for name in (v.op.name for v in variables):
        assert not np.array_equal(before[name], after[name]), name


def test_switched_off_fusion_units_are_counted_before_the_step(graph):
    hybrid = Hybrid(['fusion'])
    variables = tf.trainable_variables()
    parts = model.loss_parts(hybrid.logits, hybrid.inputs['labels'], variables, 0.0)
    settings = {**SETTINGS, 'fusion_l21': 1e6}
    rate = tf.placeholder(tf.float32, [])
    train_op = model.training(parts['loss'], variables, rate, settings)
    with tf.Session() as session:
        start(session)
        feed = {**hybrid.feed(some_features()), rate: 0.1}
        counts = [session.run([parts, train_op], feed)[0] for _ in range(2)]
    counts = [values['fusion_units_off'] for values in counts]
    assert counts == [0, model.FUSION_UNITS]


# -- from pixels ----------------------------------------------------------------------


def pixels(inputs, batch=2, steps=3, size=48):
    """A feed for the joint graph: random pictures, lengths 3 and 2."""
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
    inputs, logits, points = model.joint_classifier(
        48, 2, C, model.BRANCHES, head, (U1, U2)
    )
    variables = tf.trainable_variables()
    loss = model.loss_parts(logits, inputs['labels'], variables, 0.0)['loss']
    settings = {**SETTINGS, 'fusion_l21': 0.0, 'fusion_l1': 0.0, 'fusion_l2': 0.0}
    train_op = model.training(loss, variables, tf.constant(0.1), settings)
    feed = pixels(inputs)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        fc6 = session.run({s: points[f'{s}/fc6'] for s in model.STREAMS}, feed)
        model.set_scales(session, {s: x.std() for s, x in fc6.items()})
        before = values_of(session)
        session.run(train_op, feed)
        after = values_of(session)
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
        heads = [f'softmax/{name}/weights' for name in model.BRANCHES]
    assert set(weights + heads) <= changed
    # what no logit comes from is not trained
    idle = {v.op.name for v in variables} - changed
    assert all('/fc7/' in name or '/fc8/' in name for name in idle), idle


def test_joint_graph_is_the_hybrid_on_fc6_of_its_clips(graph, monkeypatch):
    """[B, T] pictures are taken apart and put together in the same order."""
    narrow.patch(monkeypatch)
    inputs, logits, points = model.joint_classifier(
        48, 2, C, model.BRANCHES, 'concat', (U1, U2)
    )
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
                features, tf.constant([3, 2]), C, lstm_units=(U1, U2)
            )
        np.testing.assert_allclose(session.run(again), joint, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('stream, channels', [('spatial', 3), ('motion', 4)])
def test_cnn_classifier_has_no_dropout_in_evaluation(
    graph, monkeypatch, stream, channels
):
    narrow.patch(monkeypatch)
    inputs, logits, _ = model.cnn_classifier(stream, 48, 2, C)
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
    inputs, logits, _ = model.joint_classifier(
        48, 2, C, model.BRANCHES, 'concat', (U1, U2)
    )
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
