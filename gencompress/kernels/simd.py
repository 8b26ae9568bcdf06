"""Eight fp32 lanes as one numba value, so that the inner loops of the kernels are vector code by construction.

LLVM's own vectoriser gives up on the short, masked rows of a splat; a vector type does not depend on it. Inside a
compiled function ``a * b + c`` with `Lanes` or scalars works lane by lane, a comparison gives a mask, and the functions
below do the rest. LLVM lowers the eight lanes to one AVX register, or to two of SSE or NEON.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, register_model, type_callable

LANES = 8
Lanes = Any  # in annotations of compiled functions: eight fp32 numbers

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
# 2^f on [-0.5, 0.5]: the polynomial of least relative error (9.1e-8) with 1 as constant term, highest power first
_EXP2 = (1.32647273e-3, 9.67151299e-3, 5.55073359e-2, 2.40222424e-1, 6.93147004e-1, 1.0)


class LanesType(types.Type):
    """Eight fp32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="float32x8")


class MaskType(types.Type):
    """Eight truth values."""

    def __init__(self) -> None:
        super().__init__(name="boolx8")


lanes_type, mask_type = LanesType(), MaskType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, _BITS)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * LANES)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def _broadcast(context: Any, builder: Any, value: Any, kind: types.Type) -> Any:
    """The lanes of a vector, or a number in every lane."""
    if isinstance(kind, LanesType):
        return value
    number = context.cast(builder, value, kind, types.float32)
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _integers(0))


def _is_operand(kind: types.Type) -> bool:
    return isinstance(kind, LanesType | types.Number)


def _define(symbol: Callable[..., Any], result: types.Type, emit: Callable[[Any, Any, Any], Any]) -> None:
    """Give the Python operator `symbol` a meaning for two operands of which one or both are lanes."""

    @type_callable(symbol)
    def typed(context: Any) -> Callable[..., Any]:
        def check(a: types.Type, b: types.Type) -> types.Type | None:
            fits = _is_operand(a) and _is_operand(b) and LanesType in (type(a), type(b))
            return result if fits else None

        return check

    def lower(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        a, b = (_broadcast(context, builder, v, t) for v, t in zip(operands, signature.args, strict=True))
        return emit(builder, a, b)

    for kinds in ((LanesType, LanesType), (LanesType, types.Number), (types.Number, LanesType)):
        lower_builtin(symbol, *kinds)(lower)


for _symbol in (operator.add, operator.iadd):
    _define(_symbol, lanes_type, lambda builder, a, b: builder.fadd(a, b))
_define(operator.sub, lanes_type, lambda builder, a, b: builder.fsub(a, b))
_define(operator.mul, lanes_type, lambda builder, a, b: builder.fmul(a, b))
_define(operator.truediv, lanes_type, lambda builder, a, b: builder.fdiv(a, b))
_define(operator.ge, mask_type, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_define(operator.gt, mask_type, lambda builder, a, b: builder.fcmp_ordered(">", a, b))


@type_callable(operator.and_)
def _typed_and(context: Any) -> Callable[..., Any]:
    return lambda a, b: mask_type if isinstance(a, MaskType) and isinstance(b, MaskType) else None


@lower_builtin(operator.and_, MaskType, MaskType)
def _lower_and(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
    return builder.and_(*operands)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's, but what kernels pass is what a type checker sees."""
    return _numba_intrinsic(function)


@intrinsic
def broadcast(typing: Any, number: Any) -> Any:
    """A number in every lane."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return _broadcast(context, builder, operands[0], signature.args[0])

    return lanes_type(number), emit


@intrinsic
def lane_numbers(typing: Any) -> Any:
    """The lanes 0, 1, ..., 7."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return ir.Constant(_FLOATS, [float(i) for i in range(LANES)])

    return lanes_type(), emit


def _address(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
    """Pointer to eight floats at operands[0][operands[1]], a flat contiguous fp32 array."""
    array = context.make_array(signature.args[0])(context, builder, operands[0])
    index = context.cast(builder, operands[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(array.data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """``array[index : index + 8]`` of a flat contiguous fp32 array, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return builder.load(_address(context, builder, signature, operands), align=4)

    return lanes_type(array, index), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write eight lanes to ``array[index : index + 8]``, unchecked."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        builder.store(operands[2], _address(context, builder, signature, operands), align=4)
        return context.get_dummy_value()

    return types.void(array, index, lanes), emit


@intrinsic
def prefetch(typing: Any, array: Any, row: Any) -> Any:
    """Ask for the cache line in which ``array[row]`` of a contiguous fp32 array begins, to be read soon."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        layout = signature.args[0]
        array = context.make_array(layout)(context, builder, operands[0])
        index = context.cast(builder, operands[1], signature.args[1], types.intp)
        stride = builder.extract_value(array.strides, 0)
        place = builder.add(builder.ptrtoint(array.data, ir.IntType(64)), builder.mul(index, stride))
        byte = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        numbers = [ir.Constant(number, n) for n in (0, 3, 1)]  # for reading, into all caches, data
        builder.call(function, [builder.inttoptr(place, byte), *numbers])
        return context.get_dummy_value()

    return types.void(array, row), emit


@intrinsic
def select(typing: Any, mask: Any, yes: Any, no: Any) -> Any:
    """`yes` where the mask holds, else `no`."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        a, b = (_broadcast(context, builder, v, t) for v, t in zip(operands[1:], signature.args[1:], strict=True))
        return builder.select(operands[0], a, b)

    return lanes_type(mask, yes, no), emit


def _extreme(comparison: str) -> Callable[..., Any]:
    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        a, b = (_broadcast(context, builder, v, t) for v, t in zip(operands, signature.args, strict=True))
        return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

    return emit


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """The smaller, lane by lane; `b` where either is NaN."""
    return lanes_type(a, b), _extreme("<")


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger, lane by lane; `b` where either is NaN."""
    return lanes_type(a, b), _extreme(">")


@intrinsic
def absolute(typing: Any, lanes: Any) -> Any:
    """Without the sign."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        bits = builder.and_(builder.bitcast(operands[0], _INTS), _integers(0x7FFFFFFF))
        return builder.bitcast(bits, _FLOATS)

    return lanes_type(lanes), emit


@intrinsic
def square_root(typing: Any, lanes: Any) -> Any:
    """Square root of lanes >= 0."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        name = f"llvm.sqrt.v{LANES}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)

    return lanes_type(lanes), emit


@intrinsic
def exp2(typing: Any, lanes: Any) -> Any:
    """2^x to 2e-7 relative, for x < 127.

    The exponent is written into the bits of the float, so it is clamped at -126 first: lanes far outside a tiny splat
    would wrap around to huge numbers otherwise.
    """

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        low = _constant(-126.0)
        x = builder.select(builder.fcmp_ordered(">", operands[0], low), operands[0], low)
        # adding 2^7 makes the truncation of the conversion a floor, and the half makes it a rounding
        whole = builder.fptosi(builder.fadd(x, _constant(128.5)), _INTS)
        whole = builder.sub(whole, _integers(128))
        rest = builder.fsub(x, builder.sitofp(whole, _FLOATS))
        power = _constant(_EXP2[0])
        for coefficient in _EXP2[1:]:
            power = builder.fadd(builder.fmul(power, rest), _constant(coefficient))
        bits = builder.add(builder.bitcast(power, _INTS), builder.shl(whole, _integers(23)))
        return builder.bitcast(bits, _FLOATS)

    return lanes_type(lanes), emit


def _folded(builder: Any, lanes: Any, join: Callable[[Any, Any], Any]) -> Any:
    """The eight lanes joined by halves, in a fixed order."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    for distance in (4, 2, 1):
        order = [min(i + distance, LANES - 1) for i in range(LANES)]
        shifted = builder.shuffle_vector(lanes, undefined, ir.Constant(_INTS, order))
        lanes = join(lanes, shifted)
    return builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))


@intrinsic
def total(typing: Any, lanes: Any) -> Any:
    """Sum of the lanes."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return _folded(builder, operands[0], builder.fadd)

    return types.float32(lanes), emit


@intrinsic
def largest(typing: Any, lanes: Any) -> Any:
    """Largest of the lanes."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        return _folded(builder, operands[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return types.float32(lanes), emit


@intrinsic
def any_lane(typing: Any, mask: Any) -> Any:
    """Whether the mask holds in any lane."""

    def emit(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        bits = builder.bitcast(operands[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), emit
