"""The hybrid against numpy: LSTM, mean over time, fusion, heads, dropout."""

import hybrids
import numpy as np
import pytest
import scipy.optimize
import tensorflow.compat.v1 as tf

import model

B, T, D, U1, U2, C = hybrids.B, hybrids.T, hybrids.D, hybrids.U1, hybrids.U2, hybrids.C
LENGTHS = hybrids.LENGTHS


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
    features = hybrids.some_features()['spatial']
    with tf.variable_scope('one'):
        outputs, last = model.lstm(tf.constant(features), tf.constant(LENGTHS), U1)
    assert last.shape.as_list()[1:] == [U1]
    with tf.Session() as session:
        arrays = hybrids.start(session)
        got, got_last = session.run([outputs, last])
    assert got.shape == (B, T, U1)
    expected, expected_last = plain_lstm(features, LENGTHS, *arrays.values())
    np.testing.assert_allclose(got_last, expected_last, atol=2e-6)
    for clip, plain, length in zip(got, expected, LENGTHS, strict=True):
        np.testing.assert_allclose(clip[:length], plain, atol=2e-6)
        # past the end the state does not change
        np.testing.assert_array_equal(clip[length:], clip[[length - 1] * (T - length)])


def test_lstm_stack_equals_two_plain_layers(graph):
    features = hybrids.some_features()['spatial']
    last = model.lstm_stack(
        tf.constant(features), tf.constant(LENGTHS), (U1, U2), 1.0, None
    )
    with tf.Session() as session:
        arrays = hybrids.start(session)
        got = session.run(last)
    np.testing.assert_allclose(
        got, plain_stack(features, LENGTHS, arrays, ''), atol=2e-6
    )


def test_lstm_gradient_equals_differences(graph):
    features = hybrids.some_features()['spatial'][:2, :3, :2]
    lengths = [3, 2]
    _, last = model.lstm(tf.constant(features), tf.constant(lengths), U1)
    loss = tf.reduce_sum(tf.square(last) * [1.0, 2.0, 3.0])
    gradients = tf.gradients(loss, tf.trainable_variables())
    with tf.Session() as session:
        arrays = hybrids.start(session)
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
    features = hybrids.some_features()['motion']
    expected = [x[:n].mean(axis=0) for x, n in zip(features, LENGTHS, strict=True)]
    for clip, length in zip(features, LENGTHS, strict=True):
        clip[length:] = 1e4
    mean = model.mean_over_time(tf.constant(features), tf.constant(LENGTHS))
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(mean), expected, atol=1e-6)


# -- the hybrid and its heads ---------------------------------------------------------


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
    hybrid, features = hybrids.Hybrid(), hybrids.some_features()
    with tf.Session() as session:
        arrays = hybrids.start(session)
        logits, points = session.run(
            [hybrid.logits, hybrid.end_points], hybrid.feed(features)
        )
    plain = plain_branches(features, arrays)
    for name, value in plain.items():
        np.testing.assert_allclose(points[name], value, rtol=1e-5, atol=1e-5)
    row = np.concatenate([plain[name] for name in model.all_branches()], axis=1)
    assert row.shape == (B, U2 + U2 + model.FUSION_UNITS)
    biases = arrays['softmax/biases']
    expected = row @ arrays['softmax/weights'] + biases
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    blocks = sum(points[f'{name}/logits'] for name in model.all_branches())
    np.testing.assert_allclose(blocks, logits - biases, atol=1e-4)


def test_late_head_is_the_log_of_a_linear_combination(graph):
    hybrid, features = hybrids.Hybrid(head='late'), hybrids.some_features()
    with tf.Session() as session:
        arrays = hybrids.start(session)
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
        expected += weight * np.exp(hybrids.log_softmax(own))
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)


def test_late_head_starts_with_equal_weights(graph):
    hybrid = hybrids.Hybrid(head='late')
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        feed = hybrid.feed(hybrids.some_features())
        logits, points = session.run([hybrid.logits, hybrid.end_points], feed)
    parts = [
        np.exp(hybrids.log_softmax(points[f'{name}/logits']))
        for name in model.all_branches()
    ]
    np.testing.assert_allclose(np.exp(logits), np.mean(parts, axis=0), atol=1e-5)


@pytest.mark.parametrize('head', ['concat', 'late'])
def test_padding_does_not_matter(graph, head):
    hybrid, features = hybrids.Hybrid(head=head), hybrids.some_features()
    spoiled = {s: x.copy() for s, x in features.items()}
    for array in spoiled.values():
        for clip, length in zip(array, LENGTHS, strict=True):
            clip[length:] = 1000
    gradients = tf.gradients(tf.reduce_sum(hybrid.logits), tf.trainable_variables())
    with tf.Session() as session:
        hybrids.start(session)
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
    hybrid = hybrids.Hybrid(branches)
    assert model.streams_of(branches) == streams
    scopes = {v.op.name.split('/')[0] for v in tf.trainable_variables()}
    wanted = {b if b != 'fusion' else 'regularized_fusion_network' for b in branches}
    assert scopes == wanted | {'softmax'}
    scales = {v.op.name for v in tf.global_variables()} - {
        v.op.name for v in tf.trainable_variables()
    }
    assert scales == {f'inputs/{stream}_scale' for stream in streams}
    with tf.Session() as session:
        hybrids.start(session)
        features = {s: x for s, x in hybrids.some_features().items() if s in streams}
        assert session.run(hybrid.logits, hybrid.feed(features)).shape == (B, C)


def test_names_and_shapes_of_the_full_hybrid(graph):
    widths = {'spatial': 4096, 'motion': 4096}
    form = hybrids.architecture(units=model.LSTM_UNITS)
    model.hybrid_classifier(widths, form._replace(num_classes=101))
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
    hybrid, features = hybrids.Hybrid(), hybrids.some_features()
    scaled = {'spatial': features['spatial'] * 8, 'motion': features['motion'] / 4}
    with tf.Session() as session:
        hybrids.start(session)
        before = session.run(hybrid.logits, hybrid.feed(features))
        model.set_scales(session, {'spatial': 8.0, 'motion': 0.25})
        after = session.run(hybrid.logits, hybrid.feed(scaled))
    np.testing.assert_array_equal(before, after)


def test_dropout_is_off_in_evaluation_and_follows_the_step(graph):
    hybrid, features = hybrids.Hybrid(units=(30, 20)), hybrids.some_features()

    def logits(session, **changes):
        return session.run(hybrid.logits, hybrid.feed(features, **changes))

    with tf.Session() as session:
        hybrids.start(session)
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
        hybrids.start(session)
        np.testing.assert_allclose(off, session.run(built_without), rtol=1e-5)


# -- classes ---------------------------------------------------------------------------


def test_probabilities_are_a_softmax(graph):
    logits = np.random.RandomState(0).normal(0, 3, [2, 5, C]).astype('f')
    with tf.Session() as session:
        p, log_p = session.run(
            [model.probabilities(logits), model.log_probabilities(logits)]
        )
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    np.testing.assert_allclose(log_p, np.log(expected), rtol=1e-5, atol=1e-6)
