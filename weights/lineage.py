"""What a run starts from: which CNNs, and whether this run may start from them.

    lineage.check(settings, streams, motion_form, split, held_out, preprocessing)
    weights = lineage.find_weights('runs/motion', 'motion', train_dir)

Used by train.py. A CNN that was built or fed otherwise gives features without a
complaint, and one that has seen the test side measures memory, so both are refused
before anything is written. What a dump was trained on stands in the run.json of the
--train_dir that holds it; a converted dump has none.
"""

import pathlib

from data import splits
from weights import checkpoints
from weights import dump


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


def owner(weights):
    """run.json of the --train_dir in which a dump stands; None for any other dump."""
    train_dir = pathlib.Path(weights).absolute().parent.parent
    return checkpoints.read(train_dir) if (train_dir / 'run.json').is_file() else None


def check(settings, streams, motion_form, split, held_out, preprocessing):
    """Refuses a start from what is not there, or was made otherwise, or has seen what
    the run will be measured on.

    Args:
      settings: the run's flags.
      streams: the streams whose CNN the run reads or trains.
      motion_form: flags that say how the run builds its motion CNN, by name.
      split: splits.Split.
      held_out: list of splits.Example, taken from the train side for validation.
      preprocessing: of clips.preprocessing_of.

    Raises:
      ValueError: names the flag and the way out.
    """
    start = settings['hybrid_weights']
    if start and not checkpoints.latest(start)[0]:
        raise ValueError(f'--hybrid_weights={start}: no checkpoint there')
    cnns = {}
    for stream in streams:
        flag = f'{stream}_weights'
        cnns[stream] = find_weights(settings[flag], stream, settings['train_dir'])
        earlier = owner(cnns[stream]) if settings[flag] != 'random' else None
        if earlier is None:
            continue
        if stream == 'motion':
            now = {**motion_form, 'preprocessing': preprocessing}
            check_equal(settings, flag, {**earlier, **earlier['settings']}, now)
        if earlier['settings']['stage'] not in ('features', 'hybrid'):  # trains no CNN
            check_unseen(settings, flag, earlier, split, held_out)
    if start:
        flag = 'hybrid_weights'
        earlier = checkpoints.read(start, flag)
        if earlier['settings']['stage'] != 'hybrid':
            raise ValueError(
                f'--hybrid_weights={start} is a run of stage '
                f'{earlier["settings"]["stage"]}: name one of stage hybrid'
            )
        now = {n: settings[n] for n in ('branches', 'head', 'lstm_units')}
        now['class_names'] = split.class_names
        check_equal(settings, flag, {**earlier, **earlier['settings']}, now)
        check_unseen(settings, flag, earlier, split, held_out)
        for stream, weights in cnns.items():
            its = earlier['cnns'][stream]
            if not weights or dump.fingerprint(weights) != its['fingerprint']:
                raise ValueError(
                    f'--{stream}_weights={settings[f"{stream}_weights"]} is not the '
                    f'CNN that --hybrid_weights={start} was trained on: give '
                    f'--{stream}_weights={its["weights"]}'
                )


def check_equal(settings, flag, earlier, now):
    """Raises ValueError where the run that a flag names was made otherwise."""
    for name, value in now.items():
        if earlier[name] != value:
            raise ValueError(
                f'--{flag}={settings[flag]} was trained with {name.replace("_", " ")} '
                f'{earlier[name]}, not {value}: give the same flags and data to both'
            )


def check_unseen(settings, flag, earlier, split, held_out):
    """Raises ValueError where the run that a flag names was trained on a clip, or its
    group, of the test side or of the held-out clips."""
    for examples, cure in (
        (split.test, '--split_dir and --split'),
        (held_out, '--validation_groups and --seed'),
    ):
        seen = splits.first_seen(examples, split.class_names, earlier)
        if seen:
            raise ValueError(
                f'--{flag}={settings[flag]} was trained on {seen.clip} or its group, '
                f'on which this run is measured: train it with the same {cure}'
            )
