"""Names of classes in any script: drawn where a font has the letters, else told."""

import io
import warnings

import matplotlib
import numpy as np
import pytest
from fontTools import fontBuilder
from fontTools.pens import ttGlyphPen
from matplotlib import font_manager

from results import figures
from results import fonts

CHINESE = '跳跃'


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No system fonts but matplotlib's own, and nothing told or added before."""
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [])
    families = matplotlib.rcParams['font.family']
    for function in (fonts.add_fonts, fonts.tell, figures.text_mask):
        function.cache_clear()
    yield
    matplotlib.rcParams['font.family'] = families
    for function in (fonts.add_fonts, fonts.tell, figures.text_mask):
        function.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a font of boxes: name, letters that it has -> path."""

    def call(name, letters):
        pen = ttGlyphPen.TTGlyphPen(None)
        for number, corner in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
            (pen.lineTo if number else pen.moveTo)(corner)
        pen.closePath()
        box = pen.glyph()
        glyphs = {f'box{ord(letter)}': box for letter in letters}
        empty = ttGlyphPen.TTGlyphPen(None).glyph()
        builder = fontBuilder.FontBuilder(1000)
        builder.setupGlyphOrder(['.notdef', *glyphs])
        builder.setupCharacterMap({ord(c): f'box{ord(c)}' for c in letters})
        builder.setupGlyf({'.notdef': empty, **glyphs})
        builder.setupHorizontalMetrics(dict.fromkeys(['.notdef', *glyphs], (800, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({'familyName': name, 'styleName': 'Regular'})
        builder.setupOS2()
        builder.setupPost()
        path = tmp_path / f'{name}-Regular.ttf'
        builder.save(path)
        found = sorted(map(str, tmp_path.glob('*.ttf')))
        monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: found)
        return path

    return call


def test_latin_and_arabic_need_no_other_font(capsys):
    names = ['Jump', 'القفز', 'прыжок', 'Run $a_b$']
    assert fonts.drawable(names) == (names, '')
    assert capsys.readouterr().out == ''


def test_a_font_that_has_the_letters_is_found(install, capsys):
    install('Nothing', 'A')
    install('Boxes', CHINESE)
    assert fonts.drawable(['Jump', CHINESE]) == (['Jump', CHINESE], '')
    assert 'Boxes' in matplotlib.rcParams['font.family']
    assert 'Nothing' not in matplotlib.rcParams['font.family']
    assert capsys.readouterr().out == ''
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = figures.text_mask(CHINESE, 40)
    # two boxes beside each other, each as wide as high
    runs = np.flatnonzero(np.diff(np.int8(found.max(axis=0) > 128)))
    assert len(runs) == 4 and runs[1] - runs[0] == pytest.approx(28, abs=2)


@pytest.mark.parametrize(
    'name, escaped, wanted',
    [
        ('跳 A', '\\u8df3 A', 'Noto Sans CJK (Debian: fonts-noto-cjk)'),
        ('ジャンプ', '\\u30b8\\u30e3\\u30f3\\u30d7', 'Noto Sans CJK (Debian: '),
        ('점프', '\\uc810\\ud504', 'Noto Sans CJK (Debian: fonts-noto-cjk)'),
        (
            'कूद',
            '\\u0915\\u0942\\u0926',
            'Noto Sans Devanagari (Debian: fonts-noto-core',
        ),
    ],
)
def test_a_font_that_is_missing_is_named_once(name, escaped, wanted, capsys):
    for _ in range(2):
        drawn, note = fonts.drawable(['Run', name])
        assert drawn == ['Run', escaped]
        assert f'; install {wanted}' in note and '\n' not in note
    assert capsys.readouterr().out == f'{note}\n'


def test_what_no_font_can_draw_is_escaped():
    assert fonts.drawable(['a\nb\t\x1b[0m', 'x\udc80'])[0] == [
        'a\\nb\\t\\x1b[0m',
        'x\\udc80',
    ]


def test_figures_have_the_names_or_say_which_font_is_missing(install, monkeypatch):
    shown = []
    monkeypatch.setattr(figures.pyplot, 'close', shown.append)

    def texts_of(names):
        matrix = np.eye(len(names), dtype=int)
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # as of a letter that is not drawn
            figures.draw_confusion(io.BytesIO(), matrix, names, 'a title')
        labels = shown[-1].axes[0].get_yticklabels()
        return [label.get_text() for label in labels], shown[-1].get_supxlabel()

    names = ['Run', CHINESE, 'Sit $x$ {']
    labels, note = texts_of(names)
    assert labels == ['Run', '\\u8df3\\u8dc3', 'Sit $x$ {']
    assert note.endswith('install Noto Sans CJK (Debian: fonts-noto-cjk)')
    install('Boxes', CHINESE)
    fonts.add_fonts.cache_clear()
    assert texts_of(names) == (names, '')
    monkeypatch.undo()
    figures.pyplot.close('all')


def test_an_overlay_has_the_name_and_the_share():
    frames = []
    for name, probability in (('Run', 0.5), ('القفز', 0.5), ('Run', 0.25)):
        frame = np.full((120, 160, 3), 90, np.uint8)
        figures.draw_overlay(frame, name, probability, None, 20.0)
        frames.append(frame)
        assert (frame[14:] == 90).all()  # below the bar nothing changes
        assert (frame[:12] > 200).any()
    run, arabic, quarter = frames
    assert (run != arabic).any() and (run != quarter).any()
    green = [(frame[12, :, 1] > 160).sum() for frame in frames]
    assert green == [80, 80, 40]


def test_a_name_too_long_for_the_frame_is_made_to_fit():
    frame = np.zeros((120, 160, 3), np.uint8)
    figures.draw_overlay(frame, 'a very long name of a class ' * 3, 1.0, None, 20.0)
    assert not frame[14:].any()
    columns = np.flatnonzero(frame[:11].max(axis=(0, 2)) > 60)
    assert columns.min() >= 2 and 140 < columns.max() < 158
