"""check.py: everything that does not hold is found, what is damaged is made again."""

import os
import shutil

import drawings
import numpy as np

from data import clips
from data.preprocessing import check

SIZE = '--frame_size=64'


def store_flow(data_dir, clip, change):
    """Rewrites a clip's flow as change(flow)."""
    flow = change(clips.read_flow(str(data_dir), clip))
    with clips.flow_writer(clips.flow_path(data_dir, clip)) as writer:
        for field in flow:
            writer.append(field)


def test_check_finds_what_does_not_hold(drawn, preprocessed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    store_flow(data_dir, 'A/plain', lambda flow: flow[:-1])
    store_flow(data_dir, 'A/with space', lambda flow: flow[..., [0, 0]])
    store_flow(data_dir, 'A/a,"b"', np.ascontiguousarray)
    (data_dir / 'resized/B/x.zip').write_bytes(b'RIFF')
    os.remove(data_dir / 'optical-flow/B/größe.zip')
    shutil.copy(data_dir / 'resized/A/plain.zip', data_dir / 'resized/A/extra.zip')
    done = run_script('optical_flow.py', f'--data_dir={data_dir}', '--check', code=1)
    for clip, problem in (
        ('A/plain', 'hold 6 frames and 4 fields of flow, clips.csv says 6 frames'),
        ('A/with space', 'the same x and y'),
        ('A/extra', 'no row in clips.csv'),
        ('B/größe', 'größe.zip is missing'),
        ('B/still', 'flow is constant'),
        ('B/x', 'x.zip is damaged'),
    ):
        lines = done.stdout.splitlines()
        assert any(clip in line and problem in line for line in lines), problem
    assert '6 clips checked, 6 wrong' in done.stdout
    assert '4 of them are outdated now' in done.stdout
    os.remove(data_dir / 'resized/A/extra.zip')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    run_script('optical_flow.py', *words)
    assert drawings.contents(data_dir).keys() == drawings.contents(preprocessed).keys()
    for row in clips.read_index(str(data_dir)).values():
        assert check.problems_of(str(data_dir), row)[1] is False
    row = {**row, 'status': 'outdated', 'error': ''}
    assert 'makes it again' in check.problems_of(str(data_dir), row)[0]
    assert 'without a status' in check.problems_of('', {**row, 'status': ''})[0]
