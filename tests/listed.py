"""Writes list files for the tests of splits."""


def write_lists(folder, class_ind, train, test, ends='\n', encoding='utf-8'):
    """Writes the three files of split 1; each argument is a list of lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ('classInd.txt', class_ind),
        ('trainlist01.txt', train),
        ('testlist01.txt', test),
    ):
        (folder / name).write_bytes(ends.join([*lines, '']).encode(encoding))
    return folder


def make_files(folder, paths, content=b''):
    """Makes files below a folder, which are enough where only names count."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
