"""`amu-fast certify RESULT_FOLDER` issues an erasure certificate, `amu-fast keygen` makes the key that signs it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from amu_fast.certificate import Facts, Policy, Sidecar, Sources, collect, generate_key, issue, load_key, read_verdict
from amu_fast.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """Options of the command, under the names that they have there."""

    folder: Path
    key: Path | None = None
    unsigned: bool = False
    policy: Path | None = None
    verdict: Path | None = None
    forget_ids: Path | None = None
    facts: Path | None = None
    original: Path | None = None
    previous: Path | None = None
    private: Path | None = None
    as_json: bool = False


def run_keygen(out: Path, *, as_json: bool) -> None:
    """Write a private key and its public half.

    Raises:
        DataError: One of them exists.
    """
    key, public = generate_key(out)
    if as_json:
        print(json.dumps({"private": str(out), "public": str(public), "key_id": key.key_id}, indent=1))
        return
    print(f"private  {out}  (mode 600, without a password: keep it to yourself)")
    print(f"public   {public}  (give it to whoever verifies)")
    print(f"key id   {key.key_id}")


def run_certify(options: CertifyOptions) -> None:
    """Write certificate.json into the folder, and the private sidecar outside it.

    Raises:
        DataError: Neither a key nor --unsigned, files that cannot be read, secrets inside the folder, or a reason for
            which there is no certificate.
    """
    folder = options.folder
    if (options.key is None) != options.unsigned:
        raise DataError("give either --key FILE (amu-fast keygen makes one) or --unsigned")
    private = folder.resolve().with_name(f"{folder.resolve().name}.private.json")
    private = private if options.private is None else options.private
    for secret in (options.key, private):
        if secret is not None and secret.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{secret} lies in the folder that others will get; keep it elsewhere")
    if private.exists():
        raise DataError(f"{private} exists; choose another --private, or remove it if its certificate is gone")
    sidecar = Sidecar.new(() if options.forget_ids is None else read_ids(options.forget_ids))
    sources = Sources(
        folder=folder,
        sidecar=sidecar,
        original=options.original,
        policy=None if options.policy is None else Policy.load(options.policy),
        verdict=None if options.verdict is None else read_verdict(options.verdict),
        facts=Facts() if options.facts is None else Facts.load(options.facts),
    )
    key = None if options.key is None else load_key(options.key)
    content = collect(sources)
    sidecar.save(private)
    try:
        issued = issue(folder, content, key=key, previous=options.previous)
    except BaseException:
        private.unlink()
        raise
    verdict = issued.certificate.verdict
    if options.as_json:
        plain = {"outcome": verdict.outcome, "reasons": list(verdict.reasons)}
        found = {"certificate": str(issued.path), "sha256": issued.file_hash, "private": str(private), "verdict": plain}
        print(json.dumps(found, indent=1))
        return
    print(f"certificate  {issued.path}, number {issued.certificate.sequence} of its chain")
    print(f"SHA-256      {issued.file_hash}  (have it timestamped by somebody else)")
    print(f"private      {private}  (mode 600: keys and ids, for inclusion proofs; never share it)")
    print(f"verdict      {verdict.outcome}: {', '.join(verdict.reasons)}")
    print(
        "This records a process, tests and what remains; see docs/certificates.md for what it cannot show.",
        file=sys.stderr,
    )


def read_ids(path: Path) -> list[str]:
    """Subject ids, one a line.

    Raises:
        DataError: The file cannot be read, is no UTF-8 text, or has no or an empty line.
    """
    try:
        ids = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}") from error
    if not ids or not all(one.strip() for one in ids):
        raise DataError(f"{path} must have one id a line and no empty line")
    return ids
