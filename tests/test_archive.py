"""Archives: any ZIP program reads them, and nothing but a whole one is read here."""

import os
import zipfile

import numpy as np
import pytest

from data import archive

ENDING = '.bin'


def payloads(count):
    """Byte strings of all lengths from 0 on, so that none is where another would be."""
    random = np.random.default_rng(count)
    return [random.bytes(n % 97) for n in range(count)]


def write(path, items):
    with archive.Writer(path, ENDING, bytes) as writer:
        for item in items:
            writer.append(item)
    return path


def opened(path):
    return archive.Reader(path, ENDING, bytes)


def read(path, places=None):
    with opened(path) as reader:
        return [reader.read(p) for p in (places or range(reader.count))]


@pytest.mark.parametrize('count', [1, 2, 3, 11, 1000])
def test_every_file_comes_back_from_its_place(tmp_path, count):
    items = payloads(count)
    path = write(tmp_path / 'x.zip', items)
    assert read(path) == items
    for place in range(count):
        assert read(path, [place]) == [items[place]]
    with opened(path) as reader:
        assert reader.count == count and reader.verify() == count
    with zipfile.ZipFile(path) as other:
        assert other.testzip() is None
        assert [other.read(name) for name in other.namelist()] == items


def test_other_programs_read_it(tmp_path):
    """More files than the 16 bits of an old ZIP end can count."""
    items = payloads(66_000)
    with zipfile.ZipFile(write(tmp_path / 'x.zip', items)) as other:
        found = other.infolist()
        assert [info.filename for info in found] == [
            f'{n:08}.bin' for n in range(66_000)
        ]
        assert found[5].date_time == (1980, 1, 1, 0, 0, 0)
        assert found[5].compress_type == zipfile.ZIP_STORED
        assert found[5].external_attr >> 16 == 0o100644
        for place in (0, 1, 96, 65_999):
            assert other.read(found[place]) == items[place]
    assert read(tmp_path / 'x.zip', [65_999, 4]) == [items[65_999], items[4]]


def test_beyond_four_gigabytes(tmp_path):
    path, items, begin = tmp_path / 'x.zip', payloads(50), 5 << 30
    with archive.Writer(path, ENDING, bytes) as writer:
        writer._file.seek(begin)  # the file has a hole there, which takes no disk
        writer._offset = begin
        for item in items:
            writer.append(item)
    assert os.path.getsize(path) > begin and read(path) == items
    with zipfile.ZipFile(path) as other:
        assert [other.read(name) for name in other.namelist()] == items


def test_the_same_files_give_the_same_bytes(tmp_path):
    one, two = (write(tmp_path / name, payloads(9)) for name in 'ab')
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize('place', [-1, 3, 10**9])
def test_no_other_place_is_read(tmp_path, place):
    path = write(tmp_path / 'x.zip', payloads(3))
    with pytest.raises(ValueError, match=rf'x\.zip holds 3 .* index {place} is out of'):
        read(path, [place])


def test_what_does_not_decode_is_named(tmp_path):
    path = write(tmp_path / 'x.zip', payloads(3))
    with archive.Reader(path, ENDING, lambda data: None) as reader:
        with pytest.raises(ValueError, match=r'x\.zip is damaged.*image 2 cannot be'):
            reader.read(2)


def foreign(path):
    """Files of other programs: name -> bytes."""
    with zipfile.ZipFile(path, 'w') as other:
        for place in range(3):
            other.writestr(zipfile.ZipInfo(f'{place:08}.bin'), b'x' * 50)
    riff = b'RIFF\x24\0\0\0AVI LIST\x18\0\0\0hdrlavih' + bytes(200)
    return {
        'zip': path.read_bytes(),
        'avi': riff,
        'empty': b'',
        'text': b'no archive\n' * 40,
        'zeros': bytes(5000),
    }


def test_files_of_other_programs_are_refused(tmp_path):
    for name, content in foreign(tmp_path / 'other').items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f'{name} is damaged or of another'
        ) as said:
            opened(path)
        assert '\n' not in str(said.value) and 'optical_flow.py' in str(said.value)
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        opened(tmp_path)


def test_another_ending_is_refused(tmp_path):
    path = write(tmp_path / 'x.zip', payloads(3))
    with archive.Reader(path, '.png', bytes) as reader:
        with pytest.raises(ValueError, match='image 0 is not as it was written'):
            reader.read(0)


def test_a_writer_that_fails_leaves_no_archive(tmp_path):
    def fail():
        with archive.Writer(tmp_path / 'x.zip', ENDING, bytes) as writer:
            writer.append(b'one')
            raise RuntimeError('the decoder gave up')

    with pytest.raises(RuntimeError, match='gave up'):
        fail()
    assert (tmp_path / 'x.zip').read_bytes().endswith(b'one')
    with pytest.raises(ValueError, match='no whole index'):
        opened(tmp_path / 'x.zip')
    write(tmp_path / 'x.zip', [])
    with pytest.raises(ValueError, match='no whole index'):
        opened(tmp_path / 'x.zip')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
def test_a_full_disk_is_said_at_the_latest_by_close():
    writer = archive.Writer('/dev/full', ENDING, bytes)
    with pytest.raises(OSError, match='No space left'):
        writer.append(b'x')
        writer.close()


def test_bytes_between_and_after_the_files_are_found(tmp_path):
    for after, message in ((1, 'image 1 does not follow'), (3, 'more than images')):
        with archive.Writer(tmp_path / 'x.zip', ENDING, bytes) as writer:
            for place, item in enumerate(payloads(4)[1:], start=1):
                writer.append(item)
                if place == after:
                    writer._file.write(b'stray')
                    writer._offset += 5
        assert read(tmp_path / 'x.zip') == payloads(4)[1:]
        with opened(tmp_path / 'x.zip') as reader:
            with pytest.raises(ValueError, match=message):
                reader.verify()


def read_with_ahead(path, places):
    with opened(path) as reader:
        reader.read_ahead(places)
        return [reader.read(place) for place in range(reader.count)]


@pytest.mark.parametrize('places', [range(4), range(2, 9), range(10, 11), range(11)])
def test_files_read_ahead_are_the_same_in_fewer_calls(tmp_path, monkeypatch, places):
    items, calls = payloads(11), []
    path = write(tmp_path / 'x.zip', items)
    assert read_with_ahead(path, places) == items
    with opened(path) as reader:
        reader.read_ahead(places)
        read = os.read
        monkeypatch.setattr(os, 'read', lambda *of: calls.append(of) or read(*of))
        found = [reader.read(place) for place in places]
        assert found == items[places.start : places.stop]
        assert not calls
        reader.read_ahead(places)
        assert len(calls) == 2


@pytest.mark.parametrize('places', [range(0), range(-1, 2), range(9, 12)])
def test_what_is_not_there_is_not_read_ahead(tmp_path, places):
    items = payloads(11)
    path = write(tmp_path / 'x.zip', items)
    assert read_with_ahead(path, places) == items


def test_damage_is_found_in_what_was_read_ahead(tmp_path):
    """Each byte of files and index in turn."""
    path = write(tmp_path / 'x.zip', payloads(6))
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='is damaged or of another program'):
            read_with_ahead(path, range(1, 6))
