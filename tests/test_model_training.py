"""The loss, the proximal step of the fusion weights, and one step of everything."""

import hybrids
import numpy as np
import pytest
import scipy.optimize
import tensorflow.compat.v1 as tf

import model

FUSION = {'l1': 0.01, 'l21': 0.02, 'l2': 0.03}


# -- loss -----------------------------------------------------------------------------


def test_labels_count_from_zero(graph):
    logits = np.array([[5.0, 0, 0], [0, 5, 0], [0, 0, 5]], np.float32)
    scalars = model.logged_scalars(
        tf.constant(logits), tf.constant([0, 1, 2]), [tf.get_variable('w', [2, 2])], 0.0
    )
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = session.run(scalars)
    assert values['accuracy'] == 1
    np.testing.assert_allclose(
        values['cross_entropy'], -hybrids.log_softmax(logits)[0, 0], rtol=1e-5
    )


def test_decay_covers_matrices_but_not_biases_nor_fusion_weights(graph):
    hybrid = hybrids.Hybrid()
    variables = tf.trainable_variables()
    labels = hybrid.inputs['labels']
    scalars = model.logged_scalars(hybrid.logits, labels, variables, 0.25)
    with tf.Session() as session:
        arrays = hybrids.start(session)
        values = session.run(scalars, hybrid.feed(hybrids.some_features()))
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
            got = session.run(model.clipped(tf.gradients(loss, [w, v]), limit))
            np.testing.assert_allclose(got[0], np.array([3, 4]) * scale, rtol=1e-6)
            np.testing.assert_allclose(got[1], [12 * scale], rtol=1e-6)


@pytest.mark.parametrize('value', [1e30, np.inf, np.nan])
def test_clipping_hides_no_gradient_without_a_finite_norm(graph, value):
    """The norm of 1e30 overflows: scaled by 0 it would be an update of nothing."""
    gradients = [tf.constant([3.0, 4.0]), tf.constant([value], tf.float32)]
    with tf.Session() as session:
        for gradient in session.run(model.clipped(gradients, 10.0)):
            assert not np.isfinite(gradient).any()


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
    """All that enters one fusion unit, from all streams, is switched off together."""
    weights = np.array([[3.0, 0.1], [4.0, 0.1]])
    got = proximal(weights, np.zeros([2, 2]), 1.0, 0.0, 1.0, 0.0)
    np.testing.assert_allclose(got, [[3 * 0.8, 0], [4 * 0.8, 0]], atol=1e-6)
    norms = model.group_norms(tf.constant(weights))
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(norms), [5, 0.1 * np.sqrt(2)])


# -- one step -------------------------------------------------------------------------


def proximal_of(rate, **changes):
    return model.Proximal(tf.constant(rate), **{**FUSION, **changes})


@pytest.mark.parametrize('optimizer, clip_norm', [('momentum', 0.0), ('adam', 0.05)])
def test_fusion_weights_take_the_proximal_step_and_nothing_else(
    graph, optimizer, clip_norm
):
    hybrid = hybrids.Hybrid()
    variables = tf.trainable_variables()
    labels = hybrid.inputs['labels']
    scalars = model.logged_scalars(hybrid.logits, labels, variables, 0.1)
    gradients = tf.gradients(scalars['loss'], variables)
    optimizer_of = {
        'momentum': lambda: tf.train.MomentumOptimizer(0.02, 0.9),
        'adam': lambda: tf.train.AdamOptimizer(0.02),
    }[optimizer]()
    update = model.Update(optimizer_of, clip_norm, proximal_of(0.01))
    train_op = model.training(scalars, variables, update)
    slots = [v.op.name for v in tf.global_variables() if v not in variables]
    assert not [name for name in slots if model.FUSION_WEIGHTS in name]
    assert [name for name in slots if 'softmax/weights/' in name]

    with tf.Session() as session:
        hybrids.start(session)
        for step in range(3):  # momentum would show from the second step on
            feed = hybrid.feed(hybrids.some_features(step))
            before = hybrids.values_of(session)
            grads = session.run(gradients, feed)
            norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
            scale = min(1, clip_norm / norm) if clip_norm else 1
            session.run(train_op, feed)
            after = hybrids.values_of(session)
            for variable, gradient in zip(variables, grads, strict=True):
                name = variable.op.name
                assert not np.array_equal(before[name], after[name]), name
                if name == model.FUSION_WEIGHTS:
                    expected = plain_proximal(
                        before[name].astype(np.float64),
                        scale * gradient,
                        0.01,
                        **FUSION,
                    )
                    np.testing.assert_allclose(after[name], expected, atol=2e-6)
                elif optimizer == 'momentum' and step == 0:
                    expected = before[name] - 0.02 * scale * gradient
                    np.testing.assert_allclose(after[name], expected, atol=2e-6)


def test_fusion_branch_is_alive_at_the_start_and_learns(graph):
    """Zeros under ReLU would keep it at zero."""
    hybrid = hybrids.Hybrid(['fusion'])
    variables = tf.trainable_variables()
    labels = hybrid.inputs['labels']
    scalars = model.logged_scalars(hybrid.logits, labels, variables, 0.0)
    optimizer = tf.train.MomentumOptimizer(0.1, 0.9)
    update = model.Update(optimizer, 0.0, proximal_of(0.05))
    train_op = model.training(scalars, variables, update)
    features = {
        s: np.abs(x) for s, x in hybrids.some_features().items()
    }  # as after ReLU
    feed = hybrid.feed(features)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        units = session.run(hybrid.end_points['fusion'], feed)
        assert (units > 0).mean() > 0.25
        assert 0.1 < units.std() < 10
        before = hybrids.values_of(session)
        first = session.run(scalars['loss'], feed)
        for _ in range(30):
            session.run(train_op, feed)
        after = hybrids.values_of(session)
        assert session.run(scalars['loss'], feed) < first / 4
    for name in (v.op.name for v in variables):
        assert not np.array_equal(before[name], after[name]), name


def test_switched_off_fusion_units_are_counted_before_the_step(graph):
    hybrid = hybrids.Hybrid(['fusion'])
    variables = tf.trainable_variables()
    labels = hybrid.inputs['labels']
    scalars = model.logged_scalars(hybrid.logits, labels, variables, 0.0)
    optimizer = tf.train.MomentumOptimizer(0.1, 0.9)
    update = model.Update(optimizer, 0.0, proximal_of(0.05, l21=1e6))
    train_op = model.training(scalars, variables, update)
    with tf.Session() as session:
        hybrids.start(session)
        feed = hybrid.feed(hybrids.some_features())
        counts = [session.run([scalars, train_op], feed)[0] for _ in range(2)]
    counts = [values['fusion_units_off'] for values in counts]
    assert counts == [0, model.FUSION_UNITS]


@pytest.mark.parametrize('optimizer', ['momentum', 'adam'])
def test_the_mean_of_two_gradients_makes_the_step_of_both_batches(graph, optimizer):
    """What SyncReplicasOptimizer does: clipping and the proximal step see the mean."""
    hybrid = hybrids.Hybrid()
    variables = tf.trainable_variables()
    labels = hybrid.inputs['labels']
    scalars = model.logged_scalars(hybrid.logits, labels, variables, 0.1)
    gradients = tf.gradients(scalars['loss'], variables)
    means = [tf.placeholder(tf.float32, v.shape) for v in variables]
    made = {
        'momentum': lambda: tf.train.MomentumOptimizer(0.02, 0.9),
        'adam': lambda: tf.train.AdamOptimizer(0.02),
    }[optimizer]

    def update():
        return model.Update(made(), 0.05, proximal_of(0.01))

    whole = model.training(scalars, variables, update())
    turn = tf.get_variable('turn', initializer=5, trainable=False)
    logged = tf.get_variable('logged', [2], trainable=False)
    numbers = tf.constant([3.0, 4.0])
    of_means = update().apply_gradients(
        [*zip(means, variables, strict=True), (numbers, logged)], turn
    )
    feed = hybrid.feed(hybrids.some_features())
    per_clip = [hybrid.inputs[name] for name in ('labels', 'lengths', *model.STREAMS)]

    def rows(first, end):
        return {**feed, **{tensor: feed[tensor][first:end] for tensor in per_clip}}

    with tf.Session() as session:
        before = hybrids.start(session)
        session.run(tf.variables_initializer([turn, logged]))
        both = [session.run(gradients, rows(*half)) for half in ((0, 2), (2, 4))]
        norms = [np.sqrt(sum((g**2).sum() for g in grads)) for grads in both]
        assert min(norms) > 0.05  # so that what is clipped before would show
        mean = [(one + other) / 2 for one, other in zip(*both, strict=True)]
        session.run(of_means, dict(zip(means, mean, strict=True)))
        found = [hybrids.values_of(session)]
        hybrids.start(session)
        session.run(whole, rows(0, 4))
        found.append(hybrids.values_of(session))
    for variable in variables:
        name = variable.op.name
        assert not np.array_equal(before[name], found[0][name]), name
        np.testing.assert_allclose(found[1][name], found[0][name], atol=2e-6)
    assert found[0]['turn'] == 6 and found[0]['logged'].tolist() == [3, 4]
