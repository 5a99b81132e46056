"""The rules in force at a proxy, and the words to place them."""

from __future__ import annotations

from lab.faults import requests, rules


class Plan:
    """Rules, in the order in which they were placed; earlier ones act first.

    A rule is placed and removed at any moment and holds for requests that arrive
    afterwards. `nth` counts matching requests from then on, `times` None means all
    from the nth on.
    """

    def __init__(self) -> None:
        self.rules: list[rules.Rule] = []

    def taken(self, request: requests.Recorded) -> list[rules.Rule]:
        """Return the rules whose turn this request is.

        NB: each rule counts it, also one that stands behind another that acts.
        """
        return [rule for rule in self.rules if rule.takes(request)]

    def place(self, rule: rules.Rule) -> rules.Rule:
        """Put a rule in force."""
        self.rules.append(rule)
        return rule

    def remove(self, rule: rules.Rule) -> None:
        """Take a rule out of force; requests that hang because of it go on hanging."""
        self.rules.remove(rule)

    def fail(
        self,
        match: rules.Match = rules.EVERYTHING,
        *,
        status: int = 500,
        reason: str = "InternalError",
        when: rules.When = rules.When.BEFORE,
        nth: int = 1,
        times: int | None = 1,
    ) -> rules.Rule:
        """Answer a failure: for nothing done, or for something done (`when` AFTER)."""
        action = rules.Fail(status, reason)
        return self.place(rules.Rule(match, action, when=when, nth=nth, times=times))

    def hang(
        self,
        match: rules.Match = rules.EVERYTHING,
        *,
        when: rules.When = rules.When.BEFORE,
        nth: int = 1,
        times: int | None = 1,
    ) -> rules.Rule:
        """Answer nothing, before or after it was done."""
        return self.place(rules.Rule(match, rules.Hang(), when=when, nth=nth, times=times))

    def cut(
        self,
        match: rules.Match = rules.EVERYTHING,
        *,
        when: rules.When = rules.When.BEFORE,
        nth: int = 1,
        times: int | None = 1,
    ) -> rules.Rule:
        """Reset the connection: the request was not sent, or its answer is lost (AFTER)."""
        return self.place(rules.Rule(match, rules.Cut(), when=when, nth=nth, times=times))

    def delay(
        self,
        match: rules.Match = rules.EVERYTHING,
        *,
        seconds: float,
        when: rules.When = rules.When.BEFORE,
        nth: int = 1,
        times: int | None = None,
    ) -> rules.Rule:
        """Make requests slow."""
        action = rules.Delay(seconds)
        return self.place(rules.Rule(match, action, when=when, nth=nth, times=times))

    def pause_at(
        self, nth: int, when: rules.When, match: rules.Match = rules.CHANGES
    ) -> rules.Pause:
        """Hold the n-th matching request from now on, or its answer, until the test goes on."""
        pause = rules.Pause()
        self.place(rules.Rule(match, pause, when=when, nth=nth))
        return pause
