"""Which part of a refused request to send next, until what was refused is alone: numbers in, numbers out.

A receiver says that something in a request is bad, not what. The first bad sample is found by halving: when the left
half passes, the right half must have it and is not sent whole. What lies behind it is unknown again and goes in
chunks: one that is refused is searched and makes the next one smaller, one that passes makes it larger. So one bad
sample in n costs about log2(n) further requests, k of them about k * log2(n / k), and n of them little more than n.
Everything goes in order, because series may have several samples in a request. Pure.
"""


class Bisection:
    """The search through one refused request; `start` and `stop` say what is to be sent next."""

    def __init__(self, size: int) -> None:
        """Begin with `size` samples, at least one of which is bad."""
        self._size = size
        self._chunk = max(1, size // 2)
        self.start = self.stop = 0
        self._bad_end = size
        """Something from the start up to here is bad; not behind the start when nothing is known."""
        self._choose()

    @property
    def over(self) -> bool:
        """Whether all is decided."""
        return self.start == self._size

    def passed(self) -> None:
        """What was sent is delivered."""
        if not self._searching:
            self._chunk *= 2
        self.decide()

    def refused(self) -> bool:
        """What was sent was refused; tells whether it was alone, and so is decided."""
        if not self._searching:
            self._chunk = max(1, (self.stop - self.start) // 2)
        self._bad_end = self.stop
        alone = self.stop - self.start == 1
        if alone:
            self.decide()
        else:
            self._choose()
        return alone

    def decide(self) -> None:
        """Go on behind what was sent."""
        self.start = self.stop
        self._choose()

    @property
    def _searching(self) -> bool:
        return self._bad_end > self.start

    def _choose(self) -> None:
        if self._searching:
            self.stop = self.start + max(1, (self._bad_end - self.start) // 2)
        else:
            self.stop = min(self._size, self.start + self._chunk)
