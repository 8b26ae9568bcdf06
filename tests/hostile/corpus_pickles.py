"""Hostile pickles: programs that would run a command, and bombs. Every command makes a file, by which it is found out.

Pickles are put together by hand, instruction by instruction, as those who write such files do.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PROTO2, PROTO4, STOP = b"\x80\x02", b"\x80\x04", b"."
Call = Callable[[str, str, bytes], bytes]


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def values(*items: object) -> bytes:
    """Instructions that leave a tuple of plain values on the stack."""
    return pickle.dumps(items, 2)[2:-1]


def by_global(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


def by_stack_global(module: str, name: str, arguments: bytes) -> bytes:
    return text(module) + text(name) + b"\x93" + arguments + b"R"


def by_new(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + arguments + b"\x81"


def by_new_with_keywords(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + arguments + b"}\x92"


def calls(made: Path) -> Iterator[tuple[str, str, bytes]]:
    """Functions that run code, and arguments with which they make the file `made`."""
    touch, python = f"touch '{made}'", f"open({str(made)!r}, 'w')"
    script = f"import pathlib; pathlib.Path({str(made)!r}).touch()"
    for name in ("os.system", "posix.system", "nt.system", "os.popen", "subprocess.getoutput", "platform.popen"):
        yield *name.rsplit(".", 1), values(touch)
    for name in ("subprocess.Popen", "subprocess.call", "subprocess.check_output", "subprocess.run", "pty.spawn"):
        yield *name.rsplit(".", 1), values(["touch", str(made)])
    for name in ("os.execvp", "os.spawnlp"):
        yield *name.rsplit(".", 1), values("touch", ["touch", str(made)])
    for name in ("builtins.eval", "builtins.exec", "__builtin__.eval", "__builtin__.execfile", "timeit.timeit",
                 "cProfile.run", "profile.run", "pdb.run", "code.interact", "numpy.testing.runstring"):  # fmt: skip
        yield *name.rsplit(".", 1), values(python if name.endswith("eval") else script)
    yield "builtins", "open", values(str(made), "w")
    yield "io", "open", values(str(made), "w")
    yield "_io", "FileIO", values(str(made), "w")
    yield "codecs", "open", values(str(made), "w")
    yield "pathlib", "Path", values(str(made))
    yield "builtins", "__import__", values("antigravity")
    yield "importlib", "import_module", values("antigravity")
    yield "builtins", "getattr", by_global("builtins", "__import__", values("os")) + text("system") + b"\x86"
    yield "builtins", "compile", values(script, "a", "exec")
    yield "operator", "attrgetter", values("system")
    yield "operator", "methodcaller", values("system", touch)
    yield "functools", "partial", b"(cos\nsystem\n" + text(touch) + b"t"
    yield "functools", "reduce", b"(cos\nsystem\n" + values(touch) + b"t"
    yield "builtins", "map", b"(cos\nsystem\n](" + text(touch) + b"et"
    yield "collections", "defaultdict", b"(cos\nsystem\nt"
    yield "types", "FunctionType", values(1)
    yield "types", "CodeType", values(1)
    yield "marshal", "loads", values(b"c")
    yield "pickle", "loads", values(b"c")
    yield "runpy", "run_path", values(str(made))
    yield "runpy", "_run_code", values(script, {})
    yield "ctypes", "CDLL", values("libc.so.6")
    yield "ctypes", "PyDLL", values("libc.so.6")
    yield "torch", "load", values(str(made))
    yield "torch.serialization", "load", values(str(made))
    yield "torch.hub", "load", values(str(made), "a")
    yield "torch.jit", "load", values(str(made))
    yield "torch._utils", "_import_dotted_name", values("os.system")
    yield "torch.utils.cpp_extension", "load", values("a", [str(made)])
    yield "torch._classes", "_Classes", values()
    yield "torch.package.package_importer", "PackageImporter", values(str(made))
    yield "numpy", "load", values(str(made), None, True)
    yield "numpy.distutils.exec_command", "exec_command", values(touch)
    yield "shutil", "copyfile", values("/etc/hostname", str(made))
    yield "sqlite3", "connect", values(str(made))
    yield "copyreg", "_reconstructor", b"(cos\nsystem\ncbuiltins\nobject\nNt"
    yield "torch_utils.persistence", "import_hook", values(1)
    yield "torch_utils.persistence", "_src_to_module", values(script)


def programs(made: Path) -> Iterator[tuple[str, bytes]]:
    """Whole pickles that would run code."""
    for module, name, arguments in calls(made):
        yield f"{module}.{name}", PROTO2 + by_global(module, name, arguments) + STOP
    touch = values(f"touch '{made}'")
    word = text(f"touch '{made}'")
    yield "stack global", PROTO4 + by_stack_global("os", "system", touch) + STOP
    yield "new", PROTO2 + by_new("subprocess", "Popen", touch) + STOP
    yield "new with keywords", PROTO4 + by_new_with_keywords("subprocess", "Popen", touch) + STOP
    yield "inst", b"(" + word + b"ios\nsystem\n" + STOP
    yield "obj", b"(cos\nsystem\n" + word + b"o" + STOP
    for name, code in (("ext1", b"\x82\x01"), ("ext2", b"\x83\x01\x00"), ("ext4", b"\x84\x01\x00\x00\x00")):
        yield name, PROTO2 + code + touch + b"R" + STOP
    yield "persistent id as text", b"Pos.system\n" + STOP
    yield "persistent id", PROTO2 + by_global("os", "system", touch) + b"Q" + STOP
    yield "next buffer", b"\x80\x05\x97" + STOP
    yield "dotted name", PROTO4 + by_stack_global("torch._utils", "_rebuild_tensor_v2.__globals__.get", touch) + STOP
    yield "dotted allowed class", PROTO4 + by_stack_global("collections", "OrderedDict.fromkeys", touch) + STOP
    yield "name with a space", b"ccollections OrderedDict\nos system\n" + touch + b"R" + STOP
    yield "in a dict", PROTO2 + b"}" + text("g_ema") + by_global("os", "system", touch) + b"s" + STOP
    yield "as a key", PROTO2 + b"}" + by_global("os", "system", touch) + b"Ns" + STOP
    yield "after a value", PROTO2 + b"}0" + by_global("os", "system", touch) + b"0}" + STOP
    yield "as state", PROTO2 + b"ccollections\nOrderedDict\n)R" + by_global("os", "system", touch) + b"b" + STOP
    yield "state of a function", PROTO2 + b"ccollections\nOrderedDict\n}" + text("__call__") + b"cos\nsystem\nsb" + STOP
    yield (
        "setstate",
        PROTO2 + b"cargparse\nNamespace\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb" + word + b"b.",
    )
    yield "slots", PROTO2 + b"cargparse\nNamespace\n)\x81N}" + text("__class__") + b"cos\nsystem\ns\x86b" + STOP
    yield "class of a namespace", PROTO2 + b"cargparse\nNamespace\n" + touch + b"R" + STOP
    yield "hooks of a tensor", PROTO2 + by_global("torch._utils", "_rebuild_parameter", b"(cos\nsystem\n\x89Nt") + STOP
    yield "a class of torch called", PROTO2 + by_global("torch", "FloatStorage", touch) + STOP
    meta = (
        b"(}" + text("class_name") + text("Generator") + b"s" + text("state") + by_global("os", "system", touch) + b"st"
    )
    yield "state of a module", PROTO2 + by_global("torch_utils.persistence", "_reconstruct_persistent_obj", meta) + STOP
    source = values({"type": "class", "module_src": f"open({str(made)!r}, 'w')", "class_name": "a", "state": {}})
    module = by_global("torch_utils.persistence", "_reconstruct_persistent_obj", source)
    yield "source text of a module", PROTO2 + b"}" + text("G_ema") + module + b"s" + STOP


def containers(made: Path) -> Iterator[tuple[str, bytes]]:
    """The same call in every place of the files of `torch.save`, and in storages within pickles."""
    call = PROTO2 + by_global("os", "system", values(f"touch '{made}'")) + STOP
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    for index, name in enumerate(("magic number", "version", "machine", "value", "keys")):
        older = b"".join(call if i == index else part for i, part in enumerate(parts))
        yield f"older file: {name}", older
        nested = values(older)
        yield f"storage: {name}", PROTO2 + by_global("torch.storage", "_load_from_bytes", nested) + STOP
    yield "storage: a pickle", PROTO2 + by_global("torch.storage", "_load_from_bytes", values(call)) + STOP
    inner = PROTO2 + by_global("torch.storage", "_load_from_bytes", values(b"".join(parts))) + STOP
    twice = [*parts[:3], inner, parts[4]]
    yield (
        "storage: in a storage",
        PROTO2 + by_global("torch.storage", "_load_from_bytes", values(b"".join(twice))) + STOP,
    )
    yield "storage: a tar", PROTO2 + by_global("torch.storage", "_load_from_bytes", values(tar(call))) + STOP
    yield "a tar", tar(call)
    yield "zip", archive({"a/data.pkl": call})
    yield "zip: constants", archive({"a/data.pkl": pickle.dumps({}, 2), "a/constants.pkl": call, "a/code/a.py": b"1"})
    kind = by_global("os", "system", values(f"touch '{made}'"))
    identity = b"(" + text("storage") + kind + text("0") + text("cpu") + b"K\x01tQ"
    yield "zip: type of a storage", archive({"a/data.pkl": PROTO2 + identity + STOP, "a/data/0": bytes(4)})


def tar(payload: bytes) -> bytes:
    """A file of the first versions of torch.save."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return made.getvalue()


def archive(members: dict[str, bytes], packed: bool = False) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as written:
        for name, data in members.items():
            written.writestr(name, data)
    return made.getvalue()


def tensor(count: int = 1, offset: object = 0, size: object = (1,), stride: object = (1,), key: str = "0") -> bytes:
    """A tensor in the storage `key` of `count` floats."""
    fields = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride, False, None))
    number = pickle.dumps(count, 2)[2:-1]
    identity = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + fields + b"tR"


def saved(value: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A zip of torch.save with the instructions `value`."""
    storages = {"0": bytes(4)} if storages is None else storages
    return archive({"a/data.pkl": PROTO2 + value + STOP, **{f"a/data/{key}": raw for key, raw in storages.items()}})


def g_ema(*tensors: bytes) -> bytes:
    """A checkpoint whose ``g_ema`` has these tensors."""
    names = ["conv1.conv.weight", *(f"x{i}" for i in range(1, len(tensors)))]
    inner = b"".join(text(name) + t + b"s" for name, t in zip(names, tensors, strict=True))
    return b"}" + text("g_ema") + b"}" + inner + b"s"


def bombs() -> Iterator[tuple[str, bytes]]:
    """Files that would take memory or time without end, or are damaged."""
    doubled = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times: 2^60 places, whose hash takes as many steps
    yield "hash of nested tuples", PROTO2 + b"}" + doubled + b"Ns" + STOP
    yield "set of nested tuples", PROTO2 + by_global("builtins", "set", b"](" + doubled + b"e\x85") + STOP
    yield "nested tuples", PROTO2 + doubled + STOP
    yield "nested lists", PROTO2 + b"]" * 200_000 + b"a" * 199_999 + STOP
    yield "nested dicts", PROTO2 + b"}" + (text("g_ema") + b"}") * 50_000 + b"s" * 50_000 + STOP
    yield "a list in itself", PROTO2 + b"]q\x00h\x00a" + STOP
    yield "a dict in itself", PROTO2 + b"}q\x00" + text("g_ema") + b"h\x00s" + STOP
    yield "memo of four billion", PROTO2 + b"]r\xff\xff\xff\xff" + STOP
    yield "memo as text", b"]p" + b"9" * 4000 + b"\n" + STOP
    yield "a number of a million digits", b"L" + b"9" * 1_000_000 + b"L\n" + STOP
    yield "an integer of a million digits", b"I" + b"9" * 1_000_000 + b"\n" + STOP
    for name, code in (("bytes", b"\x8e"), ("text", b"\x8d"), ("bytearray", b"\x96")):
        yield f"{name} of an exabyte", b"\x80\x05" + code + struct.pack("<Q", 1 << 60) + b"abc" + STOP
    yield "bytes of 4 GB", PROTO2 + b"B\xff\xff\xff\xffabc" + STOP
    yield "a number of 2 GB", PROTO2 + b"\x8b\xff\xff\xff\x7fabc" + STOP
    yield "a number of negative size", PROTO2 + b"\x8b\xff\xff\xff\xffabc" + STOP
    yield "a frame of an exabyte", PROTO4 + b"\x95" + struct.pack("<Q", 1 << 60) + b"}" + STOP
    yield "instructions without end", PROTO2 + b"N0" * 400_000 + b"}" + STOP
    identity = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
    inside = older(b"N0" * 5_000 + identity, {"0": bytes(4)})
    nested = by_global("torch.storage", "_load_from_bytes", values(inside))
    yield "instructions without end in storages", PROTO2 + (nested + b"0") * 100 + b"}" + STOP
    yield "marks without end", PROTO2 + b"(" * 600_000 + STOP
    yield "no stop", PROTO2 + b"}" * 10
    yield "an unknown instruction", PROTO2 + b"\xff" + STOP
    for name, code in (("tuple", b"t"), ("append", b"a"), ("set item", b"s"), ("call", b"R"), ("build", b"b"),
                       ("pop", b"0"), ("pop mark", b"1"), ("copy", b"2"), ("memo", b"h\x07"), ("put", b"q\x00"),
                       ("new", b"\x81"), ("name", b"\x93"), ("identity", b"Q"), ("three", b"\x87")):  # fmt: skip
        yield f"nothing to {name}", PROTO2 + code + STOP
        yield f"a mark to {name}", PROTO2 + b"N(" + code + STOP
    yield "a number is called", PROTO2 + b"K\x01)R" + STOP
    yield "a name of numbers", PROTO4 + b"K\x01K\x02\x93" + STOP
    yield "a number gets attributes", PROTO2 + b"K\x01}b" + STOP
    yield "a list gets keys", PROTO2 + b"]NNs" + STOP
    yield "a dict gets elements", PROTO2 + b"}Na" + STOP
    yield "an odd number of values", PROTO2 + b"}(NNNu" + STOP
    yield "a list as a key", PROTO2 + b"}]Ns" + STOP
    yield "a name and nothing else", PROTO2 + b"ccollections\nOrderedDict\n" + STOP
    yield "two values", PROTO2 + b"}}" + STOP
    yield "a set of a number", PROTO2 + by_global("builtins", "set", values(5)) + STOP
    yield "a dict of a number", PROTO2 + by_global("collections", "OrderedDict", values(5)) + STOP
    yield "an array of objects", PROTO2 + by_global("numpy", "dtype", values("O8", False, True)) + STOP
    yield "an array of a billion", PROTO2 + by_global("numpy", "dtype", values("V1000000000", False, True)) + STOP
    dtype = by_global("numpy", "dtype", values("f8", False, True))
    order = b"(K\x03" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    yield "a big-endian number", PROTO2 + dtype + order + STOP
    yield (
        "a number of no bytes",
        PROTO2 + by_global("numpy.core.multiarray", "scalar", dtype + values(b"")[:-1] + b"\x86"),
    )
    yield "bytes in another code", PROTO2 + by_global("_codecs", "encode", values("a", "rot13")) + STOP
    yield from _modules()


def _modules() -> Iterator[tuple[str, bytes]]:
    """Modules of NVIDIA's kind with odd attributes."""

    def module(state: bytes) -> bytes:
        meta = b"(}" + text("class_name") + text("G") + b"s" + text("state") + state + b"st"
        return by_global("torch_utils.persistence", "_reconstruct_persistent_obj", meta)

    def file(state: bytes) -> bytes:
        return PROTO2 + b"}" + text("G_ema") + module(state) + b"s" + STOP

    empty = b"}" + text("_parameters") + b"}s" + text("_buffers") + b"}s"
    yield "a module without attributes", file(b"}")
    yield (
        "a module of numbers",
        file(b"}" + b"".join(text(n) + b"K\x01s" for n in ("_parameters", "_buffers", "_modules"))),
    )
    yield (
        "a module with no name",
        PROTO2 + by_global("torch_utils.persistence", "_reconstruct_persistent_obj", values({})),
    )
    inside = b"".join(text(f"a{i}") + b"h\x05s" for i in range(500))
    wide = b"}q\x05" + text("_parameters") + b"}s" + text("_buffers") + b"}s" + text("_modules") + b"}"
    shared = wide + b"".join(text(f"a{i}") + module(b"h\x05") + b"s" for i in range(50)) + b"s"
    yield "modules in themselves", file(shared)
    yield "modules with long names", file(empty + text("_modules") + b"}" + text("a" * 10**6) + module(empty) + b"ss")
    yield "modules named by numbers", file(empty + text("_modules") + b"}K\x01" + module(empty) + b"ss")
    yield "modules that are dicts", file(empty + text("_modules") + b"}" + inside.replace(b"h\x05", b"}") + b"s")


def tensors() -> Iterator[tuple[str, bytes]]:
    """Tensors that reach out of their storage, or storages that are not there."""
    for name, fields in {
        "negative offset": {"offset": -1},
        "offset behind the end": {"offset": 1},
        "offset of a float": {"offset": 0.0},
        "offset of a boolean": {"offset": False},
        "larger than its storage": {"size": (2,)},
        "larger than memory": {"size": (1 << 39,), "count": 1 << 39},
        "sizes beyond numbers": {"size": (1 << 39,) * 8, "stride": (1,) * 8},
        "repeated without end": {"size": (1 << 39,), "stride": (0,)},
        "negative size": {"size": (-1,)},
        "negative stride": {"stride": (-1,), "size": (2,), "count": 2},
        "holes": {"size": (2,), "stride": (3,), "count": 4},
        "strides of another number": {"stride": (1, 1)},
        "a size that is a list": {"size": [1]},
        "a hundred dimensions": {"size": (1,) * 100, "stride": (1,) * 100},
        "a storage larger than the file": {"count": 1 << 30, "size": (1 << 30,)},
        "a storage of negative size": {"count": -1},
    }.items():
        yield name, saved(g_ema(tensor(**fields)))
        yield f"{name}, older file", older(g_ema(tensor(**fields)), {"0": bytes(4)})
    yield "one storage for many tensors", saved(g_ema(*[tensor(25_000, 0, (25_000,))] * 100), {"0": bytes(100_000)})
    yield "two sizes of a storage", saved(g_ema(tensor(1), tensor(2)))
    yield "a storage that is not there", saved(g_ema(tensor(key="1")))
    yield "a path as a key", saved(g_ema(tensor(key="../../../etc/passwd")))
    yield "an unknown storage", saved(g_ema(tensor().replace(b"FloatStorage", b"ComplexFloatStorage")))
    yield (
        "a tensor of no storage",
        saved(g_ema(by_global("torch._utils", "_rebuild_tensor_v2", values(1, 0, (1,), (1,))))),
    )
    yield "a tensor of too few fields", saved(g_ema(by_global("torch._utils", "_rebuild_tensor_v2", values(1))))
    yield "an identity of a number", saved(b"K\x01Q")
    yield "an identity of another kind", saved(values("module", 1, 2, 3, 4) + b"Q")
    good = g_ema(tensor())
    files = {"a/data.pkl": PROTO2 + good + STOP, "a/data/0": bytes(4)}
    yield "a big-endian zip", archive({**files, "a/byteorder": b"big"})
    yield "a packed zip", archive(files, packed=True)
    yield "a zip bomb", archive({**files, "a/data/0": bytes(50_000_000)}, packed=True)
    yield "two values in a zip", archive({**files, "b/data.pkl": b"N."})
    yield "a zip of something else", archive({"word/document.xml": b"<a/>"})
    whole = saved(good)
    yield "a zip with a list of 4 GB", whole[:-10] + b"\xff\xff\xff\xff" + whole[-6:]
    yield "a big-endian older file", older(good, {"0": bytes(4)}, machine={"little_endian": False})
    yield "an older file of another version", older(good, {"0": bytes(4)}, version=1002)
    yield "keys without tensors", older(b"}", {"5": bytes(4)})
    for at in (1, 20, 60, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        yield f"a zip cut at {at}", whole[:at]
    whole = older(good, {"0": bytes(4)})
    for at in (1, 20, 60, len(whole) // 2, len(whole) - 10, len(whole) - 1):
        yield f"an older file cut at {at}", whole[:at]


def older(value: bytes, storages: dict[str, bytes], machine: object = None, version: int = 1001) -> bytes:
    """A file of torch.save before 1.6 with the instructions `value`."""
    machine = {"little_endian": True} if machine is None else machine
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, version, machine))
    tail = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in storages.values())
    return head + PROTO2 + value + STOP + pickle.dumps(list(storages), 2) + tail
