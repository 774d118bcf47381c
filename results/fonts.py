"""Fonts for the names of classes, in whatever script they are written.

    names, note = fonts.drawable(class_names)

A font that has the letters is looked for among those of the machine, also among ones
that were installed after matplotlib made its list. Letters that no font has are drawn
as \\u8df3, and the note says which font to install.
"""

import functools
import unicodedata

import matplotlib
from matplotlib import font_manager

# first words of the names that Unicode gives letters of Chinese, Japanese and Korean
CJK = ('CJK', 'HIRAGANA', 'KATAKANA', 'HANGUL')


def drawable(texts):
    """Texts as figures can draw them, for which it adds fonts to those in use.

    Args:
      texts: iterable of str.

    Returns:
      (list of str, note): the note is '' or one line that names a font to install, and
      has been printed.
    """
    texts = list(texts)
    letters = frozenset(c for text in texts for c in text if c.isprintable())
    missing = add_fonts(letters)
    note = ''
    if missing:
        wanted = ', '.join(sorted({font_with(letter) for letter in missing}))
        note = (
            f'no font has all letters of the class names: figures show some as '
            f'{escaped(min(missing))}; install {wanted}'
        )
        tell(note)
    drawn = [
        ''.join(c if c.isprintable() and c not in missing else escaped(c) for c in text)
        for text in texts
    ]
    return drawn, note


@functools.cache
def tell(line):
    """Prints a line the first time."""
    print(line)


def escaped(letter):
    """A letter as \\u8df3."""
    return letter.encode('unicode_escape', 'surrogatepass').decode()


def font_with(letter):
    """A font that has a letter, and its package in Debian, in words."""
    script = unicodedata.name(letter, 'SYMBOLS').split()[0]
    if script in CJK:
        return 'Noto Sans CJK (Debian: fonts-noto-cjk)'
    return f'Noto Sans {script.title()} (Debian: fonts-noto-core)'


@functools.cache
def add_fonts(letters):
    """Adds fonts to matplotlib's until each letter has one; returns those without."""
    families = list(matplotlib.rcParams['font.family'])
    missing = letters - letters_of(font_manager.findfont(font_manager.FontProperties()))
    for path in (
        sorted(font_manager.findSystemFonts(), key=plainness) if missing else ()
    ):
        found = missing & letters_of(path)
        if found:
            font_manager.fontManager.addfont(path)
            families.append(font_manager.get_font(path).family_name)
            missing -= found
    matplotlib.rcParams['font.family'] = list(dict.fromkeys(families))
    return missing


def letters_of(path):
    """The letters that a font file has."""
    try:
        return {chr(code) for code in font_manager.get_font(path).get_charmap()}
    except (RuntimeError, OSError):  # no font after all
        return set()


def plainness(path):
    """Sorts upright fonts of normal weight without serifs first."""
    return 'Regular' not in path, 'Sans' not in path, path
