"""Ids of resources: which group, type and name; any case is the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"(?:/providers/(?P<namespace>[^/]+)/(?P<type>[^/]+)/(?P<name>[^/]+)"
    r"(?:/(?P<child_type>[^/]+)/(?P<child>[^/]+))?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ResourceId:
    """One id, in parts.

    Attributes:
        type: "Microsoft.Compute/virtualMachines", that of a part of another with a third part; "" for a group.
        name: its own, the last part.
        parent: id of what it is a part of, "" where it is none.
    """

    text: str
    subscription: str
    group: str
    type: str
    name: str
    parent: str = ""

    @property
    def key(self) -> str:
        """By which it is looked up."""
        return self.text.lower()

    @classmethod
    def parse(cls, text: str) -> ResourceId | None:
        """None where a text is none."""
        found = _ID.fullmatch(text)
        if found is None:
            return None
        type, name, parent = "", found["group"], ""
        if found["namespace"]:
            type, name = f"{found['namespace']}/{found['type']}", found["name"]
        if found["child_type"]:
            parent = text[: found.start("child_type") - 1]
            type, name = f"{type}/{found['child_type']}", found["child"]
        return cls(text, found["subscription"], found["group"], type, name, parent)
