"""Training that is stopped: kills, signals, full disks; what it continues from."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import training

from weights import checkpoints

# -- kills and signals -----------------------------------------------------------------


@pytest.fixture
def run_train(run_narrow, data_dir):
    """Runs train.py on the clips to its end: train_dir, words -> stdout."""

    def run(train_dir, *words):
        places = [f'--data_dir={data_dir}', f'--train_dir={train_dir}']
        return run_narrow('train.py', *places, *words)[0]

    return run


def test_killed_run_ends_with_the_same_bits(undisturbed, data_dir, run_train, tmp_path):
    whole, words, _ = undisturbed
    words = [*words, *training.weights_of(whole)]
    run = tmp_path / 'run'
    process = training.start(data_dir, run, *words)
    training.wait_for_step(run, 24, process)
    process.kill()
    process.communicate()
    step, _ = training.arrays_of(run)
    assert 18 <= step < 60  # it was killed in the middle
    assert 'continuing at step' in run_train(run, *words)
    training.assert_same_run(run, whole)
    kept = {path.name for path in run.glob('model.ckpt-*')}
    assert len(kept) == 4, kept  # two checkpoints of two files


@pytest.mark.parametrize(
    'number',
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_signals_save_first(undisturbed, data_dir, run_train, tmp_path, number):
    whole, words, _ = undisturbed
    words = [*words, *training.weights_of(whole), '--checkpoint_every=1000']
    run = tmp_path / 'run'
    process = training.start(data_dir, run, *words)
    training.wait_for_step(run, 6, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    step, _ = training.arrays_of(run)
    assert f'stopped at step {step}' in out and 6 <= step < 60
    if number == signal.SIGINT:  # to continue is the same after each, and takes a while
        run_train(run, *words)
        training.assert_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('nohup'), reason='no nohup here')
def test_nohup_is_obeyed(undisturbed, data_dir, tmp_path):
    words = [*undisturbed[1], *training.weights_of(undisturbed[0])]
    process = training.start(data_dir, tmp_path, *words, before=['nohup'])
    training.wait_for_step(tmp_path, 6, process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    training.assert_same_run(tmp_path, undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['hybrid', 'motion'])
def test_ten_kills_at_random_moments(stage, undisturbed, data_dir, run_train, tmp_path):
    words = list(training.MOTION)
    if stage == 'hybrid':
        words = [*training.HYBRID, *training.weights_of(undisturbed[0])]
    words += ['--max_steps=400', '--log_every=2', '--checkpoint_every=7']
    words += training.HOLD_OUT
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    run_train(whole, *words)
    log, moments = run / 'log.jsonl', random.Random(0)
    for _ in range(10):
        before = log.stat().st_ino if log.exists() else None
        process = training.start(data_dir, run, *words)
        training.wait_for_new_log(run, before, process)
        _, saved = checkpoints.latest(run)
        step = saved + saved % 2 + 2 * moments.randint(1, 8)
        training.wait_for_step(run, step, process)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not ended by itself
    assert 'continuing at step' in run_train(run, *words)
    training.assert_same_run(run, whole)
    training.assert_same_arrays(run / 'best', whole / 'best')


@pytest.mark.slow
@pytest.mark.parametrize(
    'stage, onednn, more',
    [
        ('spatial', '1', []),
        ('motion', '1', []),
        ('motion', '0', []),
        ('motion', '1', ['--bfloat16']),
    ],
)
def test_full_width_ends_with_the_same_bits(
    stage, onednn, more, data_dir, run_script, tmp_path
):
    """Other kernels serve wide layers than narrow ones."""
    if more:
        training.skip_without_bfloat16()
    words = [f'--stage={stage}', f'--{stage}_weights=random', f'--data_dir={data_dir}']
    words += ['--batch_size=4', '--max_steps=8', '--checkpoint_every=3']
    words += ['--log_every=1', *more]
    whole, run = (
        ['train.py', *words, f'--train_dir={tmp_path / name}']
        for name in ('whole', 'run')
    )
    environment = {'TF_ENABLE_ONEDNN_OPTS': onednn}
    run_script(*whole, **environment)
    process = subprocess.Popen(
        [sys.executable, *run],
        cwd=training.ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    training.wait_for_step(tmp_path / 'run', 5, process)
    process.kill()
    process.communicate()
    assert 'continuing at step' in run_script(*run, **environment).stdout
    training.assert_same_run(tmp_path / 'run', tmp_path / 'whole')


@pytest.mark.slow
def test_run_that_is_done_stays_as_it_is(undisturbed, run_train):
    train_dir, words, _ = undisturbed
    before = (train_dir / 'log.jsonl').read_bytes(), training.arrays_of(train_dir)[0]
    run_train(train_dir, *words, *training.RANDOM)
    after = (train_dir / 'log.jsonl').read_bytes(), training.arrays_of(train_dir)[0]
    assert before == after


# -- runs that move --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('own', [True, False])
def test_a_run_that_moved_is_continued(own, undisturbed, data_dir, run_train, tmp_path):
    """With the CNNs of its own folder, and with those of a run that moved as well."""
    whole, words, _ = undisturbed
    cnns, moved_cnns = tmp_path / 'cnns', tmp_path / 'moved_cnns'
    shutil.copytree(whole, cnns)
    early, late = tmp_path / 'early', tmp_path / 'late'
    given = training.RANDOM if own else training.weights_of(cnns)
    process = training.start(data_dir, early, *words, *given)
    training.wait_for_step(early, 24, process)
    process.terminate()
    process.communicate(timeout=60)
    shutil.move(cnns, moved_cnns)
    shutil.move(early, late)
    given = training.RANDOM if own else training.weights_of(moved_cnns)
    assert 'continuing at step' in run_train(late, *words, *given)
    training.assert_same_run(late, whole)


# -- disks that are full ---------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a folder of some bytes: function bytes -> folder."""
    folder = tmp_path / 'disk'
    folder.mkdir()

    def mount(size):
        options = ['-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder]
        try:
            subprocess.run(['mount', *options], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f'mounting a small disk needs root on Linux: {error}')
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(['umount', '--lazy', folder], check=True)


@pytest.mark.parametrize('checkpoint_every', [9, 10_000])
def test_full_disk(checkpoint_every, undisturbed, data_dir, small_disk, run_narrow):
    """The log fills the disk, if no checkpoint does."""
    whole, words, _ = undisturbed
    kept = '*' if checkpoint_every == 9 else '[!m]*'  # with two checkpoints, or none
    size = sum(path.stat().st_size for path in whole.glob(kept) if path.is_file())
    run = small_disk(size + 50_000) / 'run'
    words = [*words, '--max_steps=10000', '--log_every=1']
    words += [f'--checkpoint_every={checkpoint_every}']
    places = [f'--data_dir={data_dir}', f'--train_dir={run}']
    words += training.weights_of(whole)
    _, err = run_narrow('train.py', *places, *words, code=1)
    (line,) = err.splitlines()  # no traceback and no line of TensorFlow's beside it
    assert line.startswith('train.py: ') and 'No space left' in line
    assert f'was not written to {run}: ' in line
    path, step = checkpoints.latest(run)
    if checkpoint_every == 9:
        assert f'the checkpoint of step {step} is kept' in line and step >= 18
        training.arrays_of(run)  # and it is whole
        found = {p.name.split('.data')[0] for p in run.glob('model.ckpt-*.data*')}
        assert found == {f'model.ckpt-{step}', f'model.ckpt-{step - 9}'}
    else:
        assert path is None and 'there is no checkpoint yet' in line
