"""What a soak does, drawn from a seed alone: the same seed gives the same sequence.

Each step belongs to one actor (a claim's name, a cluster, a replica), and an actor does one
step after the other, so a slow one never changes what the others do.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

CLAIM_NAMES: Final = tuple(f"data-{number:02}" for number in range(28))
LOCAL_NODES: Final = ("rome-1", "rome-2")
PROVIDERS: Final = ("milan", "turin")
OWN: Final = "rome"
ANYWHERE: Final = ""
"""A pod without a node of its own goes elsewhere while a provider is away."""
REPLICAS: Final = ("first", "second")

PAUSE_SECONDS: Final = 0.45
"""Between two steps, on average."""
LONGEST_OUTAGE_SECONDS: Final = 12.0
LONGEST_ABSENCE_SECONDS: Final = 5.0


class Verb(enum.Enum):
    """What happens to a claim."""

    CREATE = "create"
    DELETE = "delete"
    RECREATE = "delete and create under the same name"


class Wish(enum.Enum):
    """Which class of a provider a claim asks for, in so many words."""

    DEFAULT = ""
    LATE = "hostpath-wffc"
    """Bound by a pod of the provider, so the twin is handed over unbound."""
    NOBODY = "nobody"
    """Offered and served by nobody: the claim stays unbound."""
    NOT_OFFERED = "static"

    @property
    def refusal(self) -> str:
        """What is said of a claim that asks for what nobody gives; empty for what is given."""
        refusals = {Wish.NOBODY: "waiting for twin", Wish.NOT_OFFERED: "does not offer class"}
        return refusals.get(self, "")


class Outage(enum.Enum):
    """What befalls an API server, or the driver's way there."""

    DOWN = "down"
    HANGING = "hanging"
    STOPPED = "stopped by a signal"
    FAILING = "500"
    THROTTLING = "429"
    FORBIDDING = "403"
    DENYING = "401"
    CUT_WATCHES = "watches cut"
    SILENT_WATCHES = "watches silent"
    LOST_ANSWERS = "writes done, answers lost"
    DENIED_WRITES = "writes done, 500 answered"


NOT_OWN: Final = frozenset({Outage.STOPPED, Outage.FORBIDDING, Outage.DENYING})
"""What does not befall the consumer's own: the users go on speaking to it, and nobody takes an
installation's rights away for a moment."""


class Kill(enum.Enum):
    """What of a replica is killed, or else."""

    CONTROLLER = "controller killed"
    POD = "controller and sidecar killed"
    ASKED = "controller asked to end"
    FROZEN = "controller frozen"
    """It goes on later as if no time had passed, though its lease is another's by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens, at the earliest `at_seconds` after the beginning."""

    at_seconds: float
    actor: str
    what: Verb | Outage | Kill
    node: str = ANYWHERE
    wish: Wish = Wish.DEFAULT
    lasts_seconds: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at_seconds:7.2f} s  {self.actor}: {self.what.value}"]
        if self.what in (Verb.CREATE, Verb.RECREATE):
            words.append(f"for a pod on {self.node or 'any node'}")
            if self.wish is not Wish.DEFAULT:
                words.append(f"with remote class {self.wish.value}")
        if self.lasts_seconds:
            words.append(f"for {self.lasts_seconds:.1f} s")
        return " ".join(words)


@dataclass(slots=True)
class _Draw:
    """The state that a sequence is drawn with: who exists, and who is busy until when."""

    dice: random.Random
    present: set[str] = field(default_factory=set)
    busy: dict[str, float] = field(default_factory=dict)

    def claim(self, at: float) -> Step:
        name = self.dice.choice(CLAIM_NAMES)
        if name not in self.present:
            verb = Verb.CREATE
        else:
            verb = self.dice.choice((Verb.DELETE, Verb.RECREATE))
        if verb is Verb.DELETE:
            self.present.discard(name)
            return Step(at_seconds=at, actor=name, what=verb)
        self.present.add(name)
        node = self.dice.choice((*LOCAL_NODES, *PROVIDERS, *PROVIDERS, *PROVIDERS, ANYWHERE))
        wish = Wish.DEFAULT
        if node in PROVIDERS:
            (wish,) = self.dice.choices(tuple(Wish), weights=(80, 10, 5, 5))
        return Step(at_seconds=at, actor=name, what=verb, node=node, wish=wish)

    def outage(self, at: float) -> Step | None:
        where = self.dice.choice((*PROVIDERS, *PROVIDERS, OWN))
        kinds = [kind for kind in Outage if where in PROVIDERS or kind not in NOT_OWN]
        kind = self.dice.choice(kinds)
        lasts = 0.0
        if kind is not Outage.CUT_WATCHES:
            lasts = self.dice.uniform(0.5, LONGEST_OUTAGE_SECONDS)
        return self._when_free(Step(at_seconds=at, actor=where, what=kind, lasts_seconds=lasts))

    def kill(self, at: float) -> Step | None:
        replica, kind = self.dice.choice(REPLICAS), self.dice.choice(tuple(Kill))
        lasts = self.dice.uniform(0.1, LONGEST_ABSENCE_SECONDS)
        return self._when_free(Step(at_seconds=at, actor=replica, what=kind, lasts_seconds=lasts))

    def _when_free(self, step: Step) -> Step | None:
        """An actor that is down needs time to come back; then it may go down again."""
        if step.at_seconds < self.busy.get(step.actor, 0.0):
            return None
        self.busy[step.actor] = step.at_seconds + step.lasts_seconds + self.dice.uniform(2, 10)
        return step


def draw(seed: int, seconds: float) -> Sequence[Step]:
    """Return the steps of a soak of that length, in the order of time."""
    draw = _Draw(random.Random(seed))
    steps: list[Step] = []
    at = 0.0
    while (at := at + draw.dice.expovariate(1 / PAUSE_SECONDS)) < seconds:
        (make,) = draw.dice.choices((draw.claim, draw.outage, draw.kill), weights=(80, 14, 6))
        step = make(at)
        if step is not None and step.at_seconds + step.lasts_seconds < seconds:
            steps.append(step)
    return steps
