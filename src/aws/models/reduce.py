#!/usr/bin/env python3
"""Reduce botocore's service models to what nimbo serves: reduce.py BOTOCORE [SERVICE...]

BOTOCORE is the wheel of the version below, or a folder in which it was unpacked. For each SERVICE.toml beside this
script it writes SERVICE.json; README.md says what both hold.
"""

import fnmatch
import gzip
import json
import sys
import tomllib
import zipfile
from pathlib import Path

VERSION = "1.44.5"
HERE = Path(__file__).parent

METADATA = ["apiVersion", "endpointPrefix", "signingName", "serviceId", "xmlNamespace", "targetPrefix", "jsonVersion"]
MEMBER = ["shape", "locationName", "queryName", "location", "idempotencyToken"]
SHAPE = ["type", "enum", "min", "max", "pattern", "flattened", "error"]


def plain(word: str) -> str:
    """A word as it is told from others, however it is written."""
    return word.replace("_", "").replace("-", "").lower()


class Botocore:
    """The files of a wheel."""

    def __init__(self, path: Path) -> None:
        self.root = zipfile.Path(path) if path.is_file() else path
        found = (self.root / "botocore/__init__.py").read_text()
        if f"__version__ = '{VERSION}'" not in found:
            sys.exit(f"{path} is not botocore {VERSION}: pip download --no-deps botocore=={VERSION}")

    def read(self, service: str, date: str, name: str) -> dict:
        folder = self.root / "botocore/data" / service / date
        packed = folder / f"{name}.json.gz"
        if packed.exists():
            return json.loads(gzip.decompress(packed.read_bytes()))
        return json.loads((folder / f"{name}.json").read_text())


class Reduction:
    def __init__(self, model: dict, paginators: dict, wanted: dict) -> None:
        self.model, self.paginators, self.wanted = model, paginators, wanted
        self.unserved_rules = wanted.get("unserved", {})
        self.words = wanted.get("words", {})
        self.used_rules: set[tuple[str, str]] = set()
        self.inputs: dict[str, None] = {}
        self.outputs: dict[str, None] = {}
        self.kept: dict[str, None] = {}

    def reduced(self) -> dict:
        operations = [self.operation(name) for name in sorted(self.wanted["operations"])]
        for operation in operations:
            if "input" in operation:
                self.reach(operation["input"], self.inputs, is_input=True)
            if "output" in operation:
                self.reach(operation["output"], self.outputs, is_input=False)
        for name in self.wanted.get("kept", []):
            self.reach(name, self.kept, is_input=name in self.inputs)
        metadata = {key: self.model["metadata"][key] for key in METADATA if key in self.model["metadata"]}
        metadata["protocols"] = self.model["metadata"]["protocols"]
        metadata["isForTests"] = self.wanted.get("is_for_tests", False)
        metadata["isQueryCompatible"] = "awsQueryCompatible" in self.model["metadata"]
        shapes = [self.shape(name) for name in sorted({**self.inputs, **self.outputs})]
        self.check_rules()
        return {
            "metadata": metadata,
            "operations": operations,
            "unserved": sorted(set(self.model["operations"]) - set(self.wanted["operations"])),
            "errors": self.errors(),
            "shapes": shapes,
        }

    def operation(self, name: str) -> dict:
        full = self.model["operations"].get(name) or sys.exit(f"the service has no operation {name}")
        reduced = {"name": name, "http": full["http"]}
        for key in ["input", "output"]:
            if key in full:
                reduced[key] = full[key]["shape"]
        if pages := self.paginators.get(name):
            # Several result keys mean that one page holds several lists; the token is always one.
            first = lambda value: value[0] if isinstance(value, list) else value
            reduced["pages"] = {
                "token": first(pages["input_token"]),
                "next": first(pages["output_token"]),
                **({"limit": pages["limit_key"]} if "limit_key" in pages else {}),
            }
        return reduced

    def errors(self) -> list[dict]:
        """The errors of the whole service that say more than their name."""
        shapes = self.model["shapes"]
        return [
            {"name": name, **shapes[name].get("error", {})}
            for name in sorted(shapes)
            if shapes[name].get("exception") and not shapes[name].get("synthetic")
        ]

    def is_unserved(self, shape: str, member: str) -> bool:
        for of in ["*", shape]:
            for pattern in self.unserved_rules.get(of, []):
                if fnmatch.fnmatchcase(member, pattern):
                    self.used_rules.add((of, pattern))
                    return True
        return False

    def check_rules(self) -> None:
        for of, patterns in self.unserved_rules.items():
            for pattern in patterns:
                if (of, pattern) not in self.used_rules:
                    sys.exit(f"no input that is served has what the rule {of}: {pattern} leaves out")

    def reach(self, name: str, reached: dict[str, None], is_input: bool) -> None:
        if name in reached:
            return
        reached[name] = None
        shape = self.model["shapes"][name]
        for key in ["member", "key", "value"]:
            if key in shape:
                self.reach(shape[key]["shape"], reached, is_input)
        for member, reference in shape.get("members", {}).items():
            if not (is_input and self.is_unserved(name, member)):
                self.reach(reference["shape"], reached, is_input)

    def shape(self, name: str) -> dict:
        full = self.model["shapes"][name]
        is_input = name in self.inputs
        reduced = {"name": name, **{key: full[key] for key in SHAPE if key in full}}
        if name in self.words:
            instead = {plain(word) for word in self.words[name]}
            reduced["enum"] = [word for word in full["enum"] if plain(word) not in instead] + self.words[name]
        reduced["in"], reduced["out"] = is_input, name in self.outputs
        if name in self.kept:
            reduced["kept"] = True
        for key in ["member", "key", "value"]:
            if key in full:
                reduced[key] = self.reference(full[key])
        if "members" in full:
            required = full.get("required", [])
            reduced["members"] = []
            for member, reference in full["members"].items():
                more = {"required": True} if member in required else {}
                if is_input and self.is_unserved(name, member):
                    more["unserved"] = True
                reduced["members"].append({"name": member, **self.reference(reference), **more})
        return reduced

    @staticmethod
    def reference(full: dict) -> dict:
        return {key: full[key] for key in MEMBER if key in full}


def lines(reduced: dict) -> str:
    """JSON with an operation, an error or a shape a line, so that a new version differs where it does."""
    parts = [f'"metadata": {json.dumps(reduced["metadata"])}', f'"unserved": {json.dumps(reduced["unserved"])}']
    for key in ["operations", "errors", "shapes"]:
        parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(item) for item in reduced[key]) + "\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def reduced(botocore: Botocore, name: str) -> str:
    wanted = tomllib.loads((HERE / f"{name}.toml").read_text())
    model = botocore.read(name, wanted["date"], "service-2")
    paginators = botocore.read(name, wanted["date"], "paginators-1")["pagination"]
    return lines(Reduction(model, paginators, wanted).reduced())


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    botocore = Botocore(Path(sys.argv[1]))
    for name in sys.argv[2:] or sorted(path.stem for path in HERE.glob("*.toml")):
        (HERE / f"{name}.json").write_text(reduced(botocore, name))


if __name__ == "__main__":
    main()
