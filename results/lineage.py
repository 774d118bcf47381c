"""What a run starts from: which CNNs, and whether this run may start from them.

    lineage.check(flags, split, held_out, preprocessing)
    weights = lineage.find_weights('runs/motion', 'motion', train_dir)

A CNN that was built or fed otherwise gives features without a complaint, and one that
was trained on test clips measures memory, so both are refused before anything is
written. What a dump was trained on is in the run.json of the --train_dir that holds it;
a converted dump has none.
"""

import pathlib

import model
from data import splits
from results import runs
from weights import checkpoints
from weights import dump


def find_weights(given, stream, train_dir):
    """The folder of the dump that --<stream>_weights names.

    Args:
      given: a dump, a --train_dir that holds one, or 'random'.
      stream: name of the stream.
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


def owner(weights, flag):
    """run.json of the --train_dir that holds a dump; None for any other dump."""
    train_dir = pathlib.Path(weights).absolute().parent.parent
    return runs.read(train_dir, flag) if (train_dir / 'run.json').is_file() else None


def check(flags, split, held_out, preprocessing):
    """Refuses a start from what is not there, was made otherwise, or was trained on
    what the run will be measured on.

    Args:
      flags: the run's flags.
      split: splits.Split.
      held_out: list of splits.Example, taken from the train subset for validation.
      preprocessing: of clips.preprocessing_of.

    Raises:
      ValueError: names the flag and the way out.
    """
    cnns = {}
    for stream in runs.streams(flags['stage'], flags['branches']):
        flag, given = f'{stream}_weights', flags[f'{stream}_weights']
        cnns[stream] = find_weights(given, stream, flags['train_dir'])
        earlier = owner(cnns[stream], flag) if given != 'random' else None
        if earlier is None:
            continue
        now = {name: flags[name] for name in model.STREAMS[stream].options}
        if model.STREAMS[stream].flow:
            now['preprocessing'] = preprocessing
        check_equal(f'--{flag}={given}', {**earlier, **earlier['flags']}, now)
        if earlier['flags']['stage'] not in ('features', 'hybrid'):  # trains no CNN
            check_unseen(f'--{flag}={given}', earlier, split, held_out)
    if flags['hybrid_weights']:
        now = {name: flags[name] for name in ('branches', 'head', 'lstm_units')}
        now['class_names'] = split.class_names
        check_hybrid(flags['hybrid_weights'], now, cnns, split, held_out)


def check_continued(run, flags):
    """Refuses to continue a run with other CNNs than it was started with.

    Args:
      run: the content of run.json.
      flags: the flags that are given now.

    Raises:
      ValueError: names the flag and the dump that was used.
    """
    for stream, cnn in run['cnns'].items():
        given = flags[f'{stream}_weights']
        if given == 'random' and cnn['fingerprint'] == 'random':
            continue  # what it has trained since is of the same name
        weights = find_weights(given, stream, flags['train_dir'])
        if not weights or dump.fingerprint(weights) != cnn['fingerprint']:
            raise ValueError(
                f'--{stream}_weights={given} is not the CNN that '
                f'{flags["train_dir"]} was started with, which is '
                f'{cnn["weights"] or "random"}: give that, or another --train_dir'
            )


def check_hybrid(start, now, cnns, split, held_out):
    """Refuses to start the joint stage from another hybrid than its own.

    Args:
      start: --hybrid_weights.
      now: what must be equal in both runs, by name.
      cnns: dict stream -> folder of its dump or None.
      split, held_out: as in `check`.

    Raises:
      ValueError: names the flag and the way out.
    """
    named = f'--hybrid_weights={start}'
    if not checkpoints.latest(start)[0]:
        raise ValueError(f'{named}: no checkpoint there')
    earlier = runs.read(start, 'hybrid_weights')
    if earlier['flags']['stage'] != 'hybrid':
        raise ValueError(
            f'{named} is a run of stage {earlier["flags"]["stage"]}: name one of stage '
            'hybrid'
        )
    check_equal(named, {**earlier, **earlier['flags']}, now)
    runs.check_streams(named, earlier)
    check_unseen(named, earlier, split, held_out)
    for stream, weights in cnns.items():
        its = earlier['cnns'][stream]
        if not weights or dump.fingerprint(weights) != its['fingerprint']:
            raise ValueError(
                f'--{stream}_weights: {weights} is not the CNN that {named} was '
                f'trained on: give --{stream}_weights={its["weights"]}'
            )


def check_equal(named, earlier, now):
    """Raises ValueError where the run that a flag names was made otherwise."""
    for name, value in now.items():
        if earlier[name] != value:
            raise ValueError(
                f'{named} was trained with {name.replace("_", " ")} {earlier[name]}, '
                f'not {value}: give the same flags and data to both'
            )


def check_unseen(named, earlier, split, held_out):
    """Raises ValueError where the run that a flag names was trained on a clip, or its
    group, of the test subset or of the held-out clips."""
    for examples, fix in (
        (split.test, '--split_dir and --split'),
        (held_out, '--validation_groups'),
    ):
        seen = splits.first_seen(examples, split.class_names, earlier)
        if seen:
            raise ValueError(
                f'{named} was trained on {seen.clip} or its group, on which this run '
                f'is measured: train it with the same {fix}'
            )
