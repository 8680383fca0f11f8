"""What a user asks of the file: at most so many bytes and milliseconds, at least so much accuracy."""

import math
import re
from dataclasses import dataclass

from keras_transformer.checks import UserError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
WISH = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*", re.IGNORECASE)
EXAMPLE = "Use for example --budget 4MB,5ms, or 2MB,20x for 20 times faster than the teacher."


@dataclass(frozen=True)
class Budget:
    """The most that a file may cost; None = as much as it likes."""

    max_bytes: int | None = None
    max_ms: float | None = None  # of one text at batch 1 in one thread, tokenising included
    min_speedup: float | None = None  # the teacher's time in Keras graph mode, over the file's

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "4MB,5ms" or "2MB,20x". MB is 10^6 bytes, MiB 2^20.

        Raises:
            UserError: for a number or unit that can't be read, one that isn't above 0, or two wishes of one kind.
        """
        found: dict[str, float] = {}
        for part in text.split(","):
            match = WISH.fullmatch(part)
            if match is None or not 0 < float(match[1]) < math.inf:
                raise UserError(f"--budget {text!r}: {part!r} isn't a number above 0 with its unit. {EXAMPLE}")
            unit = match[2].upper()
            kind = "max_bytes" if unit in UNITS else {"MS": "max_ms", "X": "min_speedup"}.get(unit)
            if kind is None:
                raise UserError(
                    f"--budget {text!r}: {match[2]!r} is no unit; there are KB, MB, MiB, ms and x. {EXAMPLE}"
                )
            if kind in found:
                raise UserError(
                    f"--budget {text!r}: has two wishes of the kind of {part!r}. Give one of each. {EXAMPLE}"
                )
            found[kind] = float(match[1]) * UNITS.get(unit, 1)
        most = math.floor(found["max_bytes"]) if "max_bytes" in found else None
        return cls(most, found.get("max_ms"), found.get("min_speedup"))

    def misses(self, size: int, ms: float, speedup: float) -> list[str]:
        """Name each wish that a file of this cost doesn't meet: "bytes", "time"."""
        missed = ["bytes"] if self.max_bytes is not None and size > self.max_bytes else []
        slow = self.max_ms is not None and ms > self.max_ms
        if slow or (self.min_speedup is not None and speedup < self.min_speedup):
            missed.append("time")
        return missed

    def __str__(self) -> str:
        """The budget as it is typed."""
        size = None if self.max_bytes is None else f"{self.max_bytes / 1e6:g}MB"
        ms = None if self.max_ms is None else f"{self.max_ms:g}ms"
        speedup = None if self.min_speedup is None else f"{self.min_speedup:g}x"
        return ",".join(wish for wish in (size, ms, speedup) if wish)


@dataclass(frozen=True)
class LeastAccuracy:
    """The accuracy to keep: of all texts, or as a share of the teacher's."""

    value: float
    of_teacher: bool

    @classmethod
    def parse(cls, text: str) -> "LeastAccuracy":
        """Read "0.97x", a share of the teacher's accuracy, or "0.85", a share of the texts.

        Raises:
            UserError: if it is no number above 0 and at most 1, with or without the x.
        """
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)(x?)\s*", text, re.IGNORECASE)
        if match is None or not 0 < float(match[1]) <= 1:
            raise UserError(
                f"--min-accuracy {text!r}: isn't a number above 0 and at most 1. Use for example --min-accuracy 0.97x "
                "for 97% of the teacher's accuracy, or 0.85 for 85% of the texts."
            )
        return cls(float(match[1]), bool(match[2]))

    def wanted(self, teacher_accuracy: float) -> float:
        """The share of texts that must be right."""
        return self.value * teacher_accuracy if self.of_teacher else self.value
