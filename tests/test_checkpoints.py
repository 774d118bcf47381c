"""Checkpoints: restored whole, never lost by a failure, dropped when they are old."""

import pathlib
import resource
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from weights import checkpoints


@pytest.fixture
def trained(tmp_path):
    """(session, saver, w): a graph with one variable of 400 kB and Adam's slots."""
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable('w', [100_000], initializer=tf.ones_initializer())
        step = tf.train.AdamOptimizer(0.1).minimize(tf.reduce_sum(tf.square(w)))
        session.run(tf.global_variables_initializer())
        session.run(step)
        yield session, tf.train.Saver(max_to_keep=2), w


def test_round_trip_and_step(trained, tmp_path):
    session, saver, w = trained
    assert checkpoints.latest(tmp_path) == (None, 0)
    checkpoints.save(saver, session, tmp_path, 7)
    path, step = checkpoints.latest(tmp_path)
    assert step == 7
    before = {v.op.name: session.run(v) for v in tf.global_variables()}
    session.run(tf.global_variables_initializer())
    names = checkpoints.restore(session, path)
    assert set(names) == set(before)
    for variable in tf.global_variables():
        np.testing.assert_array_equal(
            session.run(variable), before[variable.op.name], variable.op.name
        )


def test_slots_can_be_left_out(trained, tmp_path):
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path, 7)
    path, _ = checkpoints.latest(tmp_path)
    assert len(tf.global_variables()) == 5
    assert checkpoints.restore(session, path, without_slots=True) == ['w']


def test_other_shape_is_refused_by_name(trained, tmp_path, refused):
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path, 7)
    path, _ = checkpoints.latest(tmp_path)
    with tf.Graph().as_default(), tf.Session() as other:
        tf.get_variable('w', [5])
        refused(lambda: checkpoints.restore(other, path), 'w is [100000]', '[5]')


def test_failed_save_keeps_the_one_before_and_says_so(trained, tmp_path, refused):
    """The limit on the size of a file stands in for a full disk."""
    session, saver, w = trained

    def save_on_a_full_disk(step):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            checkpoints.save(saver, session, tmp_path, step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    words = (str(tmp_path), 'File too large')
    none = 'there is no checkpoint yet: the same command starts again'
    refused(lambda: save_on_a_full_disk(1), 'step 1', none, *words)
    assert size_of(tmp_path) == 0
    checkpoints.save(saver, session, tmp_path, 1)
    kept = session.run(w)
    session.run(w.assign(w * 2))
    kept_words = ('step 2', 'of step 1 is kept: the same command continues from there')
    refused(lambda: save_on_a_full_disk(2), *kept_words, *words)
    path, step = checkpoints.latest(tmp_path)
    assert step == 1
    checkpoints.restore(session, path)
    np.testing.assert_array_equal(session.run(w), kept)
    assert size_of(tmp_path) < 1.3e6  # nothing of the half that was written stays
    checkpoints.save(saver, session, tmp_path, 3)
    assert checkpoints.latest(tmp_path)[1] == 3


def test_a_kind_of_checkpoint_has_a_folder_of_its_own(trained, tmp_path, refused):
    """Where it cannot be written, the one that training continues from is named."""
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path, 7)
    checkpoints.save(tf.train.Saver(), session, tmp_path, 5, 'best')
    assert checkpoints.latest(tmp_path)[1] == 7
    assert checkpoints.latest(tmp_path / 'best')[1] == 5
    (tmp_path / 'searched').touch()
    refused(
        lambda: checkpoints.save(tf.train.Saver(), session, tmp_path, 9, 'searched'),
        f'the searched checkpoint of step 9 was not written to {tmp_path}: ',
        'the checkpoint of step 7 is kept',
    )


def test_next_run_drops_what_the_one_before_would_have(trained, tmp_path):
    session, saver, _ = trained
    for step in (1, 2):
        checkpoints.save(saver, session, tmp_path, step)
    (tmp_path / 'model.ckpt-3.data-00000-of-00001.tempstate123').write_bytes(b'half')
    again = tf.train.Saver(max_to_keep=2)
    checkpoints.take_over(again, tmp_path)
    checkpoints.save(again, session, tmp_path, 3)
    kept = sorted(path.name for path in tmp_path.glob('model.ckpt-*'))
    assert kept == [
        f'model.ckpt-{step}.{part}'
        for step in (2, 3)
        for part in ('data-00000-of-00001', 'index')
    ]
    checkpoints.take_over(again, tmp_path / 'absent')


@pytest.mark.parametrize('part', ['index', 'data-00000-of-00001'])
def test_damaged_checkpoint_is_named(trained, tmp_path, refused, part):
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path, 7)
    path, _ = checkpoints.latest(tmp_path)
    damaged = pathlib.Path(f'{path}.{part}')
    damaged.write_bytes(damaged.read_bytes()[:100])
    refused(lambda: checkpoints.restore(session, path), f'{path}: this', 'damaged')


def test_a_folder_that_was_moved_has_its_own_checkpoints(trained, tmp_path):
    """TensorFlow's list has the paths of where they were written."""
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path / 'first', 7)
    shutil.copytree(tmp_path / 'first', tmp_path / 'second')
    checkpoints.save(saver, session, tmp_path / 'first', 8)
    path, step = checkpoints.latest(tmp_path / 'second')
    assert (path, step) == (str(tmp_path / 'second/model.ckpt-7'), 7)
    shutil.rmtree(tmp_path / 'first')
    assert 'w' in checkpoints.variables_in(path)


def size_of(folder):
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in pathlib.Path(folder).rglob('*'))
