"""Which videos there are, and what their clips are called.

    found = videos.find_videos('UCF-101')  # {'Archery/v_Archery_g01_c01': path, ...}

Used by optical_flow.py. Videos stand in class folders (Archery/anything.avi, however
deep) or are named as UCF101's (v_Archery_g01_c01.avi); a clip is 'Class/stem'.
"""

import os
import re
import zlib

from data import clips

VIDEO_EXTENSIONS = ('.avi', '.mp4', '.mpg', '.mpeg', '.mov', '.mkv', '.webm')
UCF101_NAME = re.compile(r'v_(\w+?)_g\d+_c\d+$')
# The one class of UCF101 whose folder is spelt otherwise than its files.
UCF101_FOLDERS = {'HandStandPushups': 'HandstandPushups'}


def find_videos(video_dir, list_file=None):
    """Finds videos and names their clips.

    Args:
      video_dir: folder that holds Class/video files, or files named as UCF101's.
      list_file: text file of paths below `video_dir`, a label after each allowed, as in
        UCF101's lists; None for every video there is.

    Returns:
      dict from clip ('Class/stem') to its video's path below `video_dir`.

    Raises:
      ValueError: there is none, one has no class, or two would be the same clip.
    """
    if not os.path.isdir(video_dir):
        raise ValueError(f'--video_dir={video_dir} is no folder')
    listed = _listed(video_dir, list_file) if list_file else _walked(video_dir)
    videos = {}
    for path in listed:
        clip = clip_name(path)
        clips.frames_path('', clip)
        if clip in videos and videos[clip] != path:
            raise ValueError(
                f'{videos[clip]} and {path} in {video_dir} would both become the clip '
                f'{clip}: rename one'
            )
        videos[clip] = path
    if not videos:
        raise ValueError(
            f'--video_dir={video_dir} has no videos ({", ".join(VIDEO_EXTENSIONS)})'
        )
    return videos


def _walked(video_dir):
    found = []
    for folder, subfolders, files in os.walk(
        video_dir, onerror=_refuse, followlinks=True
    ):
        within = os.path.relpath(folder, video_dir)
        # A folder named like a video is reported as one that cannot be read, except
        # where classes stand.
        odd = [name for name in subfolders if within != '.' and _is_video(name)]
        subfolders[:] = [n for n in subfolders if n not in odd and n[0] != '.']
        names = odd + [name for name in files if _is_video(name)]
        found += [os.path.normpath(os.path.join(within, name)) for name in names]
    return sorted(found)


def _refuse(error):
    raise ValueError(f'{error.filename}: {error.strerror}') from error


def _is_video(name):
    return name[0] != '.' and name.lower().endswith(VIDEO_EXTENSIONS)


def _listed(video_dir, list_file):
    try:
        with open(list_file, encoding='utf-8-sig', errors='surrogateescape') as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise ValueError(f'--list={list_file}: {error.strerror}') from error
    found = []
    for line in filter(None, lines):
        if not os.path.exists(os.path.join(video_dir, line)):
            line = re.sub(r'\s+\d+$', '', line)
        found.append(os.path.relpath(os.path.join(video_dir, line), video_dir))
    return found


def clip_name(path):
    """'Class/stem' of a video's path below --video_dir; ValueError if it has no class.

    The class is the first folder, or stands in the name as UCF101 writes it.
    """
    parts = path.split(os.sep)
    stem = os.path.splitext(parts[-1])[0]
    if len(parts) > 1:
        return f'{parts[0]}/{stem}'
    match = UCF101_NAME.match(stem)
    if not match:
        raise ValueError(
            f'{path} is in no class folder and not named like v_Class_g01_c01.avi: '
            'move it into a folder named by its class'
        )
    return f'{UCF101_FOLDERS.get(match[1], match[1])}/{stem}'


def parse_shard(text):
    """'i/n' as two ints, 0 <= i < n; ValueError otherwise."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f'--shard={text} is not i/n with i from 0 to n - 1')
    return int(match[1]), int(match[2])


def in_shard(clip, part, parts):
    """Whether `clip` falls to `part` of `parts`: by its name alone, so that files that
    are added move no other clip to another machine."""
    return zlib.crc32(clip.encode('utf-8', 'surrogateescape')) % parts == part
