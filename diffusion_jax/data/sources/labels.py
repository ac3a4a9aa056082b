"""The class of each image of a directory: from its subdirectory, or from a CSV file."""

import csv
import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.validation import compose

__all__ = ["Table", "classes_from_directories"]

_DELIMITERS = ",;\t"


def classes_from_directories(names: Iterable[str]) -> dict[str, str]:
    """Returns the class of each image "class/.../file": the first part of its name."""
    classes = {name: PurePosixPath(name).parts[0] for name in names}
    outside = next((name for name, first in classes.items() if name == first), "")
    if outside:
        raise DataError(f'classes = "folder": {outside} must lie in the subdirectory of its class; move it there')
    return classes


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file with one row per image.

    Attributes:
      path: the file, with a header line.
      file_column: name of the image, relative to the directory, with "/".
      class_column: its class.
      separator: the class ends at the first of these; "" takes the whole text.
    """

    path: Path
    file_column: str
    class_column: str
    separator: str

    def read_classes(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the class of each image; rows of other images are ignored."""
        rows, classes = self._rows(), {}
        for name in names:
            found = rows.get(compose(name))
            if not found:
                problem = "has no row" if found is None else "has an empty class"
                raise DataError(f'csv = "{self.path}": {name} {problem}; add it, or remove the image')
            classes[name] = found
        return classes

    def _rows(self) -> dict[str, str]:
        classes: dict[str, str] = {}
        for row in self._read():
            name = compose(str(PurePosixPath(row[self.file_column] or "")))
            found = self._class(row[self.class_column] or "")
            if classes.setdefault(name, found) != found:
                raise DataError(f'csv = "{self.path}": {name} has two classes, {classes[name]} and {found}; remove one')
        return classes

    def _class(self, cell: str) -> str:
        return compose((cell.split(self.separator)[0] if self.separator else cell).strip())

    def _read(self) -> list[dict[str, str]]:
        try:
            columns, rows = self._split(self.path.read_text("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f'csv = "{self.path}": is not UTF-8; save it as CSV UTF-8') from error
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f'csv = "{self.path}": cannot be read ({error})') from error
        for field, column in (("csv_file", self.file_column), ("csv_class", self.class_column)):
            if column not in columns:
                raise DataError(f'{field} = "{column}": must be a column of {self.path}, which has {columns}')
        return rows

    def _split(self, text: str) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and rows; separated by commas, else by what spreadsheets write in other countries."""
        for delimiter in _DELIMITERS:
            reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=delimiter)
            columns = list(reader.fieldnames or ())
            if {self.file_column, self.class_column} <= set(columns):
                return columns, list(reader)
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        return list(reader.fieldnames or ()), list(reader)
