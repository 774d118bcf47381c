"""optical_flow.py: exact flow, honest failures, and runs that may be killed."""

import csv
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import cv2
import drawings
import faults
import numpy as np
import pytest

import optical_flow
from data import clips
from data.preprocessing import decoding

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = '--frame_size=64'
PRESETS = ('ultrafast', 'fast', 'medium')


def test_import_is_light():
    """No package that takes long to import; the benchmark prints the seconds."""
    code = (
        'import sys, optical_flow; from absl import flags\n'
        'heavy = {"tensorflow", "keras", "scipy", "matplotlib"} & set(sys.modules)\n'
        'assert not heavy, heavy\n'
        'assert "flow_bound" not in flags.FLAGS\n'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


@pytest.mark.parametrize('name', ['dis', 'farneback'])
@pytest.mark.parametrize('shift', [(3, 0), (0, -2)])
def test_known_motion_gives_known_flow(name, shift):
    frame = cv2.cvtColor(drawings.texture(), cv2.COLOR_BGR2GRAY)
    moved = np.roll(frame, (shift[1], shift[0]), (0, 1))
    flow = optical_flow.flow_function(name)(frame, moved)
    assert flow.dtype == np.float32 and flow.shape == (120, 160, 2)
    inner = np.median(flow[20:-20, 20:-20], axis=(0, 1))
    np.testing.assert_allclose(inner, shift, atol=0.2)


def test_farneback_is_the_originals_call():
    one = cv2.cvtColor(drawings.texture(), cv2.COLOR_BGR2GRAY)
    two = np.roll(one, 2, 1)
    direct = cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    ours = optical_flow.flow_function('farneback')(one, two)
    np.testing.assert_array_equal(ours, direct)


def test_tvl1_works_or_names_its_package():
    if hasattr(cv2, 'optflow'):
        one = cv2.cvtColor(drawings.texture(), cv2.COLOR_BGR2GRAY)
        flow = optical_flow.flow_function('tvl1')(one, np.roll(one, 2, 1))
        assert abs(np.median(flow[..., 0]) - 2) < 0.3
        assert optical_flow.flow_parameters('tvl1')['Lambda'] == 0.15
    else:
        with pytest.raises(ValueError, match='opencv-contrib-python'):
            optical_flow.flow_function('tvl1')


FARNEBACK = functools.partial(
    cv2.calcOpticalFlowFarneback,
    flow=None,
    pyr_scale=0.5,
    levels=3,
    winsize=15,
    iterations=3,
    poly_n=5,
    poly_sigma=1.2,
    flags=0,
)


def assert_stored(data_dir, clip, source, between):
    """A clip's files hold exactly the flow and frames they should; gives the frames."""
    decoded = drawings.by_opencv(source)
    frames = [cv2.resize(f, (64, 64), None, 0, 0, cv2.INTER_AREA) for f in decoded]
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    pairs = zip(grey, grey[1:], strict=False)
    flow = np.stack([between(one, two) for one, two in pairs])
    expected = np.clip(np.rint(flow * 127 / 20) + 128, 1, 255)
    np.testing.assert_array_equal(clips.read_flow(str(data_dir), clip), expected)
    stored = clips.read_frames(str(data_dir), clip)
    assert cv2.PSNR(stored, np.stack(frames)) > 36
    return frames


def test_stored_pair_is_exactly_what_it_should_be(drawn, preprocessed):
    index = clips.read_index(str(preprocessed))
    assert sorted(index) == sorted(
        ['A/plain', 'A/with space', 'A/a,"b"', 'B/größe', 'B/x', 'B/still']
    )
    for clip, row in index.items():
        frames = assert_stored(preprocessed, clip, drawn / row['source'], FARNEBACK)
        counted = 0 if row['source'].endswith('mkv') else len(frames)
        assert (row['frames'], row['header_frames']) == (len(frames), counted)
        assert (row['width'], row['height'], row['fps']) == (160, 120, 25.0)
        assert (row['flow'], row['bound'], row['size']) == ('farneback', 20.0, 64)
    # between equal frames Farneback is off 0 by up to .3 pixels at a few places
    still = clips.read_flow(str(preprocessed), 'B/still').astype(int) - clips.FLOW_ZERO
    assert np.abs(still).max() <= 2 and (still == 0).mean() > 0.99


def test_nothing_is_left_behind(preprocessed):
    assert drawings.hidden(preprocessed) == ['lock', 'settings.json']
    top = sorted(path.name for path in preprocessed.iterdir())
    assert top == ['.optical_flow', 'clips.csv', 'optical-flow', 'resized', 'settings']


def test_second_run_does_only_what_is_missing(
    drawn, preprocessed, tmp_path, run_script
):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    before = drawings.contents(data_dir)
    os.remove(data_dir / 'optical-flow/A/plain.zip')
    stamps = {p: p.stat().st_mtime_ns for p in data_dir.glob('*/B/*.zip')}
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    done = run_script('optical_flow.py', *words)
    assert '5 done before' in done.stdout
    assert done.stdout.startswith('passed over, by their endings: 1 .txt\n')
    assert drawings.contents(data_dir) == before
    assert {p: p.stat().st_mtime_ns for p in data_dir.glob('*/B/*.zip')} == stamps


def test_other_settings_are_refused_until_overwrite(
    drawn, preprocessed, tmp_path, run_script
):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    before = drawings.contents(data_dir)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    for other in ('--flow=dis', '--flow_bound=10', '--frame_size=66'):
        refused = run_script('optical_flow.py', *words, other, code=1)
        assert 'choose another --data_dir, or --overwrite' in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert drawings.contents(data_dir) == before
    fast = ['--flow=dis', '--dis_preset=fast', '--overwrite']
    run_script('optical_flow.py', *words, *fast)
    index = clips.read_index(str(data_dir))
    assert len(index) == 6
    assert {row['flow'] for row in index.values()} == {'dis-fast'}
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for clip, row in index.items():
        between = functools.partial(dis.calc, flow=None)
        assert_stored(data_dir, clip, drawn / row['source'], between)
    assert (clips.read_flow(str(data_dir), 'B/still') == clips.FLOW_ZERO).all()
    again = run_script('optical_flow.py', *words, *fast)
    assert '6 done before' in again.stdout


def test_another_number_of_the_algorithm_is_another_setting(
    drawn, preprocessed, tmp_path
):
    """As after an edit of FARNEBACK: refused, or all clips are made again."""
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    fault = "import optical_flow; optical_flow.FARNEBACK['winsize'] = 21"
    refused = faults.run(tmp_path, fault, *words)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert '(flow.winsize was 15, is 21): choose another' in refused.stderr
    assert '--overwrite' in refused.stderr
    assert drawings.contents(data_dir) == drawings.contents(preprocessed)
    assert faults.run(tmp_path, fault, *words, '--overwrite').returncode == 0
    (made,) = {row['settings'] for row in clips.read_index(str(data_dir)).values()}
    (before,) = {
        row['settings'] for row in clips.read_index(str(preprocessed)).values()
    }
    stored = json.loads((data_dir / f'settings/{made}.json').read_text())
    assert made != before and stored['settings']['flow']['winsize'] == 21
    wide = functools.partial(FARNEBACK, winsize=21)
    assert_stored(data_dir, 'A/plain', drawn / 'A/plain.avi', wide)


def test_settings_name_every_number():
    print_, words = optical_flow.settings_of('farneback', 20, 224)
    assert words['flow'] == {'algorithm': 'farneback', **optical_flow.FARNEBACK}
    assert (words['bound'], words['size']) == (20.0, 224)
    assert optical_flow.settings_of('farneback', 20.0, 224)[0] == print_
    presets = [optical_flow.settings_of(f'dis-{name}', 20.0, 224) for name in PRESETS]
    assert len({print_, *(known for known, _ in presets)}) == 4
    assert [words['flow']['FinestScale'] for _, words in presets] == [2, 2, 1]
    assert [words['flow']['PatchStride'] for _, words in presets] == [4, 4, 3]
    assert presets[0][1]['flow']['VariationalRefinementEpsilon'] == 0.01
    for other in (('farneback', 10, 224), ('farneback', 20, 112)):
        assert optical_flow.settings_of(*other)[0] != print_


@pytest.mark.parametrize(
    'module, name, changed',
    [
        (optical_flow, 'RESIZING', {'at_factor': 3}),
        (optical_flow, 'FARNEBACK', {'winsize': 21}),
        (decoding, 'DECODING', {'decoder': 'another'}),
        (clips, 'FRAMES_CODEC', (1, 94)),
        (clips, 'FLOW_CODEC', (16, 3)),
    ],
)
def test_settings_follow_the_code(module, name, changed, monkeypatch):
    print_, _ = optical_flow.settings_of('farneback', 20, 224)
    monkeypatch.setattr(module, name, changed)
    assert optical_flow.settings_of('farneback', 20, 224)[0] != print_


def test_a_folder_without_settings_is_refused(
    drawn, preprocessed, tmp_path, run_script
):
    """clips.csv as it was before it knew of settings."""
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    with open(data_dir / 'clips.csv', newline='') as file:
        rows = [row[:10] + row[11:] for row in csv.reader(file)]
    assert rows[0][9:11] == ['size', 'status']
    with open(data_dir / 'clips.csv', 'w', newline='') as file:
        csv.writer(file).writerows(rows)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    refused = run_script('optical_flow.py', *words, code=1)
    assert len(refused.stderr.splitlines()) == 1
    assert 'size,settings,status' in refused.stderr and 'delete it' in refused.stderr
    os.remove(data_dir / 'clips.csv')  # the way out
    assert '0 done before' in run_script('optical_flow.py', *words).stdout
    assert drawings.contents(data_dir) == drawings.contents(preprocessed)


BROKEN = {
    'A/zero.avi': 'empty',
    'A/text.avi': 'cannot be opened',
    'A/folder.avi': 'folder',
    'A/half.avi': 'frames decode',
    'A/one.avi': 'one frame only',
    'A/lost.avi': 'no such file',
}


def broken_folder(folder):
    """The good A/fine.avi among one of every kind of bad file."""
    drawings.draw(folder / 'A/fine.avi')
    (folder / 'A/zero.avi').touch()
    (folder / 'A/text.avi').write_text('RIFF? no, this is text\n' * 99)
    (folder / 'A/folder.avi').mkdir()
    (folder / 'A/lost.avi').symlink_to('nowhere')
    drawings.draw(folder / 'A/one.avi', frames=1)
    (folder / 'A/bell\r\n\x1b[31m.avi').touch()
    (folder / os.fsdecode(b'A/\xff.avi')).write_text('crashes OpenCV')
    (folder / 'top.avi').mkdir()
    whole = drawings.draw(folder / 'A/half.avi', frames=30).read_bytes()
    (folder / 'A/half.avi').write_bytes(whole[: len(whole) // 2])


def test_bad_clips_are_listed_and_the_others_finished(tmp_path, run_script):
    broken_folder(tmp_path / 'videos')
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={data_dir}', SIZE]
    done = run_script('optical_flow.py', *words, code=1)
    assert done.stderr == ''
    index = clips.read_index(str(data_dir), ok_only=False)
    for name, reason in BROKEN.items():
        clip = name[:-4]
        assert reason in index[clip]['error'] and index[clip]['status'] != 'ok'
        assert any(clip in x and reason in x for x in done.stdout.splitlines())
    assert r'A/bell\r\n\x1b[31m  the file is empty' in done.stdout
    assert r'A/\udcff' in done.stdout and 'not UTF-8: rename' in done.stdout
    assert 'top.avi' in done.stdout and 'folder without videos' in done.stdout
    assert index['A/half']['status'] == 'truncated'
    assert 0 < index['A/half']['frames'] < index['A/half']['header_frames'] == 30
    assert list(clips.read_index(str(data_dir))) == ['A/fine']
    files = [f for f in drawings.contents(data_dir) if not f.startswith('settings')]
    assert sorted(files)[1:] == ['optical-flow/A/fine.zip', 'resized/A/fine.zip']
    assert drawings.hidden(data_dir) == ['lock', 'settings.json']
    os.remove(tmp_path / 'videos/A/zero.avi')
    run_script('optical_flow.py', *words, '--keep_truncated', code=1)
    assert sorted(clips.read_index(str(data_dir))) == ['A/fine', 'A/half']
    assert 'A/zero' not in clips.read_index(str(data_dir), ok_only=False)


def test_hostile_names_stay_in_the_folder(tmp_path, run_script):
    """Leading dashes, line ends, names that become too long with another ending."""
    folder = tmp_path / 'in/videos'
    names = ['--overwrite/--x.avi', 'A\nB/new\nline.avi', f'A/{251 * "x"}.avi']
    for name in names:
        drawings.draw(folder / name, frames=3)
    long = f'A/{252 * "y"}'
    os.rename(drawings.draw(folder / 'A/y.avi', frames=3), folder / f'{long}.ts')
    words = [f'--video_dir={folder}', f'--data_dir={tmp_path / "in/data"}', SIZE]
    done = run_script('optical_flow.py', *words, code=1)
    index = clips.read_index(str(tmp_path / 'in/data'), ok_only=False)
    assert index.pop(long)['error'].startswith('File name too long')
    assert {row['status'] for row in index.values()} == {'ok'} and len(index) == 3
    assert os.listdir(tmp_path) == ['in'] and 'File name too long' in done.stdout
    assert sorted(os.listdir(tmp_path / 'in')) == ['data', 'videos']
    listed = tmp_path / 'in/list.txt'
    for name in ('../../x.avi', str(tmp_path / 'x.avi'), 'A/../../x.avi', 'A/\0.avi'):
        listed.write_text(name)
        refused = run_script('optical_flow.py', *words, f'--list={listed}', code=1)
        assert f'--list={listed}' in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    listed.write_text(f'A/{300 * "z"}.avi')
    done = run_script('optical_flow.py', *words, f'--list={listed}', code=1)
    assert 'zzz  File name too long' in done.stdout
    assert os.listdir(tmp_path) == ['in']


def test_what_it_will_take_is_said_first(tmp_path):
    for n in range(5):
        drawings.draw(tmp_path / f'videos/A/{n}.avi', frames=40)
    fault = """
import collections, shutil
shutil.disk_usage = lambda _: collections.namedtuple('usage', 'free')(1000)
"""
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={tmp_path / "data"}']
    done = faults.run(tmp_path, fault, *words, SIZE, '--workers=1')
    assert done.returncode == 0
    said = done.stdout.splitlines()
    frames = re.match(r'about (\d+) frames, which will take [\d.]+ MB of disk', said[1])
    assert said[0].startswith('5 videos of 1 classes') and frames[1] == '200'
    assert 'has 0.0 MB free, which is too little' in said[2]
    assert said[3].startswith('200 frames in ')  # the work itself comes after
    assert drawings.hidden(tmp_path / 'data') == ['lock', 'settings.json']


@pytest.mark.parametrize(
    'words, expected',
    [
        (['--flwo=dis'], "'flwo'"),
        (['--dis_preset=fast'], '--flow=dis'),
        (['--flow=magic'], '--flow'),
        (['--dis_preset=slow'], '--dis_preset'),
        (['--frame_size=x'], '--frame_size'),
        (['--flow_bound=nan'], 'finite'),
        (['--workers=-1'], '--workers'),
        (['stray'], 'stray'),
        ([], '--data_dir'),
        (['--data_dir=D'], '--video_dir'),
        (['--data_dir=D\udcff', '--check'], 'is not UTF-8'),
        (['--data_dir=D', '--video_dir=absent'], '--video_dir=absent'),
        (['--data_dir=D', '--video_dir=tests/bench'], '--video_dir=tests/bench'),
        (['--data_dir=D', '--check'], 'clips.csv is missing'),
        (['--data_dir=.ci/x', '--video_dir=.'], '--data_dir=.ci/x'),
        (['--data_dir=.ci', '--video_dir=.ci/'], '--data_dir=.ci is in'),
        (['--data_dir=D', '--video_dir=.ci', '--shard=3'], '--shard=3'),
        (['--data_dir=D', '--video_dir=.ci', '--list=absent'], '--list=absent'),
    ],
)
def test_wrong_use_ends_in_one_line(words, expected, run_script):
    done = run_script('optical_flow.py', *words, code=1)
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert not os.path.exists(ROOT / 'D')


def test_stored_files_are_not_taken_for_videos(preprocessed, tmp_path):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    (tmp_path / 'link').symlink_to('data/resized')
    before = drawings.contents(data_dir)
    for folder in ('link', 'data/optical-flow/A'):
        values = types.SimpleNamespace(
            video_dir=str(tmp_path / folder), data_dir=str(data_dir)
        )
        with pytest.raises(ValueError, match='--video_dir=.* is in --data_dir'):
            optical_flow.preprocess(values, {})
    assert drawings.contents(data_dir) == before


def converted(video_dir, data_dir, path):
    settings = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': 64}
    task = (path.partition('.')[0], path)
    return optical_flow.convert(
        str(video_dir), str(data_dir), str(data_dir), settings, False, task
    )


def test_folders_may_look_like_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawings.draw(tmp_path / 'my:vid/A/x.avi')
    os.mkdir('out:1')
    row = converted('my:vid', 'out:1', 'A/x.avi')
    assert (row['status'], row['source']) == ('ok', 'A/x.avi')
    assert clips.read_flow('out:1', 'A/x').shape == (7, 64, 64, 2)


def test_failed_renames_take_nothing_from_another_run(tmp_path):
    drawings.draw(tmp_path / 'videos/A/x.avi')
    blocked = tmp_path / 'optical-flow/A/x.zip'
    blocked.mkdir(parents=True)
    row = converted(tmp_path / 'videos', tmp_path, 'A/x.avi')
    assert row['error'] == f'Is a directory: {blocked}'
    stored = tmp_path / 'resized/A/x.zip'
    assert not stored.exists() and not list(tmp_path.glob('*.zip'))
    stored.write_text('of another run')
    converted(tmp_path / 'videos', tmp_path, 'A/x.avi')
    assert stored.exists() and blocked.is_dir()


def test_resize_of_large_frames_averages():
    fine = np.zeros((480, 640, 3), np.uint8)
    fine[:, ::2] = 254  # stripes that no 64 columns can show
    np.testing.assert_allclose(optical_flow.resize(fine, 64), 127, atol=1)
    assert optical_flow.resize(drawings.texture(121, 37), 64).shape == (64, 64, 3)
    wide = drawings.texture(360, 640)
    averaged = cv2.resize(wide, (224, 224), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(optical_flow.resize(wide, 224), averaged)


@pytest.mark.slow
def test_any_container_and_a_cut_one(tmp_path, run_script):
    """Containers without a frame count are judged by their time."""
    pairs = [('avi', 'XVID'), ('mp4', 'mp4v'), ('mov', 'mp4v'), ('mkv', 'MJPG')]
    pairs += [('mpg', 'MPG1'), ('mpeg', 'MPG2'), ('webm', 'VP80')]
    for extension, fourcc in pairs:
        path = tmp_path / f'videos/A/{extension}.{extension.upper()}'
        drawings.draw(path, 60, fourcc=fourcc)
    cut = drawings.draw(tmp_path / 'videos/A/cut.mkv', 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={data_dir}', SIZE]
    done = run_script('optical_flow.py', *words, code=1)
    index = clips.read_index(str(data_dir), ok_only=False)
    assert index.pop('A/cut')['status'] == 'truncated', done.stdout
    for clip, row in index.items():
        assert (row['status'], row['frames']) == ('ok', 60), (clip, row)


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path):
    code = (
        'import re, sys, optical_flow, cv2; cv2.setNumThreads(1)\n'
        "settings = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': 224}\n"
        'row = optical_flow.convert(sys.argv[1], sys.argv[2], sys.argv[2], settings,'
        ' False, ("A/a", sys.argv[3]))\n'
        "assert row['status'] == 'ok', row\n"
        # ru_maxrss would begin with what the test's own process holds
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    peak = {}
    for frames in (200, 20_000):
        path = drawings.draw(tmp_path / f'videos/A/{frames}.avi', frames)
        words = [str(tmp_path / 'videos'), str(tmp_path), f'A/{path.name}']
        done = subprocess.run(
            [sys.executable, '-c', code, *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        peak[frames] = int(done.stdout)
    print(peak)
    assert peak[20_000] < 1.1 * peak[200]


@pytest.mark.slow
def test_real_clips(real_clips, tmp_path, run_script):
    """Both real sets without a failure; the files made to be broken all fail."""
    for name in ('weizmann', 'ucf101-sample'):
        video_dir = real_clips / name / 'videos'
        words = [f'--video_dir={video_dir}', '--check', '--preview=1']
        run_script('optical_flow.py', *words, f'--data_dir={tmp_path / name}')
    broken = tmp_path / 'broken'
    shutil.copytree(real_clips / 'broken', broken / 'Class')
    words = [f'--video_dir={broken}', f'--data_dir={tmp_path / "data"}']
    done = run_script('optical_flow.py', *words, code=1)
    assert done.stderr == ''
    index = clips.read_index(str(tmp_path / 'data'), ok_only=False)
    assert {clip: row['status'] for clip, row in index.items()} == {
        'Class/bipbop_audioinit': 'error',
        'Class/chunk_out_of_range': 'error',
        'Class/corrupted': 'truncated',
        'Class/invalid_userdata': 'error',
        'Class/no_timescale': 'truncated',
    }
    assert index['Class/corrupted']['frames'] == 28
    assert index['Class/corrupted']['header_frames'] == 50


@pytest.mark.slow
def test_fidelity_of_real_frames(real_clips, tmp_path, run_script):
    """At least 40 dB as a median over clips, no clip under 36."""
    video_dir = real_clips / 'ucf101-sample' / 'videos'
    words = [f'--video_dir={video_dir}', '--flow=dis', '--dis_preset=ultrafast']
    run_script('optical_flow.py', *words, f'--data_dir={tmp_path}')
    decibels = []
    for clip, row in clips.read_index(str(tmp_path)).items():
        source = str(video_dir / row['source'])
        frames = drawings.by_opencv(source)
        exact = np.stack([cv2.resize(frame, (224, 224)) for frame in frames])
        decibels.append(cv2.PSNR(clips.read_frames(str(tmp_path), clip), exact))
    print(min(decibels), np.median(decibels))
    assert np.median(decibels) >= 40 and min(decibels) >= 36
