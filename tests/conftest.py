"""Fixtures the tests share: the checkout on the path, graphs, the real clips."""

import os
import pathlib
import subprocess
import sys

import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')  # as in the programs
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
def refused():
    """Checks that a call raises a ValueError of one line that has all of the words."""

    def check(call, *words):
        with pytest.raises(ValueError) as error:
            call()
        message = str(error.value)
        assert '\n' not in message
        for word in words:
            assert word in message, message

    return check


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
def data_dir(tmp_path_factory):
    """Preprocessed clips of four classes: four to train on, two to test."""
    import training

    return training.make_data(tmp_path_factory.mktemp('clips'))


@pytest.fixture(scope='session')
def run_narrow(tmp_path_factory):
    """Runs train.py or evaluate.py with narrow networks, in a fork of one process.

    Call it with the words after `python`; `code` is the exit code that is expected.
    Returns (stdout, stderr).
    """
    import training

    folder, process = tmp_path_factory.mktemp('forks'), training.server()

    def run(*words, code=0, **environment):
        found, out, err = training.run_forked(process, folder, words, environment)
        assert found == code, f'exit code {found}\n{out[-4000:]}\n{err[-4000:]}'
        return out, err

    yield run
    process.stdin.close()
    process.wait(timeout=20)


@pytest.fixture(scope='session')
def undisturbed(data_dir, run_narrow, tmp_path_factory):
    """A hybrid run of 60 steps that fills the feature cache, and what it printed."""
    import training

    train_dir = tmp_path_factory.mktemp('runs') / 'hybrid'
    words = [*training.HYBRID, '--max_steps=60', '--checkpoint_every=9']
    places = [f'--data_dir={data_dir}', f'--train_dir={train_dir}']
    out, _ = run_narrow('train.py', *places, *words, *training.RANDOM)
    return train_dir, words, out


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
def preprocessed(drawn, tmp_path_factory):
    """data_dir of `drawn`, made in one go at 64 pixels; change a copy only."""
    data_dir = tmp_path_factory.mktemp('preprocessed')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', '--frame_size=64']
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words, '--workers=2'],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return data_dir
