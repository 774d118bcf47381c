"""Several runs on one folder: what they take from each other, and damaged state."""

import errno
import os
import time

import filelock
import pytest

from data import clips
from data.preprocessing import journal
from data.preprocessing import settings

WORDS = {'flow': {'algorithm': 'dis-medium', 'PatchSize': 8}, 'size': 64}
MADE = {
    'flow': 'dis-medium',
    'bound': 20.0,
    'size': 64,
    'settings': settings.fingerprint(WORDS),
}


def row_of(clip, status='ok', source=None):
    row = {**dict.fromkeys(clips.COLUMNS), **MADE, 'frames': 3, 'clip': clip}
    return {**row, 'source': source or f'{clip}.avi', 'status': status, 'error': ''}


def store(folder, *rows):
    """Files and rows of clips as if they were made."""
    for row in rows:
        for path in (clips.frames_path, clips.flow_path):
            file = path(str(folder), row['clip'])
            os.makedirs(os.path.dirname(file), exist_ok=True)
            open(file, 'w').close()
    clips.write_index(folder / 'clips.csv', rows)


def statuses(folder):
    index = clips.read_index(str(folder), ok_only=False)
    return {clip: row['status'] for clip, row in index.items()}


def test_what_another_run_finished_is_not_taken_back(tmp_path):
    run = journal.Run(str(tmp_path), MADE, WORDS)
    lost = row_of('A/lost')  # its files are gone
    store(tmp_path, row_of('A/done'), row_of('A/bad', 'error'))
    clips.write_index(tmp_path / 'clips.csv', [row_of('A/done'), lost])
    found = {clip: f'{clip}.avi' for clip in ('A/done', 'A/lost', 'A/new')}
    assert list(run.begin(found)) == ['A/lost', 'A/new']
    assert statuses(tmp_path) == {'A/done': 'ok', 'A/lost': 'outdated'}
    run.close()


def test_another_video_of_one_name_is_refused(tmp_path):
    store(tmp_path, row_of('A/x'))
    run = journal.Run(str(tmp_path), MADE, WORDS)
    with pytest.raises(ValueError, match=r'of A/x\.avi, now .* of A/x\.mp4: rename'):
        run.begin({'A/x': 'A/x.mp4'})
    assert statuses(tmp_path) == {'A/x': 'ok'}
    run.close()
    run = journal.Run(str(tmp_path), MADE, WORDS, overwrite=True)
    assert run.begin({'A/x': 'A/x.mp4'}) == {'A/x': 'A/x.mp4'}
    assert statuses(tmp_path) == {'A/x': 'outdated'}
    run.close()


def test_failures_of_videos_that_are_gone_are_dropped(tmp_path):
    store(tmp_path, row_of('A/good'), row_of('A/bad', 'error'), row_of('A/b', 'error'))
    run = journal.Run(str(tmp_path), MADE, WORDS)
    run.begin({}, gone=['A/good', 'A/bad', 'A/new'])
    run.close()
    assert statuses(tmp_path) == {'A/b': 'error', 'A/good': 'ok'}


def test_damaged_clips_are_outdated_unless_made_again_meanwhile(tmp_path):
    store(tmp_path, row_of('A/x'), row_of('A/y'))
    seen = list(clips.read_index(str(tmp_path)).values())
    clips.write_index(tmp_path / 'clips.csv', [row_of('A/x'), row_of('A/y', 'error')])
    journal.outdate(str(tmp_path), seen)
    assert statuses(tmp_path) == {'A/x': 'outdated', 'A/y': 'error'}


def test_torn_state_is_passed_over(tmp_path):
    run = journal.Run(str(tmp_path), MADE, WORDS)
    with open(os.path.join(run.folder, 'rows.jsonl'), 'w') as file:
        file.write('{"clip": "A/to{"clip": 1}\n\0\0\0\n')
    run.finish(row_of('A/x'))
    os.close(run._owner)  # as its death would
    (tmp_path / '.optical_flow/settings.json').write_text('')
    second = journal.Run(str(tmp_path), MADE, WORDS)
    assert list(second.index) == ['A/x']
    second.close()


@pytest.mark.parametrize(
    'number, expected',
    [(errno.ENOLCK, 'no locks: choose another'), (errno.ENOSPC, 'No space left')],
)
def test_errors_of_the_folder_name_it(tmp_path, monkeypatch, number, expected):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock, 'lock_descriptor', refused)
    with pytest.raises(OSError, match=expected) as caught:
        journal.Run(str(tmp_path), MADE, WORDS)
    assert caught.value.filename == str(tmp_path)


def test_living_runs_are_left_alone_and_dead_ones_merged(tmp_path):
    data_dir = str(tmp_path)
    first = journal.Run(data_dir, MADE, WORDS)
    row = {**dict.fromkeys(clips.COLUMNS), **MADE, 'clip': 'A/a', 'frames': 3}
    first.finish({**row, 'status': 'ok'})
    with pytest.raises(ValueError, match='another run works there'):
        journal.Run(data_dir, {**MADE, 'size': 96}, WORDS, overwrite=True)
    second = journal.Run(data_dir, MADE, WORDS)
    assert os.path.isdir(first.folder) and second.index == {}
    os.close(first._owner)  # as its death would
    with open(os.path.join(first.folder, 'rows.jsonl'), 'a') as file:
        file.write('{"clip": "A/torn')
    third = journal.Run(data_dir, MADE, WORDS)
    assert not os.path.isdir(first.folder) and list(third.index) == ['A/a']
    # another machine's locks may not be seen here: its folder stays for a day
    foreign = tmp_path / '.optical_flow' / 'elsewhere-1-1'
    foreign.mkdir()
    (foreign / 'owner').touch()
    journal.Run(data_dir, MADE, WORDS).close()
    assert foreign.is_dir()
    os.utime(foreign / 'owner', (0, time.time() - 2 * journal.ABANDONED_SECONDS))
    journal.Run(data_dir, MADE, WORDS).close()
    assert not foreign.is_dir()
    second.close()
    third.close()


def test_a_run_lives_as_long_as_its_workers(tmp_path):
    """A worker may write for a moment after its parent was killed."""
    first = journal.Run(str(tmp_path), MADE, WORDS)
    worker = journal.hold(first.folder, '7.worker')
    os.close(first._owner)  # as its death would
    journal.Run(str(tmp_path), MADE, WORDS).close()
    assert os.path.isdir(first.folder)
    os.close(worker)
    journal.Run(str(tmp_path), MADE, WORDS).close()
    assert not os.path.isdir(first.folder)


def test_failure_of_one_run_does_not_undo_another(tmp_path):
    row = {**dict.fromkeys(clips.COLUMNS), 'clip': 'A/a', 'frames': 3, **MADE}
    run = journal.Run(str(tmp_path), MADE, WORDS)
    run.finish({**row, 'status': 'ok'})
    run.finish({**row, 'status': 'error', 'error': 'disk full'})
    run.close()
    assert list(clips.read_index(str(tmp_path))) == ['A/a']


def test_lock_is_free_after_a_run(preprocessed):
    with open(preprocessed / '.optical_flow/lock') as file:
        assert filelock.lock_descriptor(file.fileno(), blocking=False)
