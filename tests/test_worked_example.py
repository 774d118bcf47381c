"""The worked example of data/README.md runs word for word, on videos drawn here."""

import json
import os
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADING = '## Worked example: your own videos'
# BGR; what is done does not matter here, only that a network can tell it
COLORS = {'wave': (40, 130, 230), 'clap': (255, 160, 90)}


def draw(path, name, seed):
    """Writes 30 frames of a disc or a square that wanders over grey."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, (96, 72))
    assert writer.isOpened()
    place, speed = random.uniform(25, 40, 2), random.uniform(0, 1, 2)
    for step in range(30):
        frame = np.full((72, 96, 3), 60 + seed, np.uint8)
        x, y = np.int64(place + step * speed).tolist()
        if name == 'wave':
            cv2.circle(frame, (x, y), 16, COLORS[name], -1)
        else:
            cv2.rectangle(frame, (x - 14, y - 14), (x + 14, y + 14), COLORS[name], -1)
        writer.write(frame)
    writer.release()


def commands_of(readme):
    """The first block of shell commands below HEADING."""
    section = readme.split(HEADING)[1]
    return re.search('```sh\n(.*?)```', section, re.DOTALL)[1]


def test_commands_are_found():
    readme = (
        'x\n```sh\nno\n```\n' + HEADING + '\n\n```sh\na \\\n  b\nc\n```\n```sh\nd\n```'
    )
    assert commands_of(readme) == 'a \\\n  b\nc\n'


@pytest.mark.slow
def test_worked_example(tmp_path):
    for path in [
        *ROOT.glob('*.py'),
        *(ROOT / n for n in ('data', 'results', 'weights')),
    ]:
        (tmp_path / path.name).symlink_to(path)
    seed = 0
    for name in COLORS:
        for person in ('ann', 'bob', 'cy', 'dee'):
            for number in (1, 2):
                seed += 1
                draw(tmp_path / f'my_videos/{name}/{person}_{number}.mp4', name, seed)
    draw(tmp_path / 'new.mp4', 'clap', seed + 1)
    path = f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        ['bash', '-e', '-c', commands_of((ROOT / 'data/README.md').read_text('utf-8'))],
        cwd=tmp_path,
        env={**os.environ, 'PATH': path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert 'split 1: 12 train clips, 4 test clips' in done.stdout
    assert 'nothing is wrong' in done.stdout
    run = tmp_path / 'my_runs/hybrid'
    assert (run / 'report.html').is_file()
    figures = json.loads((run / 'evaluation.json').read_text())['figures']
    assert figures['video']['top1'] == 1
    predicted = json.loads((run / 'videos/new.mp4.json').read_text())
    assert predicted['best'][0][0] == 'clap'
