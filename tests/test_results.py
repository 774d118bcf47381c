"""Tables, pictures and the report: what stands in them, and that they open."""

import base64
import csv
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from data import splits
from results import figures
from results import measures
from results import report
from results import tables

NAMES = ['Walk', 'Jump <b>', 'Run', 'Sit', 'Fall', 'Wave', 'Clap']


@pytest.fixture
def examples():
    return [
        splits.Example(f'{NAMES[n % 7]}/v_{n}', n % 7, f'g{n // 3}') for n in range(40)
    ]


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    names = ('video', 'one_sample', 'fusion')
    return {name: random.dirichlet(np.ones(7), 40) for name in names}


@pytest.fixture
def result(examples, scores):
    """What evaluation.json would hold."""
    labels = np.array([example.label for example in examples])
    groups = [example.group for example in examples]
    matrix = measures.confusion_matrix(scores['video'].argmax(1), labels, 7)
    return {
        'stage': 'hybrid',
        'step': 12,
        'side': 'test',
        'trained on': False,
        'partial split': False,
        'missing': {'train': 0, 'test': 0},
        'test_segments': 25,
        'test_crops': 1,
        'class_names': NAMES,
        'figures': {
            name: measures.measure(values, labels, groups, NAMES)
            for name, values in scores.items()
        },
        'confusion': matrix.tolist(),
        'compared': {
            'runs/other': {
                'other': 'spatial',
                'other_top1': 0.25,
                **measures.compare(labels == 1, labels == 2, groups),
            }
        },
    }


def test_predictions_round_trip(tmp_path, examples, scores):
    path = tmp_path / 'predictions.csv'
    tables.write_predictions(path, examples, NAMES, scores)
    with open(path, newline='', encoding='utf-8') as file:
        header, *rows = csv.reader(file)
    assert header[:3] == ['clip', 'label', 'prediction']
    assert header[-2:] == ['one_sample', 'fusion'] and len(set(header)) == len(header)
    assert len(rows) == 40
    for row, values, example in zip(rows, scores['video'], examples, strict=True):
        assert row[1] == NAMES[example.label]
        order = np.argsort(-values)[:5]
        assert row[2:12:2] == [NAMES[label] for label in order]
        np.testing.assert_allclose(np.float64(row[3:12:2]), values[order], atol=1e-6)
    read = tables.read_predictions(path)
    assert read[examples[5].clip] == (rows[5][1], rows[5][2])


def test_predictions_that_are_none(tmp_path):
    with pytest.raises(ValueError, match='evaluate that run first'):
        tables.read_predictions(tmp_path / 'predictions.csv')
    (tmp_path / 'x.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='has no column'):
        tables.read_predictions(tmp_path / 'x.csv')


def test_every_table_is_marked(result, capsys):
    tables.print_result(result)
    assert 'partial' not in capsys.readouterr().out
    result.update({'partial split': True, 'missing': {'train': 5, 'test': 3}})
    tables.print_result(result)
    printed = capsys.readouterr().out
    # figures, classes and comparison
    assert printed.count('partial split, 3 clips missing') == 3
    result['trained on'] = True
    assert 'trained on' in tables.marks(result)


def test_difference_says_by_how_much(result):
    for name, share in (('video', 0.875), ('one_sample', 0.75)):
        result['figures'][name]['top1'] = share
    assert '-12.5 points' in tables.difference(result)


@pytest.mark.parametrize('classes', [8, 101])
def test_confusion_picture(tmp_path, classes):
    names = [f'ClassWithAName{n}' for n in range(classes)]
    path = tmp_path / 'confusion.png'
    figures.draw_confusion(path, np.eye(classes, dtype=int), names, 'title')
    picture = cv2.imread(str(path))
    # each class name needs its line: 7 points at 110 dots an inch are 11 pixels
    assert picture.shape[0] > 14 * classes
    blue = (picture[..., 0] > picture[..., 2].astype(int) + 60).mean()
    assert blue > 0.4 / classes


def test_confusion_shows_shares_of_rows(tmp_path):
    # 1 of 1 is as dark as 50 of 50, and darker than 25 of 50
    matrix = np.array([[1, 0, 0], [0, 50, 0], [0, 25, 25]])
    with open(tmp_path / 'c.png', 'wb') as file:
        figures.draw_confusion(file, matrix, list('abc'), '')
    picture = cv2.imread(str(tmp_path / 'c.png')).astype(int)
    dark = (picture[..., 0] - picture[..., 2] > 20) & (picture[..., 2] < 40)
    half = (picture[..., 0] - picture[..., 2] > 60) & (picture[..., 2] > 80)
    cell = half.sum() / 2
    assert dark.sum() > 1.5 * cell


def test_overlay_bar_is_the_probability():
    frame = np.full((120, 200, 3), 100, np.uint8)
    field = np.full((10, 10, 2), 128, np.uint8)
    field[..., 0] = 255
    figures.draw_overlay(frame, 'Walk', 0.75, field, 20.0)
    bar = (frame[:14] == (90, 220, 90)).all(axis=2).any(axis=0)
    assert bar[:150].all() and not bar[150:].any()
    assert (frame[20:80] == 100).all()
    inset = frame[95:, 155:]
    np.testing.assert_array_equal(inset, np.broadcast_to([0, 0, 255], inset.shape))


def test_heat_is_where_the_map_is():
    place_map = np.zeros((4, 4), np.float32)
    place_map[0, 3] = 2
    warm = figures.heat(np.full((64, 64, 3), 128, np.uint8), place_map, 2)
    red = warm[..., 2].astype(int) - warm[..., 0]
    y, x = np.unravel_index(red.argmax(), red.shape)
    assert y < 16 and x >= 48
    assert red[32:, :32].max() < 0


def test_timeline_opens(tmp_path):
    timeline = [
        {'from_seconds': n, 'to_seconds': n + 1, 'best': [[name, 0.6], ['Sit', 0.1]]}
        for n, name in enumerate(NAMES[:4])
    ]
    figures.draw_timeline(tmp_path / 't.png', {'timeline': timeline})
    assert cv2.imread(str(tmp_path / 't.png')).shape[1] > 500


@pytest.fixture
def html(tmp_path, result):
    """Path of a report with every part."""
    figures.draw_confusion(tmp_path / 'c.png', result['confusion'], NAMES, 'title')
    picture = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    stored = {
        'settings': {'stage': 'hybrid', 'steps': 12},
        'preprocessing': {'flow': 'dis-medium', 'bound': 20.0, 'size': 64},
        'train_clips': ['a', 'b'],
        'list_hashes': {},
        'cnns': {'spatial': {'weights': 'w', 'fingerprint': 'f00'}},
        'versions': {'python': '3'},
        'revision': 'abc',
        'started': 'now',
    }
    pairs = [('Run', 'Jump <b>', 3, 'Run/v_1', picture)]
    path = tmp_path / 'report.html'
    report.write(path, result, stored, tmp_path / 'c.png', pairs)
    return path


def test_report_is_one_file(html, result):
    text = html.read_text(encoding='utf-8')
    assert 'http' not in text and '//' not in re.sub('base64,[^"]*', '', text)
    assert '<script' not in text and 'Jump <b>' not in text
    assert 'Jump &lt;b&gt;' in text
    for word in ('runs/other', '--steps', 'Most confused', 'McNemar', 'abc', 'f00'):
        assert word in text
    images = re.findall('base64,([^"]*)"', text)
    assert len(images) == 2
    for image in images:
        data = np.frombuffer(base64.b64decode(image), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    assert f'{result["figures"]["video"]["top1"]:.1%}' in text
    assert 'Read with care' not in text


def test_report_says_partial(html, result, tmp_path):
    result.update({'partial split': True, 'missing': {'train': 5, 'test': 3}})
    stored = {'settings': {}, 'preprocessing': {}, 'train_clips': [], 'cnns': {}}
    stored.update(dict.fromkeys(('list_hashes', 'versions', 'revision', 'started'), ''))
    path = tmp_path / 'partial.html'
    report.write(path, result, stored, tmp_path / 'c.png', [])
    assert path.read_text().count('partial split, 3 clips missing') >= 2


def test_many_classes_show_the_ends(result):
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
    picture = cv2.imread(str(shot))
    assert picture.shape[:2] == (2200, 1100)
    # headings and figures are black on white, the confusion picture is blue
    assert (picture.max(axis=2) < 90).mean() > 0.003
    assert (picture[..., 0] > picture[..., 2].astype(int) + 60).mean() > 0.003
    dumped = subprocess.run(
        [*common, '--dump-dom', f'file://{html}'],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert 'Most confused pairs' in dumped
