"""The built-in base as a bfloat16 GGUF file, for llama.cpp: its own file with every tensor unpacked.

The unpacked weights are the ones the other engines read, so that all compute the same model in dense form.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

from lmoe_ray.pretrained.model_source import BUILTINS

_FILE_TYPE = "general.file_type"


def builtin_gguf(name: str) -> Path:
    """The quantised file of a built-in base, inside its distribution."""
    package, path = BUILTINS[name]
    return Path(str(distribution(package).locate_file(path)))


def unpack_gguf(source: Path, target: Path) -> None:
    """Write ``source`` again with its matrices as bfloat16; vectors and metadata stay as they are."""
    reader = GGUFReader(source)
    unfinished = target.with_name(f".{target.name}")
    writer = GGUFWriter(unfinished, str(reader.fields["general.architecture"].contents()))
    _copy_metadata(reader, writer)
    for tensor in reader.tensors:
        if tensor.tensor_type is GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        dense = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        packed = quants.quantize(dense, GGMLQuantizationType.BF16)
        writer.add_tensor(tensor.name, packed, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(target)


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for key, field in reader.fields.items():
        # The reader's own counts, and what the writer has already written.
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key == _FILE_TYPE:
            writer.add_file_type(LlamaFileType.MOSTLY_BF16)
            continue
        kind, element = field.types[0], field.types[-1]
        writer.add_key_value(key, field.contents(), kind, element if kind is GGUFValueType.ARRAY else None)
