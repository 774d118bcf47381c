"""Which clips are trained on and which are tested: names, labels, groups.

    split = splits.load(clips, list_dir='ucfTrainTestlist', number=1)

    python -m data.splits --video_dir=VIDEOS --out=lists --group_regex='^([a-z]+)_'
    python -m data.splits --check --video_dir=VIDEOS --split_dir=lists

The first command writes lists for any folder of class folders, the second compares
lists with videos. UCF101's lists (`classInd.txt`, `trainlistNN.txt`, `testlistNN.txt`)
and HMDB51's (`<class>_test_splitN.txt`) are read as distributed. Without lists, UCF101
names are split by the official rule: groups 1-7, 8-14 and 15-21 are tested.

Labels count from 0 in the program and always come from the class list. Clips of one
group were cut from one recording, so a group on both sides would measure memory instead
of recognition: it is refused.
"""

import collections
import hashlib
import pathlib
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from data import lists

UCF101_GROUP = r'_g(\d+)_c\d+'
UCF101_TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}


class Example(NamedTuple):
    """One labelled clip; `clip` is 'Class/stem', `label` counts from 0."""

    clip: str
    label: int
    group: str


class Split(NamedTuple):
    """Both sides of a split; `missing` counts listed clips that are not stored."""

    class_names: list
    train: list
    test: list
    missing: dict
    hashes: dict
    notes: tuple = ()


class Listing(NamedTuple):
    """What lists say: `sides` has the Examples of 'train' and of 'test', stored or not;
    `paths` are the files read."""

    class_names: list
    sides: dict
    paths: list
    notes: list


def group_of(clip, group_regex=UCF101_GROUP):
    """The group of 'Class/stem': first match group in the stem, else the stem."""
    stem = clip.rsplit('/', 1)[-1]
    match = re.search(group_regex, stem)
    return (match and match.group(1)) or stem


def check_regex(group_regex):
    """Raises ValueError where --group_regex has no group to find."""
    try:
        groups = re.compile(group_regex).groups
    except re.error as error:
        raise ValueError(f'--group_regex={group_regex}: {error}') from error
    if not groups:
        raise ValueError(
            f'--group_regex={group_regex}: put the part that names the group in (...)'
        )


def ucf101_rule(clips, number):
    """The official split of UCF101 names without list files.

    Returns:
      (class_names, {'train': [(clip, label)], 'test': ...}).

    Raises:
      ValueError: the split has no rule, or a name carries no group.
    """
    if number not in UCF101_TEST_GROUPS:
        raise ValueError(f'--split={number}: UCF101 has splits 1, 2 and 3')
    class_names = sorted({clip.split('/')[0] for clip in clips})
    labels = {name: label for label, name in enumerate(class_names)}
    listed = {side: [] for side in lists.SIDES}
    for clip in sorted(clips):
        match = re.search(UCF101_GROUP, clip)
        if not match:
            raise ValueError(
                f'{clip}: no group gNN in the name to split by; write lists with '
                'python -m data.splits --video_dir=VIDEOS --out=LISTS and give '
                '--split_dir=LISTS'
            )
        tested = int(match.group(1)) in UCF101_TEST_GROUPS[number]
        listed['test' if tested else 'train'].append((clip, labels[clip.split('/')[0]]))
    return class_names, listed


def stored_names(listed, stored):
    """Finds listed clips among the stored ones, in another case too.

    UCF101's HandstandPushups/v_HandStandPushups_* are spelt otherwise in some copies,
    and a Mac stores accents in another form.

    Args:
      listed: names 'Class/stem'.
      stored: set of such names.

    Returns:
      dict from each listed clip that is stored to the stored name.
    """

    def folded(clip):
        return unicodedata.normalize('NFC', clip).casefold()

    others = collections.defaultdict(list)
    for clip in stored.difference(listed):
        others[folded(clip)].append(clip)
    names = {clip: clip for clip in listed if clip in stored}
    for clip in listed:
        alike = others.get(folded(clip), ())
        if clip not in names and len(alike) == 1:
            names[clip] = alike[0]
    return names


def group_finder(list_dir, class_names, group_regex):
    """A function from a clip to its group, and the groups.txt it reads or None.

    Raises:
      ValueError: groups.txt is malformed or contradicts --group_regex.
    """
    path = pathlib.Path(list_dir, lists.GROUPS)
    if not (list_dir and path.is_file()):
        return lambda clip: group_of(clip, group_regex), None
    if group_regex != UCF101_GROUP:
        raise ValueError(
            f'--group_regex={group_regex}: {path} already gives the groups; leave the '
            'flag out or delete the file'
        )
    groups = lists.read_groups(path, class_names)

    def group(clip):
        if clip not in groups:
            raise ValueError(
                f'{path} has no line for {clip}: add it or delete the file'
            )
        return groups[clip]

    return group, path


def read(clips, list_dir, number, group_regex, failed=()):
    """Reads the lists of a split, or applies UCF101's rule; returns a Listing.

    Args:
      clips: set of the clips that are stored.
      list_dir, number, group_regex, failed: as of `load`.

    Raises:
      ValueError: lists are unreadable.
    """
    check_regex(group_regex)
    if list_dir:
        class_names, listed, paths, notes = lists.read_split(list_dir, number)
    else:
        class_names, listed = ucf101_rule(clips.union(failed), number)
        paths, notes = [], []
    group, groups_path = group_finder(list_dir, class_names, group_regex)
    paths = [*paths, groups_path] if groups_path else paths
    names = stored_names(
        [clip for pairs in listed.values() for clip, _ in pairs], clips
    )
    bridged = [clip for clip, name in names.items() if clip != name]
    if bridged:
        notes.append(
            f'{len(bridged):,} listed names differ from the stored ones in case alone, '
            f'such as {bridged[0]} from {names[bridged[0]]}'
        )
    sides = {
        side: [
            Example(names.get(clip, clip), label, group(clip)) for clip, label in pairs
        ]
        for side, pairs in listed.items()
    }
    return Listing(class_names, sides, paths, notes)


def check_once(examples, side):
    """Raises ValueError when a list names a clip more than once."""
    counts = collections.Counter(example.clip for example in examples)
    twice = [clip for clip, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f'{len(twice):,} clips are in the {side} list more than once, such as '
            f'{twice[0]}: fix the list'
        )


def check_disjoint(train, test):
    """Raises ValueError when a (class, group) is on both sides."""
    both = {(e.label, e.group) for e in train} & {(e.label, e.group) for e in test}
    if both:
        label, group = min(both)
        clip = next(e.clip for e in test if (e.label, e.group) == (label, group))
        raise ValueError(
            f'{len(both):,} groups are in the train and in the test list, such as '
            f'group "{group}" of {clip}: fix the lists or --group_regex'
        )


def check_classes(train, class_names):
    """Raises ValueError when there is one class to train on, which is always right."""
    labels = {example.label for example in train}
    if len(labels) == 1:
        raise ValueError(
            f'{class_names[labels.pop()]} is the only class with clips to train on: a '
            'classifier needs two classes, each in a folder of its own'
        )


def hold_out(examples, groups):
    """Sets some groups of the train subset aside for validation.

    The choice follows from the names alone: runs with other seeds on the features of
    one CNN must hold out the same groups.

    Args:
      examples: the train subset.
      groups: how many groups to hold out, of all classes; 0 for none.

    Returns:
      (examples to train on, examples held out).

    Raises:
      ValueError: nothing would be left to train on.
    """
    names = sorted({example.group for example in examples})
    if groups >= len(names):
        raise ValueError(
            f'--validation_groups={groups}: the train side has {len(names)} groups'
        )
    chosen = set(np.random.default_rng([0, 4]).permutation(names)[:groups])
    return (
        [example for example in examples if example.group not in chosen],
        [example for example in examples if example.group in chosen],
    )


def first_seen(examples, class_names, run):
    """The first example that a run was trained on, itself or its group; or None.

    Args:
      examples: clips that are to measure something.
      class_names: list of C.
      run: run.json of a training, with `train_clips` and `train_groups`.
    """
    clips, groups = set(run['train_clips']), set(run['train_groups'])
    for example in examples:
        group = f'{class_names[example.label]}/{example.group}'
        if example.clip in clips or group in groups:
            return example
    return None


def print_sides(split, held_out):
    """Says what is trained on, and what of the lists is missing."""
    print(
        f'{len(split.class_names)} classes, {len(split.train):,} train clips, '
        f'{len(split.test):,} test clips'
    )
    for note in split.notes:
        print(note)
    alone = sum(e.group == e.clip.split('/')[1] for e in split.train + split.test)
    if alone:
        print(f'{alone:,} clips have no group in their names: each is its own group')
    if held_out:
        names = sorted({example.group for example in held_out})
        print(f'{len(held_out):,} train clips of groups {", ".join(names)} validate')
    trained = {example.label for example in set(split.train) - set(held_out)}
    without = [n for label, n in enumerate(split.class_names) if label not in trained]
    if without:
        print(f'no clip to train on: {len(without):,} classes, such as {without[0]}')
    if any(split.missing.values()):
        print(
            f'partial split: {split.missing["train"]:,} train and '
            f'{split.missing["test"]:,} test clips are not stored'
        )


def load(
    clips,
    list_dir='',
    number=1,
    group_regex=UCF101_GROUP,
    allow_missing=False,
    failed=(),
):
    """Splits the stored clips.

    Args:
      clips: names 'Class/stem' of the clips that are stored.
      list_dir: folder of UCF101's or HMDB51's list files; '' for UCF101's group rule.
        Its groups.txt, where there is one, takes the place of `group_regex`.
      number: which of the splits, from 1.
      group_regex: finds a clip's group in its file name, first match group.
      allow_missing: accepts that listed clips are not stored.
      failed: names of the clips whose preprocessing failed. Without lists they belong
        to the split as well; otherwise failures would quietly shrink the test side.

    Returns:
      A Split. `hashes` has the sha256 of every list read; `missing` the counts
      {'train': n, 'test': n}; `notes` are lines for the user.

    Raises:
      ValueError: lists unreadable, a side empty, clips missing or listed twice, groups
        on both sides, one class only, or a group_regex without a group.
    """
    clips = set(clips)
    failed = set(failed) - clips
    listing = read(clips, list_dir, number, group_regex, failed)
    where = list_dir or 'the data folder'
    for side, examples in listing.sides.items():
        check_once(examples, side)
    check_disjoint(*listing.sides.values())
    sides = {
        side: [example for example in examples if example.clip in clips]
        for side, examples in listing.sides.items()
    }
    total = {side: len(examples) for side, examples in listing.sides.items()}
    missing = {side: total[side] - len(sides[side]) for side in sides}
    if any(missing.values()) and not allow_missing:
        every = [e.clip for examples in listing.sides.values() for e in examples]
        broken = len(failed.intersection(every))
        reason = f' ({broken:,} failed in preprocessing)' if broken else ''
        raise ValueError(
            f'{missing["train"]:,} of {total["train"]:,} train and {missing["test"]:,} '
            f'of {total["test"]:,} test clips of {where} are not stored{reason}: '
            'preprocess them, or accept a partial split with --allow_missing'
        )
    for side, examples in sides.items():
        if not examples:
            raise ValueError(
                f'split {number} of {where} has no stored {side} clip: '
                'check --data_dir, --split_dir and --split'
            )
    check_classes(sides['train'], listing.class_names)
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in listing.paths}
    return Split(
        listing.class_names,
        **sides,
        missing=missing,
        hashes=hashes,
        notes=tuple(listing.notes),
    )


if __name__ == '__main__':
    from absl import flags

    from data import split_commands  # which imports this file by its name
    from results import command_line

    split_commands.define_flags()
    flags.adopt_module_key_flags(split_commands)  # --help shows these
    command_line.run(split_commands.main)
