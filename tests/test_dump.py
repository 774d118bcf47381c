"""Dumps: saved whole or not at all, loaded by name after every check."""

import json
import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from weights import dump
from weights import layers


def network(scope='spatial/net', positions=4, classes=5, channels=3):
    """A few variables named as a network's; returns {name: variable}."""
    shapes = {
        'conv1/weights': [3, 3, channels, 512],
        'conv1/biases': [512],
        'fc6/weights': [512 * positions, 8],
        'fc6/biases': [8],
        'fc8/weights': [8, classes],
        'fc8/biases': [classes],
    }
    made = {}
    with tf.variable_scope(scope):
        for name, shape in shapes.items():
            made[name] = layers.variable(name, shape, stddev=1)
        for name, value in (('mean', [1.0] * channels), ('scale', 0.5)):
            made[name] = layers.constant(name, value)
    return made


@pytest.fixture
def saved(tmp_path):
    """(directory, {name: array}) of a dump of `network`."""
    directory = tmp_path / 'net'
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        made = network()
        session.run(tf.global_variables_initializer())
        dump.save(session, directory, 'spatial/net', 'vgg19', 'a test')
        return directory, session.run(made)


def loaded(directory, kind='vgg19', **options):
    """Loads into a graph whose variables are zero; (report, {name: array})."""
    with tf.Graph().as_default(), tf.Session() as session:
        made = network(**options)
        zeros = [v.assign(tf.zeros_like(v.initial_value)) for v in made.values()]
        session.run(zeros)
        try:
            report = dump.load(session, directory, 'spatial/net', kind)
        except ValueError:
            after = session.run(made)
            assert not any(array.any() for array in after.values())
            raise
        return report, session.run(made)


def edit(directory, change):
    """Applies a function to dump.json's content."""
    path = pathlib.Path(directory, 'dump.json')
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def test_round_trip_is_exact_and_described(saved, capsys):
    directory, arrays = saved
    report, after = loaded(directory)
    assert report == dump.Report(sorted(arrays), [], [])
    for name, array in arrays.items():
        np.testing.assert_array_equal(after[name], array)
        on_disk = np.load(directory / f'{name}.npy', allow_pickle=False)
        np.testing.assert_array_equal(on_disk, array)
    described = json.loads((directory / 'dump.json').read_text())
    assert described['network'] == 'vgg19'
    assert described['origin'] == 'a test'
    assert described['input_order'] == 'BGR'
    assert described['arrays']['conv1/weights']['shape'] == [3, 3, 3, 512]
    assert 'spatial/net: 8 of 8 variables' in capsys.readouterr().out
    assert os.listdir(directory.parent) == ['net']


def test_optimizer_slots_are_not_of_the_network(tmp_path):
    with tf.Graph().as_default() as graph, tf.Session() as session:
        made = network()
        # a scope that begins with the same letters is another network
        network('spatial/net2')
        loss = tf.add_n([tf.reduce_sum(made[n] ** 2) for n in made if '/' in n])
        tf.train.AdamOptimizer().minimize(loss)
        session.run(tf.global_variables_initializer())
        assert set(dump.variables(graph, 'spatial/net')) == set(made)
        dump.save(session, tmp_path / 'd', 'spatial/net/', 'vgg19', 'a test')
    assert len(list((tmp_path / 'd').rglob('*.npy'))) == len(made)


def test_the_graph_does_not_grow_and_may_be_final(saved):
    with tf.Graph().as_default() as graph, tf.Session() as session:
        network()
        session.run(tf.global_variables_initializer())
        graph.finalize()
        dump.load(session, saved[0], 'spatial/net', 'vgg19')


def test_training_after_a_load_leaves_the_dump_untouched(saved):
    directory, arrays = saved
    with tf.Graph().as_default(), tf.Session() as session:
        made = network()
        loss = tf.add_n([tf.reduce_sum(made[n] ** 2) for n in made if '/' in n])
        step = tf.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
        session.run(tf.global_variables_initializer())
        dump.load(session, directory, 'spatial/net', 'vgg19')
        session.run(step)
        after = session.run(made['conv1/weights'])
    # d(w^2) = 2 w, once, at rate 0.1
    np.testing.assert_allclose(after, 0.8 * arrays['conv1/weights'], rtol=1e-5)
    assert dump.verify(directory) == len(arrays)


def test_fc8_of_other_classes_stays_and_is_named(saved, capsys):
    report, after = loaded(saved[0], classes=7)
    assert report.missing == ['fc8/biases', 'fc8/weights']
    assert not after['fc8/weights'].any() and after['fc6/weights'].any()
    out = capsys.readouterr().out
    assert 'the dump has 5 classes, the graph 7' in out


def test_missing_and_unexpected_arrays_are_reported(saved, capsys):
    directory, _ = saved

    def change(described):
        arrays = described['arrays']
        arrays['other/weights'] = arrays.pop('fc6/biases')

    edit(directory, change)
    report, after = loaded(directory)
    assert report.missing == ['fc6/biases'] and not after['fc6/biases'].any()
    assert report.unexpected == ['other/weights']
    out = capsys.readouterr().out
    assert 'fc6/biases' in out and 'other/weights' in out


def test_another_frame_size_is_named_by_its_shapes(saved):
    with pytest.raises(
        ValueError, match='for another frame size: 4 positions'
    ) as error:
        loaded(saved[0], positions=9)
    for words in ('is [2048, 8]', 'is [4608, 8]', 'and 9 that of the graph'):
        assert words in str(error.value)


def test_other_input_channels_are_refused(saved):
    with pytest.raises(ValueError, match='3 input channels .--cross_modality'):
        loaded(saved[0], channels=20)
    described = dump.description(saved[0])
    described['arrays'] = dict(sorted(described['arrays'].items(), reverse=True))
    (saved[0] / dump.DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(ValueError, match='3 input channels .--cross_modality'):
        loaded(saved[0], channels=20)  # whether mean or conv1 comes first


def first_layers(arrays):
    """The arrays that a dump of conv1 alone holds."""
    return {name: a for name, a in arrays.items() if not name.startswith('fc')}


def test_a_dump_of_the_first_layers_leaves_the_others(saved, capsys):
    directory, arrays = saved
    some = first_layers(arrays)
    dump.write(directory, 'vgg19', 'a test', some.items(), ['fc6', 'fc7', 'fc8'])
    missing = json.loads((directory / 'dump.json').read_text())['missing_layers']
    assert missing == ['fc6', 'fc7', 'fc8']
    capsys.readouterr()
    for positions in (4, 9):  # fits any frame size
        report, after = loaded(directory, positions=positions)
        assert report.loaded == sorted(some) and not report.unexpected
        assert report.missing == sorted(set(arrays) - set(some))
        assert all(after[name].any() == (name in some) for name in arrays)
        first, second = capsys.readouterr().out.splitlines()
        assert first == f'spatial/net: 4 of 8 variables from {directory}'
        assert second.startswith(
            '  fc6 to fc8 start at random: the dump holds the first'
        )
    dump.main(types.SimpleNamespace(dir=directory))
    assert 'first layers only: fc6 to fc8 are missing' in capsys.readouterr().out


def test_dumps_written_before_missing_layers_were_named_load(saved):
    edit(saved[0], lambda described: described.pop('missing_layers'))
    report, _ = loaded(saved[0])
    assert not report.missing
    edit(saved[0], lambda described: described.update(missing_layers=[7]))
    with pytest.raises(ValueError, match='is not a dump of weights'):
        loaded(saved[0])


def test_a_dump_of_another_network_is_refused(saved):
    with pytest.raises(ValueError, match='of vgg19, not of cnnm'):
        loaded(saved[0], kind='cnnm')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(saved, value):
    directory, arrays = saved
    array = arrays['fc6/weights'].copy()
    array[3, 2] = value
    np.save(directory / 'fc6' / 'weights.npy', array)
    with pytest.raises(ValueError, match='fc6/weights.npy .*not finite'):
        loaded(directory)


def test_large_finite_values_are_not_mistaken(saved):
    directory, arrays = saved
    array = np.full_like(arrays['fc6/weights'], 1e38)
    np.save(directory / 'fc6' / 'weights.npy', array)
    _, after = loaded(directory)
    np.testing.assert_array_equal(after['fc6/weights'], array)


def test_broken_files_are_refused_by_name(saved):
    directory, arrays = saved
    path = directory / 'fc6' / 'weights.npy'
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match='fc6/weights.npy cannot be read'):
        loaded(directory)
    np.save(path, arrays['fc6/weights'].astype(np.float64))
    with pytest.raises(ValueError, match='holds float64'):
        loaded(directory)
    np.save(path, np.array({'a': 1}, object), allow_pickle=True)
    with pytest.raises(ValueError, match='cannot be read.*Python objects'):
        loaded(directory)
    path.unlink()
    with pytest.raises(ValueError, match='cannot be read.*No such file'):
        loaded(directory)
    with pytest.raises(ValueError, match='is not a dump of weights .*weights.convert'):
        loaded(directory / 'fc6')


def test_verify_finds_one_changed_value(saved):
    directory, arrays = saved
    assert dump.verify(directory) == len(arrays)
    array = arrays['fc6/weights'].copy()
    array[0, 0] += 1e-3
    np.save(directory / 'fc6' / 'weights.npy', array)
    with pytest.raises(ValueError, match='fc6/weights.npy is not what'):
        dump.verify(directory)


def test_fingerprint_follows_the_weights_and_not_the_words(saved):
    directory, _ = saved
    before = dump.fingerprint(directory)
    assert len(before) == 12 and int(before, 16) >= 0
    edit(directory, lambda described: described.update(origin='elsewhere'))
    assert dump.fingerprint(directory) == before
    edit(directory, lambda described: described.update(network='cnnm'))
    assert dump.fingerprint(directory) != before
    edit(directory, lambda described: described.update(network='vgg19'))
    edit(
        directory,
        lambda described: described['arrays']['mean'].update(sha256='0' * 64),
    )
    assert dump.fingerprint(directory) != before


def test_a_dump_is_replaced_whole_or_not_at_all(saved):
    directory, arrays = saved
    before = dump.fingerprint(directory)
    bad = {**arrays, 'scale': np.array(np.nan, np.float32)}
    with pytest.raises(ValueError, match='scale holds values that are not finite'):
        dump.write(directory, 'vgg19', 'a test', bad.items())

    def interrupted():
        yield 'mean', arrays['mean']
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump.write(directory, 'vgg19', 'a test', interrupted())
    assert dump.fingerprint(directory) == before
    assert dump.verify(directory) == len(arrays)
    assert os.listdir(directory.parent) == ['net']

    other = {'mean': arrays['mean'], 'only/weights': arrays['fc6/weights']}
    dump.write(directory, 'vgg19', 'another', other.items())
    assert dump.verify(directory) == 2
    assert len(list(directory.rglob('*.npy'))) == 2
    assert os.listdir(directory.parent) == ['net']


def test_replacing_the_dump_that_is_loaded_keeps_the_session(saved):
    directory, arrays = saved
    with tf.Graph().as_default(), tf.Session() as session:
        made = network()
        session.run(tf.global_variables_initializer())
        dump.load(session, directory, 'spatial/net', 'vgg19')
        dump.save(session, directory, 'spatial/net', 'vgg19', 'again')
        np.testing.assert_array_equal(
            session.run(made['fc6/weights']), arrays['fc6/weights']
        )
    assert dump.verify(directory) == len(arrays)


def test_a_folder_that_is_no_dump_is_not_replaced(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    mean = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match='exists and is not a dump'):
        dump.write(tmp_path / 'mine', 'vgg19', 'a test', [('mean', mean)])
    assert (tmp_path / 'mine' / 'thesis.txt').exists()


def test_arrays_are_stored_so_that_they_can_be_shared(tmp_path):
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    arrays = {'mean': np.zeros(3, np.float32), 'fc/weights': array}
    dump.write(tmp_path / 'd', 'vgg19', 'a test', arrays.items())
    stored = np.load(tmp_path / 'd' / 'fc' / 'weights.npy', mmap_mode='r')
    assert stored.flags.c_contiguous and stored.ctypes.data % 64 == 0
    np.testing.assert_array_equal(stored, array)


def test_the_command_compares_hashes(saved, run_script):
    directory, arrays = saved
    np.save(directory / 'mean.npy', arrays['mean'] + 1)
    done = run_script('-m', 'weights.dump', f'--dir={directory}', code=1)
    assert 'mean.npy is not what' in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f'dump.py: {directory}')


def anonymous_bytes():
    """Memory of this process that no file backs."""
    status = pathlib.Path('/proc/self/status').read_text()
    return int(status.partition('RssAnon:')[2].split()[0]) * 1024


def test_loading_shares_the_files_pages(tmp_path):
    array = np.ones([4096, 4096], np.float32)  # 64 MiB
    arrays = {'mean': np.zeros(3, np.float32), 'fc7/weights': array}
    dump.write(tmp_path / 'd', 'vgg19', 'a test', arrays.items())
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope('net'):
            layers.variable('fc7/weights', array.shape, stddev=0)
            mean = layers.constant('mean', [0, 0, 0])
        session.run(mean.initializer)
        before = anonymous_bytes()
        dump.load(session, tmp_path / 'd', 'net', 'vgg19')
        assert anonymous_bytes() - before < 2 * 2**20
