"""predict.py on videos whose header is wrong about times, with a stand-in network."""

import types

import cv2
import drawings
import numpy as np
import pytest

from data.preprocessing import decoding
from results import predict

RUN = {
    'flags': {'stack_length': 3},
    'preprocessing': {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': 64},
    'class_names': ['Walk', 'Jump', 'Run'],
}


@pytest.fixture
def net():
    """Sure of the first class where the first frame's number is even."""

    def run(_, feed):
        number = drawings.number_of(cv2.resize(feed['frames'][0, 0], (128, 96)))
        return [np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]][number % 2])]

    return types.SimpleNamespace(
        session=types.SimpleNamespace(run=run),
        probabilities=None,
        inputs={'spatial': 'frames', 'lengths': 'lengths'},
    )


def predicted(net, path, **options):
    options = predict.Options(**options)
    result, _, _ = predict.predict_video(net, RUN, str(path), 3, options)
    return result


def test_windows_of_a_browsers_video(net, tmp_path, capsys):
    """The header's rate of 1000 made ten seconds of it one window of the whole."""
    stamps = (40 * np.arange(1, 201) + 9 * np.sin(np.arange(200))).astype(int)
    path = tmp_path / 'x.webm'
    numbers, stamps = [n % 128 for n in range(200)], stamps.tolist()
    drawings.encode(path, 'libvpx', numbers, stamps=stamps, rate=1000)
    result = predicted(net, path, window_seconds=2.0)
    windows = [(w['from_seconds'], w['to_seconds']) for w in result['timeline']]
    np.testing.assert_allclose(windows, [(0, 2), (2, 4), (4, 6), (6, 8)], atol=0.06)
    assert result['frames'] == 200
    assert result['seconds'] == pytest.approx(8, abs=0.06)
    assert result['frames_per_second'] == pytest.approx(25, abs=0.2)
    assert result['real_time_factor'] * result['seconds'] == result['seconds_taken']
    predict.print_prediction(result)
    assert 'x.webm: 200 frames, 8.0 s' in capsys.readouterr().out


def test_a_time_lapse_lasts_as_long_as_it_does(net, tmp_path):
    """A mean rate below 1 was taken for 25, and 400 seconds for 8."""
    path = tmp_path / 'x.mkv'
    drawings.encode(path, 'mpeg4', range(40), stamps=range(0, 400, 10), rate=1)
    result = predicted(net, path)
    assert result['frames'] == 40 and result['seconds'] >= 390
    assert len(result['timeline']) == 39
    assert [w['best'][0][0] for w in result['timeline'][:4]] == ['Walk', 'Run'] * 2


def test_a_pause_of_two_minutes(net, tmp_path):
    path = tmp_path / 'x.mp4'
    stamps = [*range(30), *range(3250, 3280)]
    drawings.encode(path, numbers=range(60), stamps=stamps)
    result = predicted(net, path)
    assert [w['from_seconds'] for w in result['timeline']] == pytest.approx([0, 130])
    assert result['seconds'] == pytest.approx(131.2)


def test_what_breaks_off_is_an_error_until_it_may(net, tmp_path):
    path = drawings.encode(tmp_path / 'x.mkv', numbers=range(60), encoder={'g': '5'})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='it breaks off after .* of 2.4 seconds'):
        predicted(net, path)
    assert 10 < predicted(net, path, keep_truncated=True)['frames'] < 50
    audio_only = drawings.encode(tmp_path / 'y.mp4', numbers=range(1))
    with pytest.raises(ValueError, match='one frame only, so no flow'):
        predicted(net, audio_only)


def test_a_camera_runs_until_ctrl_c(net, tmp_path, capsys, monkeypatch):
    def frames(number):
        assert number == 7
        for n in range(40):
            yield n / 20, drawings.numbered(n)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, 'camera_frames', frames)
    options = predict.Options(window_seconds=0.6)
    result, _, _ = predict.predict_video(net, RUN, 7, 3, options)
    assert len(result['timeline']) == 3 and result['frames'] == 36
    assert capsys.readouterr().out.count('0.6 s to 1.2 s') == 1
    assert result['video'] == '7'


def test_hidden_files_are_no_videos(tmp_path):
    for name in ('a.MP4', 'b/c.ts', '._a.MP4', '.trash/d.avi', 'b/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in predict.find(str(tmp_path))] == ['a.MP4', 'b/c.ts']
    with pytest.raises(ValueError, match='out.avi: name an .mp4'):
        predict.check_sources(
            [str(tmp_path / 'a.MP4')], predict.Options(overlay='out.avi')
        )
