"""What a --train_dir holds, and how it is found again.

    run.json      flags, class list, list hashes, preprocessing, training clips, CNNs
    log.jsonl     a line each log step: loss parts, accuracy, rate; and each validation
    weights/<stream>/    the stream's CNN as a dump, at the end of its stage
    model.ckpt-N.*, checkpoint    the last two checkpoints and which they are
    best/         the best checkpoint in validation
    lock          held while a process trains
    events.*      what TensorBoard shows

`train.py` writes it, `evaluate.py` reads it, and a later stage starts from it.
"""

import datetime
import fcntl
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import cv2
import numpy as np
import scipy
import tensorflow.compat.v1 as tf

# Flags that may change between the parts of one run; any other makes another run.
FREE_FLAGS = (
    'data_dir',
    'train_dir',
    'split_dir',
    'log_every',
    'checkpoint_every',
    'workers',
    'histograms',
    'shard',
)
# Variables that an optimizer makes for itself.
SLOTS = re.compile(r'/Momentum$|/Adam(_1)?$|beta[12]_power$')
# What evaluation and a resumed run must find as it was.
FIXED = ('class_names', 'list_hashes', 'preprocessing', 'train_clips')
DAMAGED = '{}: this checkpoint is damaged; delete it, train.py goes on from another'


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    path = pathlib.Path(path)
    # shards of the features stage may share a folder
    temporary = path.with_name(f'.{path.name}.{socket.gethostname()}-{os.getpid()}')
    temporary.write_text(json.dumps(value, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, path)


def lock(train_dir):
    """Keeps other runs out of the folder until this process ends, however it ends.

    Raises:
      ValueError: another process trains there.
    """
    os.makedirs(train_dir, exist_ok=True)
    path = os.path.join(train_dir, 'lock')
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # stays open
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f'--train_dir={train_dir}: another process trains there; let it end, or '
            'give another folder'
        ) from error
    except OSError:
        pass  # a file system without locks, where nobody can be kept out


def read(train_dir, flag='train_dir'):
    """Reads run.json of the folder that a flag names.

    Raises:
      ValueError: the folder holds no run.
    """
    path = pathlib.Path(train_dir, 'run.json')
    if not path.is_file():
        raise ValueError(f'--{flag}={train_dir}: no run.json, so no run of train.py')
    try:
        run = json.loads(path.read_text(encoding='utf-8'))
        run['settings']['stage'], run['cnns'], [run[name] for name in FIXED]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is damaged ({error!r}): put it back, or give another --train_dir'
        ) from error
    return run


def describe(settings, split, examples, preprocessing):
    """A new run as run.json holds it.

    Args:
      settings: flags by name.
      split: splits.Split.
      examples: what is trained on, the split's train side without held-out groups.
      preprocessing: of clips.preprocessing_of.
    """
    return {
        'settings': settings,
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'missing': split.missing,
        'preprocessing': preprocessing,
        'train_clips': [example.clip for example in examples],
        'train_groups': sorted(
            {f'{split.class_names[e.label]}/{e.group}' for e in examples}
        ),
        'versions': {
            'python': sys.version.split()[0],
            **{library.__name__: library.__version__ for library in (cv2, np, scipy)},
            'tensorflow': tf.__version__,
        },
        'revision': git_revision(),
        'started': datetime.datetime.now().isoformat(timespec='seconds'),
        'cnns': {},
    }


def git_revision():
    """The checkout's commit, '' outside one."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty'],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return ''
    return done.stdout.strip()


def start(train_dir, run):
    """Writes run.json, or checks that the run already there is this one.

    A run that ended before anything came of it, for a wrong flag, is forgotten.

    Args:
      train_dir: the run's folder, made where it does not exist.
      run: dict with `settings` (flags by name) and what FIXED names.

    Returns:
      The run as it stands on disk.

    Raises:
      ValueError: the folder holds another run; names what differs.
    """
    path = pathlib.Path(train_dir, 'run.json')
    folders = [train_dir, os.path.join(train_dir, 'best')]
    begun = any(latest(folder)[0] for folder in folders)
    begun = begun or os.path.isdir(os.path.join(train_dir, 'weights'))
    if not (path.exists() and begun):
        if begun:
            raise ValueError(
                f'--train_dir={train_dir} holds weights but no run.json that says '
                'of what: give another folder'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, run)
        return run
    before = read(train_dir)
    stage = before['settings']['stage']
    if stage != run['settings']['stage']:
        raise ValueError(
            f'--train_dir={train_dir} holds a run of stage {stage}, not '
            f'{run["settings"]["stage"]}: give each stage a folder of its own'
        )
    for name, value in run['settings'].items():
        if name not in FREE_FLAGS and before['settings'].get(name) != value:
            raise ValueError(
                f'--train_dir={train_dir} was started with '
                f'--{name}={before["settings"].get(name)}, not {value}: give it again '
                'to continue, or another --train_dir'
            )
    check_same(train_dir, before, run)
    return before


def keep_cnns(train_dir, run, cnns):
    """Writes to run.json which CNNs the run uses, once.

    Args:
      train_dir: the run's folder.
      run: what `start` returned.
      cnns: dict stream -> {'weights': folder or None, 'fingerprint': ...}.

    Raises:
      ValueError: the run was started with other weights.
    """
    for stream, before in run['cnns'].items():
        if before['fingerprint'] != cnns[stream]['fingerprint']:
            raise ValueError(
                f'--{stream}_weights: the dump {cnns[stream]["weights"]} is not the '
                f'one {train_dir} was started with; give another --train_dir'
            )
    write_json(pathlib.Path(train_dir, 'run.json'), {**run, 'cnns': cnns})


def check_same(train_dir, before, now):
    """Raises ValueError where data, lists or preprocessing are not the run's."""
    for name in FIXED:
        if name in now and before[name] != now[name]:
            raise ValueError(
                f'--train_dir={train_dir}: the {name.replace("_", " ")} are not those '
                'the run was trained with; check --data_dir and --split_dir'
            )


def cut_log(train_dir, step):
    """Drops the lines of log.jsonl after `step`, which will be written again.

    Returns:
      Path of log.jsonl.
    """
    path = pathlib.Path(train_dir, 'log.jsonl')
    if not path.exists():
        return path
    kept = []
    for line in path.read_text(encoding='utf-8').splitlines():
        # a killed run can leave half a line; nothing after it can be older
        try:
            if json.loads(line)['step'] > step:
                break
        except json.JSONDecodeError:
            break
        kept.append(line + '\n')
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_text(''.join(kept), encoding='utf-8')
    os.replace(temporary, path)
    return path


def best_validation(log_path):
    """The highest validation accuracy that log.jsonl holds, -1 where it holds none."""
    if not log_path.exists():
        return -1.0
    lines = map(json.loads, log_path.read_text(encoding='utf-8').splitlines())
    return max((line.get('validation_accuracy', -1.0) for line in lines), default=-1.0)


def save(saver, session, train_dir, step):
    """Writes a checkpoint; False where that fails, which leaves the one before."""
    try:
        os.makedirs(train_dir, exist_ok=True)
        saver.save(
            session,
            os.path.join(train_dir, 'model.ckpt'),
            global_step=step,
            write_meta_graph=False,
        )
    except (tf.errors.OpError, OSError) as error:
        # TensorFlow says what happened in the line after the one that names the node
        said = re.search(r'^Node: .*\n(.+)', str(error), re.MULTILINE)
        reason = said.group(1) if said else str(error).splitlines()[0]
        print(
            f'the checkpoint of step {step} was not written to {train_dir}: {reason}; '
            'the one before is kept',
            file=sys.stderr,
        )
        return False
    return True


def take_over(saver, train_dir):
    """Makes a saver drop older checkpoints of a run before it, and parts of a save that
    was killed, as if it had written them itself."""
    saver.recover_last_checkpoints(present(train_dir))
    for part in pathlib.Path(train_dir).glob('model.ckpt-*.tempstate*'):
        part.unlink()


def present(train_dir):
    """Paths of the checkpoints in the folder, oldest first.

    By name alone: the file that lists them has the full paths of the folder they were
    written to, where a run that was copied or moved must neither read nor delete.
    """
    state = tf.train.get_checkpoint_state(train_dir)
    listed = state.all_model_checkpoint_paths if state else []
    paths = [os.path.join(train_dir, os.path.basename(path)) for path in listed]
    return [path for path in paths if os.path.exists(f'{path}.index')]


def latest(train_dir):
    """(path of the last checkpoint, its step), or (None, 0)."""
    found = present(train_dir)
    if not found:
        return None, 0
    return found[-1], int(found[-1].rsplit('-', 1)[1])


def variables_in(checkpoint):
    """Shapes by name of what a checkpoint holds; ValueError where it is damaged."""
    try:
        return dict(tf.train.list_variables(checkpoint))
    except tf.errors.OpError as error:
        raise ValueError(DAMAGED.format(checkpoint)) from error


def restore(session, checkpoint, without_slots=False):
    """Restores every variable of the graph that the checkpoint holds.

    Args:
      session: of the graph to restore into.
      checkpoint: path from `latest`.
      without_slots: leave the optimizer's own variables as they start.

    Returns:
      Names of the variables restored.

    Raises:
      ValueError: a variable has another shape in the checkpoint, or it is damaged.
    """
    stored = variables_in(checkpoint)
    found = [v for v in tf.global_variables() if v.op.name in stored]
    if without_slots:
        found = [v for v in found if not SLOTS.search(v.op.name)]
    for variable in found:
        if variable.shape.as_list() != stored[variable.op.name]:
            raise ValueError(
                f'{checkpoint}: {variable.op.name} is {stored[variable.op.name]}, the '
                f'graph wants {variable.shape.as_list()}; were the flags the same?'
            )
    try:
        with tf.name_scope('train/'):  # where TensorBoard shows what is no method
            tf.train.Saver(found).restore(session, checkpoint)
    except tf.errors.OpError as error:
        raise ValueError(DAMAGED.format(checkpoint)) from error
    return [variable.op.name for variable in found]
