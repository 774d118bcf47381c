"""preview.py: the colours of flow and contact sheets that can be read."""

import shutil

import cv2
import numpy as np

from data import clips
from data.preprocessing import preview


def test_colours_of_flow():
    flow = np.array([[[0, 0], [2, 0], [0, 2], [-2, 0], [0, -2], [1, 0]]], np.float32)
    colours = preview.flow_to_color(flow)[0].astype(int)
    still, right, down, left, up, half = colours
    assert (still == 255).all()
    np.testing.assert_array_equal(right, [0, 0, 255])  # BGR: red
    assert down[0] == 0 and down[1] > 200 and down[2] == 255  # yellow
    assert left[2] == 0 and left[0] == 255  # cyan to blue
    assert up[0] == 255 and up[1] == 0  # violet
    np.testing.assert_array_equal(half, [128, 128, 255])
    stored = clips.quantize_flow(flow)
    np.testing.assert_allclose(
        preview.flow_to_color(stored)[0].astype(int), colours, atol=12
    )


def test_preview_writes_sheets(preprocessed, tmp_path, run_script):
    data_dir = tmp_path / 'data'
    shutil.copytree(preprocessed, data_dir)
    (data_dir / 'resized/B/still.zip').write_bytes(b'RIFF')
    words = ['optical_flow.py', f'--data_dir={data_dir}', '--preview=6']
    done = run_script(*words, code=1)
    assert done.stderr == '' and 'B/still' in done.stdout.splitlines()[-1]
    sheets = [cv2.imread(str(path)) for path in data_dir.glob('preview/*/*.png')]
    assert [sheet.shape for sheet in sheets] == [(5 * 64, 3 * 64, 3)] * 5
    for size in (64, 224):
        legend = preview._wheel(size, 88.8)
        written = (legend[size:] < 128).any((0, 2))
        # its height can be read, and it ends before the image does
        assert written[: size - 2].sum() > 30 and not written[-1]
        assert (legend[size:] < 128).any((1, 2)).sum() >= 12
    clips.write_index(data_dir / 'clips.csv', [])
    done = run_script(*words)
    assert done.stdout == 'no clip is ready, so there is no preview\n'
