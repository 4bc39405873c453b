"""What `check_soak` has schemathesis do to generated requests: most names of models would only ever meet the 404."""

from __future__ import annotations

import os
from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = os.environ["SOAK_MODEL"]
    return body
