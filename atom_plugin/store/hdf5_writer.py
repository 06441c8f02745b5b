"""The content of a set's HDF5 file: written to bytes, listed, read in parts, and its checksum.

Metadata uses HDF5 1.8's object headers, which have their own checksums; the sha256 here covers all values.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5f, h5fd, h5g, h5p

from atom_plugin.runtime.versions import __version__
from atom_plugin.store.schema import FORMAT, GROUPS, Array, Arrays, SchemaError, element_of, needed_version

MOST_OBJECTS, MOST_DEPTH = 1000, 32
_BLOCK = 16 * 1024 * 1024


def serialise(arrays: Arrays) -> memoryview:
    """The bytes of a file that holds ``arrays`` (by element name) unchecked; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    # Low-level property lists: older h5py has no other way to keep creation times out of groups.
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, buffer)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    with h5py.File(h5f.create(b"memory", h5f.ACC_TRUNC, creation, access)) as file:
        version = needed_version({key: array.dtype.str for key, array in arrays.items()})
        file.attrs.create("format_version", version, dtype="<i8")
        _describe(file, format=FORMAT, written_by=f"atom-plugin {__version__}")
        for name, description in GROUPS.items():
            if any(key.startswith(f"{name}/") for key in arrays):
                _describe(_group(file, name), description=description)
        for key, array in arrays.items():
            # A view, since a cast to a dtype that numpy finds equal drops what only h5py knows: that it is UTF-8.
            text = array.dtype.kind == "S"
            data = array.view(h5py.string_dtype("utf-8", array.itemsize)) if text else array
            dataset = file.create_dataset(key, data=data, track_times=False)
            element = element_of(key, array.dtype.str)
            _describe(dataset, axes=element.axes or "scalar", units=element.units, description=element.description)
        _describe(file, checksum=digest(list_objects(file), arrays))
    return buffer.getbuffer()


def digest(objects: dict[str, Any], loaded: Arrays) -> str:
    """The checksum as docs/file-format.md defines it; datasets not in ``loaded`` are read in blocks."""
    sha = hashlib.sha256()
    for key, item in sorted(datasets_and_attributes(objects).items()):
        if key == "@checksum":
            continue
        sha.update(json.dumps([key, item.dtype.str, list(item.shape)]).encode() + b"\n")
        for part in [loaded[key]] if key in loaded else blocks(item):
            sha.update(part.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def list_objects(file: Any) -> dict[str, Any]:
    """Groups and datasets by name; targets of soft or external links are not part of the file.

    Raises SchemaError for more objects or attributes than :data:`MOST_OBJECTS`, found while counting, because HDF5 takes
    minutes to list some ten thousands.
    """
    objects: dict[str, Any] = {"": file}

    def add(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Group | h5py.Dataset):
            objects[name] = item
        return True if len(objects) > MOST_OBJECTS or name.count("/") > MOST_DEPTH else None  # True ends the visit

    if file.visititems(add):
        raise SchemaError(
            f"found more than {MOST_OBJECTS} groups and datasets, or {MOST_DEPTH} nested, expected about 20"
        )
    if sum(h5a.get_num_attrs(item.id) for item in objects.values()) > MOST_OBJECTS:
        raise SchemaError(f"found more than {MOST_OBJECTS} attributes, expected about 70")
    return objects


def datasets_and_attributes(objects: dict[str, Any]) -> dict[str, Any]:
    """Datasets under their name and attributes under "object@attribute", each with ``dtype`` and ``shape``."""
    items = {key: item for key, item in objects.items() if isinstance(item, h5py.Dataset)}
    for key, item in objects.items():
        items |= {f"{key}@{name}": item.attrs.get_id(name) for name in item.attrs}
    return items


def load(item: Any) -> Array:
    """A whole dataset or attribute, with its own type and shape."""
    value = np.empty(item.shape, item.dtype)
    if not isinstance(item, h5py.Dataset):
        item.read(value)
    elif value.size:  # HDF5 refuses to read nothing
        item.read_direct(value)
    return value


def blocks(item: Any) -> Iterator[Array]:
    """A dataset in parts of some megabytes along its first axis; an attribute or a scalar whole."""
    if not isinstance(item, h5py.Dataset) or not item.shape:
        yield load(item)
        return
    rows = max(1, _BLOCK // max(1, math.prod(item.shape[1:]) * item.dtype.itemsize))
    for start in range(0, item.shape[0], rows):
        yield item[start : start + rows]


def _group(file: Any, name: str) -> Any:
    creation = h5p.create(h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5g.create(file.id, name.encode(), gcpl=creation))


def _describe(item: Any, **texts: str) -> None:
    """Attributes as text of a fixed length: unlike HDF5's variable-length text, it is in the checked object header."""
    for name, text in texts.items():
        data = text.encode()
        item.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", len(data)))
