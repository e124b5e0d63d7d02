"""What no report knows and the controller states: the request, copies, what was compared with, what remains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from amu_fast.certificate.document import Disposal, Reference, Request
from amu_fast.certificate.ids import Sidecar
from amu_fast.certificate.policy import ReferenceKind
from amu_fast.certificate.records import Date, Instant, Unknown, decode
from amu_fast.certificate.statements import COPIES
from amu_fast.errors import DataError

_NOT_STATED = "not stated when the certificate was issued"
_UNSTATED = Unknown(_NOT_STATED)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The controller's own statements; all may be left out, and are then recorded as not known.

    Attributes:
        request_ids: Ids of the requests, in the controller's own numbering; only their HMACs are certified.
        basis: Of the request, such as an article of a law; quoted, not judged.
        received: Date.
        completed: Date.
        paper: Source of the method.
        threat_model: What the attacker of the audits sees.
        controls: Positive and negative controls of the attacks (S11).
        reference: What the audits were compared with: retrained, proxy or none.
        started: When the method began, in UTC.
        finished: When it ended.
        audited_at: When the audit was made; else the time of report.json's file.
        disposal: Kind of copy (see `statements.COPIES`, or others) to "deleted", "kept" or "never_made".
        residual_risk: In sentences.
        limitations: Further ones.
    """

    request_ids: tuple[str, ...] = ()
    basis: str | Unknown = _UNSTATED
    received: Date | Unknown = _UNSTATED
    completed: Date | Unknown = _UNSTATED
    paper: str | Unknown = _UNSTATED
    threat_model: str | Unknown = _UNSTATED
    controls: str | Unknown = _UNSTATED
    reference: ReferenceKind | Unknown = _UNSTATED
    started: Instant | Unknown = _UNSTATED
    finished: Instant | Unknown = _UNSTATED
    audited_at: Instant | Unknown = _UNSTATED
    disposal: Mapping[str, str] | Unknown = _UNSTATED
    residual_risk: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()

    @staticmethod
    def load(path: str | Path) -> Facts:
        """From a YAML file with some of these keys.

        Raises:
            DataError: It cannot be read, or a key or value is unknown.
        """
        import yaml

        try:
            # BaseLoader leaves dates as the text that they are.
            document = yaml.load(Path(path).read_text(), Loader=yaml.BaseLoader)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not YAML: {error}") from error
        return Facts.of(document, str(path))

    @staticmethod
    def of(document: Any, source: str = "facts") -> Facts:
        """From a mapping with some of these keys."""
        names = [f.name for f in fields(Facts)]
        if not isinstance(document, Mapping) or set(document) - set(names):
            raise DataError(f"{source} must be a mapping with some of the keys {', '.join(names)}; got {document!r}")
        lists: dict[str, list[str]] = {"request_ids": [], "residual_risk": [], "limitations": []}
        absent = [name for name in names if name not in document and name not in lists]
        value = {**lists, **dict.fromkeys(absent), **document}
        try:
            return decode(Facts, value, {f"/{name}": _NOT_STATED for name in absent})
        except DataError as error:
            raise DataError(f"{source}: {error}") from error

    def request(self, sidecar: Sidecar) -> Request | Unknown:
        """The request with keyed ids."""
        known = [self.basis, self.received, self.completed]
        if not self.request_ids and all(isinstance(one, Unknown) for one in known):
            return Unknown("no request was named when the certificate was issued")
        ids = tuple(sorted(map(sidecar.keyed, self.request_ids)))
        return Request(ids=ids, basis=self.basis, received=self.received, completed=self.completed)

    def copies(self) -> tuple[Disposal, ...]:
        """The fate of every kind of copy."""
        stated: Mapping[str, str] = {} if isinstance(self.disposal, Unknown) else self.disposal
        items = [*COPIES, *(item for item in stated if item not in COPIES)]
        return tuple(Disposal(item=item, state=stated.get(item, _UNSTATED)) for item in items)  # type: ignore[arg-type]

    def judged_against(self, differences: bool) -> Reference:
        """The reference stated, or what the report's columns imply."""
        if not isinstance(self.reference, Unknown):
            return Reference(kind=self.reference, detail="stated by the controller")
        if differences:
            return Reference(
                kind="retrained", detail="the report holds differences to a retrained model on the same rows"
            )
        return Reference(kind="none", detail="the report holds no differences to another model, and none was stated")
