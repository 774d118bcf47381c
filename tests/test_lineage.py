"""What a run may start from: not from what was made otherwise or saw the test side."""

import copy

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from test_checkpoints import refused

from data import splits
from weights import checkpoints
from weights import dump
from weights import lineage

FORM = {'norm2': True, 'subtract_mean_flow': False}
PREPROCESSING = {'flow': 'dis-medium', 'bound': 20.0, 'size': 48}
HYBRID = {'branches': ['fusion'], 'head': 'concat', 'lstm_units': [5]}
EARLIER = {
    'settings': {'stage': 'motion', **FORM, **HYBRID},
    'class_names': ['A', 'B'],
    'list_hashes': {},
    'preprocessing': PREPROCESSING,
    'train_clips': ['A/a1', 'B/b2'],
    'train_groups': ['A/1', 'B/2'],
    'cnns': {},
}
# (clip, label, group); group 1 of class B is another recording than that of class A
UNSEEN = [splits.Example('B/b1', 1, '1'), splits.Example('A/a2', 0, '2')]


def test_find_weights_in_a_dump_and_in_a_run(tmp_path):
    own = tmp_path / 'run'
    for folder in (tmp_path / 'dump', tmp_path / 'early/weights/motion'):
        folder.mkdir(parents=True)
        (folder / 'dump.json').write_text('{}')

    def find(given):
        return lineage.find_weights(given, 'motion', own)

    assert find(tmp_path / 'dump') == str(tmp_path / 'dump')
    assert find(tmp_path / 'early') == str(tmp_path / 'early/weights/motion')
    assert find('random') is None
    (own / 'weights/motion').mkdir(parents=True)
    assert find('random') is None  # no dump stands there yet
    (own / 'weights/motion/dump.json').write_text('{}')
    assert find('random') == str(own / 'weights/motion')
    refused(lambda: find(None), '--motion_weights', 'random')
    refused(lambda: find(''), '--motion_weights')
    refused(lambda: find(tmp_path / 'no'), f'--motion_weights={tmp_path / "no"}')


def test_owner_is_the_run_in_which_a_dump_stands(tmp_path):
    weights = tmp_path / 'weights/motion'
    weights.mkdir(parents=True)
    assert lineage.owner(weights) is None  # a converted one
    checkpoints.write_json(tmp_path / 'run.json', EARLIER)
    assert lineage.owner(weights) == EARLIER


def check(folder, test=UNSEEN, held_out=(), preprocessing=PREPROCESSING, **given):
    """`lineage.check` of a hybrid that starts from the CNN of the run in `folder`."""
    settings = {
        'train_dir': str(folder / 'new'),
        'motion_weights': str(folder),
        'hybrid_weights': None,
        **HYBRID,
        **given,
    }
    form = {name: given.get(name, value) for name, value in FORM.items()}
    split = splits.Split(['A', 'B'], [], test, {}, {})
    lineage.check(settings, ['motion'], form, split, list(held_out), preprocessing)


@pytest.fixture
def motion(tmp_path):
    """Folder of a run that trained a motion CNN; function that changes its run.json."""
    (tmp_path / 'weights/motion').mkdir(parents=True)
    (tmp_path / 'weights/motion/dump.json').write_text('{}')

    def write(**changes):
        run = copy.deepcopy(EARLIER)
        run['settings'].update(changes)
        checkpoints.write_json(tmp_path / 'run.json', run)

    write()
    return tmp_path, write


@pytest.mark.parametrize('seen', [('A/a1', 0, '9'), ('A/other', 0, '1')])
def test_a_cnn_that_saw_a_clip_or_its_group_is_refused(motion, seen):
    folder, write = motion
    check(folder)
    seen = splits.Example(*seen)
    for sides, cure in (
        ({'test': [*UNSEEN, seen]}, '--split'),
        ({'held_out': [*UNSEEN, seen]}, '--validation_groups'),
    ):
        refused(lambda s=sides: check(folder, **s), seen.clip, '--motion_weights', cure)
        write(stage='features')  # which trains no CNN
        check(folder, **sides)
        write()


def test_a_cnn_that_was_built_or_fed_otherwise_is_refused(motion):
    folder, write = motion
    refused(lambda: check(folder, norm2=False), 'norm2 True', 'not False')
    farneback = {**PREPROCESSING, 'flow': 'farneback'}
    refused(lambda: check(folder, preprocessing=farneback), 'preprocessing', 'dis')
    write(stage='features', subtract_mean_flow=True)  # untrained, but in that form
    refused(lambda: check(folder), 'subtract mean flow True')


@pytest.fixture
def hybrid(motion):
    """Folder of a hybrid with a checkpoint; function that changes its run.json."""
    folder, write = motion
    dump.write(folder / 'cnn', 'cnnm', 'a test', [('mean', np.zeros(3, np.float32))])
    cnns = {'motion': {'weights': 'W', 'fingerprint': dump.fingerprint(folder / 'cnn')}}
    (folder / 'model.ckpt-5.index').touch()
    tf.train.update_checkpoint_state(str(folder), 'model.ckpt-5')

    def rewrite(cnns=cnns, **changes):
        write(**{'stage': 'hybrid', **changes})
        run = {**checkpoints.read(folder), 'cnns': cnns}
        checkpoints.write_json(folder / 'run.json', run)

    rewrite()
    return folder, rewrite


def test_a_hybrid_of_another_form_is_no_start_for_joint(hybrid):
    folder, write = hybrid
    words = {'motion_weights': str(folder / 'cnn'), 'hybrid_weights': str(folder)}
    check(folder, **words)
    refused(lambda: check(folder, **words, head='late'), 'head concat, not late')
    refused(lambda: check(folder, **words, lstm_units=[5, 4]), 'lstm units')
    seen = splits.Example('A/a1', 0, '1')
    refused(lambda: check(folder, test=[seen], **words), 'A/a1', '--hybrid_weights')
    other = {**words, 'motion_weights': 'random'}
    refused(lambda: check(folder, **other), 'give --motion_weights=W')
    write(cnns={'motion': {'weights': 'W', 'fingerprint': 'abc'}})
    refused(lambda: check(folder, **words), 'give --motion_weights=W')
    write(stage='motion')
    refused(lambda: check(folder, **words), 'name one of stage hybrid')
    (folder / 'checkpoint').unlink()
    refused(lambda: check(folder, **words), '--hybrid_weights', 'no checkpoint')
    (folder / 'run.json').unlink()
    refused(lambda: checkpoints.read(folder, 'hybrid_weights'), '--hybrid_weights=')


def test_a_run_is_not_held_against_itself(motion):
    """`random` names the CNN that the run itself saved; `start` compares its flags."""
    folder, _ = motion
    seen = splits.Example('A/a1', 0, '1')
    check(folder, test=[seen], motion_weights='random', train_dir=str(folder))
