"""Which clips are trained on and which are tested: names, labels, groups.

    split = splits.load(clips, list_dir='ucfTrainTestlist', number=1)

UCF101's lists (`classInd.txt`, `trainlistNN.txt`, `testlistNN.txt`) and HMDB51's
(`<class>_test_splitN.txt`) are read as distributed. Without lists, UCF101 names are
split by the official rule: test groups 1-7, 8-14 and 15-21 for splits 1, 2 and 3.

Labels count from 0 in the program and always come from the class list, never from a
number in a train list. Clips of one group were cut from one recording, so a group on
both sides would measure memory instead of recognition: it is refused.
"""

import collections
import hashlib
import pathlib
import re
from typing import NamedTuple

import numpy as np

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


def group_of(clip, group_regex=UCF101_GROUP):
    """The group of 'Class/stem': first match group in the stem, else the stem."""
    stem = clip.rsplit('/', 1)[-1]
    match = re.search(group_regex, stem)
    return match.group(1) if match else stem


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


def lines_of(path):
    """The lines of a list file, without what editors put around them."""
    # names need not be UTF-8, and Windows writes a mark at the beginning
    text = pathlib.Path(path).read_text('utf-8-sig', 'surrogateescape')
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_class_names(path):
    """Reads classInd.txt, lines `number name` from 1; returns names by label from 0.

    Raises:
      ValueError: a line is not such a pair, or the numbers are not 1..C.
    """
    pairs = []
    for line in lines_of(path):
        number, _, name = line.partition(' ')
        if not number.isdigit() or not name:
            raise ValueError(f'{path}: expected "number name", found "{line}"')
        pairs.append((int(number), name.strip()))
    numbers = sorted(number for number, _ in pairs)
    if not pairs or numbers != list(range(1, len(pairs) + 1)):
        raise ValueError(f'{path}: class numbers must be 1..C, each once')
    if len({name for _, name in pairs}) < len(pairs):
        raise ValueError(f'{path}: a class is named twice')
    return [name for _, name in sorted(pairs)]


def read_list(path, class_names):
    """Reads a train or test list, lines `Class/name.avi[ label]`.

    Returns:
      List of (clip, label), label from the class folder's place in `class_names`.

    Raises:
      ValueError: a class is unknown, or a label in the list disagrees with it.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    listed = []
    for line in lines_of(path):
        # names may hold spaces, a label is digits after the last one
        name, _, number = line.rpartition(' ')
        if not number.isdigit() or not name:
            name, number = line, ''
        class_name, _, file_name = name.rpartition('/')
        if class_name not in labels:
            raise ValueError(
                f'{path}: class "{class_name}" of "{line}" is not in classInd.txt'
            )
        label = labels[class_name]
        if number and int(number) != label + 1:
            raise ValueError(
                f'{path}: "{line}" has label {number}, classInd.txt says {label + 1}'
            )
        listed.append((f'{class_name}/{pathlib.PurePosixPath(file_name).stem}', label))
    return listed


def read_ucf101_lists(list_dir, number):
    """UCF101's three files; returns (class_names, train, test, files read)."""
    folder = pathlib.Path(list_dir)
    paths = [
        folder / name
        for name in (
            'classInd.txt',
            f'trainlist{number:02d}.txt',
            f'testlist{number:02d}.txt',
        )
    ]
    for path in paths:
        if not path.is_file():
            raise ValueError(f'{path} not found: check --split_dir and --split')
    class_names = read_class_names(paths[0])
    train, test = (read_list(path, class_names) for path in paths[1:])
    return class_names, train, test, paths


def read_hmdb51_lists(list_dir, number):
    """HMDB51's file per class, lines `name.avi FLAG`: 1 train, 2 test, 0 neither."""
    ending = f'_test_split{number}.txt'
    paths = sorted(pathlib.Path(list_dir).glob(f'*{ending}'))
    class_names = [path.name[: -len(ending)] for path in paths]
    sides = {'1': [], '2': []}
    for label, (path, class_name) in enumerate(zip(paths, class_names, strict=True)):
        for line in lines_of(path):
            name, _, flag = line.rpartition(' ')
            if flag in sides:
                stem = pathlib.PurePosixPath(name).stem
                sides[flag].append((f'{class_name}/{stem}', label))
            elif flag != '0':
                raise ValueError(f'{path}: expected "name.avi 0, 1 or 2", not "{line}"')
    return class_names, sides['1'], sides['2'], paths


def ucf101_rule(clips, number):
    """The official split of UCF101 names without list files.

    Raises:
      ValueError: the split has no rule, or a name carries no group.
    """
    if number not in UCF101_TEST_GROUPS:
        raise ValueError(f'--split={number}: UCF101 has splits 1, 2 and 3')
    class_names = sorted({clip.split('/')[0] for clip in clips})
    sides = {False: [], True: []}
    for clip in sorted(clips):
        match = re.search(UCF101_GROUP, clip)
        if not match:
            raise ValueError(
                f'{clip}: no group gNN in the name to split by; give --split_dir with '
                'classInd.txt, trainlist01.txt, testlist01.txt (README.md shows them)'
            )
        tested = int(match.group(1)) in UCF101_TEST_GROUPS[number]
        sides[tested].append((clip, class_names.index(clip.split('/')[0])))
    return class_names, sides[False], sides[True], []


def check_disjoint(train, test):
    """Raises ValueError when a (class, group) stands on both sides."""
    both = {(e.label, e.group) for e in train} & {(e.label, e.group) for e in test}
    if both:
        label, group = min(both)
        clip = next(e.clip for e in test if (e.label, e.group) == (label, group))
        raise ValueError(
            f'{len(both)} groups are in the train and in the test list, such as '
            f'group "{group}" of {clip}: mend the lists or --group_regex'
        )


def hold_out(examples, groups, seed):
    """Sets some groups of the train side aside for validation.

    Args:
      examples: the train side.
      groups: how many groups to hold out, of all classes; 0 for none.
      seed: int the choice follows from.

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
    chosen = set(np.random.default_rng([seed, 4]).permutation(names)[:groups])
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
            f'{split.missing["test"]:,} test clips of the lists are not stored'
        )


def load(clips, list_dir='', number=1, group_regex=UCF101_GROUP, allow_missing=False):
    """Splits the stored clips.

    Args:
      clips: names 'Class/stem' of the clips that are stored.
      list_dir: folder of UCF101's or HMDB51's list files; '' for UCF101's group rule.
      number: which of the splits, from 1.
      group_regex: finds a clip's group in its file name, first match group.
      allow_missing: goes on when listed clips are not stored.

    Returns:
      A Split. `hashes` has the sha256 of every list read; `missing` the counts
      {'train': n, 'test': n}.

    Raises:
      ValueError: lists unreadable, a side empty, clips missing or listed twice, groups
        on both sides, or a group_regex without a group.
    """
    check_regex(group_regex)
    clips = set(clips)
    if not list_dir:
        class_names, train, test, paths = ucf101_rule(clips, number)
    elif any(pathlib.Path(list_dir).glob(f'*_test_split{number}.txt')):
        class_names, train, test, paths = read_hmdb51_lists(list_dir, number)
    else:
        class_names, train, test, paths = read_ucf101_lists(list_dir, number)

    sides, missing = {}, {}
    for side, listed in (('train', train), ('test', test)):
        twice = [c for c, count in collections.Counter(listed).items() if count > 1]
        if twice:
            raise ValueError(
                f'{len(twice)} clips stand more than once in the {side} list of '
                f'{list_dir}, such as {twice[0][0]}: mend the list'
            )
        sides[side] = [
            Example(clip, label, group_of(clip, group_regex))
            for clip, label in listed
            if clip in clips
        ]
        missing[side] = len(listed) - len(sides[side])
    where = list_dir or 'the data folder'
    if any(missing.values()) and not allow_missing:
        raise ValueError(
            f'{missing["train"]:,} of {len(train):,} train and {missing["test"]:,} of '
            f'{len(test):,} test clips listed in {where} are not stored: preprocess '
            'them, or go on with a partial split by --allow_missing'
        )
    for side, examples in sides.items():
        if not examples:
            raise ValueError(
                f'split {number} of {where} has no stored {side} clip: '
                'check --data_dir, --split_dir and --split'
            )
    check_disjoint(sides['train'], sides['test'])
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    return Split(class_names, sides['train'], sides['test'], missing, hashes)
