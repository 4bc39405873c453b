"""What every section has: it refuses unknown keys, and explains a mistake in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dllm_agents.errors import StageError

Count = Annotated[int, Field(ge=1)]


# What a changed option makes anew (`Field(json_schema_extra=...)`), where that is not everything that reads its section.
NOTHING: dict[str, Any] = {"reruns": "nothing"}
"""It says how a run goes, not what it computes."""
TRAINING: dict[str, Any] = {"reruns": "training"}
"""Only what the teacher plays, and what is trained on that."""
CHECKPOINTS: dict[str, Any] = {"reruns": "checkpoints"}
"""Only what is trained."""
EVALUATION: dict[str, Any] = {"reruns": "evaluation"}
"""Only what agents play."""
JUDGING: dict[str, Any] = {"reruns": "judging"}
"""Only what an LLM judges."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")

    FORMER: ClassVar[dict[str, str]] = {}
    """Key of an earlier version -> what became of it, and what to write in its place."""

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str, file: str = "configuration") -> Any:
        """A checked section; raises StageError with one line naming file and key."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise StageError(f"{file}: {explain(error, cls, where)}") from None

    def settings(self, *parts: str) -> dict[str, Any]:
        """The options that differ from their defaults and that results depend on: not those whose field says what alone it `reruns`,
        unless that is one of `parts`."""
        dump = self.model_dump(mode="json", exclude_defaults=True)
        chosen = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if name in dump and extra.get("reruns") in (None, *parts):
                chosen[name] = _settings_of(getattr(self, name), dump[name], parts)
        return chosen


def _settings_of(value: Any, dump: Any, parts: tuple[str, ...]) -> Any:
    if isinstance(value, Section):
        return value.settings(*parts)
    if isinstance(value, dict):
        return {key: _settings_of(item, dump[key], parts) for key, item in value.items()}
    return dump


class Mistake(ValueError):
    """What is wrong with a key, which is told from the section whose check raises."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def require(names: Iterable[str], allowed: Iterable[str], where: str, what: str) -> None:
    """Raise Mistake for the first wanted name that is not allowed."""
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise Mistake(where, f"unknown {what} {name!r}; allowed: {', '.join(sorted(allowed)) or 'none is defined'}")


def explain(error: ValidationError, model: type[BaseModel], where: str) -> Mistake:
    """The first mistake: its key, what is wrong and what is allowed."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([*filter(None, [where]), *location])
    if first["type"] == "extra_forbidden":
        section = _section_at(model, location[:-1])
        if (fate := getattr(section, "FORMER", {}).get(location[-1])) is not None:
            return Mistake(key, fate)
        allowed = list(section.model_fields) if section is not None else []
        close = difflib.get_close_matches(location[-1], allowed, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return Mistake(key, f"unknown key{hint}; allowed: {', '.join(sorted(allowed))}")
    if first["type"] == "model_type" and isinstance(first["input"], str):
        section = _section_at(model, location)
        if section is not None and "backbone" in section.model_fields:
            return Mistake(key, f"is a section; write {location[-1]}: {{backbone: {first['input']}}}")
    if first["type"] == "value_error":
        cause = first["ctx"]["error"]
        return Mistake(".".join(filter(None, [key, cause.key])), cause.reason) if isinstance(cause, Mistake) else Mistake(key, str(cause))
    value = "" if first["type"] == "missing" else f" (got {first['input']!r})"
    return Mistake(key, f"{first['msg'][0].lower()}{first['msg'][1:]}{value}")


def _section_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    """The section at `location`, walking dictionaries of sections by any name."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if part not in current.model_fields:
                return None
            current = current.model_fields[part].annotation
        else:
            current = current.__args__[1]
        while not (isinstance(current, type) and issubclass(current, BaseModel)) and getattr(current, "__origin__", None) is not dict:
            candidates = [item for item in getattr(current, "__args__", ()) if item is not type(None)]
            if not candidates:
                return None
            current = candidates[0]
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None
