"""optical_flow.py: exact flow, honest failures, and runs that may be killed."""

import fcntl
import functools
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import types

import cv2
import numpy as np
import pytest

import optical_flow
from data import clips
from data.preprocessing import check
from data.preprocessing import journal
from data.preprocessing import preview
from data.preprocessing import videos
from data.preprocessing import workers

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = '--frame_size=64'


def texture(height=120, width=160, seed=0):
    """Smooth spots, brown: stored chroma is too coarse for spots of every colour."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    grey = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    return (grey[:, :, np.newaxis] * (0.6, 0.8, 1)).astype(np.uint8)


def draw(path, frames=8, shift=(2, 1), fourcc='MJPG', seed=0):
    """Writes a video of a texture that moves by `shift` (x, y) pixels a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = texture(seed=seed)
    code = cv2.VideoWriter_fourcc(*fourcc)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25.0, (160, 120))
    assert writer.isOpened()
    for t in range(frames):
        writer.write(np.roll(picture, (shift[1] * t, shift[0] * t), (0, 1)))
    writer.release()
    return path


def contents(data_dir):
    """Path below data_dir -> bytes, of everything but the hidden folder."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in sorted(data_dir.rglob('*'))
        if path.is_file() and '.optical_flow' not in path.parts
    }


def hidden(data_dir):
    return sorted(path.name for path in (data_dir / '.optical_flow').iterdir())


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Folder of six good videos in two classes, names as people give them."""
    folder = tmp_path_factory.mktemp('videos')
    names = ['A/plain.avi', 'A/with space.AVI', 'A/a,"b".avi', 'B/größe.mp4', 'B/x.mkv']
    for n, name in enumerate(names):
        fourcc = 'mp4v' if name.endswith('mp4') else 'MJPG'
        draw(folder / name, frames=6 + n, seed=n, fourcc=fourcc)
    draw(folder / 'B/still.mov', shift=(0, 0))
    (folder / 'B/notes.txt').write_text('not a video')
    (folder / 'A/._plain.avi').write_text('a resource fork')
    return folder


@pytest.fixture(scope='module')
def undisturbed(drawn, tmp_path_factory):
    """data_dir of `drawn` made in one go."""
    data_dir = tmp_path_factory.mktemp('data')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE, '--workers=2']
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words], cwd=ROOT, check=True, timeout=60
    )
    return data_dir


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
    picture = cv2.cvtColor(texture(), cv2.COLOR_BGR2GRAY)
    moved = np.roll(picture, (shift[1], shift[0]), (0, 1))
    flow = optical_flow.flow_function(name)(picture, moved)
    assert flow.dtype == np.float32 and flow.shape == (120, 160, 2)
    inner = np.median(flow[20:-20, 20:-20], axis=(0, 1))
    np.testing.assert_allclose(inner, shift, atol=0.2)


def test_farneback_is_the_originals_call():
    one = cv2.cvtColor(texture(), cv2.COLOR_BGR2GRAY)
    two = np.roll(one, 2, 1)
    direct = cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    ours = optical_flow.flow_function('farneback')(one, two)
    np.testing.assert_array_equal(ours, direct)


def test_tvl1_works_or_names_its_package():
    if hasattr(cv2, 'optflow'):
        one = cv2.cvtColor(texture(), cv2.COLOR_BGR2GRAY)
        flow = optical_flow.flow_function('tvl1')(one, np.roll(one, 2, 1))
        assert abs(np.median(flow[..., 0]) - 2) < 0.3
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
    decoded = videos.frames_of(videos.open_video(str(source)))
    frames = [cv2.resize(f, (64, 64), None, 0, 0, cv2.INTER_AREA) for f in decoded]
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    pairs = zip(grey, grey[1:], strict=False)
    flow = np.stack([between(one, two) for one, two in pairs])
    expected = np.clip(np.rint(flow * 127 / 20) + 128, 1, 255)
    np.testing.assert_array_equal(clips.read_flow(str(data_dir), clip), expected)
    stored = clips.read_frames(str(data_dir), clip)
    assert cv2.PSNR(stored, np.stack(frames)) > 36
    return frames


def test_stored_pair_is_exactly_what_it_should_be(drawn, undisturbed):
    index = clips.read_index(str(undisturbed))
    assert sorted(index) == sorted(
        ['A/plain', 'A/with space', 'A/a,"b"', 'B/größe', 'B/x', 'B/still']
    )
    for clip, row in index.items():
        frames = assert_stored(undisturbed, clip, drawn / row['source'], FARNEBACK)
        assert row['frames'] == row['header_frames'] == len(frames)
        assert (row['width'], row['height'], row['fps']) == (160, 120, 25.0)
        assert (row['flow'], row['bound'], row['size']) == ('farneback', 20.0, 64)
    # between equal frames Farneback is off 0 by up to .3 pixels at a few places
    still = clips.read_flow(str(undisturbed), 'B/still').astype(int) - clips.FLOW_ZERO
    assert np.abs(still).max() <= 2 and (still == 0).mean() > 0.99


def test_nothing_is_left_behind(undisturbed):
    assert hidden(undisturbed) == ['lock', 'settings.json']
    top = sorted(path.name for path in undisturbed.iterdir())
    assert top == ['.optical_flow', 'clips.csv', 'optical-flow', 'resized']


def test_second_run_does_only_what_is_missing(drawn, undisturbed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    before = contents(data_dir)
    os.remove(data_dir / 'optical-flow/A/plain.zip')
    stamps = {p: p.stat().st_mtime_ns for p in data_dir.glob('*/B/*.zip')}
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    done = run_script('optical_flow.py', *words)
    assert '5 done before' in done.stdout
    assert contents(data_dir) == before
    assert {p: p.stat().st_mtime_ns for p in data_dir.glob('*/B/*.zip')} == stamps


def test_other_settings_are_refused_until_overwrite(
    drawn, undisturbed, tmp_path, run_script
):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    before = contents(data_dir)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    for other in ('--flow=dis', '--flow_bound=10', '--frame_size=66'):
        refused = run_script('optical_flow.py', *words, other, code=1)
        assert 'choose another --data_dir, or --overwrite' in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert contents(data_dir) == before
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
    draw(folder / 'A/fine.avi')
    (folder / 'A/zero.avi').touch()
    (folder / 'A/text.avi').write_text('RIFF? no, this is text\n' * 99)
    (folder / 'A/folder.avi').mkdir()
    (folder / 'A/lost.avi').symlink_to('nowhere')
    draw(folder / 'A/one.avi', frames=1)
    (folder / 'A/bell\r\n\x1b[31m.avi').touch()
    (folder / os.fsdecode(b'A/\xff.avi')).write_text('crashes OpenCV')
    (folder / 'top.avi').mkdir()
    whole = draw(folder / 'A/half.avi', frames=30).read_bytes()
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
    files = sorted(contents(data_dir))
    assert files == ['clips.csv', 'optical-flow/A/fine.zip', 'resized/A/fine.zip']
    assert hidden(data_dir) == ['lock', 'settings.json']
    os.remove(tmp_path / 'videos/A/zero.avi')
    run_script('optical_flow.py', *words, '--keep_truncated', code=1)
    assert sorted(clips.read_index(str(data_dir))) == ['A/fine', 'A/half']
    assert 'A/zero' not in clips.read_index(str(data_dir), ok_only=False)


# Stands for optical_flow.py with a fault in it; workers run its top level as well.
DRIVER = """
import os, signal
import optical_flow
from results import command_line
{fault}
if __name__ == '__main__':
    optical_flow.define_flags()
    command_line.run(optical_flow.main)
"""
DIE_BETWEEN_RENAMES = """
rename = os.replace
def replace(source, target):
    rename(source, target)
    if 'resized' in target:
        {death}
os.replace = replace
"""


def run_driver(tmp_path, fault, *words, **options):
    script = tmp_path / 'driver.py'
    script.write_text(DRIVER.format(fault=fault))
    return subprocess.run(
        [sys.executable, str(script), *words],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OPENCV_LOG_LEVEL': 'OFF'},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize(
    'death', ['os._exit(9)', 'os.kill(os.getppid(), 9); signal.pause()']
)
def test_death_between_the_renames_counts_as_not_done(
    drawn, undisturbed, tmp_path, run_script, death
):
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE, '--workers=1']
    fault = DIE_BETWEEN_RENAMES.format(death=death)
    assert run_driver(tmp_path, fault, *words).returncode != 0
    assert list(data_dir.glob('resized/*/*'))
    assert not list(data_dir.glob('optical-flow/*/*.zip'))
    if (data_dir / 'clips.csv').exists():
        assert clips.read_index(str(data_dir)) == {}
    time.sleep(0.2)  # the worker follows its parent
    done = run_script('optical_flow.py', *words)
    assert '0 done before' in done.stdout
    assert contents(data_dir) == contents(undisturbed)
    assert hidden(data_dir) == ['lock', 'settings.json']


def test_killed_overwrite_leaves_no_mixed_pair(
    drawn, undisturbed, tmp_path, run_script
):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', '--frame_size=48']
    fault = DIE_BETWEEN_RENAMES.format(death='os.kill(os.getppid(), 9); signal.pause()')
    run_driver(tmp_path, fault, *words, '--overwrite', '--workers=1')
    assert clips.read_index(str(data_dir)) == {}
    time.sleep(0.2)
    run_script('optical_flow.py', *words)
    assert len(clips.read_index(str(data_dir))) == 6
    for clip in clips.read_index(str(data_dir)):
        assert clips.read_frames(str(data_dir), clip).shape[1:] == (48, 48, 3)
        assert clips.read_flow(str(data_dir), clip).shape[1:] == (48, 48, 2)


def test_a_decoder_that_crashes_fails_its_clip_alone(drawn, tmp_path):
    fault = """
from data.preprocessing import videos
original = videos.open_video
def open_video(path):
    if 'plain' in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    return original(path)
videos.open_video = open_video
"""
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    done = run_driver(tmp_path, fault, *words)
    assert done.returncode == 1
    assert 'A/plain  its process died (-11)' in done.stdout
    assert len(clips.read_index(str(tmp_path / 'data'))) == 5


def test_failed_clips_are_named_whatever_fails_later(tmp_path):
    fault = """
from data.preprocessing import journal
def merge(run):
    raise OSError(28, 'No space left on device', 'D')
journal.Run.merge = merge
"""
    (tmp_path / 'videos/A').mkdir(parents=True)
    (tmp_path / 'videos/A/zero.avi').touch()
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={tmp_path / "data"}']
    done = run_driver(tmp_path, fault, *words)
    assert done.returncode == 1 and 'A/zero  the file is empty' in done.stdout
    assert 'No space left' in done.stderr and len(done.stderr.splitlines()) == 1


class Deadly:
    """Kills the process that receives it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_worker_that_dies_before_its_task_fails_it_alone():
    ended = list(workers.run(Deadly(), ['a', 'b', 'c'], 2))
    assert sorted(task for task, _, _ in ended) == ['a', 'b', 'c']
    assert {death for _, _, death in ended} == {'its process died (3)'}


def test_ctrl_c_while_a_worker_starts_is_not_lost(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Context:
        def Pipe(self):
            return os, os  # whatever can be closed

        def Process(self, **_):
            return self

        def start(self):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        workers._begin(Context(), len, None, [], {}, 'task')
    blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    ((_, signals, _),) = workers.run(blocked, [[]], 1)
    assert signal.SIGINT in signals


def test_what_may_not_be_read_fails_alone(drawn, tmp_path):
    videos = tmp_path / 'videos'
    shutil.copytree(drawn, videos)
    shutil.copytree(drawn / 'A', videos / 'Locked')
    (videos / 'A/plain.avi').chmod(0)
    (videos / 'Locked').chmod(0)
    words = [sys.executable, 'optical_flow.py', SIZE]
    if os.getuid() == 0:  # who may read everything, unless it gives the right up
        if not shutil.which('setpriv'):
            pytest.skip('root reads everything, and there is no setpriv')
        rights = '-dac_override,-dac_read_search'
        words[:0] = ['setpriv', f'--bounding-set={rights}', f'--inh-caps={rights}']
    words += [f'--video_dir={videos}', f'--data_dir={tmp_path / "data"}']
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    (videos / 'Locked').chmod(0o700)  # so that the folder can be removed
    assert done.returncode == 1, done.stderr
    table = [line.split(maxsplit=1) for line in done.stdout.splitlines()[-2:]]
    assert table == [
        ['A/plain', 'Permission denied'],
        ['Locked', 'Permission denied'],
    ]
    assert len(clips.read_index(str(tmp_path / 'data'))) == 5


def assert_gone(group):
    """No process of the group is left within two seconds."""
    deadline = time.monotonic() + 2
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_within_a_second(tmp_path, number, code):
    for n in range(4):
        draw(tmp_path / f'videos/A/{n}.avi', frames=1500)
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={data_dir}']
    process = subprocess.Popen(
        [sys.executable, 'optical_flow.py', *words, '--workers=2'],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not list(data_dir.glob('.optical_flow/*/*.zip')):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does, to everyone
    _, said = process.communicate(timeout=10)
    assert time.monotonic() - began < 1
    assert process.returncode == code
    assert 'the same command goes on' in said and 'Traceback' not in said
    assert hidden(data_dir) == ['lock', 'settings.json']
    assert_gone(process.pid)


def test_sigkill_leaves_no_orphan(tmp_path):
    draw(tmp_path / 'videos/A/a.avi', frames=3000)
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={tmp_path / "data"}']
    process = subprocess.Popen(
        [sys.executable, 'optical_flow.py', *words], cwd=ROOT, start_new_session=True
    )
    while not list(tmp_path.glob('data/.optical_flow/*/*.zip')):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert_gone(process.pid)


def test_living_runs_are_left_alone_and_dead_ones_merged(drawn, tmp_path):
    data_dir = str(tmp_path)
    settings = {'flow': 'farneback', 'bound': 20.0, 'size': 64}
    first = journal.Run(data_dir, settings)
    row = {**dict.fromkeys(clips.COLUMNS), **settings, 'clip': 'A/a', 'frames': 3}
    first.finish({**row, 'status': 'ok'})
    with pytest.raises(ValueError, match='another run works there'):
        journal.Run(data_dir, {**settings, 'size': 96}, overwrite=True)
    second = journal.Run(data_dir, settings)
    assert os.path.isdir(first.folder) and second.index == {}
    os.close(first._owner)  # as its death would
    with open(os.path.join(first.folder, 'rows.jsonl'), 'a') as file:
        file.write('{"clip": "A/torn')
    third = journal.Run(data_dir, settings)
    assert not os.path.isdir(first.folder) and list(third.index) == ['A/a']
    # another machine's locks may not be seen here: its folder stays for a day
    foreign = tmp_path / '.optical_flow' / 'elsewhere-1-1'
    foreign.mkdir()
    (foreign / 'owner').touch()
    journal.Run(data_dir, settings).close()
    assert foreign.is_dir()
    os.utime(foreign / 'owner', (0, time.time() - 2 * journal.ABANDONED_SECONDS))
    journal.Run(data_dir, settings).close()
    assert not foreign.is_dir()
    second.close()
    third.close()


def test_failure_of_one_run_does_not_undo_another(tmp_path):
    settings = {'flow': 'farneback', 'bound': 20.0, 'size': 64}
    row = {**dict.fromkeys(clips.COLUMNS), 'clip': 'A/a', 'frames': 3, **settings}
    run = journal.Run(str(tmp_path), settings)
    run.finish({**row, 'status': 'ok'})
    run.finish({**row, 'status': 'error', 'error': 'disk full'})
    run.close()
    assert list(clips.read_index(str(tmp_path))) == ['A/a']


def test_two_runs_at_once(drawn, undisturbed, tmp_path):
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    command = [sys.executable, 'optical_flow.py', *words, '--workers=1']
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert contents(tmp_path / 'data') == contents(undisturbed)


def test_shards_share_the_work(drawn, undisturbed, tmp_path):
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    shards = [
        subprocess.Popen(
            [sys.executable, 'optical_flow.py', *words, f'--shard={n}/3'], cwd=ROOT
        )
        for n in range(3)
    ]
    assert [process.wait(60) for process in shards] == [0, 0, 0]
    assert contents(tmp_path / 'data') == contents(undisturbed)


def test_shards_are_disjoint_and_stable():
    names = [f'A/{n}' for n in range(400)]
    parts = [{name for name in names if videos.in_shard(name, n, 4)} for n in range(4)]
    assert sum(map(len, parts)) == 400 and set().union(*parts) == set(names)
    assert min(map(len, parts)) > 60
    # the parts of a published run: they must not move with a version of this program
    assert [videos.in_shard('Archery/v_Archery_g01_c01', n, 4) for n in range(4)] == [
        False,
        False,
        True,
        False,
    ]
    for text in ('4/4', '1', '-1/4', '0/0', 'a/b'):
        with pytest.raises(ValueError, match='--shard'):
            videos.parse_shard(text)


def test_a_full_disk_is_named(drawn, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    draw(tmp_path / 'videos/A/long.avi', frames=300)
    draw(tmp_path / 'videos/A/short.avi', frames=2)
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={tmp_path / "data"}']
    done = subprocess.run(
        [sys.executable, 'optical_flow.py', *words, SIZE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=small_files,
    )
    assert done.returncode == 1, done.stderr
    assert 'A/long  File too large' in done.stdout
    assert list(clips.read_index(str(tmp_path / 'data'))) == ['A/short']
    assert not list((tmp_path / 'data').glob('*/A/long.*'))
    assert hidden(tmp_path / 'data') == ['lock', 'settings.json']


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
        (['--data_dir=.ci', '--video_dir=.ci/'], '--data_dir=.ci lies'),
        (['--data_dir=D', '--video_dir=.ci', '--shard=3'], '--shard=3'),
        (['--data_dir=D', '--video_dir=.ci', '--list=absent'], '--list=absent'),
    ],
)
def test_wrong_use_ends_in_one_line(words, expected, run_script):
    done = run_script('optical_flow.py', *words, code=1)
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert not os.path.exists(ROOT / 'D')


def test_stored_files_are_not_taken_for_videos(undisturbed, tmp_path):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    (tmp_path / 'link').symlink_to('data/resized')
    before = contents(data_dir)
    for folder in ('link', 'data/optical-flow/A'):
        values = types.SimpleNamespace(
            video_dir=str(tmp_path / folder), data_dir=str(data_dir)
        )
        with pytest.raises(ValueError, match='--video_dir=.* lies in --data_dir'):
            optical_flow.preprocess(values, {})
    assert contents(data_dir) == before


def converted(video_dir, data_dir, path):
    settings = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': 64}
    task = (path.partition('.')[0], path)
    return optical_flow.convert(
        str(video_dir), str(data_dir), str(data_dir), settings, False, task
    )


def test_folders_may_look_like_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / 'my:vid/A/x.avi')
    os.mkdir('out:1')
    row = converted('my:vid', 'out:1', 'A/x.avi')
    assert (row['status'], row['source']) == ('ok', 'A/x.avi')
    assert clips.read_flow('out:1', 'A/x').shape == (7, 64, 64, 2)


def test_failed_renames_take_nothing_from_another_run(tmp_path):
    draw(tmp_path / 'videos/A/x.avi')
    blocked = tmp_path / 'optical-flow/A/x.zip'
    blocked.mkdir(parents=True)
    row = converted(tmp_path / 'videos', tmp_path, 'A/x.avi')
    assert row['error'] == f'Is a directory: {blocked}'
    stored = tmp_path / 'resized/A/x.zip'
    assert not stored.exists() and not list(tmp_path.glob('*.zip'))
    stored.write_text('of another run')
    converted(tmp_path / 'videos', tmp_path, 'A/x.avi')
    assert stored.exists() and blocked.is_dir()


def test_names_become_clips():
    assert videos.clip_name('Any thing/x.y.avi') == 'Any thing/x.y'
    assert videos.clip_name('v_Archery_g01_c02.avi') == 'Archery/v_Archery_g01_c02'
    assert videos.clip_name('v_HandStandPushups_g01_c02.avi') == (
        'HandstandPushups/v_HandStandPushups_g01_c02'
    )
    assert videos.clip_name('shoot/v_s_01/v_s_01_01.mpg') == 'shoot/v_s_01_01'
    with pytest.raises(ValueError, match='no class folder'):
        videos.clip_name('holiday.avi')


def test_two_videos_of_one_clip_are_refused(tmp_path):
    (tmp_path / 'A').mkdir()
    (tmp_path / 'A/x.avi').touch()
    (tmp_path / 'A/x.MP4').touch()
    with pytest.raises(ValueError, match=r'A/x\.MP4 and A/x\.avi .* rename one'):
        videos.find_videos(str(tmp_path))


def test_list_chooses_videos(tmp_path):
    for name in ('A/x y 1.avi', 'A/z.avi', 'A/other.avi'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = b'A/x y 1.avi\r\nA/z.avi 12\r\n\r\nA/no.avi\r\n'
    (tmp_path / 'list.txt').write_bytes(lines)
    found = videos.find_videos(str(tmp_path), str(tmp_path / 'list.txt'))
    assert found == {'A/x y 1': 'A/x y 1.avi', 'A/z': 'A/z.avi', 'A/no': 'A/no.avi'}
    (tmp_path / 'list.txt').write_text('../elsewhere/x.avi\n')
    with pytest.raises(ValueError, match='line 1: .* lies outside'):
        videos.find_videos(str(tmp_path), str(tmp_path / 'list.txt'))


def rotated(path, degrees):
    """Rewrites the display matrix of an mp4 file, as a phone held upright does."""
    matrix = {
        90: (0, 0x10000, 0, -0x10000, 0, 0),
        180: (-0x10000, 0, 0, 0, -0x10000, 0),
    }[degrees]
    content = bytearray(path.read_bytes())
    start = content.index(b'tkhd') + 4 + 40
    one = (0x10000).to_bytes(4, 'big')
    assert content[start : start + 4] == one
    values = [*matrix[:2], 0, *matrix[3:5], 0]
    for n, value in enumerate(values):
        place = start + 4 * n
        content[place : place + 4] = value.to_bytes(4, 'big', signed=True)
    path.write_bytes(content)


def test_phone_video_comes_upright(tmp_path):
    plain = draw(tmp_path / 'plain.mp4', fourcc='mp4v', shift=(0, 0), frames=2)
    straight = next(videos.frames_of(videos.open_video(str(plain))))
    for degrees, code in ((90, cv2.ROTATE_90_CLOCKWISE), (180, cv2.ROTATE_180)):
        phone = shutil.copy(plain, tmp_path / f'{degrees}.mp4')
        rotated(phone, degrees)
        upright = next(videos.frames_of(videos.open_video(str(phone))))
        np.testing.assert_array_equal(upright, cv2.rotate(straight, code))


def test_grey_video_has_three_channels(tmp_path):
    path = str(tmp_path / 'grey.avi')
    code = cv2.VideoWriter_fourcc(*'FFV1')
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, 25, (64, 32), False)
    writer.write(np.full((32, 64), 77, np.uint8))
    writer.release()
    (frame,) = videos.frames_of(videos.open_video(path))
    assert frame.shape == (32, 64, 3) and (frame == 77).all()


def test_resize_of_large_pictures_averages():
    fine = np.zeros((480, 640, 3), np.uint8)
    fine[:, ::2] = 254  # stripes that no 64 columns can show
    np.testing.assert_allclose(optical_flow.resize(fine, 64), 127, atol=1)
    assert optical_flow.resize(texture(121, 37), 64).shape == (64, 64, 3)
    wide = texture(360, 640)
    averaged = cv2.resize(wide, (224, 224), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(optical_flow.resize(wide, 224), averaged)


def test_colours_of_flow():
    flow = np.array([[[0, 0], [2, 0], [0, 2], [-2, 0], [0, -2], [1, 0]]], np.float32)
    colours = preview.flow_to_color(flow)[0].astype(int)
    still, right, down, left, up, half = colours
    assert (still == 255).all()
    np.testing.assert_array_equal(right, [0, 0, 255])  # BGR: red
    assert down[0] == 0 and down[1] > 200 and down[2] == 255  # yellow
    assert left[2] == 0 and left[0] == 255  # cyan to blue
    assert up[0] == 255 and up[1] == 0  # violet
    np.testing.assert_array_equal(half, [128, 128, 255])
    stored = clips.quantize_flow(flow)
    np.testing.assert_allclose(
        preview.flow_to_color(stored)[0].astype(int), colours, atol=12
    )


def test_preview_writes_sheets(undisturbed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    (data_dir / 'resized/B/still.zip').write_bytes(b'RIFF')
    words = ['optical_flow.py', f'--data_dir={data_dir}', '--preview=6']
    done = run_script(*words, code=1)
    assert done.stderr == '' and 'B/still' in done.stdout.splitlines()[-1]
    sheets = [cv2.imread(str(path)) for path in data_dir.glob('preview/*/*.png')]
    assert [sheet.shape for sheet in sheets] == [(5 * 64, 3 * 64, 3)] * 5
    for size in (64, 224):
        legend = preview._wheel(size, 88.8)
        written = (legend[size:] < 128).any((0, 2))
        # its height can be read, and it ends before the picture does
        assert written[: size - 2].sum() > 30 and not written[-1]
        assert (legend[size:] < 128).any((1, 2)).sum() >= 12
    clips.write_index(data_dir / 'clips.csv', [])
    done = run_script(*words)
    assert done.stdout == 'no clip is ready, so there is no preview\n'


def store_flow(data_dir, clip, change):
    """Rewrites a clip's flow as change(flow)."""
    flow = change(clips.read_flow(str(data_dir), clip))
    with clips.flow_writer(clips.flow_path(data_dir, clip)) as writer:
        for field in flow:
            writer.append(field)


def test_check_finds_what_does_not_hold(drawn, undisturbed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    store_flow(data_dir, 'A/plain', lambda flow: flow[:-1])
    store_flow(data_dir, 'A/with space', lambda flow: flow[..., [0, 0]])
    store_flow(data_dir, 'A/a,"b"', np.ascontiguousarray)
    (data_dir / 'resized/B/x.zip').write_bytes(b'RIFF')
    os.remove(data_dir / 'optical-flow/B/größe.zip')
    shutil.copy(data_dir / 'resized/A/plain.zip', data_dir / 'resized/A/extra.zip')
    done = run_script('optical_flow.py', f'--data_dir={data_dir}', '--check', code=1)
    for clip, problem in (
        ('A/plain', 'hold 6 frames and 4 fields of flow, clips.csv says 6 frames'),
        ('A/with space', 'the same x and y'),
        ('A/extra', 'no row in clips.csv'),
        ('B/größe', 'größe.zip is missing'),
        ('B/still', 'flow is constant'),
        ('B/x', 'x.zip is damaged'),
    ):
        lines = done.stdout.splitlines()
        assert any(clip in line and problem in line for line in lines), problem
    assert '6 clips checked, 6 wrong' in done.stdout
    assert '4 of them are outdated now' in done.stdout
    os.remove(data_dir / 'resized/A/extra.zip')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    run_script('optical_flow.py', *words)
    assert contents(data_dir).keys() == contents(undisturbed).keys()
    for row in clips.read_index(str(data_dir)).values():
        assert check.problems_of(str(data_dir), row)[1] is False
    row = {**row, 'status': 'outdated', 'error': ''}
    assert 'makes it again' in check.problems_of(str(data_dir), row)[0]
    assert 'without a status' in check.problems_of('', {**row, 'status': ''})[0]


@pytest.mark.slow
def test_any_container_and_a_cut_one(tmp_path, run_script):
    """Containers without a frame count are judged by their time."""
    pairs = [('avi', 'XVID'), ('mp4', 'mp4v'), ('mov', 'mp4v'), ('mkv', 'MJPG')]
    pairs += [('mpg', 'MPG1'), ('mpeg', 'MPG2'), ('webm', 'VP80')]
    for extension, fourcc in pairs:
        path = tmp_path / f'videos/A/{extension}.{extension.upper()}'
        draw(path, 60, fourcc=fourcc)
    cut = draw(tmp_path / 'videos/A/cut.mkv', 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={data_dir}', SIZE]
    done = run_script('optical_flow.py', *words, code=1)
    index = clips.read_index(str(data_dir), ok_only=False)
    assert index.pop('A/cut')['status'] == 'truncated', done.stdout
    for clip, row in index.items():
        assert (row['status'], row['frames']) == ('ok', 60), (clip, row)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, run_script):
    random = np.random.default_rng(7)
    for n in range(12):
        draw(tmp_path / f'videos/A/{n}.avi', frames=20 + 10 * n, seed=n)
    words = [f'--video_dir={tmp_path / "videos"}', '--frame_size=96', '--workers=2']
    run_script('optical_flow.py', *words, f'--data_dir={tmp_path / "calm"}')
    data_dir = tmp_path / 'data'
    killed = 0
    for attempt in range(60):
        process = subprocess.Popen(
            [sys.executable, 'optical_flow.py', *words, f'--data_dir={data_dir}'],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(0.2, 1.2))
        numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        killed += process.poll() is None
        process.send_signal(numbers[attempt % 4])
        process.wait()
        if (data_dir / 'clips.csv').exists():
            index = clips.read_index(str(data_dir))
            for clip, row in index.items():
                assert clips.verify_frames(data_dir, clip) == row['frames']
                assert clips.verify_flow(data_dir, clip) == row['frames'] - 1
            if len(index) > 6:  # begin again, so that every kill hits work
                shutil.rmtree(data_dir)
        if killed == 20:
            break
    assert killed == 20
    time.sleep(0.5)
    run_script('optical_flow.py', *words, f'--data_dir={data_dir}')
    assert contents(data_dir) == contents(tmp_path / 'calm')
    assert hidden(data_dir) == ['lock', 'settings.json']


@pytest.mark.slow
def test_full_disk(tmp_path, run_script):
    """A real one: a small file system in memory, where mounting is permitted."""
    mount = tmp_path / 'small'
    mount.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=1500k', 'tmpfs', str(mount)]
    if shutil.which('mount') is None or subprocess.run(command).returncode:
        pytest.skip('no permission to mount a small file system')
    try:
        draw(tmp_path / 'videos/A/long.avi', frames=400)
        draw(tmp_path / 'videos/A/short.avi', frames=5)
        words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={mount}/data']
        done = run_script('optical_flow.py', *words, '--workers=1', code=1)
        assert 'A/long  No space left on device' in done.stdout
        assert list(clips.read_index(f'{mount}/data')) == ['A/short']
        assert not list(mount.glob('data/*/A/long.*'))
        assert hidden(mount / 'data') == ['lock', 'settings.json']
    finally:
        subprocess.run(['umount', str(mount)], check=True)


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
        path = draw(tmp_path / f'videos/A/{frames}.avi', frames)
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
        frames = videos.frames_of(videos.open_video(source))
        exact = np.stack([cv2.resize(frame, (224, 224)) for frame in frames])
        decibels.append(cv2.PSNR(clips.read_frames(str(tmp_path), clip), exact))
    print(min(decibels), np.median(decibels))
    assert np.median(decibels) >= 40 and min(decibels) >= 36


def test_lock_is_free_after_a_run(undisturbed):
    with open(undisturbed / '.optical_flow/lock') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
