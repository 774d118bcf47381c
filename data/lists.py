"""List files of a split: UCF101's and HMDB51's as distributed, others as people write
them.

    class_names, listed, paths, notes = lists.read_split('ucfTrainTestlist', 1)

A line is `path`, `path label` or `path frames label`, separated by spaces, tabs, commas
or semicolons. A label is the name of a class or its number, from 0 or from 1. The class
folder in the path decides, and a label that disagrees with it is refused. A list gives
names 'Class/stem' and never a path to open, so no line leads out of a folder.
"""

import codecs
import collections
import os
import pathlib
import re
from typing import NamedTuple

from data.preprocessing import videos

SIDES = ('train', 'test')
TEXT = {'encoding': 'utf-8', 'errors': 'surrogateescape'}  # names need not be UTF-8
GROUPS = 'groups.txt'
SEPARATOR = r'[\s,;]+'
NUMBER = '[0-9]{1,9}'
ENDING = '|'.join(re.escape(ending) for ending in videos.VIDEO_EXTENSIONS)
ENDS_IN_VIDEO = re.compile(f'(?:{ENDING})$', re.IGNORECASE)
FORMS = '"path", "path label" or "path frames label"'


class Entry(NamedTuple):
    """One line of a list: its number, folders and file name, label or ''."""

    line: int
    parts: list
    label: str


def lines_of(path):
    """Reads the lines of a list file that are not blank.

    Returns:
      List of (line number from 1, text without what editors put around it).

    Raises:
      ValueError: the file is no text in UTF-8 or another encoding that holds ASCII.
    """
    raw = pathlib.Path(path).read_bytes()
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if raw.startswith(marks) or raw.count(0) > len(raw) / 4:
        raise ValueError(f'{path} is UTF-16, or no text: save it as UTF-8')
    # splitlines() would also cut at characters that names may hold
    lines = re.split('\r\n|\r|\n', raw.decode('utf-8-sig', TEXT['errors']))
    found = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if '\0' in line:
            raise ValueError(f'{path}, line {number}: a NUL byte is part of no name')
        if line:
            found.append((number, line))
    return found


def read_class_names(path):
    """Reads classInd.txt, lines `number name` from 1 or 0; returns names by label.

    Raises:
      ValueError: a line is not such a pair, a name cannot be a folder, or the numbers
        are not 1..C or 0..C-1.
    """
    pairs = []
    for number, line in lines_of(path):
        if line[0] == '#':
            continue
        match = re.fullmatch(rf'({NUMBER}){SEPARATOR}(.+)', line)
        if not match or re.search(r'[/\\]', match[2]) or match[2] in ('.', '..'):
            raise ValueError(
                f'{path}, line {number}: expected "number name", found "{line[:200]}"'
            )
        pairs.append((int(match[1]), match[2]))
    numbers = sorted(number for number, _ in pairs)
    if not pairs or numbers != list(range(numbers[0], numbers[0] + len(pairs))):
        raise ValueError(f'{path}: class numbers must be 1..C, each once')
    if numbers[0] not in (0, 1):
        raise ValueError(f'{path}: class numbers start at {numbers[0]}, not at 1')
    if len({name for _, name in pairs}) < len(pairs):
        raise ValueError(f'{path}: a class is named twice')
    return [name for _, name in sorted(pairs)]


def line_patterns(class_names):
    """The regular expressions of a line: with a video's ending, and without one."""
    words = '|'.join([NUMBER, *map(re.escape, class_names)])
    label = rf'(?:{SEPARATOR}(?:{NUMBER}{SEPARATOR})?(?P<label>{words}))?[\s,;]*'
    return (
        # atomic: the first video on a line is the path, a second is no part of it
        re.compile(rf'(?P<path>(?>.+?(?i:{ENDING})(?=[\s,;]|$))){label}(?:\s#.*)?'),
        re.compile(rf'(?P<path>.+?){label}'),
    )


def parse(line, patterns, class_names=()):
    """Splits a line of a list.

    Args:
      line: text, stripped.
      patterns: of `line_patterns`.
      class_names: the classes, where paths begin with one.

    Returns:
      (folders and file name as a list, label or ''), or None for a comment.

    Raises:
      ValueError: it is no such line, or its path leads out of the folder.
    """
    # HMDB51 has names that begin with a #, and a class folder may
    comment = line[0] == '#' and line.split('/')[0] not in class_names
    has_ending = re.search(rf'(?i:{ENDING})(?:{SEPARATOR}|$)', line)
    match = patterns[0 if has_ending else 1].fullmatch(line)
    if comment and not (match and match['label'] and not class_names):
        return None
    if not match:
        raise ValueError(f'expected {FORMS}, found "{line[:200]}"')
    path = match['path']
    if path.split('/')[0] not in class_names:
        path = path.replace('\\', '/')
    parts = [part for part in path.split('/') if part != '.']
    if not parts or '..' in parts or '' in parts or parts[0].endswith(':'):
        raise ValueError(
            f'"{line[:200]}" names no path below a folder: write Class/name.avi'
        )
    return parts, match['label'] or ''


def entries_of(path, class_names):
    """Reads a list's lines; returns (list of Entry, notes for the user).

    Raises:
      ValueError: a line is malformed; names the file and the line.
    """
    patterns, entries, hidden = line_patterns(class_names), [], 0
    for number, line in lines_of(path):
        try:
            parsed = parse(line, patterns, class_names)
        except ValueError as error:
            raise ValueError(f'{path}, line {number}: {error}') from error
        if parsed and parsed[0][-1][0] == '.':
            hidden += 1
        elif parsed:
            entries.append(Entry(number, *parsed))
    name = pathlib.Path(path).name
    return entries, [f'{name}: {hidden:,} hidden files are left out'] if hidden else []


def without_common_folder(entries, find_label):
    """Drops folders above the class folders, which then begin every line alike.

    Returns:
      (list of Entry, the path that was dropped or '').
    """
    dropped = ''
    while (
        all(len(entry.parts) > 2 for entry in entries)
        and len({entry.parts[0] for entry in entries}) == 1
        and find_label(entries[0].parts[0]) is None
    ):
        dropped += entries[0].parts[0] + '/'
        entries = [entry._replace(parts=entry.parts[1:]) for entry in entries]
    return entries, dropped


def label_finder(class_names):
    """A function from a class's name to its label from 0, None for no class; another
    case finds it too, unless two classes differ in nothing else."""
    labels = {name: label for label, name in enumerate(class_names)}
    folded = collections.Counter(name.casefold() for name in class_names)
    other_case = {
        name.casefold(): label
        for name, label in labels.items()
        if folded[name.casefold()] == 1
    }
    return lambda name: labels.get(name, other_case.get(name.casefold()))


def number_of(label):
    """The number that a label is, None for a class's name or nothing."""
    return int(label) if re.fullmatch(NUMBER, label) else None


def first_number(entries, known, classes):
    """Whether a list's labels count from 0 or from 1.

    Args:
      entries: list of Entry.
      known: label from 0 by the class folder of each entry, None where it has none.
      classes: C.

    Raises:
      ValueError: no folder tells, and neither 0 nor C occurs.
    """
    numbers = [number_of(entry.label) for entry in entries]
    firsts = collections.Counter(
        number - label
        for number, label in zip(numbers, known, strict=True)
        if None not in (number, label)
    )
    if firsts:
        return 0 if firsts[0] > firsts[1] else 1
    alone = {number for number in numbers if number is not None}
    if alone and alone.isdisjoint((0, classes)):
        raise ValueError('the labels may count from 0 or from 1: write Class/name.avi')
    return 0 if 0 in alone else 1


def read_list(path, class_names):
    """Reads a train or test list.

    Args:
      path: the file.
      class_names: list of C, from classInd.txt.

    Returns:
      (list of (clip, label from 0), notes for the user). The label is that of the class
      folder; without a folder, that of a name like UCF101's or the one given.

    Raises:
      ValueError: a class is unknown, a label disagrees with the folder, or a line is
        malformed; names the file and the line.
    """
    entries, notes = entries_of(path, class_names)
    name, find_label = pathlib.Path(path).name, label_finder(class_names)
    if not entries:
        return [], notes
    entries, dropped = without_common_folder(entries, find_label)
    if dropped:
        notes.append(f'{name}: paths are read from below "{dropped}"')
    known = []
    for entry in entries:
        class_name = class_folder(entry)
        label = find_label(class_name) if class_name else None
        if label is None and (class_name or not entry.label):
            wrong = f'class "{class_name}"' if class_name else 'a path without a class'
            raise ValueError(
                f'{path}, line {entry.line}: {wrong} of "{"/".join(entry.parts)}" is '
                'not in classInd.txt: write Class/name.avi'
            )
        known.append(label)
    try:
        first = first_number(entries, known, len(class_names))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    if not first:
        notes.append(f'{name}: labels count from 0')
    listed = []
    for entry, label in zip(entries, known, strict=True):
        if entry.label:
            label = agreed_label(path, entry, label, first, class_names)
        folder = entry.parts[0] if len(entry.parts) > 1 else class_names[label]
        listed.append((f'{folder}/{stem_of(entry.parts[-1])}', label))
    return listed, notes


def class_folder(entry):
    """The first folder of an entry, or the class in a name like UCF101's, or ''."""
    if len(entry.parts) > 1:
        return entry.parts[0]
    try:
        return videos.clip_name(entry.parts[0]).split('/')[0]
    except ValueError:
        return ''


def stem_of(name):
    """A file name without a video's ending; the folder of a clip's frames has none."""
    return os.path.splitext(name)[0] if ENDS_IN_VIDEO.search(name) else name


def agreed_label(path, entry, label, first, class_names):
    """The label from 0 that a line gives.

    Args:
      path: the list file.
      entry: Entry with a label.
      label: the label of its class folder, or None.
      first: what the list's numbers count from.
      class_names: list of C.

    Raises:
      ValueError: the label disagrees with the folder, or there is no such class.
    """
    number = number_of(entry.label)
    given = class_names.index(entry.label) if number is None else number - first
    where = f'{path}, line {entry.line}: "{"/".join(entry.parts)}" has label'
    if label is not None and given != label:
        raise ValueError(
            f'{where} {entry.label}, but its class {class_names[label]} is number '
            f'{label + first} (classInd.txt, counted from {first})'
        )
    if not 0 <= given < len(class_names):
        raise ValueError(
            f'{where} {entry.label}, but classInd.txt numbers {len(class_names)} '
            f'classes from {first}'
        )
    return given


def list_numbers(list_dir):
    """Numbers of the splits whose lists are in a folder, sorted."""
    name = re.compile(r'(?!\.)(?:trainlist|.*_test_split)([0-9]+)\.txt')
    try:
        matches = map(name.fullmatch, os.listdir(list_dir))
        return sorted({int(match[1]) for match in matches if match})
    except OSError as error:
        raise ValueError(f'--split_dir={list_dir}: {error.strerror}') from error


def read_split(list_dir, number):
    """Reads the lists of a split, UCF101's three or HMDB51's one for each class.

    Returns:
      (class_names, {'train': [(clip, label)], 'test': ...}, paths read, notes).

    Raises:
      ValueError: a list is missing or malformed.
    """
    folder, ending = pathlib.Path(list_dir), f'_test_split{number}.txt'
    # archives made on a Mac hold a hidden twin of every file
    paths = [p for p in sorted(folder.glob(f'*{ending}')) if p.name[0] != '.']
    if paths:
        class_names = [path.name[: -len(ending)] for path in paths]
        return class_names, *read_hmdb51_lists(paths, class_names)
    names = ('classInd.txt', f'trainlist{number:02d}.txt', f'testlist{number:02d}.txt')
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise ValueError(f'{path} not found: check --split_dir and --split')
    class_names = read_class_names(paths[0])
    listed, notes = {}, []
    for side, path in zip(SIDES, paths[1:], strict=True):
        listed[side], more = read_list(path, class_names)
        notes += more
    return class_names, listed, paths, notes


def read_hmdb51_lists(paths, class_names):
    """HMDB51's file for each class, lines `name.avi FLAG`: 1 train, 2 test, 0 neither.

    Returns:
      (listed, paths, notes) as of `read_split`.
    """
    listed, notes = {side: [] for side in SIDES}, []
    sides = {'1': listed['train'], '2': listed['test'], '0': []}
    for label, (path, class_name) in enumerate(zip(paths, class_names, strict=True)):
        entries, more = entries_of(path, ())
        notes += more
        for line, parts, flag in entries:
            if flag not in sides or parts[:-1] not in ([], [class_name]):
                raise ValueError(
                    f'{path}, line {line}: expected "name.avi 0, 1 or 2", not '
                    f'"{"/".join(parts)} {flag}"'
                )
            sides[flag].append((f'{class_name}/{stem_of(parts[-1])}', label))
    return listed, paths, notes


def read_groups(path, class_names):
    """Reads groups.txt, lines `path<TAB>group`; returns dict clip -> group.

    Raises:
      ValueError: a line is malformed, or gives a clip another group than an earlier.
    """
    patterns, groups = line_patterns(()), {}
    for number, line in lines_of(path):
        name, _, group = line.rpartition('\t')
        where = f'{path}, line {number}'
        if not name or name[0] == '#' and name.split('/')[0] not in class_names:
            raise ValueError(f'{where}: expected "path<TAB>group", found "{line}"')
        try:
            parts, _ = parse(name, patterns, class_names)
        except ValueError as error:
            raise ValueError(f'{where}: {error}') from error
        class_name = class_folder(Entry(number, parts, ''))
        clip = f'{class_name}/{stem_of(parts[-1])}'
        if groups.setdefault(clip, group) != group:
            raise ValueError(f'{where}: {clip} already has group "{groups[clip]}"')
    return groups
