"""evaluate.py on tiny runs: its files, its figures, what moved, and every refusal."""

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
import model
from data import clips
from data import feeds
from data import sampling
from results import calibration
from results import inference
from results import runs
from results import scoring
from results import tables
from weights import checkpoints


@pytest.fixture(scope='module', autouse=True)
def narrow_networks(tiny_runs):
    """Narrow networks for the whole file; the runs are made before, so as not twice."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        yield


@pytest.fixture(scope='module')
def evaluated(tiny_runs):
    """What evaluation of the hybrid run returned; its files are in its folder."""
    return evaluate.evaluate(tiny_runs / 'hybrid')


@pytest.fixture
def run_copy(tiny_runs, tmp_path):
    """A copy of the hybrid run to damage; its feature cache is shared."""
    copy = tmp_path / 'run'
    shutil.copytree(tiny_runs / 'hybrid', copy)
    return copy


def measure(train_dir, **given):
    """Evaluates a run; the fields of scoring.Protocol by name, and other arguments."""
    fields = {n: given.pop(n) for n in scoring.Protocol._fields if n in given}
    return evaluate.evaluate(train_dir, protocol=scoring.Protocol(**fields), **given)


def changed(train_dir, **values):
    """Changes run.json."""
    path = pathlib.Path(train_dir, 'run.json')
    runs.write_json(path, {**json.loads(path.read_text()), **values})


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
    assert np.sum(stored['confusion']) == 12 and not stored['partial_split']
    assert cv2.imread(str(folder / 'confusion.png')) is not None
    assert 'hybrid' in (folder / 'report.html').read_text()
    # the fixture is worth something: clips differ
    assert len({row['prediction'] for row in rows}) > 1


def test_motion_alone(tiny_runs):
    result = measure(tiny_runs / 'motion', test_segments=4, test_crops=10)
    assert (result['test_segments'], result['test_crops']) == (4, 10)
    names = list(read_csv(tiny_runs / 'motion')[0])
    assert names[:3] == ['clip', 'label', 'prediction'] and names[-1] == 'one_sample'
    assert list(result['figures']) == ['video', 'one_sample']
    result = measure(tiny_runs / 'motion')
    assert (result['test_segments'], result['test_crops']) == (scoring.SEGMENTS, 1)


def test_a_temperature_changes_probabilities_and_nothing_else(
    tiny_runs, evaluated, run_copy, run_narrow
):
    checkpoint, _ = checkpoints.latest(run_copy)
    calibration.write(checkpoint, 3.0)
    result = measure(run_copy, unknown_below=0.6)
    assert result['calibration']['temperature'] == 3
    before = evaluated['calibration']['ece']
    assert result['calibration']['ece_before'] == pytest.approx(before, abs=1e-6)
    assert result['figures']['video']['top1'] == evaluated['figures']['video']['top1']
    before, after = read_csv(tiny_runs / 'hybrid'), read_csv(run_copy)
    answers = [float(row['probability']) for row in after]
    for old, new in zip(before, after, strict=True):
        assert old['prediction'] == new['prediction']
        p = np.array([float(old[f'probability{n}']) for n in ('', '_2', '_3')])
        expected = p ** (1 / 3) / (p ** (1 / 3)).sum()
        assert float(new['probability']) == pytest.approx(expected[0], abs=1e-3)
    right = np.array([row['label'] == row['prediction'] for row in after])
    below = np.array(answers) < 0.6
    assert result['unknown'] == {
        'below': 0.6,
        'right': pytest.approx(below[right].mean()) if right.any() else None,
        'wrong': pytest.approx(below[~right].mean()),
    }
    # a video is answered alike
    video = tiny_runs / 'videos' / f'{after[0]["clip"]}.avi'
    words = [f'--train_dir={run_copy}', f'--video={video}']
    run_narrow('evaluate.py', *words, f'--unknown_below={answers[0] + 0.01}')
    stored = json.loads((run_copy / 'videos' / f'{video.name}.json').read_text())
    assert stored['best'][0][1] == pytest.approx(answers[0], abs=2e-3)
    assert stored['answer'] == stored['timeline'][0]['answer'] == tables.UNKNOWN
    run_narrow('evaluate.py', *words, f'--unknown_below={answers[0] - 0.01}')
    stored = json.loads((run_copy / 'videos' / f'{video.name}.json').read_text())
    assert stored['answer'] == after[0]['prediction']


def test_an_export_has_the_temperature(run_copy, tmp_path):
    checkpoint, _ = checkpoints.latest(run_copy)
    run = runs.read(run_copy)
    random = np.random.default_rng(0)
    feed = {'lengths': np.array([2], np.int32)}
    for stream in model.STREAMS:
        shape = model.input_shape(stream, tiny.SIZE, 3)
        feed[stream] = random.integers(0, 256, [1, 2, *shape]).astype(np.uint8)
    found = []
    for name in 'ab':
        inference.export(str(tmp_path / name), run, checkpoint)
        found.append(inference.reloaded(str(tmp_path / name), feed)['probabilities'])
        calibration.write(checkpoint, 3.0)
    expected = calibration.tempered(found[0], 3.0)
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_mirror_images_are_averaged(tiny_runs, run_copy, evaluated):
    """Of the hybrid, from the feature cache, and of one CNN, from pixels."""
    result = measure(run_copy, test_views='mirror')
    assert result['test_views'] == 'mirror'
    rows, plain = read_csv(run_copy), read_csv(tiny_runs / 'hybrid')
    run = runs.read(run_copy)
    checkpoint, _ = checkpoints.latest(run_copy)
    index = clips.read_index(tiny_runs / 'data')
    differs = 0
    with tf.Graph().as_default(), tf.Session() as session:
        net = inference.network(session, run, checkpoint)
        for row, other in list(zip(rows, plain, strict=True))[:3]:
            stored = sampling.stored_clip(tiny_runs / 'data', index[row['clip']])
            pixels = feeds.segments(stored, model.STREAMS, 5, 3)
            mirrored = {name: x[:, :, ::-1].copy() for name, x in pixels.items()}
            x = mirrored['motion'][..., ::2]
            assert x.min() > 0  # 256 - 0 is no byte
            mirrored['motion'][..., ::2] = 256 - x.astype(int)
            p = [
                session.run(net.probabilities, inference.feed_of(net, each))[0]
                for each in (pixels, mirrored)
            ]
            expected = np.mean(p, axis=0)
            assert float(row['probability']) == pytest.approx(expected.max(), abs=2e-3)
            differs += abs(float(other['probability']) - expected.max()) > 4e-3
    assert differs
    alone = [
        measure(tiny_runs / 'motion', test_segments=3, test_views=views)
        for views in ('mirror', 'whole')
    ]
    assert alone[0]['test_views'] == 'mirror'
    assert alone[0]['calibration'] != alone[1]['calibration']


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['spatial', 'joint'])
def test_other_stages(tiny_runs, stage, run_narrow):
    """Each from pixels as evaluation does; joint also with crops and samples."""
    folder = tiny.make_run(tiny_runs, stage)
    result = measure(folder, test_segments=5)
    rows = read_csv(folder)
    crops = measure(folder, test_segments=2, test_crops=5)
    assert crops['test_segments'] == 2 and result['test_segments'] == 5
    video = tiny_runs / 'videos' / f'{rows[0]["clip"]}.avi'
    words = [f'--train_dir={folder}', f'--video={video}', '--test_segments=5']
    run_narrow('evaluate.py', *words)
    stored = json.loads((folder / 'videos' / f'{video.name}.json').read_text())
    for rank, (name, probability) in enumerate(stored['best'][:2]):
        ending = f'_{rank + 1}' if rank else ''
        assert name == rows[0][f'prediction{ending}']
        assert abs(probability - float(rows[0][f'probability{ending}'])) < 1e-4
    export = tiny_runs / f'saved_{stage}'
    run_narrow('evaluate.py', f'--train_dir={folder}', f'--export={export}')
    assert (export / 'saved_model.pb').exists()


@pytest.mark.slow
def test_late_head(tiny_runs):
    folder = tiny.make_run(tiny_runs, 'hybrid', 'late', head='late')
    result = measure(folder)
    assert 'fusion' in result['figures'] and 'without_fusion' not in result['figures']


def test_compare(tiny_runs, evaluated):
    motion = str(tiny_runs / 'motion')
    measure(motion, test_segments=1)
    result = measure(tiny_runs / 'hybrid', compare=[motion])
    compared = result['compared'][motion]
    mine, other = read_csv(tiny_runs / 'hybrid'), read_csv(motion)
    right = [row['label'] == row['prediction'] for row in mine]
    other_right = [row['label'] == row['prediction'] for row in other]
    difference = np.mean(right) - np.mean(other_right)
    assert compared['difference'] == pytest.approx(difference)
    assert compared['other'] == 'motion'
    text = (tiny_runs / 'hybrid' / 'report.html').read_text()
    assert motion in text


def test_results_are_written_before_they_are_printed(run_copy, monkeypatch):
    def cannot(_):
        raise OSError('the screen is gone')

    monkeypatch.setattr(evaluate.tables, 'print_result', cannot)
    with pytest.raises(OSError, match='the screen is gone'):
        measure(run_copy)
    for name in ('evaluation.json', 'predictions.csv', 'report.html', 'confusion.png'):
        assert (run_copy / name).stat().st_size > 0


# -- runs that move --------------------------------------------------------------------


@pytest.fixture
def moved(tiny_runs, evaluated, tmp_path):
    """The folder of everything, moved elsewhere during a test."""
    place = tmp_path / 'moved'
    shutil.move(tiny_runs, place)
    yield place
    shutil.move(place, tiny_runs)


def test_a_run_that_moved_works_whole(tiny_runs, moved, evaluated):
    """CNNs in the run are found from there; the data's new place is given by flags."""
    run = runs.read(moved / 'hybrid')
    for cnn in run['cnns'].values():
        assert cnn['weights'].startswith(f'{moved}/hybrid/weights/')
    assert run['flags']['data_dir'] == str(tiny_runs / 'data')
    refused(f'{tiny_runs}/data/clips.csv is missing', moved / 'hybrid')
    places = {'data_dir': str(moved / 'data'), 'split_dir': str(moved / 'lists')}
    result = measure(moved / 'hybrid', **places)
    assert result['figures'] == evaluated['figures']
    run, checkpoint, _ = evaluate.find_run(moved / 'hybrid')
    assert inference.export(str(moved / 'saved'), run, checkpoint) <= 1e-5
    shutil.rmtree(moved / 'saved')


def test_cnns_of_another_run_are_given_by_flag(tiny_runs, tmp_path, run_narrow):
    """A hybrid whose motion CNN is in the folder of an earlier stage, which moves."""
    folder = tmp_path / 'all'
    shutil.copytree(tiny_runs, folder)
    early, late = folder / 'features', folder / 'other'
    tiny.make_run(folder, 'hybrid', 'other', motion_weights=str(early))
    stored = json.loads((late / 'run.json').read_text())['cnns']
    assert stored['motion']['weights'] == f'{early}/weights/motion'
    assert stored['spatial']['weights'] == 'weights/spatial'
    shutil.move(early, folder / 'elsewhere')
    words = ['evaluate.py', f'--train_dir={late}', f'--export={folder}/saved']
    _, err = run_narrow(*words, code=1)
    (line,) = err.splitlines()
    assert f'{early}/weights/motion is not there any more: name' in line
    assert '--motion_weights' in line
    for given in ('elsewhere', 'elsewhere/weights/motion'):  # a run, or the dump in it
        shutil.rmtree(folder / 'saved', ignore_errors=True)
        run_narrow(*words, f'--motion_weights={folder}/{given}')
    with pytest.raises(
        ValueError, match='--motion_weights=nowhere: neither a dump nor'
    ):
        evaluate.find_run(late, moved={'motion': 'nowhere'})
    with pytest.raises(ValueError, match='--spatial_weights: the run does not use'):
        evaluate.find_run(folder / 'motion', moved={'spatial': str(early)})


# -- refusals -------------------------------------------------------------------------


def refused(match, train_dir, **given):
    """Evaluation says `match` in one line and writes nothing."""
    folder = pathlib.Path(train_dir)
    before = sorted(os.listdir(folder)) if folder.is_dir() else None
    with pytest.raises(ValueError, match=match) as error:
        measure(train_dir, **given)
    assert '\n' not in str(error.value)
    assert before == (sorted(os.listdir(folder)) if folder.is_dir() else None)


def test_no_run(tmp_path, tiny_runs):
    refused('--train_dir is needed', '')
    refused('no run.json', tmp_path)
    refused('is of stage features', tiny_runs / 'features')


@pytest.mark.parametrize(
    'checkpoint, way_out',
    [
        ('best', 'no checkpoint in .*/best; .* keeps one there with --validation_gr'),
        ('searched', 'no checkpoint in .*/searched; .* with --search_combination'),
        ('last', 'no checkpoint in .*/; run train.py --stage=hybrid to its first one'),
    ],
)
def test_no_checkpoint(checkpoint, way_out, run_copy):
    if checkpoint == 'last':
        (run_copy / 'checkpoint').unlink()
    refused(f'--checkpoint={checkpoint}: {way_out}', run_copy, checkpoint=checkpoint)


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
    refused('was trained on; --allow_overlap', run_copy, subset='train')
    changed(run_copy, train_groups=['Jump/02'])
    refused('Jump/v_Jump_g02_c01 or its group was trained on', run_copy)
    changed(run_copy, train_groups=[], train_clips=['Run/v_Run_g01_c02'])
    refused('Run/v_Run_g01_c02 or its group', run_copy)
    result = measure(run_copy, allow_overlap=True)
    assert result['trained_on']
    assert capsys.readouterr().out.count('(trained on)') == 2
    assert 'trained on' in (run_copy / 'report.html').read_text()
    result = measure(run_copy, allow_overlap=True, subset='train')
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
    result = measure(run_copy, allow_missing=True, **given)
    assert result['figures']['video']['clips'] == 10
    assert result['partial_split'] and result['missing'] == {'train': 1, 'test': 2}
    assert capsys.readouterr().out.count('(partial split, 2 clips missing)') == 2
    assert 'partial split, 2 clips' in (run_copy / 'report.html').read_text()
    # a full evaluation and a partial one cannot be compared clip by clip
    refused('other clips or labels', run_copy, compare=[str(run_copy)])


def test_compare_without_predictions(run_copy, tiny_runs):
    other = run_copy / 'other'
    other.mkdir()
    shutil.copy(run_copy / 'run.json', other)
    refused('evaluate that run first', run_copy, compare=[str(other)])


def test_old_features(run_copy, tiny_runs, fewer_clips):
    (fewer_clips / 'features').unlink()
    given = {'data_dir': str(fewer_clips), 'allow_missing': True}
    refused('features of 10 clips are missing or out of date', run_copy, **given)
    shutil.copytree(tiny_runs / 'data' / 'features', fewer_clips / 'features')
    folder = runs.read(run_copy)['cnns']['motion']['features'][0]
    path = fewer_clips / 'features' / folder / 'Run' / 'v_Run_g02_c01.npy'
    path.write_bytes(path.read_bytes()[:-1])  # as a full disk leaves it
    refused('features of 1 clips .* Run/v_Run_g02_c01', run_copy, **given)


def test_samples_that_are_not_cached(run_copy):
    refused('--test_segments=9: the run reads cached', run_copy, test_segments=9)
    refused('--test_crops=5: the run reads cached', run_copy, test_crops=5)
    both = {'test_crops': 5, 'test_views': 'mirror'}
    refused('--test_views=mirror with --test_crops=5: give one', run_copy, **both)


def test_checkpoint_without_some_variables(run_copy):
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
    refused('1 variables are missing, such as motion_lstm/layer_1/kernel', run_copy)


# -- as a user runs it ----------------------------------------------------------------


def test_the_program(run_script, run_copy):
    """Full width is no matter: the hybrid reads cached features and builds no CNN."""
    done = run_script('evaluate.py', f'--train_dir={run_copy}')
    assert 'Traceback' not in done.stderr and 'video' in done.stdout


def test_a_result_that_cannot_be_written_is_named(run_narrow, run_copy):
    (run_copy / 'evaluation.json').unlink(missing_ok=True)
    (run_copy / 'evaluation.json').mkdir()
    _, err = run_narrow('evaluate.py', f'--train_dir={run_copy}', code=1)
    (line,) = err.splitlines()
    assert f'{run_copy}/evaluation.json' in line
    assert not list(run_copy.glob('.evaluation*'))


@pytest.mark.parametrize(
    'words, match',
    [
        (['--train_dir=nowhere'], '--train_dir=nowhere: no run.json'),
        (['--train_dirr=x'], "Unknown command line flag 'train_dirr'"),
        ([], '--train_dir is needed: the folder of a run'),
        (['--train_dir=x', '--test_segments=0'], 'flag --test_segments=0: '),
        (['--train_dir=x', '--checkpoint=first'], '--checkpoint=first: value should'),
        (['--train_dir=x', '--subset=all'], '--subset=all: value should be one of'),
    ],
)
def test_wrong_use_ends_in_one_line(run_narrow, words, match):
    out, err = run_narrow('evaluate.py', *words, code=1)
    (line,) = err.splitlines()  # not one of TensorFlow's beside it
    assert line.startswith('evaluate.py: ') and match in line
    assert not out
