"""Where data files are: in a folder or in a tar archive of one, read by name and never unpacked to the disk."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from amu_fast.errors import DataError

DATA_VARIABLE = "AMU_FAST_DATA"
LARGEST = 256 * 2**20
"""Bytes of one member beyond which an archive is refused; the largest known file has 155 MB."""
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


@dataclass(frozen=True)
class Source:
    """Files by name.

    Attributes:
        path: A folder, or a tar archive (plain, gzip, xz), whose members are found by the last part of their names.
    """

    path: Path

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of these files.

        Raises:
            DataError: One of them is missing, too large or unreadable.
        """
        wanted = list(names)
        found = self._from_folder(wanted) if self.path.is_dir() else self._from_archive(set(wanted))
        missing = [name for name in wanted if name not in found]
        if missing:
            raise DataError(f"{self.path} has no file {missing[0]}; it is incomplete: copy or download it again")
        return found

    def _from_folder(self, names: list[str]) -> dict[str, bytes]:
        try:
            return {name: (self.path / name).read_bytes() for name in names if (self.path / name).is_file()}
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}; mind its permissions") from error

    def _from_archive(self, names: set[str]) -> dict[str, bytes]:
        found = {}
        for name, data in members(self.path, lambda member: member.name in names):
            found[name.name] = data
            if len(found) == len(names):
                break
        return found


def members(path: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Regular files of an archive in order, by name and content.

    Args:
        path: Of the archive.
        wanted: Whether a member of this name is read.

    Raises:
        DataError: A damaged archive, or a member above 256 MiB.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile() or not wanted(name):
                    continue
                if member.size > LARGEST:
                    raise DataError(f"{name} in {path} has {member.size} bytes, more than {LARGEST}; not this archive")
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()
    except _DAMAGED as error:
        raise DataError(f"{path} is a damaged archive ({error}); copy or download it again") from error


@dataclass(frozen=True)
class Place:
    """Where one version of a data set usually lies.

    Attributes:
        folder: Name of its folder.
        archive: Name of the archive of that folder.
        first: A file that the folder must hold.
    """

    folder: str
    archive: str
    first: str


def find(data_dir: Path | None, places: Sequence[Place], advice: str) -> tuple[int, Source]:
    """The first folder or archive that exists; `data_dir` is searched before the folder named by AMU_FAST_DATA.

    Each place is looked for as the folder given, below it, and as an archive in it.

    Args:
        data_dir: The user's folder.
        places: Versions of the data set, in order of preference.
        advice: How to get the files, for the message.

    Returns:
        The number of the place, and what is there.

    Raises:
        DataError: None of them.
    """
    variable = os.environ.get(DATA_VARIABLE)
    roots = [*([data_dir] if data_dir is not None else []), *([Path(variable)] if variable else [])]
    for root in roots:
        for index, place in enumerate(places):
            for folder in (root, root / place.folder):
                if (folder / place.first).is_file():
                    return index, Source(folder)
            if (root / place.archive).is_file():
                return index, Source(root / place.archive)
    looked = ", ".join(map(str, roots)) or "any folder, as none was named"
    raise DataError(
        f"no {places[0].archive} or {places[0].folder}/{places[0].first} in {looked}; {advice}, and pass its folder by "
        f"--data-dir or {DATA_VARIABLE}"
    )
