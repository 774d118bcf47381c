"""Initial values follow from (seed, name) alone and let signal pass."""

import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import vgg
from weights import layers


def values(names, seed, scope='net'):
    """Initial weights of layers made in the given order, {name: array}."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        made = {}
        with tf.variable_scope(scope):
            for name in names:
                with tf.variable_scope(name):
                    made[name], _ = layers.weights_and_biases([3, 3, 40, 50])
        session.run(tf.global_variables_initializer())
        return session.run(made)


def test_values_do_not_depend_on_what_else_is_made():
    first, second = values(['a', 'b'], 1), values(['c', 'b', 'a'], 1)
    np.testing.assert_array_equal(first['a'], second['a'])
    np.testing.assert_array_equal(first['b'], second['b'])
    assert abs(np.corrcoef(first['a'].ravel(), first['b'].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize('seed, scope', [(2, 'net'), (1, 'other')])
def test_values_depend_on_the_seed_and_on_the_full_name(seed, scope):
    assert (values(['a'], 1)['a'] != values(['a'], seed, scope)['a']).mean() > 0.99


def test_weights_have_the_variance_of_he_and_biases_are_zero(graph):
    weights, biases = layers.weights_and_biases([3, 3, 40, 50])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        weights, biases = session.run([weights, biases])
    assert weights.std() == pytest.approx((2 / 360) ** 0.5, rel=0.03)
    assert abs(weights.mean()) < 0.002
    assert biases.shape == (50,) and not biases.any()


def test_an_untrained_vgg_19_passes_signal(graph, monkeypatch):
    narrow.patch(monkeypatch)
    monkeypatch.setattr(vgg, 'BLOCKS', tuple((32, n) for _, n in vgg.BLOCKS))
    frames = tf.random.stateless_uniform([2, 64, 64, 3], [1, 2], 0, 256, tf.int32)
    logits, end_points = vgg.vgg_19(tf.cast(frames, tf.uint8), num_classes=10)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        scores, first, last = session.run(
            [logits, end_points['conv1_1'], end_points['fc7']]
        )
    assert 1 < first.std() < 1000
    assert 1 < last.std() < 1000 and (last > 0).mean() > 0.2
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
