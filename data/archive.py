"""Numbered files in one ZIP archive, each read by its place alone.

    with archive.Writer(path, '.jpg', encode) as writer:
        writer.append(frame)
    with archive.Reader(path, '.jpg', decode) as reader:
        frame = reader.read(reader.count - 1)

File n is stored as it is, under the name of eight digits 00000000.jpg. All archives are
ZIP64, so every record of the index has the same size at any length of a clip: a reader
takes the count from the last bytes of the archive and finds record n without the
others, where `zipfile` parses all of them first, at more than the price of decoding an
image. Nothing in an archive depends on anything but the files, so a record, a header or
an end that is not byte for byte what a writer would make is damage.

Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.
"""

import os
import struct
import zlib

import numpy as np

LOCAL = struct.Struct('<4s5H3I2H12s')  # before each file
RECORD = struct.Struct('<4s6H3I5H2I12s2HQ')  # of each file, together the index
END = struct.Struct('<4sQ2H2I4Q4sIQI4s4H2IH')  # both ends of the index and the locator
VERSION = 45  # of the format, the first with ZIP64
UNIX = 3 << 8
FIRST_DAY = 1 << 5 | 1  # 1980-01-01, as MS-DOS counts
READABLE = 0o100644 << 16  # a plain file, for programs that extract it
ELSEWHERE = 2**32 - 1, 2**16 - 1  # the ZIP64 field has the number
BUFFER = 1 << 18  # bytes; at Python's default each image costs two system calls


def _name(place, ending):
    return b'%08d%s' % (place, ending.encode('ascii'))


def _local(name, crc, size):
    form = VERSION, 0, 0, 0, FIRST_DAY
    return LOCAL.pack(b'PK\3\4', *form, crc, size, size, len(name), 0, name)


def _record(name, crc, size, offset):
    form = VERSION | UNIX, VERSION, 0, 0, 0, FIRST_DAY
    numbers = crc, size, size, len(name), 12, 0, 0, 0, READABLE, ELSEWHERE[0]
    return RECORD.pack(b'PK\1\2', *form, *numbers, name, 1, 8, offset)


def _end(count, index):
    size = count * RECORD.size
    zip64 = b'PK\6\6', 44, VERSION | UNIX, VERSION, 0, 0, count, count, size, index
    locator = b'PK\6\7', 0, index + size, 1
    long, short = ELSEWHERE
    return END.pack(*zip64, *locator, b'PK\5\6', 0, 0, short, short, long, long, 0)


class Writer:
    """Writes files one after the other and the index when it is closed.

    As a context it writes no index where its block fails: the archive is then one that
    no reader takes. In memory it holds the index, 70 bytes a file.
    """

    def __init__(self, path, ending, encode):
        """Begins the archive.

        Args:
          path: of the archive.
          ending: of the names of its files, such as '.jpg'.
          encode: function of what is appended, giving bytes or uint8 [n].

        Raises:
          OSError: the file cannot be written, as from every method.
        """
        self._file = open(path, 'wb', BUFFER)
        self._ending, self._encode = ending, encode
        self._index, self._offset, self._count = bytearray(), 0, 0

    def append(self, item):
        """Adds the next file, encode(item)."""
        data = self._encode(item)
        name, crc = _name(self._count, self._ending), zlib.crc32(data)
        self._file.write(_local(name, crc, len(data)))
        self._file.write(data)
        self._index += _record(name, crc, len(data), self._offset)
        self._offset += LOCAL.size + len(data)
        self._count += 1

    def close(self):
        """Writes the index; the archive is whole after this."""
        with self._file:
            self._file.write(self._index)
            self._file.write(_end(self._count, self._offset))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self._file.close()


class Reader:
    """Reads any file of an archive: one read of its record, one of itself.

    Attributes:
      path: of the archive.
      count: files in it.
    """

    def __init__(self, path, ending, decode):
        """Opens the archive.

        Args:
          path: of the archive.
          ending: of the names of its files, such as '.jpg'.
          decode: function of uint8 [n] that gives what `read` does, or None.

        Raises:
          ValueError: it is no archive of a `Writer`, or not a whole one.
          OSError: it cannot be opened.
        """
        self.path, self._ending, self._decode = path, ending, decode
        self._ahead = []  # pairs (offset, bytes) of what was read ahead
        # open() costs 20 microseconds more
        self._file = os.open(path, os.O_RDONLY | getattr(os, 'O_BINARY', 0))
        try:
            size = os.lseek(self._file, 0, os.SEEK_END)
            end = self._bytes(END.size, max(0, size - END.size))
            self.count = END.unpack(end)[6] if len(end) == END.size else 0
            # where the index begins
            self._index = size - END.size - self.count * RECORD.size
            known = self.count and self._index >= 0
            if not known or end != _end(self.count, self._index):
                raise self._damage('it has no whole index at its end')
        except BaseException:
            os.close(self._file)
            raise

    def read(self, place):
        """What `decode` makes of one file.

        Args:
          place: int, its number, from 0.

        Raises:
          ValueError: there is no such file, or it is damaged.
        """
        if not 0 <= place < self.count:
            raise ValueError(
                f'{self.path} holds {self.count} images: index {place} is out of range'
            )
        data, _ = self._read(place)
        item = self._decode(data)
        if item is None:
            raise self._damage(f'image {place} cannot be decoded')
        return item

    def read_ahead(self, places):
        """Reads consecutive files at once, so that `read` finds them in memory.

        That takes four system calls instead of four for each file. A thread gives
        Python's lock away at each and waits for it again, and with many threads this
        costs more than the reading.

        Args:
          places: range of their numbers; nothing is read where one is not there.
        """
        self._ahead = []
        if not places or places[0] < 0 or places[-1] >= self.count:
            return
        at = self._index + places[0] * RECORD.size
        records = self._bytes(len(places) * RECORD.size, at)
        if len(records) < len(places) * RECORD.size:
            return
        begin = RECORD.unpack_from(records)[-1]
        size, offset = (RECORD.unpack(records[-RECORD.size :])[n] for n in (8, -1))
        end = offset + LOCAL.size + size
        # a damaged record may say anything; `read` will find it
        if begin < end <= self._index:
            self._ahead = [(at, records), (begin, self._bytes(end - begin, begin))]

    def verify(self):
        """Compares every byte of the archive with what a writer makes.

        Returns:
          int, the files in it.

        Raises:
          ValueError: a byte is not as it was written.
        """
        expected = 0
        for place in range(self.count):
            data, offset = self._read(place)
            if offset != expected:
                raise self._damage(f'image {place} does not follow the one before')
            expected += LOCAL.size + len(data)
        if expected != self._index:
            raise self._damage('there is more than images in it')
        return self.count

    def _read(self, place):
        """(uint8 [n], the bytes of a file; where its header begins)."""
        name = _name(place, self._ending)
        at = self._index + place * RECORD.size
        record = self._bytes(RECORD.size, at)
        crc, size, offset = (RECORD.unpack(record)[n] for n in (7, 8, -1))
        length = LOCAL.size + size
        inside = offset + length <= self._index
        if inside and record == _record(name, crc, size, offset):
            whole = self._bytes(length, offset)
            data = np.frombuffer(whole, np.uint8, offset=LOCAL.size)
            if whole.startswith(_local(name, crc, size)) and zlib.crc32(data) == crc:
                return data, offset
        raise self._damage(f'image {place} is not as it was written')

    def _bytes(self, length, offset):
        for begin, data in self._ahead:
            if begin <= offset and offset + length <= begin + len(data):
                return data[offset - begin : offset - begin + length]
        try:
            os.lseek(self._file, offset, os.SEEK_SET)  # Windows has no os.pread
            return os.read(self._file, length)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error

    def _damage(self, what):
        return ValueError(
            f'{self.path} is damaged or of another program, {what}: '
            'delete it and run optical_flow.py again'
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._file)
