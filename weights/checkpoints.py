"""Checkpoints of TensorFlow in the folder of a run.

    checkpoint, step = checkpoints.latest('runs/hybrid')
    names = checkpoints.restore(session, checkpoint)
"""

import os
import pathlib
import re

import tensorflow.compat.v1 as tf

# Variables that an optimizer makes for itself.
SLOTS = re.compile(r'/Momentum$|/Adam(_1)?$|beta[12]_power$')
DAMAGED = (
    '{}: this checkpoint is damaged; delete it, and train.py continues from another'
)


def save(saver, session, train_dir, step):
    """Writes a checkpoint.

    Raises:
      ValueError: it cannot be written; says which earlier one is kept.
    """
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
        kept, at = latest(train_dir)
        kept = f'the checkpoint of step {at} is kept' if kept else 'there is none yet'
        raise ValueError(
            f'the checkpoint of step {step} was not written to {train_dir}: {reason}; '
            f'{kept}, and the same command continues from there'
        ) from error


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
