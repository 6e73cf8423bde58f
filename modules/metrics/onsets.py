"""Do sounds begin when pictures say so? Agreement of two lists of onsets, in seconds."""

import torch


def onset_agreement(heard: list[float], seen: list[float], tolerance: float = 0.1) -> tuple[float, float, float]:
    """Precision, recall and F1 of heard onsets against seen ones; each is matched once, within `tolerance` seconds.

    Both empty agree fully: (1, 1, 1). In one pass over sorted times the largest possible matching is found.
    """
    if not heard and not seen:
        return 1.0, 1.0, 1.0
    matched, rest = 0, sorted(seen)
    for time in sorted(heard):
        while rest and rest[0] < time - tolerance:
            rest.pop(0)
        if rest and rest[0] <= time + tolerance:
            rest.pop(0)
            matched += 1
    precision = matched / len(heard) if heard else 0.0
    recall = matched / len(seen) if seen else 0.0
    return precision, recall, 2 * matched / (len(heard) + len(seen))


def shuffled_agreement(
    heard: list[list[float]], seen: list[list[float]], tolerance: float = 0.1, draws: int = 10, seed: int = 0
) -> float:
    """Mean F1 of N sounds against what belongs to others: what a model reaches that ignores its input.

    The mean over `draws` pairings of each with another one; all of them where N - 1 is no more.

    Raises:
        ValueError: fewer than two.
    """
    count = len(heard)
    if count < 2 or count != len(seen):
        raise ValueError(f"at least two pairs are needed to shuffle, got {count} and {len(seen)}")
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=random).tolist()
    steps = (1 + torch.randperm(count - 1, generator=random)[:draws]).tolist()
    found = [
        onset_agreement(heard[order[place]], seen[order[(place + step) % count]], tolerance)[2]
        for step in steps
        for place in range(count)
    ]
    return sum(found) / len(found)
