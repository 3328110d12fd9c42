"""Reading pickled annotations without running anything in them: numpy arrays and plain containers, nothing else.

Three fences. The opcodes are checked before loading (no object construction beyond the calls numpy's own pickles make,
no oversized memo). Names resolve to stand-ins of this module, never to an imported object. The stand-ins accept only
plain numeric and text dtypes, and array data whose size matches its shape.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from math import prod
from typing import Any, NoReturn

import numpy as np

from training_st4vla.data.errors import DataError, UntrustedPickleError, explain

MAX_PICKLE_BYTES = 16 * 1024 * 1024
MAX_UNPACKED_BYTES = 1024**3
MAX_DEPTH = 32

_FORBIDDEN_OPCODES = {
    "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER",
    "READONLY_BUFFER",
}  # fmt: skip
_PLAIN_KINDS = frozenset("biufSU")


def load_untrusted_pickle(data: bytes, *, where: str) -> Any:
    """Read a pickled value made of numpy arrays and scalars, dict, list, tuple, set, str, bytes, numbers, bool, None.

    Pickles of all protocols are read, as written by any numpy.

    Args:
        data: The pickle.
        where: Place named in errors, e.g. the column and the frame.

    Returns:
        The value.

    Raises:
        UntrustedPickleError: The pickle refers to anything else, or is too large. Nothing in it was executed.
        DataError: The bytes are not an intact pickle.
    """
    try:
        if not isinstance(data, bytes):
            raise _RefusedError(f"a {type(data).__name__}")
        if len(data) > MAX_PICKLE_BYTES:
            raise _RefusedError(f"{len(data)} bytes, more than the limit of {MAX_PICKLE_BYTES}")
        _check_opcodes(data)
        return _finish(_Unpickler(io.BytesIO(data)).load(), 0, {})
    except _RefusedError as error:
        raise UntrustedPickleError(
            explain(
                "A pickled value is not trusted",
                where=where,
                expected="numpy arrays of numbers or text and plain containers only",
                found=str(error),
                remedy="Nothing in it was executed. Do not use this file unless you know who made it.",
            )
        ) from None
    except Exception as error:
        raise DataError(
            explain(
                "A pickled value is damaged",
                where=where,
                expected="an intact pickle of arrays and plain containers",
                found=f"{type(error).__name__}: {error}",
                remedy="Copy or download the data file again.",
            )
        ) from error


class _RefusedError(Exception):
    """What the pickle asked for and does not get."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        constructor = _ADMITTED.get((module_name, global_name))
        if constructor is None:
            raise _RefusedError(f"the global {module_name}.{global_name}")
        return _Constructor(constructor)


class _Constructor:
    """A name in the pickle: can be called, and nothing else. Attributes can be neither added nor replaced."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a change to a function")

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError("a change to a function")


class _Dtype:
    """Stand-in for `numpy.dtype`: becomes a dtype of numbers, text or records of those."""

    __slots__ = ("value",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str):
            raise _RefusedError("a dtype that is not named by a text")
        # Records arrive as a bare V<size>; their fields follow in the state.
        self.value = None if code.startswith("V") else _plain_dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, *sizes = state
        if subarray is not None:
            raise _RefusedError("a sub-array dtype")
        if names is None:
            self.value = self.resolved().newbyteorder(order) if order in ("<", ">") else self.resolved()
            return
        self.value = np.dtype(
            {
                "names": [str(name) for name in names],
                "formats": [fields[name][0].resolved() for name in names],
                "offsets": [int(fields[name][1]) for name in names],
                "itemsize": int(sizes[0]),
            }
        )

    def resolved(self) -> np.dtype[Any]:
        """The real dtype."""
        if self.value is None:
            raise _RefusedError("a dtype of raw memory")
        return self.value


class _Array:
    """Stand-in for a `numpy.ndarray` whose data is still to come."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _plain_dtype(code: str) -> np.dtype[Any]:
    dtype = np.dtype(code)
    if dtype.kind not in _PLAIN_KINDS or dtype.names is not None or dtype.subdtype is not None:
        raise _RefusedError(f"the dtype {code}")
    return dtype


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray | str):
        raise _RefusedError("array data that is not a block of bytes")
    block = data.encode("latin-1") if isinstance(data, str) else bytes(data)
    real = dtype.resolved()
    sizes = tuple(int(size) for size in shape)
    if len(sizes) > 8 or any(size < 0 for size in sizes) or prod(sizes) * real.itemsize != len(block):
        raise _RefusedError(f"{len(block)} bytes for an array of shape {sizes} and dtype {real}")
    flat = np.frombuffer(block, dtype=real) if block else np.empty(0, dtype=real)
    return flat.reshape(sizes, order="F" if order == "F" else "C").copy(order="K")


def _build_scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, (), "C")[()]


def _build_set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set):
        raise _RefusedError("a set that is not built from a list")
    return set(items)


def _build_bytes(text: Any = "", *_: Any) -> bytes:
    """Protocols 0 to 2 write bytes as text in Latin-1."""
    if not isinstance(text, str):
        raise _RefusedError("bytes that are not built from text")
    return text.encode("latin-1")


def _array_type(*_: Any) -> NoReturn:
    raise _RefusedError("an array that is built without its data")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _array_type,
    ("builtins", "set"): _build_set,
    ("__builtin__", "set"): _build_set,
    ("__builtin__", "bytes"): _build_bytes,
    ("_codecs", "encode"): _build_bytes,
}
for _package in ("numpy.core", "numpy._core"):
    _ADMITTED[_package + ".multiarray", "_reconstruct"] = _Array
    _ADMITTED[_package + ".multiarray", "scalar"] = _build_scalar
    _ADMITTED[_package + ".numeric", "_frombuffer"] = _from_bytes


def _check_opcodes(data: bytes) -> None:
    calls = largest = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _FORBIDDEN_OPCODES:
            raise _RefusedError(f"the pickle instruction {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise _RefusedError(f"a memo entry {argument}, beyond the size of the pickle")
        calls += opcode.name in ("REDUCE", "BUILD")
        largest = max(largest, len(argument) if isinstance(argument, str | bytes | bytearray) else 0)
    if calls * largest > MAX_UNPACKED_BYTES:
        raise _RefusedError(f"{calls} uses of data of up to {largest} bytes, which may unpack to more than the limit")


def _finish(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """Replace stand-ins by what they stand for. Shared parts are visited once; depth is bounded, cycles refused."""
    if depth > MAX_DEPTH:
        raise _RefusedError(f"containers nested more than {MAX_DEPTH} deep")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        result: Any = {_finish(key, depth + 1, done): _finish(item, depth + 1, done) for key, item in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        result = type(value)(_finish(item, depth + 1, done) for item in value)
    elif isinstance(value, _Array):
        result = value.value if value.value is not None else _array_type()
    elif isinstance(value, _Dtype | _Constructor):
        raise _RefusedError("a type or function as a value")
    else:
        return value
    done[id(value)] = result
    return result
