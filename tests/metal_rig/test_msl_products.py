"""Products of matrices that share a factor become one instruction, where nothing forbids it."""

from __future__ import annotations

import pytest

from metal_rig import toolchain
from metal_rig.msl.compiler import compile_metal
from metal_rig.msl.products import pair_products
from metal_rig.msl.targets import NVPTX

PACKAGES = toolchain.MSL_PACKAGES
OPCODE = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"


def product(sums: str, left: str, right: str, addends: str) -> str:
    """sums and addends: two registers; the shim leaves the other rows' open."""
    factors = f"{{{left}, %r90}}, {{{right}}}"
    return f"\t{OPCODE} {{{sums}, %f90, %f91}}, {factors}, {{{addends}, %f92, %f93}};\n"


FIRST = product("%f1, %f2", "%r1", "%r3", "%f5, %f6")
SECOND = product("%f3, %f4", "%r2", "%r3", "%f7, %f8")
BOTH = f"\t{OPCODE} {{%f1, %f2, %f3, %f4}}, {{%r1, %r2}}, {{%r3}}, {{%f5, %f6, %f7, %f8}};\n"


@pytest.mark.parametrize(
    "between",
    ["", "$L__tmp7:\n", "\tadd.s32 \t%r2, %r1, %r3;\n", "\tst.shared.u32 \t[%r7], %r1;\n"],
    ids=["nothing", "debug label", "reads", "store"],
)
def test_two_of_one_right_factor_are_one(between: str) -> None:
    assert pair_products(FIRST + between + SECOND) == between + BOTH


@pytest.mark.parametrize(
    "between",
    [
        "$L__BB0_3:\n",
        "\t@%p1 bra \t$L__BB0_3;\n",
        "\tadd.f32 \t%f9, %f1, %f2;\n",
        "\tmov.b32 \t%r3, %r9;\n",
        "\tmov.b32 \t%r1, %r9;\n",
        "\tmov.b32 \t{%rs1, %f5}, %r9;\n",
        "\tld.shared.v2.f32 \t{%f9, %f6}, [%r9];\n",
        "\t@%p1 mov.b32 \t%r1, %r9;\n",
    ],
)
def test_what_lies_between_keeps_them_apart(between: str) -> None:
    assert pair_products(FIRST + between + SECOND) == FIRST + between + SECOND


def test_a_sum_that_is_added_to_stays_behind_the_first() -> None:
    chain = FIRST + product("%f3, %f4", "%r2", "%r3", "%f1, %f2")
    assert pair_products(chain) == chain


def test_pairs_of_several_factors() -> None:
    other = [line.replace("%r3", "%r4").replace("%f", "%f2") for line in (FIRST, SECOND, BOTH)]
    assert pair_products(FIRST + other[0] + SECOND + other[1]) == BOTH + other[2]
    assert pair_products(FIRST + other[1]) == FIRST + other[1]


SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void k(device const half* a [[buffer(0)]], device float* out [[buffer(1)]]) {
  simdgroup_half8x8 left[2], right[2];
  for (uint i = 0; i < 2; ++i) {
    simdgroup_load(left[i], a + 64 * i, 8);
    simdgroup_load(right[i], a + 128 + 64 * i, 8);
  }
  simdgroup_float8x8 sums[2];
  for (uint i = 0; i < 2; ++i) {
    sums[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    simdgroup_multiply_accumulate(sums[i], left[i], right[i * STEP], sums[i]);
  }
  for (uint i = 0; i < 2; ++i) simdgroup_store(sums[i], out + 64 * i, 8);
}
"""


@pytest.mark.parametrize("n", [1, 2])
def test_of_a_shader(n: int) -> None:
    path = compile_metal(SOURCE, macros={"STEP": str(n - 1)}, target=NVPTX)
    assert path.read_text().count(OPCODE) == n
