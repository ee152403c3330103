"""Our own fields about experts: a choice among them, answers of several side by side, and how to choose."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from lmoe_ray.api.lenient_body import Lenient, wrong
from lmoe_ray.domain.chat import RouteOptions
from lmoe_ray.domain.sampling import RANGES

#: As many answers as ``n`` may ask for.
MAX_COMPARED = int(RANGES["n"][1])
MAX_ALLOWED = 256

Name = Annotated[str, Field(min_length=1)]


def _without_repeats(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise wrong("a name appears twice; each expert answers once")
    return names


class RouteBody(Lenient):
    """Wishes about the routing of one request. All of it is ours, so an unknown key is a typing error."""

    model_config = ConfigDict(extra="forbid")

    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="confidence below which the fallback answers, instead of the server's threshold"),
    ] = None
    allowed_experts: Annotated[
        list[Name] | None,
        Field(
            min_length=1,
            max_length=MAX_ALLOWED,
            description="the only experts that may be chosen, of those the caller may use; the base model always may",
        ),
    ] = None
    sticky: Annotated[
        bool,
        Field(
            description="true: the whole conversation is read, so that it stays with its expert until the topic turns; "
            "false: its last message alone"
        ),
    ] = True

    @property
    def options(self) -> RouteOptions:
        return RouteOptions(self.threshold, self.sticky)

    @property
    def allowed(self) -> tuple[str, ...] | None:
        return None if self.allowed_experts is None else tuple(dict.fromkeys(self.allowed_experts))


class ExpertsBody(Lenient):
    """The fields about experts that both kinds of completion have."""

    expert: Annotated[
        str,
        Field(
            description="the expert that answers; it wins over every router and over one named in model. 'base' or the "
            "model's name is the base model without an expert"
        ),
    ] = ""
    experts: Annotated[
        list[Name] | None,
        Field(
            min_length=2,
            max_length=MAX_COMPARED,
            description="each of them answers, side by side, one choice each in this order; 'base' or the model's name "
            "is the base model without an expert. Not together with expert, n above 1 or explain. "
            "usage counts the prompt once for each",
        ),
        AfterValidator(_without_repeats),
    ] = None
    route: Annotated[RouteBody, Field(description="how the router chooses")] = RouteBody()
    explain: Annotated[
        bool, Field(description="put the whole decision into routing, as /v1/route tells it; in a stream, at its start")
    ] = False
