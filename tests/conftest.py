"""Fixtures the tests share: the checkout on the path, graphs, the real clips."""

import os
import pathlib
import subprocess
import sys

import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture
def graph():
    """A fresh TensorFlow graph with seed 0, the default one during the test."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as fresh:
        tf.set_random_seed(0)
        yield fresh


@pytest.fixture(scope='session')
def real_clips():
    """Folder of real videos named by REAL_CLIPS; skips where it is not set."""
    folder = os.environ.get('REAL_CLIPS', '')
    if not os.path.isdir(folder):
        pytest.skip('REAL_CLIPS names no folder of real clips')
    return pathlib.Path(folder)


@pytest.fixture(scope='session')
def tiny_runs(tmp_path_factory):
    """Folder with data/, lists/, videos/ and the runs features, motion and hybrid, made
    of narrow networks: to evaluate them, patch in the same."""
    import narrow
    import tiny

    folder = tmp_path_factory.mktemp('tiny')
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        tiny.make_all(folder)
    return folder


@pytest.fixture(scope='session')
def run_script():
    """Runs one of the project's programs as a user does, from the checkout.

    Call it with the words after `python`; `code` is the exit code that is expected.
    Returns the finished process, its stdout and stderr as text.
    """

    def run(*words, code=0, timeout=600, **environment):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == code, (
            f'exit code {done.returncode}, expected {code}\n'
            f'{done.stdout[-4000:]}\n{done.stderr[-4000:]}'
        )
        return done

    return run


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """Folder of six good videos in two classes, with names as people give them."""
    import drawings

    folder = tmp_path_factory.mktemp('drawn')
    names = ['A/plain.avi', 'A/with space.AVI', 'A/a,"b".avi', 'B/größe.mp4', 'B/x.mkv']
    for n, name in enumerate(names):
        fourcc = 'mp4v' if name.endswith('mp4') else 'MJPG'
        drawings.draw(folder / name, frames=6 + n, seed=n, fourcc=fourcc)
    drawings.draw(folder / 'B/still.mov', shift=(0, 0))
    (folder / 'B/notes.txt').write_text('not a video')
    (folder / 'A/._plain.avi').write_text('a resource fork')
    return folder


@pytest.fixture(scope='session')
def undisturbed(drawn, tmp_path_factory):
    """data_dir of `drawn`, made in one go at 64 pixels; change a copy only."""
    data_dir = tmp_path_factory.mktemp('undisturbed')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', '--frame_size=64']
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words, '--workers=2'],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return data_dir
