"""What a recipe declares for the model cards of its exports, as the constant CARD of its config module.

A recipe without one gets a card with its name, the first line of its config module, and the page of its folder in egs/.
Everything else on a card is read from the exported folder and its run, see models/card.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FOLDER = "FOLDER_OR_ID"  # in commands and code: the reader's folder, or the model's id on the hub


@dataclass(frozen=True)
class Card:
    title: str  # of the page
    summary: str  # one paragraph
    tags: tuple[str, ...] = ()  # for the search of the hub
    pipeline_tag: str = ""  # task of the hub; "" if it has none for this
    arguments: str = ""  # of `sonolume inference RECIPE --checkpoint FOLDER_OR_ID`
    code: str = ""  # Python that uses a folder
    needs: tuple[str, ...] = ()  # folders inside of an export that can generate; one without them is an earlier stage
    models: Callable[[Any], tuple[str, ...]] | None = None  # config -> keys of config.model that name a model which
    # this training uses; None: all of them
    limits: tuple[str, ...] = ()  # sentences that hold for all weights of the recipe
    citation: str = ""  # BibTeX
