"""The first sheet of an Excel workbook as rows of text, read with the standard library. The file is untrusted."""

from __future__ import annotations

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

MAX_PART_BYTES = 50_000_000
MAX_TAGS = 5_000_000
_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_REFERENCE = re.compile(r"([A-Z]{1,3})[0-9]{1,7}")


class WorkbookError(Exception):
    """The bytes are not a readable workbook; the message says why."""


def rows(content: bytes) -> list[dict[str, str]]:
    """Every row of the first sheet as column letter -> text, empty cells left out. Raises WorkbookError for anything that is no workbook,
    is cut short, declares entities, or unpacks to more than 50 MB."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            sheet = min((name for name in names if re.fullmatch(r"xl/worksheets/sheet[0-9]+\.xml", name)), key=_number)
            shared = "xl/sharedStrings.xml"
            strings = [_text(item) for item in _part(archive, shared)] if shared in names else []
            # By their places: rows inside rows would be read once for each that they stand in.
            return [dict(_cells(row, strings)) for row in _part(archive, sheet).iterfind(f"{_SPACE}sheetData/{_SPACE}row")]
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError):
        raise WorkbookError("not a whole zip archive") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise WorkbookError(f"not laid out as a workbook ({type(error).__name__})") from None


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    with archive.open(name) as part:
        content = part.read(MAX_PART_BYTES + 1)
    if len(content) > MAX_PART_BYTES:
        raise WorkbookError(f"{name} unpacks to more than {MAX_PART_BYTES // 1_000_000} MB")
    text = content.decode()  # whatever encoding it declares: in another one the next line would see nothing
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise WorkbookError(f"{name} declares entities")
    if text.count("<") > MAX_TAGS:
        raise WorkbookError(f"{name} has more than {MAX_TAGS:,} tags")
    return ElementTree.fromstring(text)


def _cells(row: ElementTree.Element, strings: list[str]) -> Iterator[tuple[str, str]]:
    for cell in row.iterfind(f"{_SPACE}c"):
        match = _REFERENCE.fullmatch(cell.get("r", ""))
        value = cell.findtext(f"{_SPACE}v")
        if match is None:
            raise ValueError
        if cell.get("t") == "inlineStr":
            yield match[1], _text(cell)
        elif value is not None:
            yield match[1], strings[int(value)] if cell.get("t") == "s" else value


def _text(item: ElementTree.Element) -> str:
    """The text of a shared or inline string, its runs joined, without the phonetic ones."""
    spoken = {part for phonetic in item.iter(f"{_SPACE}rPh") for part in phonetic}
    return "".join(part.text or "" for part in item.iter(f"{_SPACE}t") if part not in spoken)
