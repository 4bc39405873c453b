"""One reader of tool calls: every form, any JSON value, any split of the text, and nothing lost."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_agents.tool_calls import MORE, CallReader, Span, call_text, json_text, read, read_tagged

F = {"name": "f", "arguments": {"a": 1}}
G = {"name": "g", "arguments": {}}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    # What may be taken for the end of a call.
    | st.sampled_from(
        ["</tool_call>", "<tool_call>", '"}}</tool_call>', "\\", '\\"', "[TOOL_CALLS]", "</function>", "\u2028", "{", "]", "<|im_end|>"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(
    lambda name, arguments: {"name": name, "arguments": arguments},
    st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True),
    st.dictionaries(st.text(max_size=8), JSON, max_size=3),
)
# Text that no mark stands in, and pieces of marks.
TEXT = st.text(alphabet='ab<>[]{}/ \n|_"tool_callTOOLCS', max_size=30)


def pieces_of(text, cuts, **options):
    reader = CallReader(**options)
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += reader.push(text[start:stop])
    pieces += reader.finish()
    return "".join(piece for piece in pieces if isinstance(piece, str)), [piece for piece in pieces if isinstance(piece, dict)]


def cuts_of(data, text):
    return sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))


def reference(text):
    """(content, calls) by the plain rule: from a tag on, the decoder; behind it the closing tag, or nothing more. Hermes' form alone."""
    content, calls = "", []
    while (start := text.find("<tool_call>")) >= 0:
        content, rest = content + text[:start], text[start + len("<tool_call>") :]
        body = rest.lstrip()
        try:
            value, end = json.JSONDecoder().raw_decode(body)
        except ValueError:
            value, end = None, 0
        behind = body[end:].lstrip()
        if isinstance(value, dict) and (behind.startswith("</tool_call>") or not behind):
            calls.append(value)
            text = behind.removeprefix("</tool_call>")
        else:
            content, text = content + "<tool_call>", rest
    return content + text, calls


@settings(max_examples=150, deadline=None)
@given(data=st.data(), calls=st.lists(CALLS, max_size=3))
def test_any_arguments_in_any_split_are_read_as_from_the_whole(data, calls):
    text = "".join(data.draw(st.sampled_from(["", "I look. ", "a < b [1] {x} "])) + call_text(call) for call in calls) + " Then."
    content, seen = pieces_of(text, cuts_of(data, text))
    assert seen == calls
    assert (content, seen) == reference(text)


def as_object(call, key="arguments"):
    return json_text({"name": call["name"], key: call["arguments"]})


def as_functions(call):
    parameters = "".join(f"<parameter={key}>\n{json_text(value)}\n</parameter>\n" for key, value in call["arguments"].items())
    return f"<tool_call>\n<function={call['name']}>\n{parameters}</function>\n</tool_call>"


WRITERS = {
    "tags, one each": lambda calls: "\n".join(f"<tool_call>\n{as_object(call)}\n</tool_call>" for call in calls),
    "tags, a list": lambda calls: f"<tool_call>[{', '.join(map(as_object, calls))}]</tool_call>",
    "tags, one a line": lambda calls: "<tool_call>" + "\n".join(map(as_object, calls)) + "</tool_call>",
    "tags, another name": lambda calls: "".join(f"<tool_call>{as_object(call, 'parameters')}</tool_call>" for call in calls),
    "tags, nested": lambda calls: "".join(f'<tool_call>{{"function": {as_object(call)}}}</tool_call>' for call in calls),
    "tags, arguments as text": lambda calls: "".join(
        f"<tool_call>{json_text({'name': call['name'], 'arguments': json_text(call['arguments'])})}</tool_call>" for call in calls
    ),
    "Mistral, a list": lambda calls: f"[TOOL_CALLS] [{', '.join(map(as_object, calls))}]",
    "Mistral, names": lambda calls: "".join(f"[TOOL_CALLS]{call['name']}[ARGS]{json_text(call['arguments'])}" for call in calls),
    "Llama": lambda calls: "<|python_tag|>" + "; ".join(as_object(call, "parameters") for call in calls),
    "Qwen3-Coder": lambda calls: "\n".join(map(as_functions, calls)),
    "bare": lambda calls: f"[{', '.join(map(as_object, calls))}]",
}
# A parameter's name in markup is a word, its value is not to look like the markup around it.
WORDS = st.from_regex(r"[a-z]{1,6}", fullmatch=True)


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_form_gives_any_arguments_in_any_split(form, data):
    calls = data.draw(st.lists(CALLS, min_size=1, max_size=3))
    if form == "Qwen3-Coder":
        values = JSON.filter(lambda value: value is not None and "<" not in json_text(value) and not isinstance(value, str))
        calls = [{**call, "arguments": data.draw(st.dictionaries(WORDS, values, max_size=3))} for call in calls]
    text, bare = WRITERS[form](calls), form == "bare"
    before = "" if bare else data.draw(st.sampled_from(["", "I look. ", "a < b [1] {x} "]))
    for cuts in (cuts_of(data, before + text), range(1, len(before + text))):
        content, seen = pieces_of(before + text, list(cuts), bare=bare)
        assert seen == calls and content.strip() == before.strip(), (text, seen)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    parts=st.lists(
        TEXT
        | st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                '{"name": "f", "arguments": {"a": 1}}',
                '{"name": "f"',
                "[TOOL_CALLS]",
                "f[ARGS]",
                "<function=f>",
                "<parameter=a>\n1\n",
                "</parameter>",
                "</function>",
                "<|python_tag|>",
                "<|im_end|>",
                ";",
                '"',
                "\\",
            ]
        ),
        max_size=8,
    ),
    bare=st.booleans(),
)
def test_any_text_in_any_split_reads_as_the_whole(data, parts, bare):
    text = "".join(parts)
    whole = read(text, bare=bare)
    assert pieces_of(text, cuts_of(data, text), bare=bare) == whole
    assert pieces_of(text, list(range(1, len(text))), bare=bare) == whole if text else whole == ("", [])


FORMS = {
    "hermes": ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [F]),
    "no arguments": ('<tool_call>{"name": "g"}</tool_call>', [G]),
    "null arguments": ('<tool_call>{"name": "g", "arguments": null}</tool_call>', [G]),
    "more beside": ('<tool_call>{"name": "f", "arguments": {"a": 1}, "thought": "x"}</tool_call>', [F]),
    "arguments as text": ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [F]),
    "no arguments as text": ('<tool_call>{"name": "g", "arguments": ""}</tool_call>', [G]),
    "parameters": ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', [F]),
    "args": ('<tool_call>{"name": "f", "args": {"a": 1}}</tool_call>', [F]),
    "input": ('<tool_call>{"name": "f", "input": {"a": 1}}</tool_call>', [F]),
    "nested": ('<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}</tool_call>', [F]),
    "a list": ('<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]</tool_call>', [F, G]),
    "two in one tag": ('<tool_call>{"name": "f", "arguments": {"a": 1}}\n{"name": "g"}</tool_call>', [F, G]),
    "parallel": ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "g"}</tool_call>', [F, G]),
    "closed by the next tag": ('<tool_call>{"name": "f", "arguments": {"a": 1}}\n<tool_call>{"name": "g"}</tool_call>', [F, G]),
    "closed by the end": ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [F]),
    "closed by half a tag": ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_', [F]),
    "closed by an end token": ('<tool_call>{"name": "f", "arguments": {"a": 1}}<|im_end|>', [F]),
    "line break in a string": (
        '<tool_call>{"name": "f", "arguments": {"a": "1\n2"}}</tool_call>',
        [{"name": "f", "arguments": {"a": "1\n2"}}],
    ),
    "qwen coder": ("<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", [F]),
    "qwen coder, no parameter": ("<tool_call><function=g></function></tool_call>", [G]),
    "qwen coder, two": ("<tool_call><function=f><parameter=a>1</parameter></function><function=g>\n</function></tool_call>", [F, G]),
    "qwen coder, markup in a value": (
        "<tool_call><function=f><parameter=a>\nx </function> </parameter> y\n</parameter></function>",
        [{"name": "f", "arguments": {"a": "x </function> </parameter> y"}}],
    ),
    "mistral, list": ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', [F, G]),
    "mistral, names": ('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', [F, G]),
    "mistral, ids": ('[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', [F]),
    "mistral, no marks": ('[TOOL_CALLS]f{"a": 1}', [F]),
    "mistral, two lists": ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}][TOOL_CALLS][{"name": "g"}]', [F, G]),
    "llama": ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', [F, G]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form):
    text, calls = FORMS[form]
    content, seen = read(f"So. {text}")
    assert seen == calls and content.startswith("So. ") and content.removeprefix("So. ").strip() in ("", "<|im_end|>")


KEPT = [
    '<tool_call>{"name": "f", "arguments": {}, "params": {"a": 1}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}, "parameters": {"a": 1}}</tool_call>',
    '<tool_call>{"name": "f", "a": 1}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
    "<tool_call>{'name': 'f'}</tool_call>",
    '<tool_call>{"name": ""}</tool_call>',
    '<tool_call>{"name": "\\ud800"}</tool_call>',
    '<tool_call>{"name": "f"} and so on',
    "<tool_call>[]</tool_call>",
    "<tool_call>",
    "<tool_call><function=f><parameter=a>1</function></tool_call>",
    "[TOOL_CALLS] none",
    '<|python_tag|>print("x")',
    "<tool_call>" + "[" * 100_000,
]


@pytest.mark.parametrize("text", KEPT)
def test_what_cannot_be_read_as_a_call_stays_text(text):
    assert read(f"a {text} b") == (f"a {text} b", []) and read(text) == (text, [])


def test_an_answer_of_nothing_but_json_is_a_call_only_where_asked():
    text = '{"name": "f", "parameters": {"a": 1}}'
    assert read(text) == (text, []) and read(text, bare=True) == ("", [F])
    assert read('[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', bare=True) == ("", [F, G])
    for other in (f"{text} is a call", '{"name": "Ann"}', "[1, 2]", "{", "Hello"):
        assert read(other, bare=True) == (other, [])


def test_the_schema_says_what_is_text():
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>" for name, value in (("a", "12"), ("b", "True"), ("c", "12")))
    text = f"<tool_call><function=f>{parameters}</function></tool_call>"
    schemas = {"f": {"properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}}
    assert read(text, schemas)[1] == [{"name": "f", "arguments": {"a": "12", "b": True, "c": 12}}]


@settings(max_examples=150, deadline=None)
@given(value=JSON)
def test_what_is_written_is_json_and_utf8(value):
    assert json.loads(json_text(value).encode("utf-8").decode()) == value


def test_half_a_surrogate_pair_stays_an_escape():
    (call,) = read('<tool_call>{"name": "f", "arguments": {"a": "\\ud800 é"}}</tool_call>')[1]
    assert json_text(call["arguments"]) == '{"a": "\\ud800 \\u00e9"}' and json_text({"a": "é"}) == '{"a": "é"}'


def test_a_growing_text_says_when_its_call_is_complete():
    text = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>'
    assert all(read_tagged(text[:stop], final=False) is MORE for stop in range(len("<tool_call>"), len(text)))
    assert read_tagged(text + "x", final=False) == Span([{"name": "f", "arguments": {"a": "</tool_call>"}}], len(text))


@pytest.mark.parametrize(
    "hostile",
    [
        "<tool_call>",
        '<tool_call>{"a',
        '<tool_call>{\\"',
        "<tool_call>[",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]f[ARGS]{",
        "<tool_call><function=f><parameter=a>",
        "</function>",
        "<|python_tag|>{",
        "<tool_call><function=f>",
    ],
)
def test_hostile_text_takes_linear_time(hostile):
    """A quadratic reader would take hours."""
    text = '<tool_call>{"' + hostile * (200_000 // len(hostile))
    assert pieces_of(text, range(50, len(text), 50), bare=True) == (text, [])
