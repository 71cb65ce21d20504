"""Sources: where a program comes from, and what it needs to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Npm:
    """An npm *package* whose *program*, a command of its or a script in it, runs on Node.js *node* or newer.

    *newest_node*, 22 if any, is the newest that it runs on. *pins* are other packages, as ``NAME@VERSION``, where
    the newest of what the package asks for will not do. *built* is a file of another package, and the folder in
    which this one looks for it: where it would be downloaded otherwise.
    """

    package: str
    program: str | Path
    node: int = 20
    newest_node: int | None = None
    pins: tuple[str, ...] = ()
    built: tuple[Path, Path] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PyPI:
    """A *package* from PyPI in a virtual environment of its own, and what runs there.

    *program* is one of the package's, or a script of ours. *pins* are other packages at their versions, for a
    package that does not pin them itself. *oldest_python* and *newest_python* are those that the package knows.
    """

    package: str
    program: str | Path
    pins: tuple[str, ...] = ()
    newest_python: tuple[int, int] | None = None
    oldest_python: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The package whose source is in *folder*, installed anew each time as its users do, and its *program*."""

    folder: Path
    program: str


class Program(Protocol):
    """What can be installed: something at a *version*, from a *source*."""

    @property
    def version(self) -> str:
        """Which one."""

    @property
    def source(self) -> Npm | PyPI | Checkout | Path:
        """Where it comes from; a path is a script of ours."""
