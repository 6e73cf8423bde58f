"""One of several independent processes that share the shards of a data set; imports no torch."""

from dataclasses import dataclass

from sonolume.utils.errors import UserError


@dataclass(frozen=True)
class Part:
    """Shards of one of `count` processes: those whose number leaves the remainder `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse "3/64"; a UserError says what is wrong with any other text."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
            raise UserError(f"--part {text}: expected INDEX/COUNT, such as 0/64 for the first of 64 parts")
        if int(index) >= int(count):
            raise UserError(f"--part {text}: parts are numbered from 0, so the last one is {int(count) - 1}/{count}")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, shard: int) -> bool:
        """Whether a shard belongs to this part."""
        return shard % self.count == self.index


NO_PART = Part(index=-1, count=2)  # has no shard: to find out what is missing
