"""Tokens and rewriting, without a compiler."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_rig.msl.lexer import MetalSyntaxError, split_list, tokenize
from metal_rig.msl.rewriter import Rewritten, Slot, rewrite


def rewritten(source: str) -> Rewritten:
    return rewrite(source, "STORAGE")


def words(text: str) -> str:
    return " ".join(text.split())


@given(st.text(alphabet="ab1.<>()[]{};,\"'#\n :+-*/&|= \\", max_size=60))
def test_tokens_join_to_the_source(source: str) -> None:
    assert "".join(t.text for t in tokenize(source)) == source


def test_lists_are_cut_outside_of_brackets_only() -> None:
    parts = split_list(tokenize("a<b, c>, d(e, f), g[h, i]"))
    assert ["".join(t.text for t in p).strip() for p in parts] == ["a<b, c>", "d(e, f)", "g[h, i]"]


def test_address_spaces_become_cpp() -> None:
    out = rewritten("device const float* f(thread float& x, constant int* y, threadgroup int* z);")
    assert words(out.text) == "const float* f( float& x, const int* y, int* z);"


def test_const_is_not_doubled() -> None:
    assert words(rewritten("void f(const constant int* y);").text) == "void f(const int* y);"


def test_kernel_parameters_get_their_places() -> None:
    out = rewritten(
        "kernel void k(device float* a [[buffer(kA)]], device const float* b, constant P& p,"
        " threadgroup float* t, uint i [[thread_position_in_grid]],"
        " uint w [[thread_execution_width]]) {}"
    )
    assert out.kernels["k"] == [
        Slot("buffer", "kA", True),
        Slot("buffer", "kA + 1", False),
        Slot("buffer", "kA + 1 + 1", False),
        Slot("threadgroup", "0"),
        Slot("thread_position_in_grid"),
        Slot("threads_per_simdgroup"),
    ]
    assert [e.host_name for e in out.exports] == ["k"]
    assert "kernel" not in out.text


@pytest.mark.parametrize(
    "source",
    [
        '[[host_name("n")]] kernel void k(device float* a) {}',
        '[[host_name("n"), kernel]] void k(device float* a) {}',
        '[[host_name("n")]] [[kernel]] void k(device float* a) {}',
    ],
)
def test_host_names(source: str) -> None:
    assert [(e.host_name, e.expression) for e in rewritten(source).exports] == [("n", "k")]


@pytest.mark.parametrize(
    "instantiation",
    [
        'template [[host_name("k_f")]] kernel void k<float, A<2>>(device float*);',
        'template [[host_name("k_f")]] [[kernel]] void k<float, A<2>>(device float*);',
        'template [[host_name("k_f")]] kernel decltype(k<float, A<2>>) k<float, A<2>>;',
    ],
)
def test_instantiations(instantiation: str) -> None:
    out = rewritten(
        f"template <typename T, int N> kernel void k(device T* a) {{}}\n{instantiation}"
    )
    assert [(e.host_name, e.base_name) for e in out.exports] == [("k_f", "k")]
    assert out.exports[0].expression.replace(" ", "") == "k<float,A<2>>"
    assert "decltype" not in out.text


def test_a_template_alone_is_no_kernel() -> None:
    out = rewritten("template <typename T> kernel void k(device T* a) {}")
    assert out.exports == []
    assert "k" in out.kernels


def test_threadgroup_variables_are_announced() -> None:
    out = rewritten("kernel void k() { threadgroup float x[4][8]; threadgroup float* p = x[0]; }")
    assert "STORAGE float x[4][8]; __msl_threadgroup_variable((void*)&x, sizeof x);" in out.text
    assert "float* p = x[0];" in out.text
    out = rewritten("kernel void k() { threadgroup float x[N * M]; }")
    assert "STORAGE float x[N * M]; __msl_threadgroup_variable" in out.text
    assert out.text.count("STORAGE") == 1


def test_function_constants() -> None:
    out = rewritten(
        "constant uint N [[function_constant(3)]];\nconstant uint M = N * 2;\n"
        "uint f() { return is_function_constant_defined(N) ? N : 0; }"
    )
    assert "static const uint N = __msl_constant<uint>(3);" in out.text
    assert "const uint M = N * 2;" in words(out.text)
    assert "__msl_defined_N ? N : 0" in words(out.text)


def test_literals_are_floats() -> None:
    source = "x = 0.5 + 1. + .25e-3 + 1e3 + 2.0f + 1.0h + 3 + 0x1e3 + 7u + a.x1;"
    want = "x = 0.5f + 1.f + .25e-3f + 1e3f + 2.0f + 1.0h + 3 + 0x1e3 + 7u + a.x1;"
    assert rewritten(source).text == want


def test_line_numbers_stay() -> None:
    source = (
        "\n\nconstant uint N [[function_constant(3)]];\n\n  kernel void k(\n device int* a) {}\n"
    )
    assert rewritten(source).text.count("\n") == source.count("\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kernel void k(device int* a {}", "closes"),
        ("kernel void k(int a) {}", "without a place"),
        ("kernel void k() { threadgroup int a[2], b; }", "one threadgroup variable at a time"),
        ("kernel void", "ends where"),
        ("template kernel void k(device int*);", "without template arguments"),
    ],
)
def test_mistakes_are_named(source: str, message: str) -> None:
    with pytest.raises(MetalSyntaxError, match=message):
        rewritten(source)
