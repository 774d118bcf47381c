"""Prediction of tiny runs on videos, against evaluation of the same clips."""

import json
import pathlib
import shutil
import subprocess
import sys
import types

import cv2
import narrow
import numpy as np
import pytest
import tiny

import evaluate
import model
import optical_flow
from data import clips
from data import feeds
from data import splits
from results import predict
from results import scoring

# A video of one window passes the same encoder as its stored clip, so what is left is
# rounding, and the float16 of cached features, which rounding may tip over.
TOLERANCE = 2e-4


@pytest.fixture(scope='module', autouse=True)
def narrow_networks(tiny_runs):
    """Narrow networks for the whole file; the runs are made before, so as not twice."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        yield


@pytest.fixture(scope='module')
def hybrid(tiny_runs):
    """(run, checkpoint) of the hybrid."""
    return evaluate.find_run(tiny_runs / 'hybrid')[:2]


@pytest.fixture(scope='module')
def stored_scores(hybrid, tiny_runs):
    """dict clip -> the hybrid's probabilities by evaluation of the stored clip."""
    run, checkpoint = hybrid
    rows = clips.read_index(tiny_runs / 'data')
    examples = splits.load(list(rows), run['flags']['split_dir']).test
    given = (str(tiny_runs / 'data'), examples, rows, scoring.Protocol(), 16, 1)
    scores = scoring.score(run, checkpoint, *given)['video']
    return {example.clip: x for example, x in zip(examples, scores, strict=True)}


def predicted(run, out_dir, *given, code=0, **options):
    """Predicts videos; what the JSON files hold by name."""
    given, options = list(map(str, given)), predict.Options(**options)
    assert predict.predict_videos(*run, given, str(out_dir), options=options) == code
    paths = sorted(pathlib.Path(out_dir).rglob('*.json'))
    return {str(p.relative_to(out_dir))[:-5]: json.loads(p.read_text()) for p in paths}


def network(answer):
    """A stand-in for the hybrid's: probabilities that do not depend on the pixels."""
    return types.SimpleNamespace(
        session=types.SimpleNamespace(run=lambda *_: [np.array(answer)]),
        probabilities=None,
        inputs={name: name for name in (*model.STREAMS, 'lengths')},
    )


# -- samples ---------------------------------------------------------------------------


def test_samples_are_those_of_the_stored_clip(hybrid, tiny_runs):
    row = clips.read_index(tiny_runs / 'data')['Jump/v_Jump_g01_c02']
    source = str(tiny_runs / 'videos' / row['source'])
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as prediction does
    net, options = network([0.2, 0.5, 0.3]), predict.Options()
    try:
        result, pixels, label = predict.predict_video(
            net, hybrid[0], source, 5, options
        )
    finally:
        cv2.setNumThreads(threads)
    assert result['frames'] == row['frames'] and label == 1
    expected = feeds.segment_reader(tiny_runs / 'data', model.STREAMS, 5, 3)(row)
    assert set(pixels) == set(expected) == set(model.STREAMS)
    for stream, images in expected.items():
        np.testing.assert_array_equal(pixels[stream], images, stream)


def test_one_frame_has_no_flow():
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match='one frame only'):
        predict.window_clip([(frame, None)])


def test_probabilities_that_are_not_finite_are_refused(hybrid, tiny_runs):
    video = str(tiny_runs / 'videos/Run/v_Run_g01_c01.avi')
    net = network([np.nan] * 3)
    with pytest.raises(ValueError, match='no finite probability: .* --learning_rate'):
        predict.predict_video(net, hybrid[0], video, 3, predict.Options())


# -- videos ----------------------------------------------------------------------------


def test_a_folder_agrees_with_evaluation(
    hybrid, tiny_runs, stored_scores, tmp_path, capsys
):
    found = predicted(hybrid, tmp_path, tiny_runs / 'videos' / 'Jump')
    assert len(found) == 10  # test and train clips
    printed = capsys.readouterr().out
    for clip, scores in stored_scores.items():
        if clip.startswith('Jump'):
            name = clip.removeprefix('Jump/') + '.avi'
            best = dict(found[name]['best'])
            for label, class_name in enumerate(tiny.CLASSES):
                assert abs(best[class_name] - scores[label]) < TOLERANCE
            assert len(found[name]['timeline']) == 1
            assert name in printed
    assert 'real-time factor' in printed and 'frames a second' in printed
    # other clips are further apart than the tolerance
    apart = np.ptp(np.array(list(stored_scores.values())), axis=0).max()
    assert apart > 100 * TOLERANCE


def test_windows_overlay_and_maps(hybrid, tmp_path, capsys):
    video = tmp_path / 'long.avi'
    tiny.draw_video(video, 130, 99)
    overlay = tmp_path / 'overlay.mp4'
    options = {'window_seconds': 2.0, 'window_stride': 1.0, 'explain': True}
    found = predicted(hybrid, tmp_path / 'out', video, overlay=str(overlay), **options)[
        'long.avi'
    ]
    starts = [window['from_seconds'] for window in found['timeline']]
    # the last window ends with the video
    np.testing.assert_allclose(starts, [0, 1, 2, 3, 3.2], atol=0.05)
    assert found['timeline'][-1]['to_seconds'] == pytest.approx(5.2)
    assert found['frames'] == 130
    for name, probability in found['best']:
        each = [dict(window['best'])[name] for window in found['timeline']]
        assert probability == pytest.approx(np.mean(each), abs=1e-6)
    for ending in ('timeline', 'explain'):
        assert cv2.imread(str(tmp_path / 'out' / f'long.avi_{ending}.png')) is not None
    capture = cv2.VideoCapture(str(overlay))
    assert capture.read()[1].shape == (72, 80, 3)
    assert 'long.avi_timeline.png' in capsys.readouterr().out


def test_results_are_written_before_they_are_printed(
    hybrid, tiny_runs, tmp_path, monkeypatch
):
    def cannot(_):
        raise OSError('the screen is gone')

    monkeypatch.setattr(predict, 'print_prediction', cannot)
    video = tiny_runs / 'videos/Run/v_Run_g01_c01.avi'
    assert list(predicted(hybrid, tmp_path, video, code=1)) == ['v_Run_g01_c01.avi']


def test_names_of_any_script_are_drawn(hybrid, tmp_path, recwarn, capsys):
    """And what is written has them whole."""
    run, checkpoint = hybrid
    names = ['走る', 'القفز', 'Run $a_b$']
    video = tmp_path / '走る.avi'
    tiny.draw_video(video, 40, 99)
    options = {'window_seconds': 0.8, 'explain': True}
    overlay = str(tmp_path / 'out.mp4')
    found = predicted(
        ({**run, 'class_names': names}, checkpoint),
        tmp_path / 'out',
        video,
        overlay=overlay,
        **options,
    )
    assert {name for name, _ in found['走る.avi']['best']} == set(names)
    assert len(found['走る.avi']['timeline']) == 2
    assert not [w for w in recwarn if 'Glyph' in str(w.message)]
    assert '走る.avi_explain.png' in capsys.readouterr().out


def test_bad_videos_among_good_ones(hybrid, tiny_runs, tmp_path, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    shutil.copy(tiny_runs / 'videos' / 'Run' / 'v_Run_g01_c01.avi', folder / 'good.avi')
    (folder / 'empty.mp4').write_bytes(b'')
    (folder / 'text.avi').write_text('no video')
    tiny.draw_video(folder / 'one.avi', 1, 5)
    found = predicted(hybrid, tmp_path / 'out', folder, code=1)
    assert list(found) == ['good.avi']
    printed = capsys.readouterr().out
    assert 'empty.mp4: the file is empty' in printed
    assert 'text.avi: it cannot be opened as a video' in printed
    assert 'one.avi: one frame only' in printed and '3 of 4 videos failed' in printed


def test_no_camera(hybrid, tmp_path, capsys):
    assert predicted(hybrid, tmp_path, '97', code=1) == {}
    assert '--video=97: there is no such camera' in capsys.readouterr().out


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tiny_runs, tmp_path):
    code = (
        'import sys; sys.path[:0] = ["tests"]\n'
        'import narrow, pytest, re, evaluate\n'
        'from results import predict\n'
        'narrow.patch(pytest.MonkeyPatch())\n'
        'run = evaluate.find_run(sys.argv[1])[:2]\n'
        'assert predict.predict_videos(*run, [sys.argv[2]], sys.argv[3]) == 0\n'
        "text = open('/proc/self/status').read()\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', text)[1])"
    )
    peak = {}
    for frames in (500, 20_000):
        video = tmp_path / f'{frames}.avi'
        tiny.draw_video(video, frames, 1)
        words = [sys.executable, '-c', code, tiny_runs / 'hybrid', video, tmp_path]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        peak[frames] = int(done.stdout.splitlines()[-1]) / 1024
        result = json.loads((tmp_path / f'{frames}.avi.json').read_text())
        assert result['frames'] == frames
    assert peak[20_000] < peak[500] + 60, peak


# -- flags -----------------------------------------------------------------------------


def test_two_videos_of_one_name_are_refused(tmp_path):
    for folder in 'ab':
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.avi').touch()
    given = [str(tmp_path / folder) for folder in 'ab']
    with pytest.raises(ValueError, match=r'a/x\.avi and .*b/x\.avi .*--out_dir'):
        predict.check_sources(given, predict.Options())


def test_another_preprocessing_than_the_runs_is_refused(refused, monkeypatch):
    made = {'flow': 'farneback', 'bound': 20.0, 'size': 64}
    made['settings'], _ = optical_flow.settings_of(*made.values())
    predict.check_preprocessing(made)
    monkeypatch.setitem(optical_flow.FARNEBACK, 'winsize', 21)
    words = ('clips of settings ' + made['settings'], 'put its numbers back')
    refused(lambda: predict.check_preprocessing(made), *words)


@pytest.mark.parametrize(
    'options, expected',
    [
        ({'overlay': 'x.mp4'}, '--overlay=x.mp4 needs one --video that is a file'),
        (
            {'window_seconds': 1.0, 'window_stride': 2.0},
            '--window_stride=2.0 would leave frames out: at most --window_seconds=1.0',
        ),
    ],
)
def test_wrong_options(options, expected, tiny_runs):
    videos = str(tiny_runs / 'videos')
    with pytest.raises(ValueError, match=expected):
        predict.check_sources([videos], predict.Options(**options))


def test_a_folder_without_videos_is_refused(tiny_runs):
    empty = str(tiny_runs / 'hybrid' / 'weights')
    with pytest.raises(ValueError, match=f'--video={empty}: no videos in this folder'):
        predict.check_sources([empty], predict.Options())


def test_the_program_predicts_where_the_run_is(run_narrow, tiny_runs, tmp_path):
    """The run was copied, and has its CNNs with it."""
    run = tmp_path / 'run'
    shutil.copytree(tiny_runs / 'hybrid', run)
    video = tiny_runs / 'videos/Run/v_Run_g01_c01.avi'
    out, err = run_narrow('evaluate.py', f'--train_dir={run}', f'--video={video}')
    result = json.loads((run / 'videos/v_Run_g01_c01.avi.json').read_text())
    assert f'{result["best"][0][1]:6.1%}  {result["best"][0][0]}\n' in out and not err
