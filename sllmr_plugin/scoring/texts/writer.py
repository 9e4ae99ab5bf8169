"""`write_titles`: texts without any language model, so that everything that reads texts runs without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..titles import clean_title
from .request import TextRequest

#: What the origin of such texts names in place of a model.
NO_MODEL = "no language model"


def write_titles(requests: Iterable[TextRequest]) -> Iterator[tuple[TextRequest, str]]:
    """Yield each request with what it would have shown a model: the titles of a history; title and attributes.

    Of kind reasoning that is all three, and no step of reasoning: what came of it, the item, the titles before it.

    Examples
    --------
    >>> next(write_titles([TextRequest("item", "i1", ("Go",), (("category", "board games"),))]))[1]
    'Go; category: board games'
    """
    for request in requests:
        titles = [clean_title(title) for title in request.titles]
        attributes = [f"{clean_title(name)}: {clean_title(value)}" for name, value in request.attributes]
        text = "; ".join([*titles, *attributes])
        if request.exemplar is not None:
            came_of_it = "taken" if request.exemplar.label else "not taken"
            item = "; ".join([clean_title(request.exemplar.title), *attributes])
            text = f"{came_of_it}: {item}; after: {'; '.join(titles)}"
        yield request, text
