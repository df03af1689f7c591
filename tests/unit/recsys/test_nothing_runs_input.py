"""No code of ours can be made to run what comes from outside: no pickle, no eval, no shell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("recsys", "serve_app", "train_app", "cluster", "bench", "brokers")
MODULES = frozenset({
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "jsonpickle", "xmlrpc", "xml", "codeop",
})  # fmt: skip
"""Whose reading runs code, or follows references out of the document."""
BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
CALLS = frozenset({
    "torch.load", "torch.save", "torch.jit.load", "torch.package", "np.lib.format.read_array",
    "os.system", "os.popen", "pd.read_pickle", "pl.read_pickle", "shutil.unpack_archive",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "yaml.full_load_all",
})  # fmt: skip
METHODS = frozenset({"extractall", "read_pickle", "to_pickle"})
OTHERS = ("yaml", "allow_pickle", "shell", "np.load", "numpy.load", "import_module")
WORDS = re.compile("|".join(map(re.escape, (*MODULES, *BUILTINS, *CALLS, *METHODS, *OTHERS))))
"""A text without any of them needs no parsing."""


def findings(text: str) -> Iterator[str]:
    """Everything in a source text that could run, or write, what runs when it is read."""
    for node in ast.walk(ast.parse(text)) if WORDS.search(text) else ():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"{name} in line {node.lineno}" for name in names if _root(name) in MODULES)
        if isinstance(node, ast.ImportFrom) and names == ["yaml"]:
            yield f"a function of yaml without its module's name in line {node.lineno}"
        if isinstance(node, ast.Call):
            yield from (f"{found} in line {node.lineno}" for found in _of_call(node))


def _of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in BUILTINS or name in CALLS or name.rpartition(".")[2] in METHODS:
        yield name
    if _is_true(keywords.get("shell")):
        yield f"{name} through a shell"
    if name.endswith(("np.load", "numpy.load")) or "allow_pickle" in keywords:
        allowed = keywords.get("allow_pickle")
        if not (isinstance(allowed, ast.Constant) and allowed.value is False):
            yield f"{name} that may read pickles"
    if name.endswith("import_module") and not (
        node.args and isinstance(node.args[0], ast.Constant)
    ):
        yield f"{name} of a computed name"


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_true(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_source_file_can_run_what_it_reads(package: str) -> None:
    """The one computed import names verbs of the command line, out of a table of its own."""
    allowed = {("cluster/__main__.py", "importlib.import_module of a computed name")}
    found = [
        (str(path.relative_to(ROOT)), finding.partition(" in line ")[0], finding)
        for path in sorted((ROOT / package).rglob("*.py"))
        for finding in findings(path.read_text(encoding="utf-8"))
    ]
    assert [entry for entry in found if entry[:2] not in allowed] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as quick",
        "def late():\n    from joblib import load",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=flag)",
        "np.save(path, array, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "os.system(command)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "frame.to_pickle(path)",
        "importlib.import_module(name)",
        "yaml.load(text, Loader=loader)",
        "yaml.unsafe_load(text)",
        "from yaml import load",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    """A check that finds nothing has to be one that could."""
    assert list(findings(text))


@pytest.mark.parametrize(
    "text",
    [
        "np.load(path, allow_pickle=False)",
        "json.loads(text)",
        "import yaml\ndocuments = yaml.safe_load_all(text)",
        "subprocess.run(command)",
        "model.eval()",
        "re.compile(pattern)",
        "importlib.import_module('ray')",
    ],
)
def test_the_search_leaves_alone_what_is_safe(text: str) -> None:
    """Names that only look alike."""
    assert list(findings(text)) == []
