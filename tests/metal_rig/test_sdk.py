"""arm64 type check with ARC, and the stub headers' comparison with metal-cpp."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from metal_rig.sdk import check_selectors, type_check
from metal_rig.sdk.check_selectors import Method, differences, stub_enumerators, stub_interface

CASES = Path(__file__).parent / "framework" / "cases"
# A second each: the product's are checked with the slow tests.
PRODUCT = [pytest.param(file, marks=pytest.mark.slow) for file in type_check.product_sources()]
API = Path(__file__).parent / "api" / "run_kernel.mm"
MAC_SOURCES = [*PRODUCT, CASES / "behaviour.mm", CASES / "rules.mm", API]


@pytest.fixture(scope="module")
def mac_compiler() -> None:
    """Skips where the compiler is not installed; where CI is "true" that is an error."""
    reason = type_check.why_not()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("mac_compiler")
@pytest.mark.parametrize("source", MAC_SOURCES, ids=lambda f: f.stem)
def test_compiles_for_arm64_macos(source: Path) -> None:
    magic, cpu = struct.unpack("<II", type_check.compile_for_mac(source, [CASES.parent])[:8])
    assert (hex(magic), hex(cpu)) == ("0xfeedfacf", "0x100000c")  # 64-bit Mach-O, arm64


@pytest.mark.usefixtures("mac_compiler")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[buffer setLengthOfBuffer:3];", "no known instance method"),
        ("[buffer release];", "ARC forbids"),
        ("id<MTLBuffer> other = 3;", "cannot initialize"),
        ("NSUInteger n = buffer.contents;", "cannot initialize"),
        ("(void)buffer.lengthInBytes;", "property 'lengthInBytes' not found"),
    ],
)
def test_mistakes_are_found(tmp_path: Path, body: str, message: str) -> None:
    source = tmp_path / "mistake.mm"
    source.write_text(f"#import <Metal/Metal.h>\nvoid f(id<MTLBuffer> buffer) {{\n{body}\n}}\n")
    with pytest.raises(type_check.TypeCheckError, match=message):
        type_check.compile_for_mac(source)


HEADER = """
@protocol MTLDevice, MTLOther;
typedef NS_ENUM(NSUInteger, MTLKind){MTLKindA = 1, MTLKindB = 2 << 4};  // a comment
@protocol MTLThing <NSObject>
@property(nullable, copy, atomic) NSString *label;
- (nullable id<MTLBuffer>)newBufferWithLength:(NSUInteger)length
                                       error:(NSError *_Nullable *_Nullable)error;
- (void)run;
@end
"""
METAL_CPP = """
_MTL_ENUM(NS::UInteger, Kind) { KindA = 1, KindB = 32, };
_MTL_INLINE NS::String* MTL::Thing::label() const
{ return Object::sendMessage<NS::String*>(this, _MTL_PRIVATE_SEL(label)); }
_MTL_INLINE void MTL::Thing::setLabel(const NS::String* label)
{ Object::sendMessage<void>(this, _MTL_PRIVATE_SEL(setLabel_), label); }
_MTL_INLINE MTL::Buffer* MTL::Thing::newBuffer(NS::UInteger length, NS::Error** error)
{ return Object::sendMessage<MTL::Buffer*>(this, _MTL_PRIVATE_SEL(newBufferWithLength_error_)); }
_MTL_INLINE void MTL::Thing::run()
{ Object::sendMessage<void>(this, _MTL_PRIVATE_SEL(run)); }
"""


@pytest.fixture
def metal_cpp(tmp_path: Path) -> Path:
    """A folder like metal-cpp's, written for this test."""
    folder = tmp_path / "Metal"
    folder.mkdir()
    names = {"label": "label", "setLabel_": "setLabel:", "run": "run"}
    names["newBufferWithLength_error_"] = "newBufferWithLength:error:"
    lines = [f'_MTL_PRIVATE_DEF_SEL({k},\n    "{v}");' for k, v in names.items()]
    (folder / "MTLHeaderBridge.hpp").write_text("\n".join(lines))
    (folder / "MTLThing.hpp").write_text(METAL_CPP)
    return tmp_path


def test_an_agreeing_header_has_no_differences(metal_cpp: Path) -> None:
    assert len(stub_interface(HEADER)["Thing"]) == 4
    assert stub_enumerators(HEADER) == {"KindA": 1, "KindB": 32}
    assert differences(HEADER, metal_cpp) == []


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("newBufferWithLength:", "newBufferWithSize:", "sends no such selector"),
        ("(NSUInteger)length", "(NSInteger)length", "metal-cpp has Method"),
        ("- (void)run;", "- (BOOL)run;", "metal-cpp has Method"),
        ("nullable, copy, atomic) NSString *label", "readonly) NSString *title", "title"),
        ("MTLKindB = 2 << 4", "MTLKindB = 3", "metal-cpp has 32"),
    ],
)
def test_a_wrong_header_is_found(metal_cpp: Path, right: str, wrong: str, message: str) -> None:
    assert right in HEADER
    problems = differences(HEADER.replace(right, wrong), metal_cpp)
    assert len(problems) == 1
    assert message in problems[0]


def test_the_stub_header_is_read_completely() -> None:
    """As many methods as there are declarations: the reader misses none."""
    header = check_selectors.STUB.read_text()
    interface = stub_interface(header)
    methods = {m.selector for ms in interface.values() for m in ms}
    assert {
        "setBuffer:offset:atIndex:",
        "GPUStartTime",
        "newLibraryWithSource:options:error:",
    } <= methods
    assert (
        Method("dispatchThreads:threadsPerThreadgroup:", "void", ("Size", "Size"))
        in interface["ComputeCommandEncoder"]
    )
    n_properties = header.count("@property")
    n_writable = n_properties - header.count("@property(readonly)") - header.count(", readonly)")
    n_methods = sum(line.startswith(("- ", "+ ")) for line in header.splitlines())
    assert sum(len(m) for m in interface.values()) == n_methods + n_properties + n_writable


def test_the_stub_header_agrees_with_metal_cpp() -> None:
    """Where a copy of metal-cpp is at hand: METAL_CPP_HEADERS names its folder."""
    folder = os.environ.get("METAL_CPP_HEADERS")
    if folder is None:
        pytest.skip("METAL_CPP_HEADERS is not set; or run metal_rig.sdk.check_selectors --download")
    assert differences(check_selectors.STUB.read_text(), Path(folder)) == []
