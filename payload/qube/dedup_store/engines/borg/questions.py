# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions, or refusals, of borg when a repository changed since this qube last saw it.

borg asks on a terminal, where nobody sits, and in its own words (borg/cache.py
SecurityManager and Cache). Here each gets our words, with the command that accepts it, if
there is one.
"""

import re
import shlex

from dedup_store.config import Config
from dedup_store.errors import (
    MOVED,
    OLDER,
    EngineError,
    QuestionError,
    another_repository,
    clean,
)

_REFUSED = "refused"
_MOVED = re.compile(r"The repository at location .+ was previously located at (.+)")
_OLDER = "newer than repository"
# PlaintextKey: borg's own class for what isn't encrypted
_CLEAR = ("previously unknown unencrypted repository", "Cache is newer than repository")
# in what counter.prepare gave
_OTHER_ID = re.compile(r"Permission denied: '.+/dedup-store/borg/[0-9a-f]{64}/([0-9a-f]{64})'")
_OTHER_CIPHER = "Repository encryption method changed since last access"


def find(
    error: EngineError, config: Config, *, is_moved: bool = False, is_known: bool = False
) -> QuestionError | None:
    """Find borg's question in its error.

    Args:
        error: any of borg's.
        config: the repository's.
        is_moved: whether it was accepted that the repository was moved; borg still reports it.
        is_known: whether the id that it must have is that of before.
    """
    stderr, place = error.stderr, clean(config.location, 120)
    if (moved := _MOVED.search(stderr)) and not is_moved:
        kind = MOVED
        text = (
            f"the repository {place} was at {_place(moved[1])} when this qube last used it."
            f" If you moved it, or this is your copy of it: {_accept(MOVED, config)}"
        )
    elif any(words in stderr for words in _CLEAR):
        kind = _REFUSED
        text = (
            f"the repository {place} is not encrypted, as one with a password is: it is not used,"
            " because anybody can have put it there. Bring the right one back"
        )
    elif _OLDER in stderr:
        kind = OLDER
        text = (
            f"the repository {place} is older than this qube last saw it: it is a copy, or was put"
            " back to an earlier state, or whoever stores it hides what came later. If you know"
            f" why: {_accept(OLDER, config)}"
        )
    elif _OTHER_CIPHER in stderr:
        kind = _REFUSED
        text = (
            f"the repository {place} is not encrypted as the one was that this qube knows: it is"
            " another one, and is not used. Bring the right one back"
        )
    elif other := _OTHER_ID.search(stderr):
        kind = _REFUSED
        text = (
            f"the repository {place} gave one id and then another: whoever stores it isn't honest,"
            " and could read some of what is stored now. Nothing was written"
        )
        if is_known:
            text = another_repository(config.location, config.name, other[1])
    else:
        return None
    return QuestionError(kind, text, stderr)


def _place(location: str) -> str:
    """Return a location of borg's in the configuration's form (storage_call.py StorageCall)."""
    return re.sub(r"^ssh://([^/@:]+)/\./([^/]+)$", r"qrexec:\1/\2", clean(location, 120))


def _accept(kind: str, config: Config) -> str:
    option = "" if config.name == "default" else f" --repository {config.name}"
    return f"`dedup-store accept{option} {kind} {shlex.quote(config.location)}`"
