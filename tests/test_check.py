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
    writer = clips.open_flow_writer(clips.flow_path(str(data_dir), clip), 64, 25)
    for field in flow:
        writer.write(clips.flow_picture(field))
    writer.release()


def test_check_finds_what_does_not_hold(drawn, undisturbed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(undisturbed, data_dir)
    store_flow(data_dir, 'A/plain', lambda flow: flow[:-1])
    store_flow(data_dir, 'A/with space', lambda flow: flow[..., [0, 0]])
    store_flow(data_dir, 'A/a,"b"', np.ascontiguousarray)
    (data_dir / 'resized/B/x.avi').write_bytes(b'RIFF')
    os.remove(data_dir / 'optical-flow/B/größe.avi')
    shutil.copy(data_dir / 'resized/A/plain.avi', data_dir / 'resized/A/extra.avi')
    done = run_script('optical_flow.py', f'--data_dir={data_dir}', '--check', code=1)
    for clip, problem in (
        ('A/plain', 'has 4 images, clips.csv says 5'),
        ('A/with space', 'the same x and y'),
        ('A/extra', 'no row in clips.csv'),
        ('B/größe', 'No such file'),
        ('B/still', 'flow is constant'),
        ('B/x', 'not a whole AVI'),
    ):
        lines = done.stdout.splitlines()
        assert any(clip in line and problem in line for line in lines), problem
    assert '6 clips checked, 6 wrong' in done.stdout
    assert '4 of them are outdated now' in done.stdout
    os.remove(data_dir / 'resized/A/extra.avi')
    words = [f'--video_dir={drawn}', f'--data_dir={data_dir}', SIZE]
    run_script('optical_flow.py', *words)
    assert drawings.contents(data_dir).keys() == drawings.contents(undisturbed).keys()
    for row in clips.read_index(str(data_dir)).values():
        assert check.problems_of(str(data_dir), row)[1] is False
    row = {**row, 'status': 'outdated', 'error': ''}
    assert 'makes it again' in check.problems_of(str(data_dir), row)[0]
    assert 'without a status' in check.problems_of('', {**row, 'status': ''})[0]
