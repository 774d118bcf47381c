"""settings.py: every number counts, differences are named, versions are only told."""

import json

import cv2

from data.preprocessing import settings

WORDS = {'flow': {'algorithm': 'farneback', 'winsize': 15, 'levels': 3}, 'size': 64}


def test_every_number_counts_and_no_order():
    other = {'size': 64, 'flow': dict(reversed(WORDS['flow'].items()))}
    assert settings.fingerprint(other) == settings.fingerprint(WORDS)
    other['flow']['winsize'] = 21
    assert settings.fingerprint(other) != settings.fingerprint(WORDS)
    assert len(settings.fingerprint(WORDS)) == settings.DIGITS


def test_differences_are_named(tmp_path):
    settings.write(str(tmp_path), WORDS)
    known = settings.fingerprint(WORDS)

    def difference(**changed):
        now = {**WORDS, 'flow': {**WORDS['flow'], **changed}}
        return settings.difference(str(tmp_path), known, now)

    assert difference() == ''
    assert difference(winsize=21) == 'flow.winsize was 15, is 21'
    assert difference(levels=2, new=1) == (
        'flow.levels was 3, is 2, flow.new was not there, is 1'
    )
    dis = {'flow': {'algorithm': 'dis-fast', 'PatchSize': 8}, 'size': 64}
    assert settings.difference(str(tmp_path), known, dis) == (
        'flow.algorithm was farneback, is dis-fast'
    )
    assert settings.difference(str(tmp_path), 'unknown', dis) == ''


def test_versions_are_told_not_refused(tmp_path, monkeypatch):
    path = tmp_path / 'settings' / f'{settings.fingerprint(WORDS)}.json'
    for version in ('5.0.0', '5.0.0', '5.1.0'):
        monkeypatch.setattr(cv2, '__version__', version)
        settings.write(str(tmp_path), WORDS)
    content = json.loads(path.read_text())
    assert content['settings'] == WORDS
    assert [known['opencv'] for known in content['libraries']] == ['5.0.0', '5.1.0']
    path.write_text('{"settings"')  # cut short by a crash of the machine
    assert settings.difference(str(tmp_path), path.stem, WORDS) == ''
    settings.write(str(tmp_path), WORDS)
    assert json.loads(path.read_text())['settings'] == WORDS
    assert [file.name for file in path.parent.iterdir()] == [path.name]
