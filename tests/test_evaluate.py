"""evaluate.py on tiny runs: its files, its figures, and every refusal."""

import csv
import json
import os
import pathlib
import shutil

import cv2
import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny

import evaluate
from data import clips
from results import inference
from weights import checkpoints


@pytest.fixture(scope='module', autouse=True)
def narrow_networks(tiny_runs):
    """Narrow networks for the whole file; the runs are made before, so as not twice."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        yield


@pytest.fixture(scope='module')
def evaluated(tiny_runs):
    """What evaluation of the hybrid run returned; its files stand in its folder."""
    return evaluate.evaluate(tiny.flags(tiny_runs / 'hybrid'))


@pytest.fixture
def run_copy(tiny_runs, tmp_path):
    """A copy of the hybrid run to damage; its feature cache is shared."""
    copy = tmp_path / 'run'
    shutil.copytree(tiny_runs / 'hybrid', copy)
    return copy


def changed(train_dir, **values):
    """Changes run.json."""
    stored = checkpoints.read(train_dir)
    checkpoints.write_json(pathlib.Path(train_dir, 'run.json'), {**stored, **values})


def read_csv(train_dir):
    path = pathlib.Path(train_dir, 'predictions.csv')
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


# -- figures and files ----------------------------------------------------------------


def test_files_agree(tiny_runs, evaluated):
    folder = tiny_runs / 'hybrid'
    rows = read_csv(folder)
    assert len(rows) == 12 == evaluated['figures']['video']['clips']
    assert all(row['clip'].startswith(row['label'] + '/') for row in rows)
    right = np.mean([row['label'] == row['prediction'] for row in rows])
    assert right == evaluated['figures']['video']['top1']
    for name in ('one_sample', 'spatial_lstm', 'motion_lstm', 'fusion'):
        right = np.mean([row['label'] == row[name] for row in rows])
        assert right == evaluated['figures'][name]['top1'], name
    stored = json.loads((folder / 'evaluation.json').read_text())
    assert stored == json.loads(json.dumps(evaluated))
    assert stored['step'] == tiny.STEP and stored['class_names'] == list(tiny.CLASSES)
    assert np.sum(stored['confusion']) == 12 and not stored['partial split']
    assert cv2.imread(str(folder / 'confusion.png')) is not None
    assert 'hybrid' in (folder / 'report.html').read_text()
    # the fixture is worth something: clips differ
    assert len({row['prediction'] for row in rows}) > 1


@pytest.fixture(scope='module')
def scores(tiny_runs, evaluated):
    """(rows of clips.csv, the hybrid's probabilities by name)."""
    stored = checkpoints.read(tiny_runs / 'hybrid')
    index = clips.read_index(tiny_runs / 'data')
    rows = [index[row['clip']] for row in read_csv(tiny_runs / 'hybrid')]
    checkpoint, _ = checkpoints.latest(tiny_runs / 'hybrid')
    values = tiny.flags(tiny_runs / 'hybrid')
    settings = stored['settings']
    return rows, evaluate.score(stored, settings, rows, checkpoint, values)


def test_branches_are_parts_of_the_sum(scores):
    # logits = part + rest, so p ~ softmax(part) softmax(rest)
    _, found = scores
    for branch in ('spatial_lstm', 'motion_lstm', 'fusion'):
        product = found[branch].astype(float) * found[f'without_{branch}']
        product /= product.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(product, found['video'], atol=1e-5)


def test_batches_do_not_matter(scores, tiny_runs):
    rows, found = scores
    stored = checkpoints.read(tiny_runs / 'hybrid')
    checkpoint, _ = checkpoints.latest(tiny_runs / 'hybrid')
    values = tiny.flags(tiny_runs / 'hybrid', batch_size=1)
    alone = evaluate.score(stored, stored['settings'], rows[:3], checkpoint, values)
    for name, expected in found.items():
        np.testing.assert_allclose(alone[name], expected[:3], atol=1e-5)


@pytest.mark.parametrize('crops', ['1', '10'])
def test_motion_alone_averages_samples_and_crops(tiny_runs, crops):
    values = tiny.flags(tiny_runs / 'motion', test_segments=4, test_crops=crops)
    result = evaluate.evaluate(values)
    assert (result['test_segments'], result['test_crops']) == (4, int(crops))
    names = list(read_csv(tiny_runs / 'motion')[0])
    assert names[:3] == ['clip', 'label', 'prediction'] and names[-1] == 'one_sample'
    assert list(result['figures']) == ['video', 'one_sample']


def test_ten_crops_are_five_and_their_mirrors():
    found = list(evaluate.crop_inputs(2, 10))
    drawn = {(c['place'][1].item(), c['mirrored'][1].item()) for c in found}
    assert drawn == {(place, mirror) for place in range(5) for mirror in (False, True)}
    assert all((crop['crop_scale'] == 0.875).all() for crop in found)
    assert len(list(evaluate.crop_inputs(2, 5))) == 5


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['spatial', 'joint'])
def test_other_stages(tiny_runs, stage):
    """Each from pixels as evaluation does; joint also with crops and samples."""
    folder = tiny.make_run(tiny_runs, stage)
    values = tiny.flags(folder, test_segments=5)
    result = evaluate.evaluate(values)
    rows = read_csv(folder)
    video = tiny_runs / 'videos' / f'{rows[0]["clip"]}.avi'
    code = evaluate.main(tiny.flags(folder, video=[str(video)], test_segments=5))
    assert code == 0
    stored = json.loads((folder / 'videos' / f'{video.name}.json').read_text())
    for rank, (name, probability) in enumerate(stored['best'][:2]):
        ending = f'_{rank + 1}' if rank else ''
        assert name == rows[0][f'prediction{ending}']
        assert abs(probability - float(rows[0][f'probability{ending}'])) < 1e-4
    crops = evaluate.evaluate(tiny.flags(folder, test_segments=2, test_crops='5'))
    assert crops['test_segments'] == 2 and result['test_segments'] == 5
    export = tiny_runs / f'saved_{stage}'
    assert evaluate.main(tiny.flags(folder, export=str(export))) == 0


@pytest.mark.slow
def test_late_head(tiny_runs):
    folder = tiny.make_run(tiny_runs, 'hybrid', 'late', head='late')
    result = evaluate.evaluate(tiny.flags(folder))
    assert 'fusion' in result['figures'] and 'without_fusion' not in result['figures']


def test_compare(tiny_runs, evaluated):
    motion = str(tiny_runs / 'motion')
    evaluate.evaluate(tiny.flags(motion, test_segments=1))
    result = evaluate.evaluate(tiny.flags(tiny_runs / 'hybrid', compare=[motion]))
    compared = result['compared'][motion]
    mine, other = read_csv(tiny_runs / 'hybrid'), read_csv(motion)
    right = [row['label'] == row['prediction'] for row in mine]
    other_right = [row['label'] == row['prediction'] for row in other]
    difference = np.mean(right) - np.mean(other_right)
    assert compared['difference'] == pytest.approx(difference)
    assert compared['other'] == 'motion'
    text = (tiny_runs / 'hybrid' / 'report.html').read_text()
    assert motion in text


# -- refusals -------------------------------------------------------------------------


def refused(match, train_dir, **given):
    """evaluate.py says `match` in one line and writes nothing."""
    folder = pathlib.Path(train_dir)
    before = sorted(os.listdir(folder)) if folder.is_dir() else None
    with pytest.raises(ValueError, match=match) as error:
        evaluate.main(tiny.flags(train_dir, **given))
    assert '\n' not in str(error.value)
    assert before == (sorted(os.listdir(folder)) if folder.is_dir() else None)


def test_no_run(tmp_path, tiny_runs):
    with pytest.raises(ValueError, match='--train_dir is needed'):
        evaluate.main(tiny.flags(''))
    refused('no run.json', tmp_path)
    refused('is of stage features', tiny_runs / 'features')


def test_no_checkpoint(run_copy):
    refused('--best: no checkpoint', run_copy, best=True)
    (run_copy / 'checkpoint').unlink()
    refused('no checkpoint yet', run_copy)


def test_other_classes(run_copy):
    changed(run_copy, class_names=['Walk', 'Jump', 'Swim'])
    refused('class names are not those', run_copy)


def test_other_lists(run_copy):
    changed(run_copy, list_hashes={'testlist01.txt': 'another'})
    refused('list hashes are not those', run_copy)


def test_other_preprocessing(run_copy):
    preprocessing = {'flow': 'farneback', 'bound': 20.0, 'size': tiny.SIZE}
    changed(run_copy, preprocessing=preprocessing)
    refused('preprocessing are not those', run_copy)


def test_trained_clips_and_groups(run_copy, tiny_runs, evaluated, capsys):
    refused('was trained on; --allow_overlap', run_copy, side='train')
    changed(run_copy, train_groups=['Jump/02'])
    refused('Jump/v_Jump_g02_c01 or its group was trained on', run_copy)
    changed(run_copy, train_groups=[], train_clips=['Run/v_Run_g01_c02'])
    refused('Run/v_Run_g01_c02 or its group', run_copy)
    result = evaluate.evaluate(tiny.flags(run_copy, allow_overlap=True))
    assert result['trained on']
    assert capsys.readouterr().out.count('(trained on)') == 2
    assert 'trained on' in (run_copy / 'report.html').read_text()
    result = evaluate.evaluate(tiny.flags(run_copy, allow_overlap=True, side='train'))
    assert result['figures']['video']['clips'] == 18
    assert (run_copy / 'predictions_train.csv').exists()


@pytest.fixture
def fewer_clips(tiny_runs, tmp_path):
    """The data set without two test clips and a train clip."""
    folder = tmp_path / 'data'
    folder.mkdir()
    for name in ('resized', 'optical-flow', 'features'):
        os.symlink(tiny_runs / 'data' / name, folder / name)
    index = clips.read_index(tiny_runs / 'data')
    for clip in ('Run/v_Run_g01_c01', 'Jump/v_Jump_g02_c02', 'Walk/v_Walk_g08_c01'):
        del index[clip]
    clips.write_index(folder / 'clips.csv', index.values())
    return folder


def test_missing_clips(run_copy, fewer_clips, capsys):
    given = {'data_dir': str(fewer_clips)}
    refused('2 of 12 test clips .* --allow_missing', run_copy, **given)
    result = evaluate.evaluate(tiny.flags(run_copy, allow_missing=True, **given))
    assert result['figures']['video']['clips'] == 10
    assert result['partial split'] and result['missing'] == {'train': 1, 'test': 2}
    assert capsys.readouterr().out.count('(partial split, 2 clips missing)') == 2
    assert 'partial split, 2 clips' in (run_copy / 'report.html').read_text()
    # a full evaluation and a partial one cannot be compared clip by clip
    other = str(run_copy)
    refused('other clips or labels', run_copy, compare=[other])


def test_compare_without_predictions(run_copy, tiny_runs):
    other = run_copy / 'other'
    other.mkdir()
    shutil.copy(run_copy / 'run.json', other)
    refused('evaluate that run first', run_copy, compare=[str(other)])


def test_scores_for_every_clip():
    rows = [{'clip': 'A/a'}, {'clip': 'A/b'}]
    score = {'video': np.array([0.5, 0.5])}
    evaluate.check_scores([score, score], rows)
    with pytest.raises(ValueError, match='1 clips were scored, the split has 2'):
        evaluate.check_scores([score], rows)
    nan = {'video': np.array([np.nan, 0.5])}
    with pytest.raises(ValueError, match='A/b: .* no finite probability'):
        evaluate.check_scores([score, nan], rows)


def test_old_features(run_copy, tiny_runs, fewer_clips):
    (fewer_clips / 'features').unlink()
    given = {'data_dir': str(fewer_clips), 'allow_missing': True}
    refused('features of 10 clips are missing or out of date', run_copy, **given)
    shutil.copytree(tiny_runs / 'data' / 'features', fewer_clips / 'features')
    folder = checkpoints.read(run_copy)['cnns']['motion']['features']
    path = fewer_clips / 'features' / folder / 'Run' / 'v_Run_g02_c01.npy'
    path.write_bytes(path.read_bytes()[:-1])  # as a full disk leaves it
    refused('features of 1 clips .* Run/v_Run_g02_c01', run_copy, **given)


def test_samples_that_the_cache_lacks(run_copy):
    refused('--test_segments=9', run_copy, test_segments=9)
    refused('--test_crops=5', run_copy, test_crops='5')


def test_checkpoint_that_lacks_variables(run_copy):
    checkpoint, _ = checkpoints.latest(run_copy)
    reader = tf.train.load_checkpoint(checkpoint)
    with tf.Graph().as_default(), tf.Session() as session:
        kept = [
            tf.get_variable(name, initializer=reader.get_tensor(name))
            for name in reader.get_variable_to_shape_map()
            if name != 'motion_lstm/layer_1/kernel'
        ]
        session.run(tf.global_variables_initializer())
        checkpoints.save(tf.train.Saver(kept), session, str(run_copy), tiny.STEP)
    refused('lacks 1 variables, such as motion_lstm/layer_1/kernel', run_copy)


def test_dump_that_is_not_the_runs(run_copy, tiny_runs):
    stored = checkpoints.read(run_copy)
    stored['cnns']['spatial']['fingerprint'] = 'another'
    changed(run_copy, cnns=stored['cnns'])
    given = {'video': [str(tiny_runs / 'videos' / 'Run' / 'v_Run_g01_c01.avi')]}
    refused('the dump is not the one the run was trained with', run_copy, **given)


def test_export_over_a_folder(run_copy, tmp_path):
    refused('is there already', run_copy, export=str(tmp_path))


def test_export_that_differs(run_copy, tmp_path, monkeypatch):
    right = inference.reloaded
    monkeypatch.setattr(
        inference,
        'reloaded',
        lambda *given: {'probabilities': right(*given)['probabilities'] + 2e-5},
    )
    refused('differs from the run by 2e-05', run_copy, export=str(tmp_path / 'saved'))


def test_wrong_video_flags(run_copy, tiny_runs):
    videos = str(tiny_runs / 'videos')
    refused('needs one --video that is a file', run_copy, video=[videos], overlay='x')
    given = {'window_seconds': 1.0, 'window_stride': 2.0}
    refused('--window_stride=2.0', run_copy, video=[videos], **given)
    empty = run_copy / 'weights'
    refused('no videos in this folder', run_copy, video=[str(empty)])


# -- as a user runs it ----------------------------------------------------------------


def test_the_program(run_script, run_copy):
    """Full width is no matter: the hybrid reads cached features and builds no CNN."""
    done = run_script('evaluate.py', f'--train_dir={run_copy}')
    assert 'Traceback' not in done.stderr and 'video' in done.stdout


@pytest.mark.parametrize(
    'words, match',
    [
        (['--train_dir=nowhere'], '--train_dir=nowhere: no run.json'),
        pytest.param(['--train_dirr=x'], 'train_dirr', marks=pytest.mark.slow),
        pytest.param([], '--train_dir is needed', marks=pytest.mark.slow),
        pytest.param(
            ['--train_dir=x', '--test_segments=0'],
            'test_segments',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_use_ends_in_one_line(run_script, words, match):
    done = run_script('evaluate.py', *words, code=1)
    (line,) = done.stderr.splitlines()  # not one of TensorFlow's beside it
    assert line.startswith('evaluate.py: ') and match in line
    assert not done.stdout
