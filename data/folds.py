"""Splits of one's own: which groups of a folder's videos are tested.

    fold = folds.stratified(labels, groups, number=3, seed=0)  # of each clip
    folds.write('lists', folds.contents(class_names, found, sides, groups))

Used by data/splits.py. Groups are whole recordings or people, so a group is on one side
of a split, whatever classes it has clips of.
"""

import os
import pathlib
import re
import shutil

import av
import numpy as np

from data import lists
from data.preprocessing import videos


def stratified(labels, groups, number, seed):
    """Shares groups out to folds so that each fold gets its share of every class.

    Groups are taken from the largest to the smallest, each to the fold that has the
    least of its classes so far, which keeps the squares of the folds' shares low.

    Args:
      labels: int [N], from 0 to C - 1, each of which occurs.
      groups: list of N names.
      number: how many folds.
      seed: int the order of equal groups follows from.

    Returns:
      int [N], fold of each clip from 0.
    """
    names, places = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), max(labels) + 1))  # [groups, C]
    np.add.at(counts, (places, labels), 1)
    shares = counts / counts.sum(axis=0)  # a small class counts as much as a large one
    shuffled = np.random.default_rng([seed, 5]).permutation(len(names))
    order = shuffled[np.argsort(-shares[shuffled].sum(axis=1), kind='stable')]
    filled = np.zeros((number, counts.shape[1]))
    fold_of = np.zeros(len(names), int)
    for group in order:
        # an empty fold has the least of everything, so none stays empty
        least = np.lexsort((filled.sum(axis=1), filled @ shares[group]))[0]
        fold_of[group] = least
        filled[least] += shares[group]
    return fold_of[places]


def limited(clips, groups, limit, seed):
    """Takes at most `limit` clips of each class, from as many groups as there are.

    Args:
      clips: names 'Class/stem'.
      groups: dict clip -> group.
      limit: clips of a class, or None for all.
      seed: int the choice follows from.

    Returns:
      The clips taken, sorted.
    """
    if limit is None:
        return sorted(clips)
    random = np.random.default_rng([seed, 6])
    drawn, turns, taken = random.permutation(sorted(clips)).tolist(), {}, {}
    # the first clip of each group, then the second of each
    for clip in drawn:
        key = clip.split('/')[0], groups[clip]
        turns[key] = turns.get(key, -1) + 1
        taken.setdefault(key[0], []).append((turns[key], clip))
    chosen = []
    for turned in taken.values():
        turned.sort(key=lambda pair: pair[0])
        chosen += [clip for _, clip in turned[:limit]]
    return sorted(chosen)


def seconds_of(path):
    """Length of a video by its header in seconds; 0.0 where it says nothing, None where
    the file is no video."""
    if not os.path.isfile(path):  # a pipe would wait for a writer
        return None
    try:
        # FFmpeg takes my:folder for a protocol
        with av.open(os.path.abspath(path), metadata_errors='ignore') as container:
            return max(container.duration or 0, 0) / av.time_base
    except (av.FFmpegError, ValueError, OSError):
        return None


def lines_of(found, class_names, clips, labelled):
    """The lines of a list in UCF101's format, and the clips that no line can name.

    Args:
      found: dict clip -> path below the folder of videos.
      class_names: list of C.
      clips: the clips to list.
      labelled: whether a line ends in its label from 1.

    Returns:
      (list of str, list of clips whose line would be read as something else).
    """
    patterns, lines, unnamable = lists.line_patterns(class_names), [], []
    for clip in clips:
        path, class_name = found[clip].replace(os.sep, '/'), clip.split('/')[0]
        label = str(class_names.index(class_name) + 1) if labelled else ''
        line = f'{path} {label}'.strip()
        try:
            parts, given = lists.parse(line, patterns, class_names) or ([], '')
        except ValueError:
            parts, given = [], ''
        kept = '/'.join(parts) == path and given == label
        # a class folder's name ends where its line in classInd.txt ends
        if not kept or re.search('[\0\r\n]', line) or class_name != class_name.strip():
            unnamable.append(clip)
        lines.append(line)
    return lines, unnamable


def contents(class_names, found, sides, groups):
    """What the list files of some splits hold.

    Args:
      class_names: list of C.
      found: dict clip -> path below the folder of videos.
      sides: for each split {'train': clips, 'test': clips}.
      groups: dict clip -> group.

    Returns:
      dict from classInd.txt, trainlistNN.txt, testlistNN.txt and groups.txt to bytes.

    Raises:
      ValueError: a video's name that no list can hold.
    """
    files = {
        'classInd.txt': [f'{n} {name}' for n, name in enumerate(class_names, start=1)]
    }
    for number, split in enumerate(sides, start=1):
        for side, clips in split.items():
            lines, _ = lines_of(found, class_names, clips, labelled=side == 'train')
            files[f'{side}list{number:02d}.txt'] = lines
    clips = sorted(set(sides[0]['train']).union(sides[0]['test']))
    unnamable = set(lines_of(found, class_names, clips, labelled=True)[1])
    unnamable.update(c for c in clips if re.search(r'^\s|[\0\r\n\t]|\s$', groups[c]))
    if unnamable:
        raise ValueError(
            f'no list can hold the name or group of {len(unnamable):,} videos, such as '
            f'{videos.printable(found[min(unnamable)])}: rename them'
        )
    paths, _ = lines_of(found, class_names, clips, labelled=False)
    files[lists.GROUPS] = [
        f'{path}\t{groups[clip]}' for path, clip in zip(paths, clips, strict=True)
    ]
    return {
        name: ''.join(f'{line}\n' for line in lines).encode(**lists.TEXT)
        for name, lines in files.items()
    }


def write(out, files):
    """Writes a folder of list files, whole or not at all.

    Args:
      out: a folder that does not exist or is empty, or holds the same files already.
      files: dict from name to bytes.

    Raises:
      ValueError: `out` holds something else.
    """
    out = pathlib.Path(out)
    there = {path.name: path for path in out.iterdir()} if out.is_dir() else {}
    if there.keys() == files.keys() and all(
        path.is_file() and path.read_bytes() == files[name]
        for name, path in there.items()
    ):
        return
    if there or (out.exists() and not out.is_dir()):
        raise ValueError(f'--out={out} exists and holds other files: name a new folder')
    temporary = out.absolute().parent / f'.{out.absolute().name}.{os.getpid()}'
    temporary.mkdir(parents=True)
    try:
        for name, text in files.items():
            (temporary / name).write_bytes(text)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
