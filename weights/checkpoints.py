"""Checkpoints of TensorFlow in the folder of a run.

    checkpoint, step = checkpoints.latest('runs/hybrid')
    names = checkpoints.restore(session, checkpoint)
"""

import contextlib
import os
import pathlib
import re

import tensorflow.compat.v1 as tf

# Variables that an optimizer makes for itself.
SLOTS = re.compile(r'/Momentum$|/Adam(_1)?$|beta[12]_power$')
DAMAGED = (
    '{}: this checkpoint is damaged; delete it, and train.py continues from another'
)


def save(saver, session, train_dir, step, kind=''):
    """Writes a checkpoint.

    Args:
      saver: tf.train.Saver of this kind of checkpoint.
      session: of the graph.
      train_dir: folder of the run.
      step: int.
      kind: '' for the last; 'best' and 'searched' have folders of their own.

    Raises:
      ValueError: it cannot be written; says which earlier one is kept.
    """
    folder = os.path.join(train_dir, kind)
    what = ' '.join(f'the {kind} checkpoint of step {step}'.split())
    with writing(train_dir, what):
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, 'model.ckpt')
        try:
            saver.save(session, path, global_step=step, write_meta_graph=False)
        except BaseException:
            if f'{path}-{step}' not in present(folder):  # the disk may be full
                for part in pathlib.Path(folder).glob(f'model.ckpt-{step}.*'):
                    part.unlink()
            raise


@contextlib.contextmanager
def writing(train_dir, what):
    """What is done inside writes into the folder of a run.

    Args:
      train_dir: folder of the run.
      what: is written, in words.

    Raises:
      ValueError: it cannot be written; says which checkpoint is kept.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        # TensorFlow says what happened in the line after the one that names the node
        said = re.search(r'^Node: .*\n(.+)', str(error), re.MULTILINE)
        reason = said.group(1) if said else str(error).splitlines()[0]
        reason = getattr(error, 'strerror', None) or reason
        kept, at = latest(train_dir)
        way_out = 'there is no checkpoint yet: the same command starts again'
        if kept:
            way_out = (
                f'the checkpoint of step {at} is kept: the same command continues from '
                'there'
            )
        raise ValueError(
            f'{what} was not written to {train_dir}: {reason}; {way_out}'
        ) from error


def take_over(saver, folder):
    """Makes a saver drop older checkpoints of a run before it, and parts of a save that
    was killed, as if it had written them itself."""
    saver.recover_last_checkpoints(present(folder))
    for part in pathlib.Path(folder).glob('model.ckpt-*.tempstate*'):
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
