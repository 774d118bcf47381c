"""report.html: one file that has everything, escaped, and opens in a browser."""

import base64
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import scored

from data import clips
from data import splits
from results import figures
from results import report


@pytest.fixture
def html(tmp_path):
    """Path of a report with every part."""
    result = scored.result()
    figures.draw_confusion(
        tmp_path / 'c.png', result['confusion'], scored.NAMES, 'title'
    )
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    run = {
        'flags': {'stage': 'hybrid', 'max_steps': 12},
        'preprocessing': {'flow': 'dis-medium', 'bound': 20.0, 'size': 64},
        'train_clips': ['a', 'b'],
        'list_hashes': {},
        'cnns': {'spatial': {'weights': 'w', 'fingerprint': 'f00'}},
        'versions': {'python': '3'},
        'revision': 'abc',
        'started': 'now',
    }
    pairs = [('Run', 'Jump <b>', 3, 'Run/v_1', image)]
    path = tmp_path / 'report.html'
    report.write(path, result, run, tmp_path / 'c.png', pairs)
    return path


def test_report_is_one_file(html):
    result = scored.result()
    text = html.read_text(encoding='utf-8')
    images = re.findall('base64,([^"]*)"', text)
    text = re.sub('base64,[^"]*', '', text)  # which may hold any short word
    assert 'http' not in text and '//' not in text
    assert '<script' not in text and 'Jump <b>' not in text
    assert 'true class <b>Run</b>' in text
    assert 'predicted class <b>Jump &lt;b&gt;</b>, 3 clips' in text
    for word in ('runs/other', '--max_steps', 'Most confused', 'McNemar', 'abc', 'f00'):
        assert word in text, word
    assert len(images) == 3
    for image in images:
        data = np.frombuffer(base64.b64decode(image), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    assert f'{result["figures"]["video"]["top1"]:.1%}' in text
    assert 'Read with care' not in text


def test_report_says_partial(html, tmp_path):
    result = scored.result()
    result.update({'partial_split': True, 'missing': {'train': 5, 'test': 3}})
    run = {'flags': {}, 'preprocessing': {}, 'train_clips': [], 'cnns': {}}
    run.update(dict.fromkeys(('list_hashes', 'versions', 'revision', 'started'), ''))
    path = tmp_path / 'partial.html'
    report.write(path, result, run, tmp_path / 'c.png', [])
    assert path.read_text().count('partial split, 3 clips missing') >= 2


def test_each_way_to_predict_says_what_it_is():
    result = scored.result()
    figures_of = result['figures']['video']
    names = ('video', 'rgb_lstm', 'without_rgb_lstm', 'fusion')
    text = report.figures_table({'figures': dict.fromkeys(names, figures_of)})
    meanings = re.findall('<td class="text">([^<]*)</td></tr>', text)
    part = 'only the part of the scores that this branch adds'
    without = 'the scores without what this branch adds'
    assert meanings == ['the whole clip: the figure to quote', part, without, part]


def test_a_confused_pair_shows_a_frame_and_the_field_after_it(monkeypatch):
    asked = []

    def read(data_dir, clip, steps):
        asked.append((clip, steps))
        return np.full([1, 8, 8, 3 if len(asked) == 1 else 2], 128, np.uint8)

    monkeypatch.setattr(clips, 'read_frames', read)
    monkeypatch.setattr(clips, 'read_flow', read)
    examples = [splits.Example('A/x', 0, '1'), splits.Example('B/y', 1, '1')]
    rows = {'B/y': {'frames': 10, 'bound': 20.0}}
    result = {'class_names': ['A', 'B'], 'confusion': [[1, 0], [1, 0]]}
    ((true, predicted, count, clip, image),) = report.confused_examples(
        'D', rows, examples, np.array([0, 0]), result
    )
    assert (true, predicted, count, clip) == ('B', 'A', 1, 'B/y')
    assert asked == [('B/y', [4]), ('B/y', [4])]  # of 10 frames and 9 fields
    assert image.shape == (8, 16, 3)
    assert (image[:, :8] == 128).all() and (image[:, 8:] == 255).all()  # zero flow


def test_many_classes_show_the_ends():
    result = scored.result()
    rows = {
        f'class{n}': {'clips': 1, 'accuracy': n / 30, 'average_precision': 0.5}
        for n in range(30)
    }
    result['figures']['video']['per_class'] = rows
    text = report.classes_tables(result)
    best, worst = text.split('Worst classes')
    assert best.index('class29<') < best.index('class28<') and 'class15<' not in text
    assert worst.index('class0<') < worst.index('class1<')


@pytest.mark.slow
def test_report_opens_in_a_browser(html, tmp_path):
    browser = shutil.which('chromium')
    if browser is None:
        pytest.skip('no chromium here: apt-get install chromium')
    quiet = '--disable-quic --no-first-run --disable-background-networking'.split()
    quiet += ['--disable-component-update', '--disable-sync', '--no-sandbox']
    shot = tmp_path / 'shot.png'
    common = [browser, '--headless', '--disable-gpu', *quiet]
    common += [f'--user-data-dir={tmp_path}/profile', '--window-size=1100,2200']
    subprocess.run(
        [*common, f'--screenshot={shot}', f'file://{html}'],
        check=True,
        capture_output=True,
        timeout=120,
    )
    image = cv2.imread(str(shot))
    assert image.shape[:2] == (2200, 1100)
    # headings and figures are black on white, the confusion image is blue
    assert (image.max(axis=2) < 90).mean() > 0.003
    assert (image[..., 0] > image[..., 2].astype(int) + 60).mean() > 0.003
    dumped = subprocess.run(
        [*common, '--dump-dom', f'file://{html}'],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert 'Most confused pairs' in dumped
