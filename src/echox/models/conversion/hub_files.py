"""Files of a local folder or a hub repository, where "there is none" and "it cannot be asked" are two answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class HubUnreachable(ValueError):
    """Nobody knows whether the repository has the file: it is not in the cache, and the hub did not answer."""


def find_file(folder_or_id: str | os.PathLike[str], name: str) -> Path | None:
    """A file of a local folder or of a hub repository; None if there is surely no such file.

    Raises:
        ValueError: there is no such folder or repository.
        HubUnreachable: the hub did not answer, or may not be asked, and the file is not in the cache.
        OSError: the cache cannot be written.
    """
    place = str(folder_or_id)
    if Path(place).is_dir():
        path = Path(place) / name
        return path if path.is_file() else None
    if not is_hub_id(place) or Path(place).exists():
        raise ValueError(f"{place}: expected a folder or a hub id (owner/name), found neither; correct the path")
    try:
        return Path(hf_hub_download(place, name))
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise ValueError(
            f"{place}: expected a folder or a hub id, found neither ({_reason(error)}); correct the name, or log in "
            "(hf auth login) if the repository is a private one"
        ) from error
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError, too, that tells nothing about the repository
        return _from_cache(place, name, error)
    except EntryNotFoundError:
        return None
    except Exception as error:  # a lost connection has many kinds of exceptions
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        return _from_cache(place, name, error)


def is_hub_id(name: str) -> bool:
    """Whether a name that is no path on this machine can be a hub id: ``name`` or ``owner/name``."""
    return name.count("/") <= 1 and not name.startswith((".", "/"))


def find_first(folder_or_id: str | os.PathLike[str], names: Sequence[str]) -> Path | None:
    """The first of these files that there is; None if there is surely none of them.

    After a name that the hub could not be asked for, those that follow are looked for in the cache only: none is
    downloaded in place of the first.

    Raises:
        ValueError: as `find_file`.
    """
    lost: HubUnreachable | None = None
    for name in names:
        try:
            found = find_file(folder_or_id, name) if lost is None else _cached(str(folder_or_id), name)
        except HubUnreachable as error:
            lost, found = error, None
        if found is not None:
            return found
    if lost is not None:
        raise lost
    return None


def _from_cache(place: str, name: str, error: Exception) -> Path | None:
    """What the cache knows of a file that could not be asked for."""
    known = try_to_load_from_cache(place, name)
    if isinstance(known, str):
        return Path(known)
    if known is not None:  # an earlier answer, kept: the repository has no such file
        return None
    if constants.HF_HUB_OFFLINE:
        found = "HF_HUB_OFFLINE is set and it is not in the cache; unset it, or name a local folder"
    else:
        found = (
            f"no answer of {constants.ENDPOINT} ({_reason(error)}) and it is not in the cache; check the network and "
            "the id, or name a local folder"
        )
    raise HubUnreachable(f"{place}: expected {name} of this hub id, found that {found}") from error


def _cached(place: str, name: str) -> Path | None:
    known = try_to_load_from_cache(place, name)
    return Path(known) if isinstance(known, str) else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
