"""Dumps: a network's variables as a folder of .npy files, loaded without a copy.

    weights/vgg19/dump.json                network, origin, shapes, sha256, ...
    weights/vgg19/conv1_1/weights.npy      one array a variable, float32
    weights/vgg19/mean.npy ...

    python -m weights.dump --dir=weights/vgg19     # compare every array with its sha256

Each array is memory-mapped and fed to the placeholder that its variable got when the
network was built (layers.py). np.save aligns data as TensorFlow wants it, so the
variable then *is* the mapped file: nothing is copied until a training step writes, and
what is written stays in memory.
"""

import hashlib
import json
import math
import os
import pathlib
import shutil
import socket
import typing

import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf
from weights import layers
from weights import published

DESCRIPTION = 'dump.json'
INPUT_ORDER = {3: 'BGR'}  # by channels; everything else is flow x1, y1, .. xL, yL


class Report(typing.NamedTuple):
    """What a load did, as lists of variable names below the scope."""

    loaded: list
    missing: list  # variables that keep their values
    unexpected: list  # arrays of the dump without a variable


def variables(graph, scope):
    """The network's variables under `scope`, without those of the optimizer.

    Args:
      graph: a tf.Graph.
      scope: full variable prefix, such as 'spatial/vgg_19'.

    Returns:
      dict from name below the scope ('conv1_1/weights') to resource variable.

    Raises:
      ValueError: there are none.
    """
    everything = graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
    by_name = {variable.op.name: variable for variable in everything}
    prefix = scope.rstrip('/') + '/'
    found = {
        name.removeprefix(prefix): variable
        for name, variable in by_name.items()
        # the optimizer's are named below theirs: conv1_1/weights/Momentum
        if name.startswith(prefix) and os.path.dirname(name) not in by_name
    }
    if not found:
        raise ValueError(f'the graph has no variables below {prefix}')
    return found


def load(session, directory, scope, network, changes=None):
    """Loads a dump into the variables under `scope`, after checking all of it.

    Args:
      session: a tf.Session, whose graph was built by the network's function; it does
        not grow and may be finalized.
      directory: the dump.
      scope: full variable prefix.
      network: the network the dump must be of, such as 'vgg19'.
      changes: dict from name to a function of the array that gives the one to load.

    Returns:
      A Report, whose text has been printed. An fc8 of another number of classes and
      variables that are not in the dump keep their values.

    Raises:
      ValueError: the dump is incomplete, of another network, shape or type, or not
        finite; then no variable has changed.
    """
    described = description(directory)
    if described['network'] != network:
        raise ValueError(
            f'{directory} is a dump of {described["network"]}, not of {network}'
        )
    targets = variables(session.graph, scope)
    arrays = {
        name: mapped(directory, name, about['shape'])
        for name, about in described['arrays'].items()
        if name in targets
    }
    for name in set(arrays) & set(changes or ()):
        arrays[name] = changes[name](arrays[name])
    classes = other_classes(arrays, targets)
    if classes:
        arrays = {name: arrays[name] for name in arrays if not name.startswith('fc8/')}
    if not arrays:
        raise ValueError(f'{directory} has none of the variables below {scope}')
    for name, array in arrays.items():
        check_shape(directory, name, array.shape, tuple(targets[name].shape))
        check_finite(f'{directory}/{name}.npy', array)
    layers.assign(session, {targets[n].op.name: arrays[n] for n in arrays})
    report = Report(
        loaded=sorted(arrays),
        missing=sorted(set(targets) - set(arrays)),
        unexpected=sorted(set(described['arrays']) - set(targets)),
    )
    print(f'{scope}: {len(arrays)} of {len(targets)} variables from {directory}')
    print_missing(report, described['missing_layers'], classes)
    return report


def print_missing(report, missing_layers, classes):
    """Prints a line for each reason why a variable or an array was left out.

    Args:
      report: Report.
      missing_layers: of dump.json.
      classes: of other_classes.
    """
    if missing_layers:
        print(
            f'  {published.span(missing_layers)} start at random: the dump holds the '
            'first layers only'
        )
    if classes:
        print(f'  fc8 keeps its values: {classes}')
    told = {*missing_layers, *(['fc8'] if classes else [])}
    others = [name for name in report.missing if os.path.dirname(name) not in told]
    if others:
        print(f'  not in the dump, so left as they are: {", ".join(others)}')
    if report.unexpected:
        print(f'  not in the graph: {", ".join(report.unexpected)}')


def other_classes(arrays, targets):
    """In words, how fc8's number of classes differs; '' where it is the same."""
    if 'fc8/weights' not in arrays or 'fc8/weights' not in targets:
        return ''
    stored, wanted = arrays['fc8/weights'].shape[-1], targets['fc8/weights'].shape[-1]
    if stored == wanted:
        return ''
    return f'the dump has {stored} classes, the graph {wanted}'


def mapped(directory, name, shape):
    """Maps one array of a dump into memory, read-only, and checks its header."""
    path = pathlib.Path(directory, f'{name}.npy')
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if array.dtype != np.float32 or list(array.shape) != list(shape):
        raise ValueError(
            f'{path} holds {array.dtype} {list(array.shape)}, but {DESCRIPTION} '
            f'says float32 {list(shape)}'
        )
    return array


def check_shape(directory, name, stored, wanted):
    """Refuses an array that does not fit its variable; gives the reason if it can."""
    if stored == wanted:
        return
    reason = 'another network or input'
    if name == 'fc6/weights':
        # 512 channels enter fc6 at each position that the poolings leave
        reason = (
            f'another frame size: {stored[0] // 512} positions enter its fc6, and '
            f'{wanted[0] // 512} that of the graph'
        )
    elif name == 'mean' or (name == 'conv1/weights' and stored[2:3] != wanted[2:3]):
        channels = stored[0] if name == 'mean' else stored[2]
        reason = (
            f'{channels} input channels (--cross_modality starts a network for flow '
            'from one for colour)'
        )
    raise ValueError(
        f'{directory}/{name}.npy is {list(stored)}, the variable is {list(wanted)}: '
        f'the dump is for {reason}'
    )


def check_finite(where, array):
    """Refuses NaN and infinity, which make the sum of all values not finite."""
    with np.errstate(over='ignore', invalid='ignore'):
        total = array.sum()
    # large finite values may overflow the sum, so the elements decide
    if not np.isfinite(total) and not np.isfinite(array).all():
        raise ValueError(f'{where} holds values that are not finite')


def save(session, directory, scope, network, origin):
    """Saves the variables under `scope` as a dump, one array in memory at a time.

    Args:
      session: a tf.Session with the variables initialized.
      directory: where the dump will be; a dump that is there is replaced.
      scope: full variable prefix.
      network: 'vgg19' or 'cnnm'.
      origin: text, where the weights came from.

    Raises:
      ValueError: as in write.
    """
    found = variables(session.graph, scope)
    arrays = ((name, session.run(found[name])) for name in sorted(found))
    write(directory, network, origin, arrays)


def write(directory, network, origin, arrays, missing_layers=()):
    """Writes a dump: whole, or not at all.

    Two renames replace a dump that is there; a process killed right between them leaves
    the old one in a hidden folder beside it, whose name ends in the process id.

    Args:
      directory: where the dump will be; a dump that is there is replaced.
      network: 'vgg19' or 'cnnm'.
      origin: text, where the weights came from.
      arrays: iterable of (variable name, float32 array), 'mean' among them.
      missing_layers: names of the network's last layers, if the dump is without them.

    Raises:
      ValueError: a value is not finite, or `directory` exists and is not a dump.
    """
    target = pathlib.Path(directory).absolute()
    if target.exists() and not (target / DESCRIPTION).exists():
        raise ValueError(f'{directory} exists and is not a dump: name another folder')
    us = f'{socket.gethostname()}-{os.getpid()}'
    temporary = target.with_name(f'.{target.name}.new-{us}')
    replaced = target.with_name(f'.{target.name}.old-{us}')
    described = {
        'network': network,
        'origin': origin,
        'missing_layers': list(missing_layers),
        'arrays': {},
    }
    try:
        for name, array in arrays:
            assert array.dtype == np.float32, f'{name} must be float32'
            check_finite(f'{origin}: {name}', array)
            path = temporary / f'{name}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.asarray(array, order='C')  # other orders cannot be shared
            np.save(path, array)
            described['arrays'][name] = {'shape': array.shape, 'sha256': sha256(array)}
        channels = described['arrays']['mean']['shape'][0]
        described['input_order'] = INPUT_ORDER.get(channels, 'x1 y1 .. xL yL')
        text = json.dumps(described, indent=1)
        (temporary / DESCRIPTION).write_text(text + '\n')
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def sha256(array):
    """Hash of an array's values in C order, as hex."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def description(directory):
    """What dump.json says: network, origin, input order, missing layers, arrays.

    Raises:
      ValueError: the folder is not a dump.
    """
    path = pathlib.Path(directory, DESCRIPTION)
    try:
        described = json.loads(path.read_text())
        for about in described['arrays'].values():
            math.prod(about['shape']), len(about['sha256'])
        described['network'], described['origin'], described['input_order']
        ', '.join(described.setdefault('missing_layers', []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{directory} is not a dump of weights ({path.name}: {error!r}); '
            f'make one with python -m weights.convert'
        ) from error
    return described


def fingerprint(directory):
    """Short hex that identifies the weights by network, names, shapes and hashes.

    It is computed from dump.json alone; the arrays are not read.
    """
    described = description(directory)
    arrays = [
        [name, list(about['shape']), about['sha256']]
        for name, about in sorted(described['arrays'].items())
    ]
    text = json.dumps([described['network'], arrays])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def verify(directory):
    """Compares every array with the sha256 in dump.json.

    Returns:
      Number of arrays.

    Raises:
      ValueError: names the first array that differs.
    """
    arrays = description(directory)['arrays']
    for name, about in arrays.items():
        if sha256(mapped(directory, name, about['shape'])) != about['sha256']:
            raise ValueError(f'{directory}/{name}.npy is not what {DESCRIPTION} says')
    return len(arrays)


def define_flags():
    """Defines the flags of `python -m weights.dump`."""
    flags.DEFINE_string('dir', None, 'dump whose arrays are compared with their sha256')
    flags.mark_flag_as_required('dir')


def main(values):
    """Prints what the dump holds; ValueError where that is not what dump.json says."""
    described, count = description(values.dir), verify(values.dir)
    missing = described['missing_layers']
    print(f'{values.dir}: {described["network"]} from {described["origin"]}')
    if missing:
        print(f'it holds the first layers only: {published.span(missing)} are missing')
    print(f'{count} arrays as described, fingerprint {fingerprint(values.dir)}')


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
