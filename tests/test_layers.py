"""Layers: initial values by (seed, name) alone, assignment, convolution, dropout."""

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


def placeholders(graph):
    """Names of the graph's placeholders."""
    return [op.name for op in graph.get_operations() if op.type == 'Placeholder']


def test_every_variable_gets_one_placeholder_below_its_name(graph):
    with tf.variable_scope('net'):
        made = [layers.variable('a', [3, 2], 1), layers.variable('b', [2], 0)]
        made += [layers.constant('c', 4)]
    with tf.variable_scope('net', reuse=True):
        assert layers.variable('a', [3, 2], 1) is made[0]
    names = [variable.op.name for variable in made]
    assert names == ['net/a', 'net/b', 'net/c']
    assert placeholders(graph) == [f'{name}/load/value' for name in names]
    assert [v.op.name for v in tf.trainable_variables()] == names[:2]
    # what TensorBoard shows at its top level
    assert {op.name.split('/')[0] for op in graph.get_operations()} == {'net'}


def test_a_finalized_graph_assigns_arrays(graph):
    a, b = layers.variable('a', [3, 2], 1), layers.constant('b', 4)
    c = layers.variable('c', [2], 1)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = session.run(c)
        graph.finalize()
        array = np.arange(6, dtype=np.float32).reshape(3, 2)
        layers.assign(session, {'a': array, 'b': 7.5})
        np.testing.assert_array_equal(session.run(a), array)
        assert session.run(b) == 7.5
        np.testing.assert_array_equal(session.run(c), before)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r'Expected \[3,2\] got'
        ):
            layers.assign(session, {'a': array[0]})


def test_a_saved_model_has_the_inputs_it_was_given_alone(graph, tmp_path):
    x = tf.placeholder(tf.float32, [None, 3], 'x')
    y = layers.fc(x, 2, 'fc')
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected = session.run(y, {x: values})
        tf.saved_model.simple_save(session, str(tmp_path / 'm'), {'x': x}, {'y': y})
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.loader.load(session, ['serve'], str(tmp_path / 'm'))
        signature = loaded.signature_def['serving_default']
        assert list(signature.inputs) == ['x'] and list(signature.outputs) == ['y']
        assert not [n for n in loaded.collection_def if 'load' in n]
        names = [signature.outputs['y'].name, signature.inputs['x'].name]
        np.testing.assert_array_equal(
            session.run(names[0], {names[1]: values}), expected
        )


@pytest.mark.parametrize('size, stride, padding', [(3, 1, 'SAME'), (5, 2, 'VALID')])
def test_conv_equals_its_sum(graph, size, stride, padding):
    x = np.random.RandomState(1).standard_normal([2, 9, 8, 3]).astype(np.float32)
    y = layers.conv(tf.constant(x), 4, 'c', size, stride, padding)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        layers.assign(session, {'c/biases': np.arange(4, dtype=np.float32) - 1})
        got, weights, biases = session.run([y, *tf.trainable_variables()])
    assert weights.shape == (size, size, 3, 4) and biases[3] == 2
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]) if padding == 'SAME' else x
    rows, columns = ((n - size) // stride + 1 for n in padded.shape[1:3])
    expected = np.empty([2, rows, columns, 4])
    for i in range(rows):
        for j in range(columns):
            r, c = i * stride, j * stride
            window = padded[:, r : r + size, c : c + size]
            expected[:, i, j] = np.einsum('nhwc,hwco->no', window, weights) + biases
    assert (expected < 0).any()
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_each_layer_and_step_drops_other_units(graph):
    ones = tf.ones([50, 100])
    seed = tf.placeholder(tf.int32, [2])
    masks = [layers.dropout(ones, 0.8, seed, layer) for layer in ('fc6', 'fc7')]
    with tf.Session() as session:
        drawn = [session.run(masks, {seed: [1, step]}) for step in range(3)]
        drawn += [session.run(masks, {seed: [2, 0]})]
    flat = np.array(drawn).reshape(8, -1)
    assert set(np.unique(flat)) == {0, np.float32(1.25)}
    np.testing.assert_allclose((flat > 0).mean(axis=1), 0.8, atol=0.03)
    correlation = np.corrcoef(flat) - np.eye(8)
    assert np.abs(correlation).max() < 0.06


def test_workers_drop_what_one_process_would_drop_of_their_rows(graph):
    random = np.random.default_rng(0)
    values = random.normal(size=[6, 5, 7]).astype(np.float32)

    def dropped(rows, *part):
        with tf.Graph().as_default(), tf.Session() as session:
            if part:
                tf.add_to_collection(layers.PART, part)
            seed = tf.constant([3, 8])
            return session.run(layers.dropout(tf.constant(rows), 0.5, seed, 'fc6'))

    parts = [dropped(values[2 * n : 2 * n + 2], n, 3) for n in range(3)]
    assert not np.array_equal(parts[0] == 0, parts[1] == 0)
    np.testing.assert_array_equal(np.concatenate(parts), dropped(values))


def test_weights_have_the_variance_of_he_and_biases_are_zero(graph):
    weights, biases = layers.weights_and_biases([3, 3, 40, 50])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        weights, biases = session.run([weights, biases])
    assert weights.std() == pytest.approx((2 / 360) ** 0.5, rel=0.03)
    assert abs(weights.mean()) < 0.002
    assert biases.shape == (50,) and not biases.any()


def test_an_untrained_vgg_19_passes_signal(graph, monkeypatch):
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
