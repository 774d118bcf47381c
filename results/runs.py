"""A run: the folder --train_dir, what run.json says of it, and its log.

    run.json      flags, classes, list hashes, preprocessing, sampling, clips, CNNs
    log.jsonl     a line each log step: loss parts, accuracy, rate; and each validation
    weights/<stream>/    the stream's CNN as a dump, at the end of its stage
    model.ckpt-N.*, checkpoint    the last two checkpoints and which they are
    best/         the best checkpoint in validation
    searched/     the last one with the weights of late fusion that were searched
    lock          held while a process trains
    events.*      what TensorBoard shows

`train.py` writes it, `evaluate.py` reads it, and a later stage starts from it. Paths
in run.json are relative to the run for what is in it, so that it can be moved, and
absolute otherwise.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import subprocess
import sys

import cv2
import filelock
import numpy as np
import scipy
import tensorflow.compat.v1 as tf

import model
from data import sampling
from results import files
from weights import checkpoints

# Flags that may change between the parts of one run; any other makes another run.
FREE_FLAGS = (
    'data_dir',
    'train_dir',
    'split_dir',
    'log_every',
    'checkpoint_every',
    'workers',
    'read_ahead',
    'histograms',
    'shard',
    # where the tasks are; the batch is that of all of them together
    *('ps_hosts', 'worker_hosts', 'job_name', 'task_index'),
    *('async_replicas', 'timeout'),
    # a dump may have moved; `lineage.check_continued` sees whether it is the same
    *(f'{stream}_weights' for stream in model.STREAMS),
)
# What evaluation and a resumed run must find as it was.
FIXED = ('class_names', 'list_hashes', 'preprocessing', 'train_clips')
# What a file system that has no locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    with files.whole(path, encoding='utf-8') as file:
        file.write(json.dumps(value, indent=1) + '\n')


@contextlib.contextmanager
def lock(train_dir):
    """Keeps other runs out of the folder, until the process ends however it ends.

    Args:
      train_dir: the run's folder, made where it does not exist.

    Raises:
      ValueError: another process trains there.
    """
    os.makedirs(train_dir, exist_ok=True)
    with open(os.path.join(train_dir, 'lock'), 'a') as file:
        try:
            free = filelock.lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            free = True  # nobody can be kept out
        if not free:
            raise ValueError(
                f'--train_dir={train_dir}: another process trains there; let it end, '
                'or give another folder'
            )
        yield


def read(train_dir, flag='train_dir'):
    """Reads run.json of the folder that a flag names.

    Returns:
      The run, a dict; its `cnns` have the paths of their dumps as they are from here.

    Raises:
      ValueError: the folder holds no run, or one of an earlier version.
    """
    path = pathlib.Path(train_dir, 'run.json')
    if not path.is_file():
        raise ValueError(f'--{flag}={train_dir}: no run.json, so no run of train.py')
    try:
        run = json.loads(path.read_text(encoding='utf-8'))
        if 'settings' in run:
            raise ValueError(
                f'--{flag}={train_dir} is a run of an earlier version, whose flags and '
                'sampling were others: train it again in another --train_dir'
            )
        run['flags']['stage'], [run[name] for name in (*FIXED, 'sampling')]
        for cnn in run['cnns'].values():
            if isinstance(cnn.get('features'), str):  # a run of before there were views
                cnn['features'] = [cnn['features']]
            if cnn['weights']:  # an absolute path stays as it is
                cnn['weights'] = os.path.join(train_dir, cnn['weights'])
    except (
        json.JSONDecodeError,
        UnicodeError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f'{path} is damaged ({error!r}): put it back, or give another --train_dir'
        ) from error
    return run


def describe(flags, split, examples, preprocessing):
    """A new run as run.json holds it.

    Args:
      flags: the run's flags by name.
      split: splits.Split.
      examples: what is trained on, the train subset without held-out groups.
      preprocessing: of clips.preprocessing_of.
    """
    paths = ['data_dir', 'train_dir', 'split_dir', 'hybrid_weights']
    paths += [f'{stream}_weights' for stream in model.STREAMS]
    absolute = {
        name: os.path.abspath(flags[name])
        for name in paths
        if flags[name] and flags[name] != 'random'
    }
    return {
        'flags': {**flags, **absolute},
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'missing': split.missing,
        'preprocessing': preprocessing,
        'sampling': sampling.rule(flags['num_segments']),
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
      run: of `describe`.

    Returns:
      The run as it is on disk.

    Raises:
      ValueError: the folder holds another run; names what differs.
    """
    path = pathlib.Path(train_dir, 'run.json')
    folders = [train_dir, os.path.join(train_dir, 'best')]
    begun = any(checkpoints.latest(folder)[0] for folder in folders)
    begun = begun or os.path.isdir(os.path.join(train_dir, 'weights'))
    if not (path.exists() and begun):
        if begun:
            raise ValueError(
                f'--train_dir={train_dir} holds weights but no run.json that says '
                'of what: give another folder'
            )
        with checkpoints.writing(train_dir, 'run.json'):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, run)
        return run
    before = read(train_dir)
    stage = before['flags']['stage']
    if stage != run['flags']['stage']:
        raise ValueError(
            f'--train_dir={train_dir} holds a run of stage {stage}, not '
            f'{run["flags"]["stage"]}: give each stage a folder of its own'
        )
    for name, value in run['flags'].items():
        if name not in FREE_FLAGS and before['flags'].get(name) != value:
            raise ValueError(
                f'--train_dir={train_dir} was started with '
                f'--{name}={before["flags"].get(name)}, not {value}: give it again '
                'to continue, or another --train_dir'
            )
    check_same(train_dir, before, run)
    check_sampling(train_dir, before)
    return {**before, 'sampling': run['sampling']}


def keep_cnns(train_dir, run, cnns):
    """Writes to run.json which CNNs the run uses, and where they are now.

    Args:
      train_dir: the run's folder.
      run: what `start` returned.
      cnns: dict stream -> {'weights': folder or None, 'fingerprint': ...}.

    Raises:
      ValueError: it cannot be written.
    """
    kept = {
        stream: {**cnn, 'weights': portable(train_dir, cnn['weights'])}
        for stream, cnn in cnns.items()
    }
    with checkpoints.writing(train_dir, 'run.json'):
        write_json(pathlib.Path(train_dir, 'run.json'), {**run, 'cnns': kept})


def portable(train_dir, path):
    """A path as run.json keeps it: relative to the run where it is in it."""
    if not path:
        return path
    path, train_dir = pathlib.Path(path).absolute(), pathlib.Path(train_dir).absolute()
    inside = path.is_relative_to(train_dir)
    return str(path.relative_to(train_dir) if inside else path)


def check_same(train_dir, before, now):
    """Raises ValueError where data, lists or preprocessing are not the run's."""
    for name in FIXED:
        if name in now and before[name] != now[name]:
            raise ValueError(
                f'--train_dir={train_dir}: the {name.replace("_", " ")} are not those '
                'the run was trained with; check --data_dir and --split_dir'
            )


def check_sampling(train_dir, run):
    """Raises ValueError where a hybrid was trained with another sampling rule.

    One CNN alone is trained on random inputs, so it may be measured with any rule.
    """
    flags = run['flags']
    now = sampling.rule(flags['num_segments'])
    if flags['stage'] in ('hybrid', 'joint') and run['sampling'] != now:
        raise ValueError(
            f'--train_dir={train_dir} was trained with another sampling rule: put the '
            'rule of data/sampling.py back, or train again in another --train_dir'
        )


def check_streams(named, run):
    """Raises ValueError where model.STREAMS gives the run that a flag names another
    set of streams than it was trained with."""
    flags = run['flags']
    now = streams(flags['stage'], flags['branches'])
    if set(run['cnns']) != set(now):
        raise ValueError(
            f'{named} was trained on the streams {", ".join(run["cnns"])}, and '
            f'model.STREAMS makes it {", ".join(now)}: put the table back, or train '
            'again'
        )


def streams(stage, branches):
    """Names of the streams whose CNN a run reads, trains or caches."""
    return [stage] if stage in model.STREAMS else model.streams_of(branches)


def architecture(run):
    """The model.Architecture of a run, the content of run.json."""
    flags = run['flags']
    return model.Architecture(
        num_classes=len(run['class_names']),
        size=run['preprocessing']['size'],
        stack_length=flags['stack_length'],
        branches=flags['branches'],
        head=flags['head'],
        lstm_units=flags['lstm_units'],
        cnn_options={name: flags[name] for name in model.CNN_OPTIONS},
    )


# -- log.jsonl -------------------------------------------------------------------------


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
    with files.whole(path, encoding='utf-8') as file:
        file.writelines(kept)
    return path


def best_validation(log_path):
    """The highest validation accuracy that log.jsonl holds, -1 where it holds none."""
    if not log_path.exists():
        return -1.0
    lines = map(json.loads, log_path.read_text(encoding='utf-8').splitlines())
    return max((line.get('validation_accuracy', -1.0) for line in lines), default=-1.0)
