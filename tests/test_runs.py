"""The folder of a run: refused when it is another run, readable where it is moved."""

import copy
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import filelock
import pytest
import tensorflow.compat.v1 as tf
import tiny

from data import sampling
from data import splits
from results import runs
from weights import dump

RUN = {
    'flags': {
        'stage': 'hybrid',
        'data_dir': 'D',
        'train_dir': 'R',
        'learning_rate': 1e-3,
        'branches': ['fusion'],
        'lstm_units': [5, 3],
        'decay_steps': [7],
        'hybrid_weights': None,
        'num_segments': 5,
        'workers': 2,
        'log_every': 10,
        'checkpoint_every': 5,
    },
    'class_names': ['A', 'B'],
    'list_hashes': {'classInd.txt': 'aa'},
    'preprocessing': {'flow': 'dis', 'bound': 20.0, 'size': 48},
    'sampling': sampling.rule(5),
    'train_clips': ['A/x', 'B/y'],
    'cnns': {},
}


def changed(**flags):
    run = copy.deepcopy(RUN)
    run['flags'].update(flags)
    return run


def begin(train_dir):
    """A run of which something has come; what `start` returned."""
    started = runs.start(train_dir, RUN)
    (train_dir / 'weights').mkdir()
    return started


def on_disk(train_dir):
    return json.loads((train_dir / 'run.json').read_text())


# -- start or continue -----------------------------------------------------------------


def test_same_run_starts_again_as_it_was(tmp_path):
    begin(tmp_path / 'deep/run')
    again = runs.start(tmp_path / 'deep/run', {**RUN, 'started': 'later'})
    assert again == RUN == runs.read(tmp_path / 'deep/run')
    assert sorted(os.listdir(tmp_path / 'deep/run')) == ['run.json', 'weights']


def test_a_run_of_which_nothing_came_is_forgotten(tmp_path):
    runs.start(tmp_path, changed(learning_rate=1e9))
    assert runs.start(tmp_path, RUN) == RUN == runs.read(tmp_path)


def test_a_best_checkpoint_alone_keeps_its_run(tmp_path, refused):
    runs.start(tmp_path, RUN)
    (tmp_path / 'best').mkdir()
    (tmp_path / 'best/model.ckpt-5.index').touch()
    tf.train.update_checkpoint_state(str(tmp_path / 'best'), 'model.ckpt-5')
    other = changed(learning_rate=1.0)
    refused(lambda: runs.start(tmp_path, other), '--learning_rate=0.001, not 1.0')


def test_weights_without_a_run_are_not_taken_over(tmp_path, refused):
    (tmp_path / 'weights').mkdir()
    refused(lambda: runs.start(tmp_path, RUN), 'no run.json that says', str(tmp_path))


def test_another_stage_is_refused_by_name(tmp_path, refused):
    begin(tmp_path)
    other = changed(stage='motion', learning_rate=1.0)
    refused(
        lambda: runs.start(tmp_path, other),
        f'--train_dir={tmp_path} holds a run of stage hybrid, not motion',
    )
    assert runs.read(tmp_path) == RUN


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
def test_changed_flag_is_refused_by_name(tmp_path, refused, name, value):
    begin(tmp_path)
    refused(
        lambda: runs.start(tmp_path, changed(**{name: value})),
        f'--train_dir={tmp_path} was started with '
        f'--{name}={RUN["flags"][name]}, not {value}',
    )


def test_flags_that_do_not_shape_the_run_may_change(tmp_path):
    begin(tmp_path)
    other = changed(workers=7, log_every=1, checkpoint_every=1, data_dir='E')
    assert runs.start(tmp_path, other) == RUN


@pytest.mark.parametrize(
    'name, value',
    [
        ('class_names', ['B', 'A']),
        ('list_hashes', {'classInd.txt': 'bb'}),
        ('preprocessing', {'flow': 'farneback', 'bound': 20.0, 'size': 48}),
        ('train_clips', ['A/x']),
    ],
)
def test_changed_data_is_refused_by_name(tmp_path, refused, name, value):
    begin(tmp_path)
    refused(
        lambda: runs.start(tmp_path, {**RUN, name: value}),
        f'--train_dir={tmp_path}: the {name.replace("_", " ")} are not those',
    )


def test_another_sampling_rule_is_refused_where_it_counts(
    tmp_path, refused, monkeypatch
):
    begin(tmp_path)
    even = sampling.evenly_spaced
    monkeypatch.setattr(sampling, 'evenly_spaced', lambda count, n: even(count, n) // 2)
    now = {**RUN, 'sampling': sampling.rule(5)}
    words = (f'--train_dir={tmp_path} was trained with another', 'data/sampling.py')
    refused(lambda: runs.start(tmp_path, now), *words)
    refused(lambda: runs.check_sampling(tmp_path, RUN), *words)
    joint = changed(stage='joint')
    refused(lambda: runs.check_sampling(tmp_path, joint), *words)
    # one CNN is trained on random inputs, and the cache is computed again
    for stage in ('spatial', 'features'):
        folder = tmp_path / stage
        runs.start(folder, changed(stage=stage))
        (folder / 'weights').mkdir()
        later = {**changed(stage=stage), 'sampling': sampling.rule(5)}
        assert runs.start(folder, later)['sampling'] == sampling.rule(5)


def test_another_table_of_streams_is_refused(refused):
    cnns = {'spatial': {}, 'motion': {}}
    runs.check_streams('--train_dir=R', {**RUN, 'cnns': cnns})
    refused(
        lambda: runs.check_streams('--train_dir=R', {**RUN, 'cnns': {'spatial': {}}}),
        '--train_dir=R was trained on the streams spatial, and',
        'makes it spatial, motion',
    )


def test_two_processes_do_not_train_in_one_folder(tmp_path, refused):
    with runs.lock(tmp_path / 'run'):
        words = (f'--train_dir={tmp_path}/run', 'another process trains there')
        refused(lambda: runs.lock(tmp_path / 'run').__enter__(), *words)
        with runs.lock(tmp_path / 'other'):
            pass
    with runs.lock(tmp_path / 'run'):  # given back
        pass


def test_lock_of_a_process_that_was_killed_is_free(tmp_path, refused):
    holder = """
import os, sys, time
import filelock
filelock.lock_descriptor(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT))
print('held', flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, '-c', holder, tmp_path / 'lock'],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == 'held\n'
        refused(lambda: runs.lock(tmp_path).__enter__(), 'another process trains')
    finally:
        process.kill()
        process.communicate()
    with runs.lock(tmp_path):
        pass


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def fail(number):
        def lock_descriptor(descriptor, blocking):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(filelock, 'lock_descriptor', lock_descriptor)

    for number in runs.NO_LOCKS:
        fail(number)
        with runs.lock(tmp_path):
            pass
    fail(errno.EIO)
    with pytest.raises(OSError, match='Input/output'):
        runs.lock(tmp_path).__enter__()


# -- run.json --------------------------------------------------------------------------


def test_folder_without_a_run_is_named(tmp_path, refused):
    refused(lambda: runs.read(tmp_path), f'--train_dir={tmp_path}: no run.json')
    other = f'--hybrid_weights={tmp_path}: no run.json'
    refused(lambda: runs.read(tmp_path, 'hybrid_weights'), other)


@pytest.mark.parametrize(
    'text', ['', '{"flags": {}}', '{"flags": {"stage": "x"}}', '[]', 'null', '\0']
)
def test_damaged_run_json_is_named(tmp_path, refused, text):
    (tmp_path / 'run.json').write_text(text)
    refused(lambda: runs.read(tmp_path), f'{tmp_path}/run.json is damaged')


@pytest.mark.parametrize('cnns', [None, [], {'motion': 1}, {'motion': {}}])
def test_damaged_cnns_are_named(tmp_path, refused, cnns):
    runs.write_json(tmp_path / 'run.json', {**RUN, 'cnns': cnns})
    refused(lambda: runs.read(tmp_path), 'run.json is damaged')


def test_a_run_of_the_earlier_version_is_refused(tmp_path, refused):
    earlier = {'settings': RUN['flags'], **RUN}
    del earlier['flags']
    runs.write_json(tmp_path / 'run.json', earlier)
    words = ('is a run of an earlier version', 'train it again')
    refused(lambda: runs.read(tmp_path), f'--train_dir={tmp_path}', *words)
    other = f'--motion_weights={tmp_path}'
    refused(lambda: runs.read(tmp_path, 'motion_weights'), other, *words)
    (tmp_path / 'weights').mkdir()
    refused(lambda: runs.start(tmp_path, RUN), f'--train_dir={tmp_path}', *words)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    runs.write_json(tmp_path / 'x.json', {'a': 1})
    with pytest.raises(TypeError):
        runs.write_json(tmp_path / 'x.json', {'b': object()})
    assert json.loads((tmp_path / 'x.json').read_text()) == {'a': 1}
    assert os.listdir(tmp_path) == ['x.json']


def test_cnns_are_kept_with_the_run(tmp_path):
    run = begin(tmp_path)
    first = {'motion': {'weights': '/W', 'fingerprint': 'abc'}}
    runs.keep_cnns(tmp_path, run, first)
    run = runs.start(tmp_path, RUN)
    assert run['cnns'] == first
    moved = {'motion': {'weights': '/V', 'fingerprint': 'abc'}}
    runs.keep_cnns(tmp_path, run, moved)
    assert runs.start(tmp_path, changed(motion_weights='/V'))['cnns'] == moved


def test_streams_are_those_that_the_stage_reads():
    assert runs.streams('motion', ['spatial_lstm']) == ['motion']
    assert runs.streams('hybrid', ['spatial_lstm']) == ['spatial']
    assert runs.streams('joint', ['fusion']) == ['spatial', 'motion']


# -- paths -----------------------------------------------------------------------------


def test_paths_are_absolute_outside_the_run_and_relative_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, run = pathlib.Path('run'), begin(tmp_path / 'run')
    cnns = {
        'spatial': {'weights': 'dumps/vgg19', 'fingerprint': 'a'},
        'motion': {'weights': 'run/weights/motion', 'fingerprint': 'b'},
        'other': {'weights': None, 'fingerprint': 'random'},
    }
    runs.keep_cnns(own, run, cnns)
    kept = {stream: cnn['weights'] for stream, cnn in on_disk(own)['cnns'].items()}
    outside = str(tmp_path / 'dumps/vgg19')
    assert kept == {'spatial': outside, 'motion': 'weights/motion', 'other': None}
    # from another working directory
    monkeypatch.chdir('/')
    found = runs.read(tmp_path / 'run')['cnns']
    found = {stream: cnn['weights'] for stream, cnn in found.items()}
    inside = str(tmp_path / 'run/weights/motion')
    assert found == {'spatial': outside, 'motion': inside, 'other': None}
    # what was read is written as it was
    run = runs.read(tmp_path / 'run')
    runs.keep_cnns(tmp_path / 'run', run, run['cnns'])
    assert {
        s: cnn['weights'] for s, cnn in on_disk(tmp_path / 'run')['cnns'].items()
    } == kept


def test_flags_that_are_paths_are_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {
        **RUN['flags'],
        'split_dir': '',
        'spatial_weights': 'random',
        'motion_weights': 'runs/motion',
        'hybrid_weights': None,
    }
    examples = [splits.Example('A/x', 0, '8'), splits.Example('B/y', 1, '9')]
    split = splits.Split(['A', 'B'], examples, [], {}, {})
    run = runs.describe(flags, split, examples[:1], RUN['preprocessing'])
    assert run['flags'] == {
        **flags,
        'data_dir': str(tmp_path / 'D'),
        'train_dir': str(tmp_path / 'R'),
        'motion_weights': str(tmp_path / 'runs/motion'),
    }
    assert (run['train_clips'], run['train_groups']) == (['A/x'], ['A/8'])
    assert run['sampling'] == RUN['sampling'] and run['cnns'] == {}
    json.dumps(run)
    # the same command, from another folder and with other words for the same paths
    runs.start('R', run)
    (tmp_path / 'R/weights').mkdir()
    monkeypatch.chdir(tmp_path / 'R')
    flags.update(data_dir='../D', train_dir='.', motion_weights='../runs/motion')
    again = runs.describe(flags, split, examples[:1], RUN['preprocessing'])
    assert runs.start('.', again)['flags'] == run['flags']


def test_a_moved_run_reads_its_own_dumps(tiny_runs, tmp_path):
    moved = tmp_path / 'moved'
    shutil.copytree(tiny_runs / 'hybrid', moved)
    for stream, cnn in runs.read(moved)['cnns'].items():
        assert cnn['weights'] == str(moved / 'weights' / stream)
        assert dump.fingerprint(cnn['weights']) == cnn['fingerprint']


def test_architecture_is_that_of_the_flags(tiny_runs):
    found = runs.architecture(runs.read(tiny_runs / 'hybrid'))
    assert found.num_classes == len(tiny.CLASSES) and found.size == tiny.SIZE
    assert found.stack_length == tiny.FLAGS['stack_length']
    assert found.lstm_units == [6, 4] and found.head == 'concat'
    assert found.cnn_options == {'norm2': True, 'subtract_mean_flow': False}


# -- the log ---------------------------------------------------------------------------


def lines_of(steps):
    return ''.join(json.dumps({'step': step, 'loss': 1 / 3}) + '\n' for step in steps)


@pytest.mark.parametrize('end', ['', '{"step": 40, "lo', '\n', '{"loss": 1}\n'])
def test_log_is_cut_to_the_checkpoint(tmp_path, end):
    path = tmp_path / 'log.jsonl'
    path.write_text(lines_of([10, 20, 30]) + end)
    assert runs.cut_log(tmp_path, 20) == path
    assert path.read_text() == lines_of([10, 20])
    runs.cut_log(tmp_path, 0)
    assert path.read_text() == ''
    assert os.listdir(tmp_path) == ['log.jsonl']


def test_half_a_line_is_cut_even_at_the_checkpoint(tmp_path):
    path = tmp_path / 'log.jsonl'
    path.write_text(lines_of([10]) + '{"step": 1')
    runs.cut_log(tmp_path, 100)
    assert path.read_text() == lines_of([10])


def test_no_log_is_no_error(tmp_path):
    assert not runs.cut_log(tmp_path, 0).exists()


def test_best_validation_comes_from_the_log(tmp_path):
    path = tmp_path / 'log.jsonl'
    assert runs.best_validation(path) == -1
    path.write_text(lines_of([10]))
    assert runs.best_validation(path) == -1
    more = [{'step': s, 'validation_accuracy': a} for s, a in ((10, 0.5), (20, 0.25))]
    path.write_text(lines_of([10]) + ''.join(json.dumps(x) + '\n' for x in more))
    assert runs.best_validation(path) == 0.5
