"""Files that only look like those of a round: pickles with code, archives that lie, headers that cannot be, nests, links, pipes, bombs.

Each ends in one clear sentence, runs nothing, writes nothing, and fills no memory; those that hold the right tensors after all are read.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spoiled import Payload, Round, files, written

MOST = 64 << 20
"""Bytes that numpy and zlib may take at most while a file is refused."""


@pytest.fixture
def played(tmp_path: Path) -> Round:
    return Round(tmp_path)


def _saved(content: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _zip(entries: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return file.getvalue()


def _entries(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _npy(shape: str, descr: str = "'<f8'", content: bytes = b"") -> bytes:
    """A .npy whose header says what it likes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def _header(tensors: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file whose header says what it likes."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _declared(r: Round, **changes: Any) -> bytes:
    """The good update in safetensors, with another entry for 1.bias in its header."""
    content = written(r.update, "safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["1.bias"] |= changes
    return _header(header, content[8 + length :])


def _twice(r: Round, other: bytes = b"") -> bytes:
    """The good update in safetensors with a second entry for 3.bias in its header, of other numbers if there are any."""
    content = written(r.update, "safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].rstrip()
    entry, end = json.loads(text)["3.bias"], len(content) - 8 - length
    if other:
        entry["data_offsets"] = [end, end + len(other)]
    return _header(text[:-1] + f',"3.bias":{json.dumps(entry)}}}'.encode(), content[8 + length :] + other)


def _torch_pickle(r: Round, old: bytes, new: bytes) -> bytes:
    """A torch file in whose pickle some bytes are others."""
    return _zip([(name, c.replace(old, new) if name.endswith("data.pkl") else c) for name, c in _entries(_saved(dict(r.update)))])


def _flags(content: bytes, place: int, value: int) -> bytes:
    """All entries of an archive's directory with another 16-bit field."""
    changed, at = bytearray(content), content.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + place : at + place + 2] = struct.pack("<H", value)
        at = content.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def _sizes(content: bytes, size: int) -> bytes:
    """All entries of an archive's directory with another size when unfolded."""
    changed, at = bytearray(content), content.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", size)
        at = content.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def _global(module: str, name: str) -> bytes:
    """A pickle that calls a function of a module without arguments."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."


ZEROS = bytes(100 << 20)
FOLDED = zipfile.ZIP_DEFLATED

BYTES: dict[str, tuple[Callable[[Round], bytes], str]] = {
    # nothing, or something else
    "empty": (lambda _: b"", "begins like none of them"),
    "text": (lambda _: b"these are the weights\n" * 9, "begins like none of them"),
    "zeros": (lambda _: bytes(4096), "begins like none of them"),
    "json": (lambda _: json.dumps({"1.bias": [0.0] * 60}).encode(), "begins like none of them"),
    "gzip": (lambda _: b"\x1f\x8b\x08" + bytes(99), "begins like none of them"),
    "hdf5": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(99), "begins like none of them"),
    "a bare array": (lambda _: _npy("(60,)", content=bytes(480)), "begins like none of them"),
    "an empty archive": (lambda _: _zip([]), "begins like none of them"),
    "an archive of text": (lambda _: _zip([("readme.txt", b"hello")]), "begins like none of them"),
    # code
    "a pickle with code": (lambda r: pickle.dumps({"x": Payload(r.mark)}), "could run code"),
    "a pickle of protocol 2": (lambda r: pickle.dumps(Payload(r.mark), 2), "could run code"),
    "a pickle in text": (lambda r: pickle.dumps(Payload(r.mark), 0), "begins like none of them"),
    "a torch file with code": (lambda r: _saved({**r.update, "x": Payload(r.mark)}), "could run code"),
    "an old torch file with code": (lambda r: _saved({"x": Payload(r.mark)}, _use_new_zipfile_serialization=False), "could run code"),
    "a whole module": (lambda r: _saved(r.model), "could run code"),
    "an array of objects with code": (lambda r: _npz(x=np.array([Payload(r.mark)], dtype=object)), "could run code"),
    "os.system": (lambda _: _global("os", "abort"), "could run code"),
    "builtins.exit": (lambda _: _global("builtins", "exit"), "could run code"),
    "an endless recursion": (lambda _: b"\x80\x02" + b"]" * 100000 + b"a" * 99999 + b".", "a whole torch file"),
    "a pickle of nothing": (lambda _: pickle.dumps(None), "torch file"),
    "a pickle that ends early": (lambda _: pickle.dumps({"a": 1})[:-3], "could run code"),
    # nests
    "one nest": (lambda r: _saved({"state_dict": r.update, "epoch": 3}), "RECONSTRUCTED"),
    "an ordered dictionary": (lambda r: _saved(OrderedDict(r.update)), "RECONSTRUCTED"),
    "a nest in a nest": (lambda r: _saved({"state_dict": {"model": r.update}}), "a dict under 'model'"),
    "two nests": (lambda r: _saved({"state_dict": r.update, "model": r.update}), "several, state_dict and model"),
    "another nest": (lambda r: _saved({"net": r.update}), "a dict under 'net'"),
    "numbers for names": (lambda r: _saved(dict(enumerate(r.update.values()))), "a Tensor under 0"),
    "a list": (lambda r: _saved(list(r.update.values())), "RECONSTRUCTED"),  # of gradients, in the order of the parameters
    "a tensor": (lambda r: _saved(r.update["1.bias"]), "got a Tensor"),
    "lists of numbers": (lambda r: _saved({name: t.tolist() for name, t in r.update.items()}), "a list under"),
    "None among them": (lambda r: _saved({**r.update, "1.bias": None}), "got none for '1.bias'"),
    # tensors that are none
    "sparse": (lambda r: _saved({**r.update, "1.bias": r.update["1.bias"].to_sparse()}), "a sparse_coo one in '1.bias'"),
    "meta": (lambda r: _saved({**r.update, "1.bias": r.update["1.bias"].to("meta")}), "a meta one in '1.bias'"),
    "views of one storage": (lambda r: _saved({n: torch.stack([t, t])[1] for n, t in r.update.items()}), "RECONSTRUCTED"),
    "expanded to a giant": (
        lambda r: _saved({**r.update, "1.weight": torch.ones(1, 1).expand(1 << 20, 1 << 20)}),
        "got (1048576, 1048576)",
    ),
    "giant sizes in a pickle": (lambda r: _torch_pickle(r, b"K<", b"\x8a\x05\0\0\0\0\x10"), "torch file"),
    # safetensors
    "a giant in the header": (lambda r: _declared(r, shape=[1 << 40, 1 << 20]), "a whole safetensors file"),
    "a negative dimension": (lambda r: _declared(r, shape=[-60]), "a whole safetensors file"),
    "a shape that overflows": (lambda r: _declared(r, shape=[1 << 63, 2]), "a whole safetensors file"),
    "a shape of another size": (lambda r: _declared(r, shape=[61]), "a whole safetensors file"),
    "a shape in floats": (lambda r: _declared(r, shape=[60.5]), "a whole safetensors file"),
    "an unknown type": (lambda r: _declared(r, dtype="Q7"), "a whole safetensors file"),
    "a type of another size": (lambda r: _declared(r, dtype="F32"), "a whole safetensors file"),
    "a type of the same size": (lambda r: _declared(r, dtype="I64"), "floating-point numbers in '1.bias', got int64"),
    "offsets the wrong way": (lambda r: _declared(r, data_offsets=[480, 0]), "a whole safetensors file"),
    "offsets beyond the end": (lambda r: _declared(r, data_offsets=[1 << 40, (1 << 40) + 480]), "a whole safetensors file"),
    "offsets that overlap": (lambda r: _declared(r, data_offsets=[8, 488]), "a whole safetensors file"),
    "an entry twice": (_twice, "RECONSTRUCTED"),
    "two entries of a name": (lambda r: _twice(r, bytes(32)), "a whole safetensors file"),
    "a giant header": (lambda _: _header({"a": 1}, length=1 << 62), "a whole safetensors file"),
    "a header beyond the end": (lambda _: _header({"a": 1}, length=10000), "a whole safetensors file"),
    "a header that is no object": (lambda _: _header(b"{]"), "a whole safetensors file"),
    "a header in bad text": (lambda _: _header(b'{"\xff\xfe": 1}'), "a whole safetensors file"),
    "a deep header": (lambda _: _header(b'{"a":' * 5000 + b"1" + b"}" * 5000), "a whole safetensors file"),
    "a header without tensors": (lambda _: _header({"__metadata__": {"format": "pt"}}), "none for '1.weight'"),
    # npz
    "an array of text": (lambda r: _npz(**{**r.update, "1.bias": np.array(["a"] * 60)}), "<U1 in '1.bias'"),
    "an array of records": (lambda r: _npz(**{**r.update, "1.bias": np.zeros(60, "f8,i4")}), "in '1.bias'"),
    "an array of dates": (lambda r: _npz(**{**r.update, "1.bias": np.zeros(60, "M8[s]")}), "datetime64[s] in '1.bias'"),
    "the other byte order": (lambda r: _npz(**{n: t.numpy().astype(">f8") for n, t in r.update.items()}), "RECONSTRUCTED"),
    "columns first": (lambda r: _npz(**{n: np.asfortranarray(t.numpy()) for n, t in r.update.items()}), "RECONSTRUCTED"),
    "a file beside the arrays": (
        lambda r: _zip([*_entries(written(r.update, "npz")), ("readme.txt", b"hi")]),
        "another file, 'readme.txt'",
    ),
    "an array that is none": (lambda r: _zip([*_entries(written(r.update, "npz"))[:-1], ("3.bias.npy", b"hi")]), "another file, '3.bias'"),
    "a name twice in the archive": (lambda _: _zip([("a.npy", _npy("(0,)")), ("b.npy", _npy("(0,)")), ("a", b"")]), "two arrays 'a'"),
    "a negative size": (lambda _: _zip([("a.npy", _npy("(-3,)", content=bytes(24)))]), "a whole npz file"),
    "two negative sizes": (lambda _: _zip([("a.npy", _npy("(-3, -2)", content=bytes(48)))]), "a whole npz file"),
    "a giant size": (lambda _: _zip([("a.npy", _npy("(1 << 50,)"))]), "a whole npz file"),
    "a size in words": (lambda _: _zip([("a.npy", _npy("('many',)"))]), "a whole npz file"),
    "a size that is a call": (lambda _: _zip([("a.npy", _npy("(exit(),)"))]), "a whole npz file"),
    "a giant array": (lambda _: _zip([("a.npy", _npy("(1099511627776,)"))]), "8796093022208 bytes of 'a.npy'"),
    "a giant overflow": (lambda _: _zip([("a.npy", _npy("(9223372036854775807, 9223372036854775807)"))]), "bytes of 'a.npy'"),
    "an array of no bytes": (lambda _: _zip([("a.npy", _npy("(1099511627776,)", "'|V0'"))]), "in 'a'"),
    "an unknown number": (lambda _: _zip([("a.npy", _npy("(3,)", "'<f7'", bytes(21)))]), "a whole npz file"),
    "a locked archive": (lambda r: _flags(written(r.update, "npz"), 8, 1), "a whole npz file"),
    "an unknown compression": (lambda r: _flags(written(r.update, "npz"), 10, 77), "a whole npz file"),
    "sizes that lie": (lambda r: _sizes(written(r.update, "npz compressed"), 3), "a whole npz file"),
    # bombs: 100 MB out of 100 kB
    "an array that unfolds": (lambda _: _zip([("a.npy", _npy("(13107200,)", content=ZEROS))], FOLDED), "would take 0.1"),
    "a model that unfolds": (lambda _: _zip([("m/data.pkl", b"\x80\x02}."), ("m/data/0", ZEROS)], FOLDED), "would take 0.1"),
    "many that unfold": (lambda _: _zip([(f"{i}.npy", ZEROS[: 5 << 20]) for i in range(20)], FOLDED), "would take 0.1"),
    "sizes that promise too much": (lambda r: _sizes(written(r.update, "npz"), 1 << 31), "would take 8.59 GB"),
}


@pytest.mark.parametrize("which", ["update", "weights"])
@pytest.mark.parametrize("case", BYTES)
def test_files_that_only_look_like_it(case: str, which: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, complaint = BYTES[case]
    played.paths[which].write_bytes(spoil(played))
    before = files(played.folder)
    if complaint != "RECONSTRUCTED":  # what is refused is refused before memory is taken for it
        tracemalloc.start()
    try:
        code = played.audit()
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    ended = played.judge(code, capsys.readouterr(), before)
    if which == "update":
        assert complaint in ended
    else:  # the same sentences, but of a model's weights; and an update is not the model's weights
        assert code == 2 or complaint == "RECONSTRUCTED"


def _symlink_loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a link to itself": (_symlink_loop, "symbolic links"),
    "a pipe": (os.mkfifo, "a pipe or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
}


@pytest.mark.parametrize("which", ["update", "weights", "truth", "labels"])
@pytest.mark.parametrize("place", PLACES)
def test_places_that_hold_no_file(place: str, which: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    make, complaint = PLACES[place]
    played.paths[which] = played.folder / "other"
    make(played.paths[which])
    before = files(played.folder)
    # A folder of updates is a round of many clients, and this one is empty.
    expected = "give the folder of a round" if (place, which) == ("a folder", "update") else complaint
    assert expected in played.judge(played.audit(), capsys.readouterr(), before)


TRUTHS: dict[str, tuple[Callable[[Round], bytes], str]] = {
    "another format": (lambda r: written(r.update, "safetensors"), "a safetensors file"),
    "code": (lambda r: _npz(labels=np.array([Payload(r.mark)], dtype=object)), "could run code"),
    "no labels": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2))), "'labels'"),
    "labels in floats": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.zeros(3)), "'labels'"),
    "labels in a table": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.zeros((3, 1), int)), "'labels'"),
    "too few labels": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.zeros(2, int)), "2 labels for 3 samples"),
    "no samples": (lambda _: _npz(inputs=np.zeros((0, 3, 2, 2)), labels=np.zeros(0, int)), "0 labels for 0 samples"),
    "another shape": (lambda _: _npz(inputs=np.zeros((3, 12)), labels=np.zeros(3, int)), "samples of shape (3, 2, 2)"),
    "NaN": (lambda _: _npz(inputs=np.full((3, 3, 2, 2), np.nan), labels=np.zeros(3, int)), "finite inputs"),
    "a number torch lacks": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2), np.longdouble), labels=np.zeros(3, int)), "in 'inputs'"),
    "labels without a class": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.array([0, 4, 1])), "labels from 0 to 3"),
    "negative labels": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.array([0, -1, 1])), "labels from 0 to 3"),
    "giant labels": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.full(3, 1 << 40)), "labels from 0 to 3"),
    "too large labels": (lambda _: _npz(inputs=np.zeros((3, 3, 2, 2)), labels=np.full(3, 1 << 63, np.uint64)), "labels from 0 to 3"),
    "a bomb of samples": (lambda _: _zip([("labels.npy", _npy("(9223372036854775807,)"))]), "bytes of 'labels.npy'"),
    "truncated": (lambda _: _npz(labels=np.zeros(3, int))[:-30], "zip"),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_truths_that_cannot_be(case: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, complaint = TRUTHS[case]
    played.paths["truth"] = played.folder / "other.npz"
    played.paths["truth"].write_bytes(spoil(played))
    before = files(played.folder)
    assert complaint in played.judge(played.audit(), capsys.readouterr(), before)


@pytest.mark.parametrize("labels", [[0, 1, 4], [0, 1, -1], [0, 1], [], [0, 1, 1 << 40]])
def test_labels_that_cannot_be(labels: list[int], played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    played.paths["labels"] = played.folder / "other.npz"
    np.savez(played.paths["labels"], labels=np.array(labels, int))
    before = files(played.folder)
    assert "labels" in played.judge(played.audit("--batch-size=3"), capsys.readouterr(), before)
