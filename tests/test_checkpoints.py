"""What a --train_dir holds: refused when it is another run, never lost by a failure."""

import copy
import json
import os
import pathlib
import resource

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from weights import checkpoints

RUN = {
    'settings': {
        'stage': 'hybrid',
        'data_dir': 'D',
        'train_dir': 'R',
        'learning_rate': 1e-3,
        'branches': ['fusion'],
        'lstm_units': [5, 3],
        'decay_steps': [7],
        'hybrid_weights': None,
        'workers': 2,
        'log_every': 10,
        'checkpoint_every': 5,
    },
    'class_names': ['A', 'B'],
    'list_hashes': {'classInd.txt': 'aa'},
    'preprocessing': {'flow': 'dis', 'bound': 20.0, 'size': 48},
    'train_clips': ['A/x', 'B/y'],
    'cnns': {},
}


def changed(**settings):
    run = copy.deepcopy(RUN)
    run['settings'].update(settings)
    return run


def begin(train_dir):
    """A run of which something has come; what `start` returned."""
    started = checkpoints.start(train_dir, RUN)
    (train_dir / 'weights').mkdir()
    return started


def refused(call, *names):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert '\n' not in message
    for name in names:
        assert name in message, message


def test_same_run_starts_again_as_it_was(tmp_path):
    checkpoints.start(tmp_path / 'deep/run', RUN)
    (tmp_path / 'deep/run/weights').mkdir()
    again = checkpoints.start(tmp_path / 'deep/run', {**RUN, 'started': 'later'})
    assert again == RUN == checkpoints.read(tmp_path / 'deep/run')
    assert sorted(os.listdir(tmp_path / 'deep/run')) == ['run.json', 'weights']


def test_a_run_of_which_nothing_came_is_forgotten(tmp_path):
    checkpoints.start(tmp_path, changed(learning_rate=1e9))
    assert checkpoints.start(tmp_path, RUN) == RUN == checkpoints.read(tmp_path)


def test_a_best_checkpoint_alone_keeps_its_run(tmp_path):
    checkpoints.start(tmp_path, RUN)
    (tmp_path / 'best').mkdir()
    (tmp_path / 'best/model.ckpt-5.index').touch()
    tf.train.update_checkpoint_state(str(tmp_path / 'best'), 'model.ckpt-5')
    other = changed(learning_rate=1.0)
    refused(lambda: checkpoints.start(tmp_path, other), '--learning_rate')


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    checkpoints.lock(tmp_path / 'run')
    refused(lambda: checkpoints.lock(tmp_path / 'run'), f'--train_dir={tmp_path}/run')
    checkpoints.lock(tmp_path / 'other')


def test_weights_without_a_run_are_not_taken_over(tmp_path):
    (tmp_path / 'weights').mkdir()
    refused(lambda: checkpoints.start(tmp_path, RUN), 'no run.json', str(tmp_path))


@pytest.mark.parametrize('text', ['', '{"settings": {}}', '[]', 'null'])
def test_damaged_run_json_is_named(tmp_path, text):
    (tmp_path / 'run.json').write_text(text)
    refused(lambda: checkpoints.read(tmp_path), 'run.json is damaged')


def test_another_stage_is_refused_by_name(tmp_path):
    begin(tmp_path)
    other = changed(stage='motion', learning_rate=1.0)
    refused(
        lambda: checkpoints.start(tmp_path, other),
        f'--train_dir={tmp_path}',
        'hybrid',
        'motion',
    )
    assert checkpoints.read(tmp_path) == RUN


@pytest.mark.parametrize(
    'name, value',
    [
        ('learning_rate', 2e-3),
        ('branches', ['fusion', 'motion_lstm']),
        ('lstm_units', [5, 4]),
        ('hybrid_weights', 'H'),
        ('decay_steps', []),
    ],
)
def test_changed_flag_is_refused_by_name(tmp_path, name, value):
    begin(tmp_path)
    refused(
        lambda: checkpoints.start(tmp_path, changed(**{name: value})),
        f'--{name}={RUN["settings"][name]}',
        str(value),
        str(tmp_path),
    )


def test_flags_that_do_not_shape_the_run_may_change(tmp_path):
    begin(tmp_path)
    other = changed(workers=7, log_every=1, checkpoint_every=1, data_dir='E')
    assert checkpoints.start(tmp_path, other) == RUN


@pytest.mark.parametrize(
    'name, value',
    [
        ('class_names', ['B', 'A']),
        ('list_hashes', {'classInd.txt': 'bb'}),
        ('preprocessing', {'flow': 'farneback', 'bound': 20.0, 'size': 48}),
        ('train_clips', ['A/x']),
    ],
)
def test_changed_data_is_refused_by_name(tmp_path, name, value):
    begin(tmp_path)
    refused(
        lambda: checkpoints.start(tmp_path, {**RUN, name: value}),
        name.replace('_', ' '),
        str(tmp_path),
    )


def test_folder_without_a_run_is_named(tmp_path):
    refused(lambda: checkpoints.read(tmp_path), f'--train_dir={tmp_path}')


def test_other_weights_are_refused_by_flag(tmp_path):
    run = begin(tmp_path)
    first = {'motion': {'weights': 'W', 'fingerprint': 'abc'}}
    checkpoints.keep_cnns(tmp_path, run, first)
    run = checkpoints.start(tmp_path, RUN)
    assert run['cnns'] == first
    checkpoints.keep_cnns(tmp_path, run, first)
    other = {'motion': {'weights': 'V', 'fingerprint': 'abd'}}
    refused(
        lambda: checkpoints.keep_cnns(tmp_path, run, other), '--motion_weights', 'V'
    )


# -- the log --------------------------------------------------------------------------


def lines_of(steps):
    return ''.join(json.dumps({'step': step, 'loss': 1 / 3}) + '\n' for step in steps)


@pytest.mark.parametrize('end', ['', '{"step": 40, "lo', '\n', '{"loss": 1}\n'])
def test_log_is_cut_to_the_checkpoint(tmp_path, end):
    path = tmp_path / 'log.jsonl'
    path.write_text(lines_of([10, 20, 30]) + end)
    assert checkpoints.cut_log(tmp_path, 20) == path
    assert path.read_text() == lines_of([10, 20])
    checkpoints.cut_log(tmp_path, 0)
    assert path.read_text() == ''
    assert os.listdir(tmp_path) == ['log.jsonl']


def test_half_a_line_is_cut_even_at_the_checkpoint(tmp_path):
    path = tmp_path / 'log.jsonl'
    path.write_text(lines_of([10]) + '{"step": 1')
    checkpoints.cut_log(tmp_path, 100)
    assert path.read_text() == lines_of([10])


def test_no_log_is_no_error(tmp_path):
    assert not checkpoints.cut_log(tmp_path, 0).exists()


def test_best_validation_comes_from_the_log(tmp_path):
    path = tmp_path / 'log.jsonl'
    assert checkpoints.best_validation(path) == -1
    path.write_text(lines_of([10]))
    assert checkpoints.best_validation(path) == -1
    more = [{'step': s, 'validation_accuracy': a} for s, a in ((10, 0.5), (20, 0.25))]
    path.write_text(lines_of([10]) + ''.join(json.dumps(x) + '\n' for x in more))
    assert checkpoints.best_validation(path) == 0.5


# -- checkpoints ----------------------------------------------------------------------


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


def test_other_shape_is_refused_by_name(trained, tmp_path):
    session, saver, _ = trained
    checkpoints.save(saver, session, tmp_path, 7)
    path, _ = checkpoints.latest(tmp_path)
    with tf.Graph().as_default(), tf.Session() as other:
        tf.get_variable('w', [5])
        refused(lambda: checkpoints.restore(other, path), 'w is [100000]', '[5]')


def test_failed_save_keeps_the_one_before_and_says_so(trained, tmp_path, capsys):
    """The limit on the size of a file stands for a full disk."""
    session, saver, w = trained
    checkpoints.save(saver, session, tmp_path, 1)
    kept = session.run(w)
    assert capsys.readouterr().err == ''
    session.run(w.assign(w * 2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        checkpoints.save(saver, session, tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    for part in ('step 2', str(tmp_path), 'is kept', 'File too large'):
        assert part in said
    path, step = checkpoints.latest(tmp_path)
    assert step == 1
    checkpoints.restore(session, path)
    np.testing.assert_array_equal(session.run(w), kept)
    assert size_of(tmp_path) < 1.3e6  # nothing of the half that was written stays
    checkpoints.save(saver, session, tmp_path, 3)
    assert checkpoints.latest(tmp_path)[1] == 3


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


def size_of(folder):
    """Bytes of all files in a folder."""
    return sum(p.stat().st_size for p in pathlib.Path(folder).rglob('*'))
