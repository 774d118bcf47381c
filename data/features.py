"""Cached CNN features, so that hybrid training never reads pixels.

    <data_dir>/features/<stream>-<fingerprint>/<Class>/<clip>.npy    float16 [T, D]

The fingerprint covers the network's weights, the layer, the sampling rule and the view:
each view of a clip has a folder of its own. After the array, a feature file ends in a
stamp of the stored clip it was computed from. Features of a clip that was written
again, and files that were cut, do not end in the clip's stamp and are computed again.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import socket

import numpy as np
import tqdm

from data import batches
from data import clips as stored_clips

# A stored file ends in its index, where each image has 70 bytes: its CRC-32, its size
# and its place, which follows from all sizes before. So this covers the last 900
# images themselves, and of a longer file the sizes of those before.
STAMPED = 1 << 16


def directory(data_dir, stream, depends_on):
    """The folder of one stream's features.

    Args:
      data_dir: the preprocessed data set.
      stream: name of the stream.
      depends_on: JSON-able dict of all that the features depend on but the clip.

    Returns:
      pathlib.Path.
    """
    text = json.dumps(depends_on, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return pathlib.Path(data_dir, 'features', f'{stream}-{fingerprint}')


def folders(data_dir, cnns):
    """dict stream -> folders of its features, one for each view.

    Args:
      data_dir: the preprocessed data set.
      cnns: dict stream -> {'features': names of the folders}, as run.json has it.
    """
    root = pathlib.Path(data_dir, 'features')
    return {s: [root / name for name in cnn['features']] for s, cnn in cnns.items()}


def stamp(data_dir, clip):
    """16 bytes that identify the stored files of a clip: a hash of their sizes and
    ends."""
    digest = hashlib.sha256()
    for path in (stored_clips.frames_path, stored_clips.flow_path):
        with open(path(data_dir, clip), 'rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - STAMPED))
            digest.update(b'%d ' % size + file.read())
    return digest.digest()[:16]


def is_fresh(path, data_dir, clip):
    """Whether the feature file is whole and of the stored clip as it is now."""
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16))
            return file.read() == stamp(data_dir, clip)
    except FileNotFoundError:
        return False


def write(path, clip, features, stamped):
    """Writes float16 features and the clip's stamp, whole or not at all.

    Args:
      path: pathlib.Path of the feature file.
      clip: 'Class/stem', for messages.
      features: float32 [T, D].
      stamped: of `stamp`, taken before the clip was read.

    Raises:
      ValueError: a feature is not finite, or too large for float16.
    """
    with np.errstate(over='ignore'):
        stored = features.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(
            f'{clip}: features are not finite in float16; check the CNN weights'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # several machines may fill one folder
    temporary = path.with_name(f'{path.name}.{socket.gethostname()}-{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            np.save(file, stored)
            file.write(stamped)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # numpy's own names neither file nor reason
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f'{path} cannot be written ({error.strerror or "is the disk full?"}); the '
            'same command continues when there is room'
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def missing(folder, data_dir, clips):
    """The clips whose features are not there or out of date.

    Args:
      folder: from `directory`.
      data_dir: the preprocessed data set.
      clips: names 'Class/stem'.
    """
    return [c for c in clips if not is_fresh(folder / f'{c}.npy', data_dir, c)]


def missing_views(folders, data_dir, wanted):
    """The views that `fill` has to compute of each clip.

    Args:
      folders: dict view -> folder, from `directory`.
      data_dir: the preprocessed data set.
      wanted: dict view -> names 'Class/stem' of its clips.

    Returns:
      dict clip -> list of views; clips that have all of theirs are left out.
    """
    todo = {}
    for view, clips in wanted.items():
        for clip in missing(folders[view], data_dir, clips):
            todo.setdefault(clip, []).append(view)
    return todo


def fill(folders, data_dir, todo, extract, read, workers):
    """Computes what is missing in the feature folders of one stream.

    Args:
      folders: dict view -> folder, from `directory`.
      data_dir: the preprocessed data set.
      todo: of `missing_views`.
      extract: function (clip, view, uint8 [T, H, W, C]) -> float32 [T, D].
      read: function (clip, list of views) -> list of uint8 [T, H, W, C], the sampled
        frames or stacks of each.
      workers: threads that read ahead.

    Raises:
      ValueError: a feature is not finite; or clips cannot be read, the others done.
    """
    failed = {}

    def attempt(clip):
        try:
            # before the clip is read: what is written meanwhile counts as changed
            return stamp(data_dir, clip), read(clip, todo[clip])
        except (ValueError, OSError) as error:
            failed[clip] = error

    reading = batches.read_ahead([[c] for c in todo], attempt, workers, ahead=workers)
    stream = folders[min(folders)].name.split('-')[0]
    progress = tqdm.tqdm(todo.items(), f'{stream} features', unit='clip', disable=None)
    with contextlib.closing(reading):  # an error must not leave its threads behind
        for (clip, views), (found,) in zip(progress, reading, strict=True):
            stamped, images_of_views = found or (None, [])
            for view, images in zip(views, images_of_views, strict=bool(found)):
                values = extract(clip, view, images)
                write(folders[view] / f'{clip}.npy', clip, values, stamped)
    for clip, error in sorted(failed.items()):
        print(f'{clip}  {error}')
    if failed:
        raise ValueError(
            f'{len(failed)} of {len(todo)} clips cannot be read, as listed above: run '
            'optical_flow.py --check, then make them again'
        )


def read(folder, clip):
    """Reads one clip's features, float16 [T, D], memory-mapped."""
    return np.load(folder / f'{clip}.npy', mmap_mode='r', allow_pickle=False)


def reader(folders):
    """Reads one view of a clip's cached features, for `feeds.read`.

    Args:
      folders: of `folders`.

    Returns:
      Function (row, view) -> dict stream -> float16 [T, D]; the view is 0 where it is
      left out or None.
    """

    def read_view(row, view=None):
        return {s: read(views[view or 0], row['clip']) for s, views in folders.items()}

    return read_view


def scales(folders, clips):
    """The standard deviation of each stream's features over the clips trained on, in
    view 0.

    Raises:
      ValueError: all features of a stream are equal.
    """
    found = {s: standard_deviation(views[0], clips) for s, views in folders.items()}
    check_scales(found)
    return found


def check_scales(scales):
    """Raises ValueError where a stream's features are all equal, their scale 0."""
    for stream, scale in scales.items():
        if scale == 0:
            raise ValueError(
                f'all {stream} features are equal, so that CNN is dead; give other '
                f'--{stream}_weights'
            )


def standard_deviation(folder, clips):
    """The standard deviation over all features of `clips`, in one streaming pass."""
    count, total, squares = 0, 0.0, 0.0
    for clip in clips:
        values = np.asarray(read(folder, clip), np.float64)
        count += values.size
        total += values.sum()
        squares += np.square(values).sum()
    return float(np.sqrt(max(squares / count - (total / count) ** 2, 0)))
