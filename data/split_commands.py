"""What `python -m data.splits` does: writes lists for a folder of class folders, or
compares lists with the videos they name.

    python -m data.splits --video_dir=VIDEOS --out=lists --group_folder
    python -m data.splits --check --video_dir=VIDEOS --split_dir=lists
"""

import collections
import os

import numpy as np
from absl import flags

from data import folds
from data import lists
from data import splits
from data.preprocessing import videos

FOLDS = 3


def define_flags():
    """Defines the flags; called by the program alone, so importing adds none."""
    flags.DEFINE_string('video_dir', None, 'Folder of class folders of videos.')
    flags.DEFINE_string('out', None, 'Folder to write the lists to; a new one.')
    flags.DEFINE_string(
        'group_regex',
        splits.UCF101_GROUP,
        "Finds a clip's group in its file name; a group is on one side of a split.",
    )
    flags.DEFINE_bool('group_folder', False, 'The folder below the class is the group.')
    flags.DEFINE_integer(
        'folds',
        None,
        f'Splits to write, each tests other groups (default: {FOLDS}).',
        2,
    )
    flags.DEFINE_list('test_groups', [], 'Groups to test, instead of --folds.')
    flags.DEFINE_list('classes', [], 'Classes to take, instead of all.')
    flags.DEFINE_integer('limit_per_class', None, 'Clips of a class at most.', 1)
    flags.DEFINE_integer('seed', 0, 'Which split of the many alike, which clips.', 0)
    flags.DEFINE_bool(
        'check', False, 'Compare the lists in --split_dir with the videos.'
    )
    flags.DEFINE_string('split_dir', None, 'Folder of lists, for --check.')


def videos_of(video_dir, classes):
    """The videos of a folder, of some classes only; dict clip -> path."""
    found = videos.find_videos(video_dir)
    names = {clip.split('/')[0] for clip in found}
    unknown = sorted(set(classes) - names)
    if unknown:
        raise ValueError(
            f'--classes={",".join(classes)}: there is no class {unknown[0]} in '
            f'{video_dir}'
        )
    return {c: p for c, p in found.items() if not classes or c.split('/')[0] in classes}


def groups_of(found, group_regex, group_folder):
    """The group of each clip, and what to say about clips without one.

    Args:
      found: dict clip -> path below the folder of videos.
      group_regex: finds the group in a file name.
      group_folder: whether the folder below the class is the group instead.

    Returns:
      (dict clip -> group, note or '').
    """
    if group_folder and group_regex != splits.UCF101_GROUP:
        raise ValueError('--group_folder and --group_regex: give one of them')
    splits.check_regex(group_regex)
    groups = {clip: splits.group_of(clip, group_regex) for clip in found}
    if group_folder:
        for clip, path in found.items():
            folders = path.split(os.sep)[1:-1]
            groups[clip] = folders[0] if folders else clip.split('/')[1]
    alone = [clip for clip, group in groups.items() if group == clip.split('/')[1]]
    if len(alone) == len(found):
        return groups, (
            'no groups found: clips of one recording may be on both sides of a split; '
            '--group_regex or --group_folder says which belong together'
        )
    if alone:
        return groups, (
            f'{len(alone):,} of {len(found):,} clips have no group, such as '
            f'{alone[0]}: each is its own'
        )
    return groups, ''


def sides_of(clips, groups, number, test_groups, seed):
    """The sides of each split: by folds, or one split that tests some groups.

    Args:
      clips: names 'Class/stem', sorted.
      groups: dict clip -> group.
      number: folds, or None.
      test_groups: names of groups, or [].
      seed: int.

    Returns:
      List of {'train': clips, 'test': clips}.

    Raises:
      ValueError: too few groups, or a group that is not there.
    """
    names = {groups[clip] for clip in clips}
    if test_groups:
        if number:
            raise ValueError('--folds and --test_groups: give one of them')
        unknown = sorted(set(test_groups) - names)
        if unknown:
            raise ValueError(
                f'--test_groups: there is no group {unknown[0]}, but '
                f'{", ".join(sorted(names)[:10])}{", ..." if len(names) > 10 else ""}'
            )
        if names == set(test_groups):
            raise ValueError(
                '--test_groups names every group: none is left to train on'
            )
        tested = np.array([[groups[clip] in test_groups for clip in clips]])
    else:
        number = number or FOLDS
        if len(names) < number:
            raise ValueError(
                f'--folds={number}: there are {len(names)} groups, and each fold needs '
                'one'
            )
        _, labels = np.unique(
            [clip.split('/')[0] for clip in clips], return_inverse=True
        )
        fold = folds.stratified(labels, [groups[c] for c in clips], number, seed)
        tested = fold == np.arange(number)[:, np.newaxis]  # [folds, N]
    return [
        {
            'train': [clip for clip, test in zip(clips, row, strict=True) if not test],
            'test': [clip for clip, test in zip(clips, row, strict=True) if test],
        }
        for row in tested
    ]


def print_classes(video_dir, found, clips, groups):
    """Prints the groups, clips and lengths of each class and of all together."""
    seconds = {
        clip: folds.seconds_of(os.path.join(video_dir, found[clip])) for clip in clips
    }
    classes = collections.defaultdict(list)
    for clip in clips:
        classes[clip.split('/')[0]].append(clip)
    rows = [*sorted(classes.items()), (f'{len(classes):,} classes', clips)]
    width = max(len(name) for name, _ in rows)
    print(f'{"class":<{width}}  groups   clips  shortest   longest')
    for name, members in rows:
        known = [seconds[clip] for clip in members if seconds[clip]]
        ends = (f'{end:.1f} s' for end in (min(known), max(known))) if known else '??'
        shortest, longest = ends
        print(
            f'{name:<{width}}  {len({groups[clip] for clip in members}):6,}  '
            f'{len(members):6,}  {shortest:>8}  {longest:>8}'
        )
    for what, wrong in (
        ('cannot be opened as videos', [c for c in clips if seconds[c] is None]),
        ('have no length in their headers', [c for c in clips if seconds[c] == 0]),
    ):
        if wrong:
            print(f'{len(wrong):,} files {what}, such as {found[wrong[0]]}')


def print_splits(sides, class_names):
    """Prints how many clips each split trains on and tests, and of which class none."""
    for number, split in enumerate(sides, start=1):
        print(
            f'split {number}: {len(split["train"]):,} train clips, '
            f'{len(split["test"]):,} test clips'
        )
        for side, clips in split.items():
            there = {clip.split('/')[0] for clip in clips}
            without = [name for name in class_names if name not in there]
            if without:
                print(
                    f'split {number} has no {side} clip of {len(without):,} classes, '
                    f'such as {without[0]}'
                )


def make(values):
    """Writes the lists that the flags ask for."""
    found = videos_of(values.video_dir, values.classes)
    groups, note = groups_of(found, values.group_regex, values.group_folder)
    clips = folds.limited(found, groups, values.limit_per_class, values.seed)
    class_names = sorted({clip.split('/')[0] for clip in clips})
    sides = sides_of(clips, groups, values.folds, values.test_groups, values.seed)
    for split in sides:
        examples = [
            splits.Example(clip, class_names.index(clip.split('/')[0]), groups[clip])
            for clip in split['train']
        ]
        splits.check_classes(examples, class_names)
    files = folds.contents(class_names, found, sides, groups)
    print_classes(values.video_dir, found, clips, groups)
    if note:
        print(note)
    folds.write(values.out, files)
    print_splits(sides, class_names)
    print(
        f'{len(files)} files written to {values.out}; train.py finds the groups in '
        f'them: --split_dir={values.out} --split=1'
    )
    return 0


def problems_of(listing, number, found):
    """What is wrong with the lists of a split; a list of lines.

    Args:
      listing: splits.Listing.
      number: of the split.
      found: set of the clips whose video is there.
    """
    checks = [(splits.check_once, listing.sides[side], side) for side in lists.SIDES]
    checks.append((splits.check_disjoint, *listing.sides.values()))
    checks.append((splits.check_classes, listing.sides['train'], listing.class_names))
    problems = []
    for check_one, *arguments in checks:
        try:
            check_one(*arguments)
        except ValueError as error:
            problems.append(str(error))
    for side, examples in listing.sides.items():
        absent = [example.clip for example in examples if example.clip not in found]
        if absent:
            problems.append(
                f'{len(absent):,} of {len(examples):,} {side} clips have no video, '
                f'such as {absent[0]}'
            )
        if not examples:
            problems.append(f'the {side} list is empty')
    return [f'split {number}: {line}' for line in problems]


def check(video_dir, list_dir, group_regex):
    """Compares the lists of a folder with its videos and prints tables of both.

    Returns:
      List of lines, one for each thing that is wrong.
    """
    found = set(videos.find_videos(video_dir))
    numbers = lists.list_numbers(list_dir)
    if not numbers:
        raise ValueError(f'--split_dir={list_dir}: no trainlist01.txt or other lists')
    problems, listings, notes, unlisted = [], {}, {}, set(found)
    for number in numbers:
        try:
            listings[number] = splits.read(found, list_dir, number, group_regex)
        except ValueError as error:
            problems.append(f'split {number}: {error}')
            continue
        problems += problems_of(listings[number], number, found)
        notes.update(dict.fromkeys(listings[number].notes))
        for examples in listings[number].sides.values():
            unlisted.difference_update(example.clip for example in examples)
    print('split  side    clips  no video  classes  groups')
    for number, listing in listings.items():
        for side, examples in listing.sides.items():
            absent = sum(example.clip not in found for example in examples)
            print(
                f'{number:5}  {side:<5}  {len(examples):6,}  {absent:8,}  '
                f'{len({example.label for example in examples}):7,}  '
                f'{len({example.group for example in examples}):6,}'
            )
    print_counts(listings)
    if unlisted:
        notes[f'{len(unlisted):,} videos are in no list, such as {min(unlisted)}'] = (
            None
        )
    for note in notes:
        print(videos.printable(note))
    return problems


def print_counts(listings):
    """Prints the train and test clips of each class in each split.

    Args:
      listings: dict number -> splits.Listing.
    """
    cells = collections.defaultdict(dict)
    for number, listing in listings.items():
        counts = {
            side: collections.Counter(example.label for example in examples)
            for side, examples in listing.sides.items()
        }
        for label, name in enumerate(listing.class_names):
            cells[name][number] = f'{counts["train"][label]}/{counts["test"][label]}'
    width = max(map(len, [*cells, 'train/test clips']))
    heads = ''.join(f'  {f"split {number}":>9}' for number in listings)
    print(f'\n{"train/test clips":<{width}}{heads}')
    for name, row in cells.items():
        print(f'{name:<{width}}' + ''.join(f'  {row.get(n, ""):>9}' for n in listings))


def main(values):
    """Writes lists, or with --check compares them with the videos."""
    needed = 'split_dir' if values.check else 'out'
    for name in ('video_dir', needed):
        if not getattr(values, name):
            raise ValueError(f'--{name} is needed')
    if not values.check:
        if values.split_dir:
            raise ValueError('--split_dir is for --check; lists are written to --out')
        return make(values)
    problems = check(values.video_dir, values.split_dir, values.group_regex)
    for problem in problems:
        print(f'wrong: {videos.printable(problem)}')
    if not problems:
        print('nothing is wrong')
    return 1 if problems else 0
