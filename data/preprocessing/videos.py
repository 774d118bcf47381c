"""Which videos there are, and what their clips are called.

    found = videos.find_videos('UCF-101')  # {'Archery/v_Archery_g01_c01': path, ...}

Used by optical_flow.py, by prediction, and for shards by train.py. Videos are in class
folders (Archery/anything.avi, however deep) or are named as UCF101's
(v_Archery_g01_c01.avi); a clip is 'Class/stem'.
"""

import collections
import errno
import os
import pathlib
import re
import zlib

import cv2

from data import clips

VIDEO_EXTENSIONS = (
    *('.avi', '.mp4', '.m4v', '.mov', '.3gp', '.mkv', '.webm', '.flv', '.wmv'),
    *('.mpg', '.mpeg', '.ts', '.mts', '.m2ts', '.ogv', '.gif'),
)
# Folders of this name hold a part of a data set, in class folders, and are no classes.
PART = re.compile(
    r'(train|training|val|valid|validation|test|testing|eval)([_-]?(set|\d+))?', re.I
)
UCF101_NAME = re.compile(r'v_(\w+?)_g\d+_c\d+$')
# The one class of UCF101 whose folder is spelt otherwise than its files.
UCF101_FOLDERS = {'HandStandPushups': 'HandstandPushups'}


def _refuse(error):
    raise ValueError(f'{error.filename}: {error.strerror}') from error


def refuse_nested(video_dir, data_dir):
    """ValueError where one of the folders is in the other."""
    if _lies_in(data_dir, video_dir):
        raise ValueError(f'--data_dir={data_dir} is in --video_dir: choose another')
    for stored in ('resized', 'optical-flow'):
        if _lies_in(video_dir, os.path.join(data_dir, stored)):
            raise ValueError(
                f'--video_dir={video_dir} is in --data_dir, whose files would be '
                'overwritten: choose another --data_dir'
            )


def _lies_in(folder, other):
    """Whether `folder` is `other` or below it, links followed."""
    inside = os.path.join(os.path.realpath(folder), '')
    return inside.startswith(os.path.join(os.path.realpath(other), ''))


def find_videos(video_dir, list_file=None, onerror=_refuse, others=None):
    """Finds videos and names their clips.

    Args:
      video_dir: folder that holds Class/video files, or files named as UCF101's.
      list_file: text file of paths below `video_dir`, a label after each allowed, as in
        UCF101's lists; None for every video there is.
      onerror: function of an OSError that names a folder which cannot be read.
      others: collections.Counter that counts the files in class folders whose endings
        are not those of videos, by ending.

    Returns:
      dict from clip ('Class/stem') to its video's path below `video_dir`.

    Raises:
      ValueError: there are no videos, one has no class, two would be the same clip, or
        the classes are one folder further down.
    """
    if not os.path.isdir(video_dir):
        raise ValueError(f'--video_dir={video_dir} is not a directory')
    if list_file:
        paths = _listed(video_dir, list_file)
    else:
        others = collections.Counter() if others is None else others
        paths = _walked(video_dir, onerror, others)
    found, same = {}, {}
    for path in paths:
        clip = clip_name(path)
        if found.setdefault(clip, path) != path:
            same.setdefault(clip, {found[clip]: None})[path] = None
    if same:
        pairs = '; '.join(' and '.join(videos) for videos in same.values())
        raise ValueError(
            f'several videos in {video_dir} would become one clip: {pairs}: '
            'rename one of each'
        )
    if not found:
        raise ValueError(
            f'--video_dir={video_dir} has no videos ({", ".join(VIDEO_EXTENSIONS)})'
        )
    _refuse_parts(video_dir, found.values())
    return found


def _refuse_parts(video_dir, paths):
    """ValueError if train/, val/ and so on would be taken for classes.

    One class of such a name (train, next to bus) is a class, as long as there are
    classes of other names.
    """
    tops = {path.split(os.sep)[0] for path in paths if path.count(os.sep) >= 2}
    parts = sorted(top for top in tops if PART.fullmatch(top))
    classes = {path.split(os.sep)[0] for path in paths if os.sep in path}
    if len(parts) > 1 or parts and classes == set(parts):
        one = os.path.join(video_dir, parts[0])
        raise ValueError(
            f'--video_dir={video_dir} has its class folders one further down, in '
            f'{", ".join(parts)}: give --video_dir={one}, and each part a --data_dir '
            'of its own'
        )


def _walked(video_dir, onerror, others):
    found, odd_tops = [], []
    for folder, subfolders, files in os.walk(
        video_dir, onerror=onerror, followlinks=True
    ):
        within = os.path.relpath(folder, video_dir)
        # A folder named like a video is reported as one that cannot be read; in the
        # place of a class folder, only if no video is in it.
        odd = [name for name in subfolders if is_video(name)]
        if within == '.':
            odd, odd_tops = [], odd
        subfolders[:] = [
            name
            for name in subfolders
            if name not in odd
            and name[0] != '.'
            and not _leads_back(os.path.join(folder, name))
        ]
        names = odd + [name for name in files if is_video(name)]
        if within != '.':
            others.update(
                os.path.splitext(name)[1].lower() or 'no ending'
                for name in files
                if name[0] != '.' and not is_video(name)
            )
        found += [os.path.normpath(os.path.join(within, name)) for name in names]
    for name in odd_tops:
        if not any(path.startswith(name + os.sep) for path in found):
            reason = 'it is a folder without videos, not a video'
            onerror(OSError(errno.EISDIR, reason, os.path.join(video_dir, name)))
    return sorted(found)


def _leads_back(folder):
    """Whether `folder` is a link to one of the folders above it."""
    parents = pathlib.Path(os.path.abspath(folder)).parents
    return os.path.islink(folder) and any(os.path.samefile(folder, p) for p in parents)


def is_video(name):
    """Whether a file's name is that of a video, and the file is not hidden."""
    return name[0] != '.' and name.lower().endswith(VIDEO_EXTENSIONS)


def _listed(video_dir, list_file):
    try:
        with open(list_file, encoding='utf-8-sig', errors='surrogateescape') as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f'--list={list_file}: {error.strerror}') from error
    if '\0' in text:
        raise ValueError(f'--list={list_file} is not UTF-8 text: save it as UTF-8')
    found = []
    for number, line in enumerate(map(str.strip, text.split('\n')), start=1):
        if not line:
            continue
        path = os.path.join(video_dir, line)
        if not os.path.exists(path):
            path = re.sub(r'([\s,]+\d+){1,2}$', '', path)  # label; frames and label
        within = os.path.relpath(path, video_dir)
        if within.startswith(os.pardir + os.sep):  # --video_dir may be a link
            real = os.path.realpath(video_dir)
            within = os.path.relpath(os.path.realpath(path), real)
        try:
            clip_name(within)
        except ValueError as error:
            raise ValueError(f'--list={list_file}, line {number}: {error}') from error
        found.append(within)
    if not found:
        raise ValueError(
            f'--list={list_file} names no video: write a path below --video_dir a line'
        )
    return found


def clip_name(path):
    """'Class/stem' of a video's path below --video_dir; ValueError if it has none.

    The class is the first folder, or part of the name as UCF101 writes it.
    """
    parts = path.split(os.sep)
    stem = os.path.splitext(parts[-1])[0]
    if parts[0] == os.pardir:
        raise ValueError(f'{path} lies outside --video_dir: name videos below it')
    if len(parts) > 1:
        clip = f'{parts[0]}/{stem}'
        clips.frames_path('', clip)
        return clip
    match = UCF101_NAME.match(stem)
    if not match:
        raise ValueError(
            f'{path} is in no class folder and not named like v_Class_g01_c01.avi: '
            'move it into a folder named by its class'
        )
    return f'{UCF101_FOLDERS.get(match[1], match[1])}/{stem}'


def printable(text):
    """`text` on one line of a terminal: control characters and stray bytes escaped."""
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


def one_line(error, known=None):
    """The reason, with the file's name unless it is the one that is `known`."""
    if isinstance(error, cv2.error):
        return f'OpenCV: {" ".join(error.err.split())}'
    if isinstance(error, OSError):
        reason, file = error.strerror or str(error), error.filename2 or error.filename
        return reason if file in (None, known) else f'{reason}: {file}'
    return str(error) or type(error).__name__


def is_utf8(path):
    """Whether OpenCV takes `path`: at a name that is not UTF-8 it crashes."""
    return not re.search(r'[\ud800-\udfff]', path)


def parse_shard(text):
    """'i/n' as two ints, 0 <= i < n; ValueError otherwise."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f'--shard={text} is not i/n with i from 0 to n - 1')
    return int(match[1]), int(match[2])


def shard_of_task(text, worker_hosts, task_index):
    """--shard as two ints; with --worker_hosts task_index takes its place.

    Args:
      text: --shard.
      worker_hosts: list, empty where the flag is not given.
      task_index: int or None.

    Raises:
      ValueError: names the flag.
    """
    if not worker_hosts and task_index is None:
        return parse_shard(text)
    if text != '0/1':
        raise ValueError(f'--shard={text}: --task_index says which part it is')
    if task_index is None or not 0 <= task_index < len(worker_hosts):
        raise ValueError(
            f'--task_index={task_index}: --worker_hosts has {len(worker_hosts)}, '
            'counted from 0'
        )
    return task_index, len(worker_hosts)


def in_shard(clip, part, parts):
    """Whether `clip` falls to `part` of `parts`: by its name alone, so that files that
    are added move no other clip to another machine."""
    return zlib.crc32(clip.encode('utf-8', 'surrogateescape')) % parts == part
