"""What a --train_dir holds, and how it is found again.

    run.json      flags, class list, list hashes, preprocessing, training clips, CNNs
    log.jsonl     one line a log step: loss parts, accuracy, rate
    weights/<stream>/    the stream's CNN as a dump
    model.ckpt-N.*, checkpoint    the last checkpoint and which it is

`train.py` writes it, `evaluate.py` reads it, and a later stage starts from it.
"""

import json
import os
import pathlib
import re
import sys

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


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_text(json.dumps(value, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, path)


def read(train_dir):
    """Reads run.json.

    Raises:
      ValueError: the folder holds no run.
    """
    path = pathlib.Path(train_dir, 'run.json')
    if not path.is_file():
        raise ValueError(f'--train_dir={train_dir}: no run.json, so no run of train.py')
    return json.loads(path.read_text(encoding='utf-8'))


def start(train_dir, run):
    """Writes run.json, or checks that the run already there is this one.

    Args:
      train_dir: the run's folder, made where it does not exist.
      run: dict with `settings` (flags by name) and what FIXED names.

    Returns:
      The run as it stands on disk.

    Raises:
      ValueError: the folder holds another run; names what differs.
    """
    path = pathlib.Path(train_dir, 'run.json')
    if not path.exists():
        if latest(train_dir)[0]:
            raise ValueError(
                f'--train_dir={train_dir} holds checkpoints but no run.json that says '
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


def find_weights(given, stream, train_dir):
    """The folder of the dump that --<stream>_weights names.

    Args:
      given: a dump, a --train_dir that holds one, or 'random'.
      stream: 'spatial' or 'motion'.
      train_dir: the run's folder; a random network is saved there at first use, so
        that every later step sees the same one.

    Returns:
      Path as str, or None for a random network not yet saved.

    Raises:
      ValueError: no dump is named, or none is there.
    """
    if not given:
        raise ValueError(
            f'--{stream}_weights is needed: a dump (python -m weights.convert makes '
            'one), the --train_dir of an earlier stage, or the word random'
        )
    own = pathlib.Path(train_dir, 'weights', stream)
    if given == 'random':
        return str(own) if (own / 'dump.json').exists() else None
    for folder in (pathlib.Path(given), pathlib.Path(given, 'weights', stream)):
        if (folder / 'dump.json').exists():
            return str(folder)
    raise ValueError(
        f'--{stream}_weights={given}: neither a dump nor a --train_dir with '
        f'weights/{stream} in it (a stage writes that when it ends)'
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
    """Writes a checkpoint; a failure leaves the one before and is said."""
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


def restore(session, checkpoint, without_slots=False):
    """Restores every variable of the graph that the checkpoint holds.

    Args:
      session: of the graph to restore into.
      checkpoint: path from `latest`.
      without_slots: leave the optimizer's own variables as they start.

    Returns:
      Names of the variables restored.

    Raises:
      ValueError: a variable has another shape in the checkpoint.
    """
    stored = dict(tf.train.list_variables(checkpoint))
    found = [v for v in tf.global_variables() if v.op.name in stored]
    if without_slots:
        found = [v for v in found if not SLOTS.search(v.op.name)]
    for variable in found:
        if variable.shape.as_list() != stored[variable.op.name]:
            raise ValueError(
                f'{checkpoint}: {variable.op.name} is {stored[variable.op.name]}, the '
                f'graph wants {variable.shape.as_list()}; were the flags the same?'
            )
    tf.train.Saver(found).restore(session, checkpoint)
    return [variable.op.name for variable in found]
