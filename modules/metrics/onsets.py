"""Do sounds begin when pictures say so? Agreement of two lists of onsets, in seconds."""


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
