"""Convert credit scores."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from credit_service.domain.scorecard import Component
from credit_service.domain.scoring import CreditScore, Override, ScoreComponent
from credit_service.rpc.convert.fields import decimal_text, fill_date, fill_time
from credit_service.v1 import score_pb2

_CACHED_COMPONENTS = 4_096
# By name. A stored decision of a later release may have other names: UNSPECIFIED on the wire.
COMPONENTS: dict[str, Any] = {
    each: score_pb2.ScoreComponent.Value(f"SCORE_COMPONENT_{each.name}") for each in Component
}
_OVERRIDES: dict[str | None, Any] = {
    None: score_pb2.SCORE_OVERRIDE_UNSPECIFIED,
    **{each: score_pb2.ScoreOverride.Value(f"SCORE_OVERRIDE_{each.name}") for each in Override},
}


@lru_cache(maxsize=_CACHED_COMPONENTS)
def _encoded(component: ScoreComponent) -> bytes:
    """A serialized CreditScore with this component alone. Cached because many customers share
    components."""
    score = score_pb2.CreditScore()
    message = score.components.add()
    message.component = COMPONENTS.get(component.component, score_pb2.SCORE_COMPONENT_UNSPECIFIED)
    message.points.value = decimal_text(component.points_hundredths)
    message.max_points.value = decimal_text(component.max_points_hundredths)
    message.explanation = component.explanation
    return score.SerializeToString()


def fill_score(message: score_pb2.CreditScore, score: CreditScore, computed_at: datetime) -> None:
    """Fill an empty message with a score and its components."""
    # Bytes of messages that follow each other are those of one message with all their components.
    # Four times as fast as copying messages.
    message.MergeFromString(b"".join(map(_encoded, score.components)))
    message.score = score.score
    message.override = _OVERRIDES.get(score.override, score_pb2.SCORE_OVERRIDE_UNSPECIFIED)
    message.scorecard_version = score.scorecard_version
    message.customer_version = score.customer_version
    fill_time(message.computed_time, computed_at)
    fill_date(message.valid_until, score.valid_until)
