"""Renders conversations with transformers, for the tests of package chat.

    python gen.py                                  writes cases.json from templates/*.jinja
    python gen.py --templates DIR --out FILE       the same with other templates

Recorded with the fixture: versions and the sha256 of this file. Rendered with
return_assistant_tokens_mask, so spans of {% generation %} are there too.
A conversation that a template refuses has "error" instead of "text".
"""

import argparse, datetime, hashlib, json
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Fixed(datetime.datetime):
    """strftime_now must not tell the day on which this script ran."""

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, 9, 14, 5, 6)


chat_template_utils.datetime = Fixed


def m(role, content, **fields):
    return {"role": role, "content": content, **fields}


WEATHER = {"type": "function", "function": {"name": "weather", "description": "What's the <weather> & more?", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Stadt, 都市"}, "days": {"type": "integer", "default": 3},
    "exact": {"type": "number", "default": 1.0, "minimum": 1e-05, "maximum": 1e16}}, "required": ["city"]}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}}
CALL = [{"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Zürich's \"old\" town", "days": 2, "exact": None}}}]
REASON = m("assistant", "Four.", reasoning_content="2 + 2\nis 4")

CONVERSATIONS = {
    "one": [m("user", "Hello")],
    "pair": [m("user", "Hello"), m("assistant", "Hi there!")],
    "system": [m("system", "You are terse."), m("user", "Hello"), m("assistant", "Hi.")],
    "long": [m("system", "  Answer in verse.\n"), m("user", "  What is a licence? \n"), m("assistant", "\tA permission.\n\n"), m("user", "And?"), m("assistant", ""), m("user", "Go on")],
    "unicode": [m("user", "漢字 👩‍👩‍👧 é e\u0301 \u00a0x\u3000"), m("assistant", "Ŝalom שלום \u2028 ok\u001f")],
    "specials": [m("user", "<|eot_id|> {{ not a template }} {% if %} <b>&amp;</b>"), m("assistant", "<|im_end|>\nfake")],
    "think": [m("user", "2+2?"), m("assistant", "<think>\nsum\n</think>\n\nFour."), m("user", "sure?"), m("assistant", "<think>x</think>Yes.")],
    "reasoning": [m("user", "2+2?"), REASON, m("user", "sure?")],
    "calls": [m("system", "Use tools."), m("user", "Weather?"), m("assistant", None, tool_calls=CALL), m("tool", "sunny, 21 °C", name="weather", tool_call_id="call00001"), m("assistant", "It is sunny.")],
    "result dict": [m("user", "Weather?"), m("assistant", "", tool_calls=CALL), m("tool", {"temp": 21.5, "sky": "clear", "wind": [1, 2.0]}), m("assistant", "Clear.")],
    "two calls": [m("user", "Both?"), m("assistant", "Let me see.", tool_calls=CALL + CALL), m("tool", "a"), m("tool", "b"), m("user", "thanks")],
    "parts": [m("user", [{"type": "image"}, {"type": "text", "text": "What is this? "}, {"type": "text", "text": "Tell."}]), m("assistant", [{"type": "text", "text": "A cat."}])],
    "empty": [],
    "wrong order": [m("assistant", "I begin."), m("assistant", "And again.")],
    "odd role": [m("user", "a"), m("narrator", "meanwhile")],
}
VARS = [
    {}, {"add_generation_prompt": True}, {"tools": [WEATHER, CLOCK]}, {"tools": [CLOCK], "add_generation_prompt": True, "date_string": "1 Jan 2031"},
    {"tools": [WEATHER], "tools_in_user_message": False}, {"builtin_tools": ["brave_search", "code_interpreter"]},
    {"enable_thinking": False, "add_generation_prompt": True},
]


def render(source, messages, extra):
    kw = dict(extra)
    tools = kw.pop("tools", None)
    prompt = kw.pop("add_generation_prompt", False)
    texts, spans = chat_template_utils.render_jinja_template(
        conversations=[json.loads(json.dumps(messages))], tools=tools, chat_template=source, add_generation_prompt=prompt,
        return_assistant_tokens_mask=True, **SPECIAL, **kw)
    return texts[0], [list(s) for s in spans[0]]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--templates", default=HERE / "templates")
    args.add_argument("--out", default=HERE / "cases.json")
    args = args.parse_args()
    templates, cases = {}, []
    for path in sorted(Path(args.templates).glob("*.jinja")):
        templates[path.stem] = source = path.read_text()
        for name, messages in CONVERSATIONS.items():
            for k, extra in enumerate(VARS):
                case = {"template": path.stem, "conversation": name, "vars": k}
                try:
                    case["text"], case["spans"] = render(source, messages, extra)
                except Exception as e:  # refused by the template, or not in the language
                    case["error"] = str(e)[:80]
                cases.append(case)
    record = {
        "gen": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "transformers": transformers.__version__, "jinja2": jinja2.__version__,
        "special": SPECIAL, "conversations": CONVERSATIONS, "vars": VARS, "templates": templates, "cases": cases,
    }
    at = {}  # most cases of a template are the same text: each is kept once
    for c in cases:
        if "text" in c:
            c["text"] = at.setdefault(c["text"], len(at))
    record["texts"] = list(at)
    Path(args.out).write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
    print(f"{len(templates)} templates, {len(cases)} cases, {sum('error' in c for c in cases)} refused, {Path(args.out).stat().st_size} bytes")


main()
