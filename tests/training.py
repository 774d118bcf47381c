"""What the tests of training share: clips to train on, runs of train.py, their results.

Networks are narrow and the rest is as it is: what training, kills and wrong use show
does not depend on widths, and 600 MB of weights a run would take minutes.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from data.synthetic import draw
from results import arithmetic
from weights import checkpoints

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = 48  # CNN-M-2048 wants 41 pixels or more
RANDOM = ('--spatial_weights=random', '--motion_weights=random')
HYBRID = ('--num_segments=6', '--lstm_units=7,5', '--batch_size=3', '--log_every=2')
MOTION = ('--stage=motion', '--motion_weights=random', '--batch_size=2')
# one of the four train clips is held out
HOLD_OUT = ('--group_regex=v_(.*)', '--validation_groups=1')

# The programs with narrow networks. A line on stdin is a command, run in a fork, so
# that TensorFlow is imported once; with words of its own it runs just that.
PROGRAM = """
import json, os, runpy, sys
sys.path[:0] = [ROOT, ROOT + '/tests']
import evaluate  # first, since it imports TensorFlow in silence
import train
import narrow
import pytest
narrow.patch(pytest.MonkeyPatch())
os.chdir(ROOT)
if sys.argv[1:]:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
for line in sys.stdin:
    words, out, err, environment = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        os.environ.update(environment)
        sys.argv = words
        try:
            runpy.run_path(words[0], run_name='__main__')
        except SystemExit as ended:  # as Python does, but for the seconds it tidies up
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            sys.stdout.flush()
            os._exit(1 if isinstance(ended.code, str) else ended.code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""".replace('ROOT', repr(str(ROOT)))


def make_data(folder):
    """Draws and preprocesses two groups a class of clips, one of which is tested and
    one trained on; returns the folder of preprocessed clips."""
    for group, names in ((1, draw.CLASSES[:2]), (8, draw.CLASSES[:4])):
        for number, name in enumerate(names):
            look = draw.group_look(np.random.default_rng(group))
            what = 'Discs' if name.startswith('Discs') else 'Squares'
            how = 'Horizontal' if 'Horizontal' in name else 'Vertical'
            order = name.removeprefix(what + how)
            path = folder / 'videos' / name / f'v_{name}_g{group:02d}_c01.avi'
            path.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng([group, number])
            drawn = draw.draw(random, what, how, order, look)
            draw.write_clip(path, list(drawn)[: 20 + 3 * number])
    words = [f'--video_dir={folder}/videos', f'--data_dir={folder}/data']
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words, f'--frame_size={SIZE}'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / 'data'


def start(data_dir, train_dir, *words, before=()):
    """Starts train.py in a process to disturb; a Popen with pipes.

    `before` are the words of a command that starts it, such as nohup.
    """
    words = ['train.py', f'--data_dir={data_dir}', f'--train_dir={train_dir}', *words]
    return subprocess.Popen(
        [*before, sys.executable, '-c', PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # the tests themselves may have been started by nohup or in the background
        preexec_fn=default_signals,
    )


def default_signals():
    """Undoes what a process that ignores signals hands down."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def server():
    """The process that runs commands in forks."""
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run_forked(process, folder, words, environment):
    """Runs a command in a fork of `server`; (exit code, stdout, stderr)."""
    out, err = folder / 'out', folder / 'err'
    request = [list(map(str, words)), str(out), str(err), environment]
    print(json.dumps(request), file=process.stdin, flush=True)
    code = int(process.stdout.readline())
    return code, out.read_text(), err.read_text()


def skip_without_bfloat16():
    """Skips a test of --bfloat16 where the processor would only emulate it."""
    lack = arithmetic.lack_of_bfloat16()
    if lack:
        pytest.skip(f'--bfloat16 needs {lack}')


def weights_of(train_dir):
    """The flags that start from the CNNs of a run."""
    return [f'--{stream}_weights={train_dir}' for stream in ('spatial', 'motion')]


def wait_for_step(train_dir, step, process, seconds=120):
    """Until log.jsonl holds the step."""
    deadline = time.monotonic() + seconds
    path = pathlib.Path(train_dir, 'log.jsonl')
    while time.monotonic() < deadline and process.poll() is None:
        text = path.read_text() if path.exists() else ''
        if f'"step": {step},' in text:
            return
        time.sleep(0.005)
    out, err = process.communicate(timeout=10)
    raise AssertionError(f'no step {step} in {path}\n{out}\n{err}')


def wait_for_new_log(train_dir, before, process):
    """Until log.jsonl is another file than that of inode `before`: a run that begins
    writes it anew."""
    path = pathlib.Path(train_dir, 'log.jsonl')
    while not path.exists() or path.stat().st_ino == before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def read_json(train_dir, name='run.json'):
    """A JSON file of a run."""
    return json.loads(pathlib.Path(train_dir, name).read_text())


def log_of(train_dir):
    """The lines of log.jsonl."""
    text = pathlib.Path(train_dir, 'log.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def arrays_of(train_dir):
    """(step, {variable: array}) of the last checkpoint, with the optimizer's own."""
    path, step = checkpoints.latest(train_dir)
    reader = tf.train.load_checkpoint(path)
    return step, {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def assert_same_arrays(one, other):
    """Bit-identical last checkpoints."""
    (step, arrays), (other_step, other_arrays) = arrays_of(one), arrays_of(other)
    assert step == other_step and set(arrays) == set(other_arrays)
    for name, array in arrays.items():
        assert array.tobytes() == other_arrays[name].tobytes(), name


def assert_same_run(one, other):
    """Bit-identical last checkpoints and logs."""
    assert_same_arrays(one, other)
    logs = [pathlib.Path(run, 'log.jsonl').read_bytes() for run in (one, other)]
    assert logs[0] == logs[1]


def files_of(folder):
    """{path: bytes} of all files below a folder, and how often it was made."""
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob('*'))
        if path.is_file()
    }
