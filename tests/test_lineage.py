"""What a run starts from: not what was made otherwise or was trained on test clips."""

import copy

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import model
from data import splits
from results import lineage
from results import runs
from weights import dump

FORM = {'norm2': True, 'subtract_mean_flow': False}
PREPROCESSING = {'flow': 'dis-medium', 'bound': 20.0, 'size': 48}
HYBRID = {'branches': ['motion_lstm'], 'head': 'concat', 'lstm_units': [5]}
EARLIER = {
    'flags': {'stage': 'motion', **FORM, **HYBRID},
    'class_names': ['A', 'B'],
    'list_hashes': {},
    'preprocessing': PREPROCESSING,
    'sampling': 'f00',
    'train_clips': ['A/a1', 'B/b2'],
    'train_groups': ['A/1', 'B/2'],
    'cnns': {},
}
# (clip, label, group); group 1 of class B is another recording than that of class A
UNSEEN = [splits.Example('B/b1', 1, '1'), splits.Example('A/a2', 0, '2')]


def test_find_weights_in_a_dump_and_in_a_run(tmp_path, refused):
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
    assert find('random') is None  # there is no dump yet
    (own / 'weights/motion/dump.json').write_text('{}')
    assert find('random') == str(own / 'weights/motion')
    refused(lambda: find(None), '--motion_weights is needed', 'the word random')
    refused(lambda: find(''), '--motion_weights is needed')
    neither = f'--motion_weights={tmp_path / "no"}: neither a dump nor a --train_dir'
    refused(lambda: find(tmp_path / 'no'), neither)


def test_owner_is_the_run_that_holds_a_dump(tmp_path, refused):
    weights = tmp_path / 'weights/motion'
    weights.mkdir(parents=True)
    assert lineage.owner(weights, 'motion_weights') is None  # a converted one
    runs.write_json(tmp_path / 'run.json', EARLIER)
    assert lineage.owner(weights, 'motion_weights') == EARLIER
    runs.write_json(tmp_path / 'run.json', {'settings': {}})
    earlier = f'--motion_weights={tmp_path} is a run of an earlier version'
    refused(lambda: lineage.owner(weights, 'motion_weights'), earlier)


def check(folder, test=UNSEEN, held_out=(), preprocessing=PREPROCESSING, **given):
    """`lineage.check` of a hybrid that starts from the CNN of the run in `folder`."""
    flags = {
        'stage': 'hybrid',
        'train_dir': str(folder / 'new'),
        'motion_weights': str(folder),
        'hybrid_weights': None,
        **FORM,
        **HYBRID,
        **given,
    }
    split = splits.Split(['A', 'B'], [], test, {}, {})
    lineage.check(flags, split, list(held_out), preprocessing)


@pytest.fixture
def motion(tmp_path):
    """Folder of a run that trained a motion CNN; function that changes its run.json."""
    (tmp_path / 'weights/motion').mkdir(parents=True)
    (tmp_path / 'weights/motion/dump.json').write_text('{}')

    def write(**changes):
        run = copy.deepcopy(EARLIER)
        run['flags'].update(changes)
        runs.write_json(tmp_path / 'run.json', run)

    write()
    return tmp_path, write


def test_a_run_is_continued_with_its_own_cnns(tmp_path, refused):
    """Wherever they are; a random one that was trained since is of the same name."""
    for value, name in enumerate(('own', 'moved', 'other')):
        arrays = [('mean', np.full(3, max(1, value), np.float32))]
        dump.write(tmp_path / name, 'cnnm', 'a test', arrays)
    fingerprint = dump.fingerprint(tmp_path / 'own')
    assert fingerprint == dump.fingerprint(tmp_path / 'moved')
    run = {'cnns': {'motion': {'weights': '/was/here', 'fingerprint': fingerprint}}}

    def check_continued(given):
        flags = {'motion_weights': str(given), 'train_dir': str(tmp_path / 'run')}
        lineage.check_continued(run, flags)

    check_continued(tmp_path / 'own')
    check_continued(tmp_path / 'moved')
    named = f'{tmp_path / "run"} was started with, which is /was/here: give that'
    for given in (tmp_path / 'other', 'random'):
        refused(lambda g=given: check_continued(g), f'--motion_weights={given}', named)
    run['cnns']['motion'] = {'weights': None, 'fingerprint': 'random'}
    (tmp_path / 'run/weights').mkdir(parents=True)
    (tmp_path / 'other').rename(tmp_path / 'run/weights/motion')
    check_continued('random')
    refused(lambda: check_continued(tmp_path / 'own'), 'which is random: give that')


@pytest.mark.parametrize('seen', [('A/a1', 0, '9'), ('A/other', 0, '1')])
def test_a_cnn_that_saw_a_clip_or_its_group_is_refused(motion, refused, seen):
    folder, write = motion
    check(folder)
    seen = splits.Example(*seen)
    for subset, fix in (
        ({'test': [*UNSEEN, seen]}, 'train it with the same --split_dir and --split'),
        ({'held_out': [*UNSEEN, seen]}, 'train it with the same --validation_groups'),
    ):
        named = f'--motion_weights={folder} was trained on {seen.clip} or its group'
        refused(lambda s=subset: check(folder, **s), named, fix)
        write(stage='features')  # which trains no CNN
        check(folder, **subset)
        write()


def test_a_cnn_that_was_built_or_fed_otherwise_is_refused(motion, refused):
    folder, write = motion
    named = f'--motion_weights={folder} was trained with'
    refused(lambda: check(folder, norm2=False), f'{named} norm2 True, not False')
    farneback = {**PREPROCESSING, 'flow': 'farneback'}
    refused(
        lambda: check(folder, preprocessing=farneback),
        f'{named} preprocessing {PREPROCESSING}',
        'give the same flags and data to both',
    )
    write(stage='features', subtract_mean_flow=True)  # untrained, but in that form
    refused(lambda: check(folder), f'{named} subtract mean flow True, not False')


def test_a_cnn_on_frames_may_come_from_other_flow(motion):
    folder, write = motion
    (folder / 'weights/motion').rename(folder / 'weights/spatial')
    write(stage='spatial', norm2=False)  # which VGG-19 does not have
    farneback = {**PREPROCESSING, 'flow': 'farneback'}
    only = {'branches': ['spatial_lstm'], 'spatial_weights': str(folder)}
    check(folder, preprocessing=farneback, **only)


@pytest.fixture
def hybrid(motion):
    """Folder of a hybrid with a checkpoint; function that changes its run.json."""
    folder, write = motion
    dump.write(folder / 'cnn', 'cnnm', 'a test', [('mean', np.zeros(3, np.float32))])
    fingerprint = dump.fingerprint(folder / 'cnn')
    cnns = {'motion': {'weights': '/W', 'fingerprint': fingerprint}}
    (folder / 'model.ckpt-5.index').touch()
    tf.train.update_checkpoint_state(str(folder), 'model.ckpt-5')

    def rewrite(cnns=cnns, **changes):
        write(**{'stage': 'hybrid', **changes})
        run = {**runs.read(folder), 'cnns': cnns}
        runs.write_json(folder / 'run.json', run)

    rewrite()
    return folder, rewrite


def test_a_hybrid_of_another_form_is_no_start_for_joint(hybrid, refused):
    folder, write = hybrid
    words = {'motion_weights': str(folder / 'cnn'), 'hybrid_weights': str(folder)}
    named = f'--hybrid_weights={folder}'
    check(folder, **words)
    refused(
        lambda: check(folder, **words, head='late'),
        f'{named} was trained with head concat, not late',
    )
    refused(
        lambda: check(folder, **words, lstm_units=[5, 4]),
        f'{named} was trained with lstm units [5], not [5, 4]',
    )
    seen = splits.Example('A/a1', 0, '1')
    refused(lambda: check(folder, test=[seen], **words), f'{named} was trained on A/a1')
    other = {**words, 'motion_weights': 'random'}
    refused(lambda: check(folder, **other), 'give --motion_weights=/W')
    write(cnns={'motion': {'weights': '/W', 'fingerprint': 'abc'}})
    refused(lambda: check(folder, **words), 'give --motion_weights=/W')
    write(stage='motion')
    refused(lambda: check(folder, **words), f'{named} is a run of stage motion')
    (folder / 'checkpoint').unlink()
    refused(lambda: check(folder, **words), f'{named}: no checkpoint there')
    (folder / 'run.json').unlink()
    refused(lambda: runs.read(folder, 'hybrid_weights'), f'{named}: no run.json')


def test_a_hybrid_of_another_table_of_streams_is_no_start(hybrid, refused, monkeypatch):
    folder, write = hybrid
    write(branches=['fusion'], cnns={'spatial': {'weights': None}})
    alone = {'motion': model.STREAMS['motion']}  # the table itself keeps its order
    monkeypatch.setattr(model, 'STREAMS', alone)
    refused(
        lambda: check(
            folder,
            branches=['fusion'],
            motion_weights='random',
            hybrid_weights=str(folder),
        ),
        f'--hybrid_weights={folder} was trained on the streams spatial, and',
    )


def test_a_run_is_not_held_against_itself(motion):
    """`random` names the CNN that the run itself saved; `start` compares its flags."""
    folder, _ = motion
    seen = splits.Example('A/a1', 0, '1')
    check(folder, test=[seen], motion_weights='random', train_dir=str(folder))
