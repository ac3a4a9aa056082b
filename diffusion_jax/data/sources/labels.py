"""The class of each picture of a folder: from its sub-folder, or from a CSV file."""

import csv
import dataclasses
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from diffusion_jax.data.sources.base import DataError


def from_folders(names: Iterable[str]) -> dict[str, str]:
    """Class of each picture "class/.../file": the first part of its name."""
    classes = {name: PurePosixPath(name).parts[0] for name in names}
    for name, first in classes.items():
        if name == first:
            raise DataError(
                f'classes = "folder": {name} lies in no sub-folder; move it into that of its class, '
                'or use classes = "none"'
            )
    return classes


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file with a row for each picture.

    Attributes:
      path: of the file, with a header line.
      file_column: has the name of the picture, from the folder on, with "/".
      class_column: has its class.
      separator: the class is what stands before the first one of these; all where "".
    """

    path: Path
    file_column: str
    class_column: str
    separator: str

    def classes_of(self, names: Iterable[str]) -> dict[str, str]:
        """Class of each picture; rows of pictures that are not there are passed over."""
        rows, classes = self._rows(), {}
        for name in names:
            found = rows.get(_composed(name))
            if not found:
                what = "has no row" if found is None else "has an empty class"
                raise DataError(f'csv = "{self.path}": {name} {what}; give it one, or move the picture away')
            classes[name] = found
        return classes

    def _rows(self) -> dict[str, str]:
        classes: dict[str, str] = {}
        for row in self._read():
            name = _composed(str(PurePosixPath(row[self.file_column] or "")))
            found = self._class(row[self.class_column] or "")
            if classes.setdefault(name, found) != found:
                raise DataError(f'csv = "{self.path}": {name} has two classes, {classes[name]} and {found}')
        return classes

    def _class(self, text: str) -> str:
        return (text.split(self.separator)[0] if self.separator else text).strip()

    def _read(self) -> list[dict[str, str]]:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                columns, rows = list(reader.fieldnames or ()), list(reader)
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f'csv = "{self.path}": cannot be read ({error})') from error
        for field, column in (("csv_file", self.file_column), ("csv_class", self.class_column)):
            if column not in columns:
                raise DataError(f'{field} = "{column}": {self.path} has no such column, only {columns}')
        return rows


def _composed(name: str) -> str:
    """A name with its accents composed: disks and tables write them either way."""
    return unicodedata.normalize("NFC", name)
