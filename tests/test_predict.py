"""Prediction and export of tiny runs, against evaluation of the same clips."""

import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import cv2
import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny

import evaluate
import optical_flow
from data import batches
from data import clips
from data.preprocessing import preview
from results import inference
from results import predict
from weights import checkpoints

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
def stored_scores(tiny_runs):
    """dict clip -> the hybrid's probabilities by evaluation of the stored clip."""
    stored = checkpoints.read(tiny_runs / 'hybrid')
    index = clips.read_index(tiny_runs / 'data')
    rows = [row for clip, row in index.items() if '_g01_' in clip]
    checkpoint, _ = checkpoints.latest(tiny_runs / 'hybrid')
    values = tiny.flags(tiny_runs / 'hybrid')
    scores = evaluate.score(stored, stored['settings'], rows, checkpoint, values)
    return dict(zip([row['clip'] for row in rows], scores['video'], strict=True))


# -- windows ---------------------------------------------------------------------------


@pytest.mark.parametrize('count', range(1, 30))
@pytest.mark.parametrize('length, stride', [(7, 7), (7, 3), (2, 1), (5, 4)])
def test_sliding_windows(count, length, stride):
    found = list(predict.sliding_windows(iter(range(count)), length, stride))
    for first, window in found:
        assert window == list(range(first, first + len(window)))
        assert len(window) == min(length, count)
    starts = [first for first, _ in found]
    regular = list(range(0, max(1, count - length + 1), stride))
    assert starts[: len(regular)] == regular and len(starts) - len(regular) <= 1
    assert {item for _, window in found for item in window} == set(range(count))
    assert len(set(starts)) == len(starts)


def test_sliding_windows_hold_one_window():
    class Item:
        alive = 0

        def __init__(self):
            Item.alive += 1

        def __del__(self):
            Item.alive -= 1

    most = 0
    for _, window in predict.sliding_windows((Item() for _ in range(500)), 10, 5):
        most = max(most, Item.alive)
        del window
    assert most <= 12


def test_nothing_has_no_window():
    assert list(predict.sliding_windows(iter([]), 5, 5)) == []


def test_samples_are_those_of_the_stored_clip(tiny_runs):
    data = tiny_runs / 'data'
    row = clips.read_index(data)['Jump/v_Jump_g01_c02']
    source = str(tiny_runs / 'videos' / row['source'])
    capture, frames, rate = predict.open_source(source)
    assert (frames, rate) == (row['frames'], 25)
    cv2.setNumThreads(1)
    items = optical_flow.frames_and_flow(capture, clips.preprocessing_of([row]))
    window = [(resized, field) for _, resized, field in items]
    found = predict.sampled_window(window, ('spatial', 'motion'), 5, 3)
    for stream in ('spatial', 'motion'):
        expected = batches.sampled_clip(data, stream, row, 5, 3)
        np.testing.assert_array_equal(found[stream], expected, stream)


def test_one_frame_has_no_flow():
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match='one frame only'):
        predict.sampled_window([(frame, None)], ('spatial',), 5, 3)


# -- videos ----------------------------------------------------------------------------


def predicted(train_dir, out_dir, *given, code=0, **flags):
    """Runs --video; returns what the JSON files hold by name."""
    flags = {'video': [str(x) for x in given], 'out_dir': str(out_dir), **flags}
    assert evaluate.main(tiny.flags(train_dir, **flags)) == code
    paths = sorted(pathlib.Path(out_dir).rglob('*.json'))
    return {str(p.relative_to(out_dir))[:-5]: json.loads(p.read_text()) for p in paths}


def test_a_folder_agrees_with_evaluation(tiny_runs, stored_scores, tmp_path, capsys):
    found = predicted(tiny_runs / 'hybrid', tmp_path, tiny_runs / 'videos' / 'Jump')
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


def test_windows_overlay_and_maps(tiny_runs, tmp_path, capsys):
    video = tmp_path / 'long.avi'
    tiny.draw_video(video, 130, 99)
    found = predicted(
        tiny_runs / 'hybrid',
        tmp_path / 'out',
        video,
        window_seconds=2.0,
        window_stride=1.0,
        overlay=str(tmp_path / 'overlay.mp4'),
        explain=True,
    )['long.avi']
    starts = [window['from_seconds'] for window in found['timeline']]
    assert starts == [0, 1, 2, 3, 3.2]  # the last window ends with the video
    assert found['timeline'][-1]['to_seconds'] == 5.2 and found['frames'] == 130
    for name, probability in found['best']:
        each = [dict(window['best'])[name] for window in found['timeline']]
        assert probability == pytest.approx(np.mean(each), abs=1e-6)
    for ending in ('timeline', 'explain'):
        assert cv2.imread(str(tmp_path / 'out' / f'long.avi_{ending}.png')) is not None
    capture = cv2.VideoCapture(str(tmp_path / 'overlay.mp4'))
    frames = []
    while True:
        whole, frame = capture.read()
        if not whole:
            break
        frames.append(frame)
    assert len(frames) == 130 and frames[0].shape == (72, 80, 3)
    # the inset is the flow of that moment
    items = optical_flow.frames_and_flow(
        predict.open_source(str(video))[0],
        {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': tiny.SIZE},
    )
    field = [field for _, _, field in items][64]
    expected = cv2.resize(preview.flow_to_color(field), (20, 18)).astype(int)
    assert np.abs(frames[64][54:, 60:] - expected).mean() < 25
    assert 'long.avi_timeline.png' in capsys.readouterr().out


def test_bad_videos_among_good_ones(tiny_runs, tmp_path, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    shutil.copy(tiny_runs / 'videos' / 'Run' / 'v_Run_g01_c01.avi', folder / 'good.avi')
    (folder / 'empty.mp4').write_bytes(b'')
    (folder / 'text.avi').write_text('no video')
    tiny.draw_video(folder / 'one.avi', 1, 5)
    code = cv2.VideoWriter_fourcc(*'MJPG')
    path = str(folder / 'cut.mkv')
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, 25.0, (64, 48))
    for t in range(100):
        writer.write(np.full((48, 64, 3), t, np.uint8))
    writer.release()
    os.truncate(path, os.path.getsize(path) // 2)
    found = predicted(tiny_runs / 'hybrid', tmp_path / 'out', folder, code=1)
    assert list(found) == ['good.avi']
    printed = capsys.readouterr().out
    assert 'empty.mp4: the file is empty' in printed
    assert 'text.avi: it cannot be opened as a video' in printed
    assert 'one.avi: one frame only' in printed and '4 of 5 videos failed' in printed
    assert 'cut.mkv: ' in printed and ' of 100 frames decode' in printed
    found = predicted(tiny_runs / 'hybrid', tmp_path / 'cut', path, keep_truncated=True)
    assert 2 < found['cut.mkv']['frames'] < 60


def test_two_videos_of_one_name_are_refused(tiny_runs, tmp_path):
    for folder in 'ab':
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.avi').touch()
    given = [str(tmp_path / folder) for folder in 'ab']
    with pytest.raises(ValueError, match=r'a/x\.avi and .*b/x\.avi .*--out_dir'):
        evaluate.main(tiny.flags(tiny_runs / 'hybrid', video=given))


def test_probabilities_that_are_not_finite_are_refused(tiny_runs):
    stored = checkpoints.read(tiny_runs / 'hybrid')
    video = tiny_runs / 'videos' / 'Run' / 'v_Run_g01_c01.avi'
    capture, _, _ = predict.open_source(str(video))
    session = types.SimpleNamespace(run=lambda *_: [np.full(3, np.nan)])
    net = types.SimpleNamespace(
        session=session, probabilities=None, inputs=collections.defaultdict(str)
    )
    with pytest.raises(ValueError, match='no finite probability'):
        list(predict.predict_windows(net, stored, capture, 9, 9, 3))


def test_cameras(tiny_runs, tmp_path, capsys, monkeypatch):
    code = evaluate.main(tiny.flags(tiny_runs / 'hybrid', video=['97']))
    assert code == 1
    assert '--video=97: there is no such camera' in capsys.readouterr().out
    # a camera that gives 40 frames until Ctrl-C
    path = str(tiny_runs / 'videos' / 'Run' / 'v_Run_g02_c02.avi')
    capture = cv2.VideoCapture(path)

    def stopped(capture, *_):
        for n in range(60):
            if n == 40:
                raise KeyboardInterrupt
            capture.set(cv2.CAP_PROP_POS_FRAMES, n % 9)
            resized = optical_flow.resize(capture.read()[1], tiny.SIZE)
            yield resized, resized, np.full((64, 64, 2), 128, np.uint8)

    monkeypatch.setattr(predict, 'open_source', lambda _: (capture, None, 25.0))
    monkeypatch.setattr(optical_flow, 'frames_and_flow', stopped)
    found = predicted(tiny_runs / 'hybrid', tmp_path, '0', window_seconds=0.6)
    assert len(found['camera0']['timeline']) == 2
    assert capsys.readouterr().out.count('0.6 s to 1.2 s') == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tiny_runs, tmp_path):
    code = (
        'import sys; sys.path[:0] = ["tests"]\n'
        'import narrow, tiny, pytest, re, evaluate\n'
        'narrow.patch(pytest.MonkeyPatch())\n'
        'flags = tiny.flags(sys.argv[1], video=[sys.argv[2]], out_dir=sys.argv[3])\n'
        'assert evaluate.main(flags) == 0\n'
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


# -- maps and export -------------------------------------------------------------------


def test_class_activation_maps_of_a_linear_head():
    """After mean pooling and a matrix, they are the class activation maps of Zhou et
    al. (CVPR 2016): relu(sum_d W_dc A_d) / places."""
    random = np.random.default_rng(0)
    maps = random.normal(size=(3, 4, 5, 6)).astype(np.float32)
    weights = random.normal(size=(6, 7)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        fed = tf.placeholder(tf.float32, [None, 4, 5, 6])
        scores = tf.reduce_mean(fed, axis=[1, 2]) @ weights
        score = tf.reduce_sum(scores[:, 2])
        found = session.run(inference.class_activation_maps(score, fed), {fed: maps})
    expected = np.maximum(maps @ weights[:, 2], 0) / 20
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_export_reproduces_the_run(tiny_runs, stored_scores, tmp_path):
    saved = tmp_path / 'saved'
    evaluate.main(tiny.flags(tiny_runs / 'hybrid', export=str(saved)))
    index = clips.read_index(tiny_runs / 'data')
    pixels, names = {}, list(stored_scores)
    for stream in ('spatial', 'motion'):
        read = [
            batches.sampled_clip(tiny_runs / 'data', stream, index[name], 5, 3)
            for name in names
        ]
        pixels[stream], pixels['lengths'] = batches.pad(read)
    found = inference.reloaded(str(saved), pixels)
    expected = np.stack(list(stored_scores.values()))
    np.testing.assert_allclose(found['probabilities'], expected, atol=TOLERANCE)
    assert [name.decode() for name in found['class_names']] == list(tiny.CLASSES)


def test_padding_does_not_matter(tiny_runs, tmp_path):
    """What stands after a clip's valid steps changes nothing, in either kind of run."""
    random = np.random.default_rng(0)
    for stage in ('motion', 'hybrid'):
        stored = checkpoints.read(tiny_runs / stage)
        checkpoint, _ = checkpoints.latest(tiny_runs / stage)
        with tf.Graph().as_default(), tf.Session() as session:
            net = inference.network(session, stored, checkpoint)
            feed = inference.trial_pixels(net.inputs)
            first = session.run(
                net.probabilities, {net.inputs[n]: x for n, x in feed.items()}
            )
            for name in feed.keys() - {'lengths'}:
                feed[name][1, -1] = random.integers(0, 256, feed[name].shape[2:])
            second = session.run(
                net.probabilities, {net.inputs[n]: x for n, x in feed.items()}
            )
        np.testing.assert_allclose(first, second, atol=1e-6)
