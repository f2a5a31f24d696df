"""Rows of a SQLite database that no process has open, columns parted by `|`, as psql -At prints them.

    sqlite_rows.py FILE SQL

A copy is read, with its write-ahead log, so that the next process finds everything as the last one left it.
"""

import pathlib
import shutil
import sqlite3
import sys
import tempfile


def main() -> None:
    file, text = pathlib.Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory(prefix="signpost-rows-") as folder:
        for suffix in ("", "-wal"):
            source = file.with_name(file.name + suffix)
            if source.exists():
                shutil.copyfile(source, pathlib.Path(folder, "copy" + suffix))
        connection = sqlite3.connect(pathlib.Path(folder, "copy"))
        for row in connection.execute(text):
            print("|".join("" if value is None else str(value) for value in row))
        connection.close()


if __name__ == "__main__":
    main()
