from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from longbow_quarrel.chat_template import ChatTemplate, TemplateLimits, encode_chat
from longbow_quarrel.errors import ChatTemplateError, UsageError
from longbow_quarrel.tokenizer import Tokenizer
from tokenizer.vocabularies import CONTROL, byte_level, sentencepiece

CHATML = """\
{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}
    {%- endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
"""

# No system role, strict alternation, the assistant is called "model".
TURNS = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
  {{- raise_exception('System role not supported') -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Roles must alternate user/assistant') -}}
  {%- endif -%}
  {%- set role = 'model' if message.role == 'assistant' else message.role -%}
  {{- '<start_of_turn>' ~ role ~ '\n' ~ message.content | trim ~ '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""

HEADERS = """\
{%- if not date is defined -%}{%- set date = strftime_now('%Y') -%}{%- endif -%}
{%- macro header(role) -%}<|start_header_id|>{{ role }}<|end_header_id|>{{ '\n\n' }}{%- endmacro -%}
{{- bos_token -}}
{%- if tools is not none -%}{{- header('system') ~ date ~ ' ' ~ tools | tojson ~ '<|eot_id|>' -}}{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == 'skip' -%}{%- continue -%}{%- endif -%}
  {{- header(message.role) -}}
  {%- if message.content is string -%}{{- message.content -}}
  {%- else -%}{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{%- endif -%}
  {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- header('assistant') -}}{%- endif -%}
"""  # noqa: E501

USER = [{"role": "user", "content": "hi"}]


def render(source: str, **options: object) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(USER, **options)


def test_chatml_with_a_default_system_prompt() -> None:
    template = ChatTemplate(CHATML)
    assert template.render(USER) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, *USER]
    assert template.render(own, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )


def test_turns_with_enforced_alternation() -> None:
    template = ChatTemplate(TURNS, bos_token="<bos>")
    answer = [{"role": "assistant", "content": " hello "}]
    assert template.render([*USER, *answer, *USER]) == (
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n"
        "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(ChatTemplateError, match="refuses this conversation: Roles must alternate"):
        template.render([*USER, *USER])
    with pytest.raises(ChatTemplateError, match="System role not supported"):
        template.render([{"role": "system", "content": "x"}])


def test_headers_with_macros_parts_tools_and_loop_controls() -> None:
    template = ChatTemplate(HEADERS, bos_token="<B>")
    skipped = {"role": "skip", "content": "never shown"}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "<b>"}]}
    text = template.render([skipped, parts], date="today", tools=[{"name": "<é>"}])
    assert text == (
        "<B><|start_header_id|>system<|end_header_id|>\n\ntoday "
        '[{"name": "<é>"}]<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\na<b><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    year = str(datetime.datetime.now().year)
    assert f"\n\n{year} []" in template.render(USER, tools=[])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{{ undefined_name }}x", "x"),
        ("{{ tools is none }} {{ documents is none }} {{ tools is defined }}", "True True True"),
        ("{{ '<&>' }}{{ {'b': 1, 'a': '<'} | tojson }}", '<&>{"b": 1, "a": "<"}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
        ("{% for x in 'abcd' %}{% if x == 'c' %}{% break %}{% endif %}{{ x }}{% endfor %}", "ab"),
        ("{% for x in 'ab' %}{{ loop.length }}{{ loop.last }}{% endfor %}", "2False2True"),
        ("{% for x in [3, 4] | map('string') %}{{ x }}/{{ loop.length }} {% endfor %}", "3/2 4/2 "),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"),
        ("{% for x in missing %}{{ x }}{% else %}none{% endfor %}", "none"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 2 %}{{ ns.n }}", "3"),
        ("{{ '%s-%03d' % ('a', 7) }} {{ '{}!'.format('b') }}", "a-007 b!"),
        ("{{ ('a' ~ 1 ~ none) }} {{ 'x' * 3 }} {{ 2 ** 10 }}", "a1None xxx 1024"),
        ("{% set t %}{{ 'a' }}b{% endset %}{{ t | upper }}", "AB"),
    ],
)
def test_what_templates_in_the_wild_use(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ messages.__class__.__base__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{% for x in [''] | map(attribute='__class__') %}{{ x.__mro__ }}{% endfor %}",
        "{{ self._TemplateReference__context.environment.overlay() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% from 'os' import system %}",
        "{% extends 'base' %}",
        "{{ open('/etc/passwd') }}",
        "{{ lipsum(n=100) }}",
    ],
)
def test_nothing_outside_the_sandbox_is_reached(source: str) -> None:
    try:
        text = render(source)
    except ChatTemplateError:
        return
    # An unsafe attribute may also simply read as nothing; it never shows what it leads to.
    assert text == "", text


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for i in range(10 ** 9) %}{% endfor %}", "a number beyond"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "calls itself too deeply"),
        ("{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "calls itself too deeply"),
        ("{% for i in range(50000) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than"),
        ("{% for i in range(90000) %}" + "text" * 100 + "{% endfor %}", "builds more than"),
        ("{{ 'x' * 10 ** 9 }}", "a number beyond"),
        ("{{ 'x' * 999999 * 999999 }}", "builds more than"),
        ("{{ [1] * 999999 * 999999 }}", "builds more than"),
        ("{{ 9 ** 999 }}", "a power above"),
        ("{{ (2 ** 64) ** 64 }}", "a number beyond"),
        ("{{ 'x'.ljust(10000000) }}", "a number beyond"),
        ("{{ 'x' | indent(10000000) }}", "a number beyond"),
        ("{{ 'x' | center(width=10000000) }}", "a number beyond"),
        ("{{ '%10000000d' % 1 }}", "formats a field"),
        ("{{ '%*d' % (10000000, 1) }}", "a number beyond"),
        ("{{ '{:10000000}'.format(1) }}", "formats a field"),
        ("{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
         "{% endfor %}", "builds more than"),
        ("{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
         "{% endfor %}", "builds more than"),
        ("{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s %}{{ n.s }}{{ n.s }}"
         "{% endset %}{% endfor %}", "writes more than"),
        ("{% macro m() %}{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endmacro %}"
         "{{ m() }}", "writes more than"),
    ],
)  # fmt: skip
def test_a_template_cannot_run_or_grow_without_end(source: str, reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=reason):
        render(source)


def test_limits_are_per_rendering_and_can_be_set() -> None:
    template = ChatTemplate(
        "{% for i in range(n) %}x{% endfor %}", limits=TemplateLimits(max_steps=20, max_size=8)
    )
    for _ in range(3):
        assert template.render(USER, n=8) == "x" * 8
    with pytest.raises(ChatTemplateError, match="more than 8 characters"):
        template.render(USER, n=9)
    with pytest.raises(ChatTemplateError, match="more than 10 steps"):
        ChatTemplate(
            "{% for i in range(n) %}{% endfor %}", limits=TemplateLimits(max_steps=10)
        ).render(USER, n=10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for message in %}", "does not parse .line 1"),
        ("\n\n{{ unclosed", "does not parse .line 3"),
        ("{% if x %}", "does not parse"),
        ("{{ x | no_such_filter }}", "does not parse .*no_such_filter"),
        ("{% unknown_tag %}", "does not parse"),
    ],
)
def test_a_template_that_does_not_parse(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(source)


@pytest.mark.parametrize("source", ["{{ a.b.c }}", "{{ 1 / 0 }}", "{{ messages[7].role }}"])
def test_a_template_that_fails(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="The chat template failed"):
        render(source)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "should be a list of messages, not str"),
        ({"role": "user"}, "should be a list of messages, not dict"),
        (None, "should be a list of messages, not NoneType"),
        ([], "messages is empty"),
        (["hi"], r"messages\[0\] should be an object"),
        ([*USER, {"content": "x"}], r"messages\[1\] needs a role"),
        ([{"role": 3, "content": "x"}], r"messages\[0\] needs a role"),
        ([{"role": "user", "content": 3}], "content should be text, not int"),
        ([{"role": "user", "content": ["x"]}], "text or a list of objects"),
    ],
)
def test_messages_of_the_wrong_shape(messages: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ChatTemplate(CHATML).render(messages)  # type: ignore[arg-type]


def test_messages_are_left_as_they_were() -> None:
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    source = "{{ messages[0].tool_calls[0].name }}{{ messages[0].content is none }}"
    assert ChatTemplate(source).render(messages) == "fTrue"
    assert messages == [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]


def _chat_tokenizer(**keys: object) -> Tokenizer:
    special = [(p, CONTROL) for p in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    return Tokenizer.from_metadata(
        byte_level([], special, bos_token_id=256, eos_token_id=257, **keys)
    )


def test_from_metadata() -> None:
    tokenizer = _chat_tokenizer()
    metadata = {
        "tokenizer.chat_template": "{{ bos_token }}main{{ eos_token }}",
        "tokenizer.chat_template.tool_use": "tools",
    }
    assert ChatTemplate.from_metadata(metadata, tokenizer).render(USER) == "<s>main</s>"
    named = ChatTemplate.from_metadata(metadata, tokenizer, name="tool_use")
    assert named.render(USER) == "tools"
    for missing, name in (({}, None), ({"tokenizer.chat_template": " "}, None), (metadata, "rag")):
        with pytest.raises(ChatTemplateError, match="has no chat template"):
            ChatTemplate.from_metadata(missing, tokenizer, name=name)
    bare = Tokenizer.from_metadata(byte_level([]))
    assert ChatTemplate.from_metadata(metadata, bare).render(USER) == "main"


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_bos_is_never_doubled(add_bos: bool, written: bool) -> None:
    tokenizer = _chat_tokenizer(add_bos_token=add_bos, add_eos_token=True)
    text = ("<s>" if written else "") + "<|im_start|>user\nhi<|im_end|>\n"
    ids = encode_chat(tokenizer, text)
    assert ids.count(256) == (1 if add_bos or written else 0)
    assert (ids[0] == 256) == (add_bos or written)
    assert tokenizer.decode(ids, skip_special=False).removeprefix("<s>") == text.removeprefix("<s>")
    assert ids.count(258) == ids.count(259) == 1, "the markers are tokens, not text"
    assert ids[-1] != 257, "the reply is still to come"


def test_bos_with_a_sentencepiece_vocabulary() -> None:
    tokenizer = Tokenizer.from_metadata(sentencepiece([("▁", -3.0), ("a", -2.0), ("▁a", -1.0)]))
    assert encode_chat(tokenizer, "<s>a") == encode_chat(tokenizer, "a") == tokenizer.encode("a")
    assert encode_chat(tokenizer, "") == [1]


def test_threads_do_not_share_a_budget() -> None:
    from concurrent.futures import ThreadPoolExecutor

    template = ChatTemplate(
        "{% for i in range(5000) %}{{ i % 7 }}{% endfor %}",
        limits=TemplateLimits(max_steps=5100),
    )
    expected = template.render(USER)
    work: Callable[[int], str] = lambda _: template.render(USER)  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(32))) == {expected}
