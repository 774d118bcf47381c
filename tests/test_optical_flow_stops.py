"""optical_flow.py killed, crashed, shared by machines and on a full disk."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import drawings
import faults
import numpy as np
import pytest

from data import clips

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = '--frame_size=64'


DIE_BETWEEN_RENAMES = """
rename = os.replace
def replace(source, target):
    rename(source, target)
    if 'resized' in target:
        {death}
os.replace = replace
"""


@pytest.mark.parametrize(
    'death', ['os._exit(9)', 'os.kill(os.getppid(), 9); signal.pause()']
)
def test_death_between_the_renames_counts_as_not_done(
    drawn, preprocessed, tmp_path, run_script, death
):
    data_dir = tmp_path / 'data'
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE, '--workers=1']
    fault = DIE_BETWEEN_RENAMES.format(death=death)
    assert faults.run(tmp_path, fault, *words).returncode != 0
    assert list(data_dir.glob('resized/*/*'))
    assert not list(data_dir.glob('optical-flow/*/*.zip'))
    if (data_dir / 'clips.csv').exists():
        assert clips.read_index(str(data_dir)) == {}
    time.sleep(0.2)  # the worker follows its parent
    done = run_script('optical_flow.py', *words)
    assert '0 done before' in done.stdout
    assert drawings.contents(data_dir) == drawings.contents(preprocessed)
    assert drawings.hidden(data_dir) == ['lock', 'settings.json']


def test_killed_overwrite_leaves_no_mixed_pair(
    drawn, preprocessed, tmp_path, run_script
):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', '--frame_size=48']
    fault = DIE_BETWEEN_RENAMES.format(death='os.kill(os.getppid(), 9); signal.pause()')
    faults.run(tmp_path, fault, *words, '--overwrite', '--workers=1')
    assert clips.read_index(str(data_dir)) == {}
    time.sleep(0.2)
    run_script('optical_flow.py', *words)
    assert len(clips.read_index(str(data_dir))) == 6
    for clip in clips.read_index(str(data_dir)):
        assert clips.read_frames(str(data_dir), clip).shape[1:] == (48, 48, 3)
        assert clips.read_flow(str(data_dir), clip).shape[1:] == (48, 48, 2)


def test_a_decoder_that_crashes_fails_its_clip_alone(drawn, tmp_path):
    fault = """
from data.preprocessing import decoding
original = decoding.open_video
def open_video(path):
    if 'plain' in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    return original(path)
decoding.open_video = open_video
"""
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    done = faults.run(tmp_path, fault, *words)
    assert done.returncode == 1
    assert 'A/plain  its process died (-11)' in done.stdout
    assert len(clips.read_index(str(tmp_path / 'data'))) == 5


def test_nothing_that_windows_does_not_have_is_needed(drawn, tmp_path):
    """No fcntl of our own, no signal masks, no processor sets."""
    fault = """
import filelock, sys
sys.modules['fcntl'] = None
del signal.pthread_sigmask, os.sched_getaffinity
"""
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    done = faults.run(tmp_path, fault, *words, '--workers=2', '--check')
    assert '6 of 6 clips are ready' in done.stdout, done.stderr
    assert drawings.hidden(tmp_path / 'data') == ['lock', 'settings.json']


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
    done = faults.run(tmp_path, fault, *words)
    assert done.returncode == 1 and 'A/zero  the file is empty' in done.stdout
    assert 'No space left' in done.stderr and len(done.stderr.splitlines()) == 1


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
    """No process of the group is left soon; a busy machine may take its time."""
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_within_a_second(tmp_path, number, code):
    for n in range(4):
        drawings.draw(tmp_path / f'videos/A/{n}.avi', frames=1500)
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
    assert 'the same command continues' in said and 'Traceback' not in said
    assert drawings.hidden(data_dir) == ['lock', 'settings.json']
    assert_gone(process.pid)


def test_sigkill_leaves_no_orphan(tmp_path):
    drawings.draw(tmp_path / 'videos/A/a.avi', frames=3000)
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


def test_two_runs_at_once(drawn, preprocessed, tmp_path):
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    command = [sys.executable, 'optical_flow.py', *words, '--workers=1']
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert drawings.contents(tmp_path / 'data') == drawings.contents(preprocessed)


@pytest.mark.parametrize(
    'shard', ['--shard={}/3', '--worker_hosts=a:1,b:1,c:1 --task_index={}']
)
def test_shards_share_the_work(shard, drawn, preprocessed, tmp_path):
    words = [f'--video_dir={drawn}', f'--data_dir={tmp_path / "data"}', SIZE]
    shards = [
        subprocess.Popen(
            [sys.executable, 'optical_flow.py', *words, *shard.format(n).split()],
            cwd=ROOT,
        )
        for n in range(3)
    ]
    assert [process.wait(60) for process in shards] == [0, 0, 0]
    assert drawings.contents(tmp_path / 'data') == drawings.contents(preprocessed)


def test_a_full_disk_is_named(drawn, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    drawings.draw(tmp_path / 'videos/A/long.avi', frames=300)
    drawings.draw(tmp_path / 'videos/A/short.avi', frames=2)
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
    assert drawings.hidden(tmp_path / 'data') == ['lock', 'settings.json']


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, run_script):
    random = np.random.default_rng(7)
    for n in range(12):
        drawings.draw(tmp_path / f'videos/A/{n}.avi', frames=20 + 10 * n, seed=n)
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
    assert drawings.contents(data_dir) == drawings.contents(tmp_path / 'calm')
    assert drawings.hidden(data_dir) == ['lock', 'settings.json']


@pytest.mark.slow
def test_full_disk(tmp_path, run_script):
    """A real one: a small file system in memory, where mounting is permitted."""
    mount = tmp_path / 'small'
    mount.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=1500k', 'tmpfs', str(mount)]
    if shutil.which('mount') is None or subprocess.run(command).returncode:
        pytest.skip('no permission to mount a small file system')
    try:
        drawings.draw(tmp_path / 'videos/A/long.avi', frames=400)
        drawings.draw(tmp_path / 'videos/A/short.avi', frames=5)
        words = [f'--video_dir={tmp_path / "videos"}', f'--data_dir={mount}/data']
        done = run_script('optical_flow.py', *words, '--workers=1', code=1)
        assert 'A/long  No space left on device' in done.stdout
        assert list(clips.read_index(f'{mount}/data')) == ['A/short']
        assert not list(mount.glob('data/*/A/long.avi'))
        assert drawings.hidden(mount / 'data') == ['lock', 'settings.json']
    finally:
        subprocess.run(['umount', str(mount)], check=True)
