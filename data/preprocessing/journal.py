"""Several runs of optical_flow.py on one folder: locks, claims and clips.csv.

    run = journal.Run(data_dir, preprocessing, words, overwrite=False)
    todo = run.begin(found)
    run.finish(row)  # for each clip, as it ends
    run.close()

This is what lets runs be killed, repeated and spread over machines. Everything is in
<data_dir>/.optical_flow/:

    lock                 locked while clips.csv or the list of runs changes
    settings.json        preprocessing of the files in this folder
    <host>-<pid>-<n>/    one run: its temporary files, rows.jsonl, the file `owner`,
                         which the run keeps locked as long as it lives, and a file
                         <pid>.worker for each of its workers, locked likewise

The operating system drops a lock when its process ends, however it ends. A run is dead
when all of these files can be locked: then its rows are merged and its folder is
removed. Locks are filelock's: flock on Linux and macOS, LockFileEx on Windows.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import time

import filelock

from data import clips
from data.preprocessing import settings

MERGE_SECONDS = 20
# Some shared file systems keep locks within one machine; the folder of another machine
# is touched at each merge and counts as abandoned after a day of silence.
ABANDONED_SECONDS = 24 * 3600


class Run:
    """One run's hold on a data_dir: claimed settings, folder of its own, its rows.

    Attributes:
      folder: path of this run's temporary files.
      index: dict from clip to its row in clips.csv, of any status, as last merged.
    """

    def __init__(self, data_dir, preprocessing, words, overwrite=False):
        """Claims `data_dir` for one preprocessing, merging what dead runs left.

        Args:
          data_dir: folder of preprocessed clips; made if absent.
          preprocessing: dict of the columns `flow`, `bound`, `size` and `settings`.
          words: dict that says the column `settings` in words.
          overwrite: let clips made with other settings be made again.

        Raises:
          ValueError: the folder belongs to other settings, or a run with others works.
          OSError: the folder cannot be written.
        """
        self._data_dir, self._preprocessing = data_dir, preprocessing
        self._overwrite = overwrite
        self._unmerged = []
        self._last_merge = time.monotonic()
        os.makedirs(_hidden(data_dir), exist_ok=True)
        with _locked(data_dir):
            living = _bury_dead_runs(data_dir)
            self.index = _read_rows(data_dir)
            if not overwrite:
                _refuse_others(data_dir, preprocessing, words, self.index)
            _claim(data_dir, preprocessing, living)
            settings.write(data_dir, words)
            name = f'{socket.gethostname()}-{os.getpid()}-{time.time_ns()}'
            self.folder = os.path.join(_hidden(data_dir), name)
            os.mkdir(self.folder)
            self._owner = hold(self.folder, 'owner')
        self._rows = open(os.path.join(self.folder, 'rows.jsonl'), 'a')

    def begin(self, found, gone=()):
        """Marks the clips to make as not done, before their files are replaced.

        Args:
          found: dict from clip to its video.
          gone: clips without a video: what is said of their failures is dropped.

        Returns:
          dict, those of `found` that nobody has made.

        Raises:
          ValueError: a clip was made of another video.
        """
        with _locked(self._data_dir):
            self.index, todo = _read_rows(self._data_dir), {}
            for clip, source in found.items():
                row = self.index.get(clip)
                done = is_done(self._data_dir, row, self._preprocessing)
                if done and row['source'] == source:
                    continue
                if done and not self._overwrite:
                    raise ValueError(
                        f'{self._data_dir} has the clip {clip} of {row["source"]}, now '
                        f'it would be of {source}: rename one, give the --video_dir '
                        'of before, or --overwrite'
                    )
                todo[clip] = source
                if row and row['status'] == 'ok':
                    row['status'] = 'outdated'
            for clip in gone:
                if clip in self.index and self.index[clip]['status'] != 'ok':
                    del self.index[clip]
            _write_rows(self._data_dir, self.folder, self.index)
        return todo

    def finish(self, row):
        """Records the row of a clip whose files are in place, or that failed."""
        self._unmerged.append(row)
        # On a full disk the row waits here and in the file's buffer for better times.
        with contextlib.suppress(OSError):
            self._rows.write(json.dumps(row) + '\n')
            self._rows.flush()
            if time.monotonic() - self._last_merge > MERGE_SECONDS:
                self.merge()

    def merge(self):
        """Brings the rows recorded since the last merge into clips.csv."""
        os.utime(os.path.join(self.folder, 'owner'))
        with _locked(self._data_dir):
            self.index = _merged(_read_rows(self._data_dir), self._unmerged)
            _write_rows(self._data_dir, self.folder, self.index)
        self._unmerged = []
        self._last_merge = time.monotonic()

    def close(self):
        """Merges what is left and removes this run's folder, its workers being dead.

        Raises:
          OSError: clips.csv cannot be written; the folder stays for the next run.
        """
        for entry in os.scandir(self.folder):
            if entry.name.endswith('.zip'):
                os.remove(entry.path)
        merged = False
        try:
            self.merge()
            merged = True
        finally:
            with contextlib.suppress(OSError):
                self._rows.close()
            if merged:  # else the next run does it
                os.remove(self._rows.name)
            os.close(self._owner)  # Windows removes no file that is open
            if merged:
                shutil.rmtree(self.folder, ignore_errors=True)


def hold(folder, name):
    """Locks the file `name` in a run's folder as long as this process lives.

    Returns:
      The file's descriptor; closing it gives the lock back.
    """
    descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o666)
    filelock.lock_descriptor(descriptor)
    return descriptor


def is_done(data_dir, row, preprocessing):
    """Whether `row` (or None) says that both files are there, made in this way."""
    return (
        row is not None
        and row['status'] == 'ok'
        and all(row[name] == value for name, value in preprocessing.items())
        and os.path.isfile(clips.frames_path(data_dir, row['clip']))
        and os.path.isfile(clips.flow_path(data_dir, row['clip']))
    )


def publish(temporary, data_dir, clip):
    """Renames a clip's two files to their places; both are new there, or neither.

    Args:
      temporary: paths of its whole frames and flow, on the same disk.
      data_dir: folder of preprocessed clips.
      clip: 'Class/stem'.

    Raises:
      OSError: one cannot be renamed.
    """
    places = [clips.frames_path(data_dir, clip), clips.flow_path(data_dir, clip)]
    there = [place for place in places if os.path.exists(place)]
    ours = []
    try:
        for file, place in zip(temporary, places, strict=True):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(file, 'rb') as written:
                os.fsync(written.fileno())
            os.replace(file, place)
            ours.append(place)
    except OSError:
        for place in set(ours) - set(there):  # what was there may be another run's
            with contextlib.suppress(OSError):
                os.remove(place)
        raise


def outdate(data_dir, rows):
    """Marks clips as not done, so that the next run makes them again.

    Args:
      data_dir: folder of preprocessed clips.
      rows: their rows; one that has changed meanwhile is left as it is.
    """
    os.makedirs(_hidden(data_dir), exist_ok=True)
    with _locked(data_dir):
        index = _read_rows(data_dir)
        for row in rows:
            if index.get(row['clip']) == row:
                index[row['clip']] = {**row, 'status': 'outdated'}
        _write_rows(data_dir, _hidden(data_dir), index)


def _hidden(data_dir):
    return os.path.join(data_dir, '.optical_flow')


@contextlib.contextmanager
def _locked(data_dir):
    """Holds the lock; an error that names no file is made to name `data_dir`."""
    try:
        with open(os.path.join(_hidden(data_dir), 'lock'), 'a') as file:
            filelock.lock_descriptor(file.fileno())
            yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            reason += ' (its file system has no locks: choose another --data_dir)'
        raise OSError(error.errno, reason, data_dir) from error


def _read_rows(data_dir):
    if not os.path.exists(os.path.join(data_dir, 'clips.csv')):
        return {}
    return clips.read_index(data_dir, ok_only=False)


def _write_rows(data_dir, folder, index):
    temporary = os.path.join(folder, 'clips.csv')
    clips.write_index(temporary, index.values())
    os.replace(temporary, os.path.join(data_dir, 'clips.csv'))


def _merged(index, rows):
    # A clip that one run finished stays finished when another run fails at it.
    for row in rows:
        old = index.get(row['clip'])
        if row['status'] == 'ok' or old is None or old['status'] != 'ok':
            index[row['clip']] = row
    return index


def _bury_dead_runs(data_dir):
    """Merges and removes the folders of dead runs; returns the paths of the others."""
    living = []
    for entry in os.scandir(_hidden(data_dir)):
        if entry.is_dir() and not _is_dead(entry.path):
            living.append(entry.path)
        elif entry.is_dir():
            index = _merged(_read_rows(data_dir), _recorded_rows(entry.path))
            _write_rows(data_dir, entry.path, index)
            shutil.rmtree(entry.path, ignore_errors=True)
    return living


def _is_dead(folder):
    """Whether neither a run nor one of its workers lives."""
    owner = os.path.join(folder, 'owner')
    silent = time.time() - os.stat(owner if os.path.exists(owner) else folder).st_mtime
    here = os.path.basename(folder).rsplit('-', 2)[0] == socket.gethostname()
    if not here and silent < ABANDONED_SECONDS:
        return False
    return all(
        _can_be_locked(entry.path)
        for entry in os.scandir(folder)
        if entry.name == 'owner' or entry.name.endswith('.worker')
    )


def _can_be_locked(path):
    descriptor = os.open(path, os.O_RDWR)
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)  # which gives the lock back


def _recorded_rows(folder):
    """Rows that a dead run wrote; but for a line torn by its death or a full disk."""
    path, rows = os.path.join(folder, 'rows.jsonl'), []
    if os.path.exists(path):
        with open(path, encoding='ascii', errors='replace') as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    rows.append(json.loads(line))
    return rows


def _refuse_others(data_dir, preprocessing, words, index):
    """ValueError if clips are there that were made with other settings."""
    for row in index.values():
        made_with = {name: row[name] for name in preprocessing}
        if row['status'] == 'ok' and made_with != preprocessing:
            difference = settings.difference(data_dir, row['settings'], words)
            raise ValueError(
                f'{data_dir} has clips made with other settings '
                f'({difference or _words(made_with)}): '
                'choose another --data_dir, or --overwrite'
            )


def _claim(data_dir, preprocessing, living):
    """Writes settings.json, unless living runs work with other settings."""
    path = os.path.join(_hidden(data_dir), 'settings.json')
    claimed = preprocessing
    # a file that a crash of the machine left empty or torn claims nothing
    with contextlib.suppress(FileNotFoundError, ValueError), open(path) as file:
        claimed = json.load(file)
    if living and claimed != preprocessing:
        raise ValueError(
            f'{data_dir}: another run works there with {_words(claimed)}, not '
            f'{_words(preprocessing)}: let it end (its files: {living[0]})'
        )
    temporary = path + '.new'
    with open(temporary, 'w') as file:
        json.dump(preprocessing, file)
    os.replace(temporary, path)


def _words(preprocessing):
    return ' '.join(f'{name} {value}' for name, value in preprocessing.items())
