"""The documents name tests, files and limits that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMED = re.compile(
    r"`((?:tests|scripts|supervisor|worker|protocol|cli|docs)/[\w./-]*)(?:::(\w+))?`"
)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    for name, function in NAMED.findall(document.read_text()):
        path = ROOT / name
        assert path.exists(), name
        if function:
            assert function in functions(path), f"{name}::{function}"


def test_every_promise_names_what_holds_it() -> None:
    text = (ROOT / "docs/SPECIFICATION.md").read_text()
    promises = text.split("## Promises")[1].split("## ")[0]
    rows = [line for line in promises.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) >= 20
    assert [line for line in rows if not NAMED.search(line)] == []


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_decision_has_a_number_of_its_own() -> None:
    paths = sorted((ROOT / "docs/adr").glob("*.md"))
    numbers = [path.name.partition("-")[0] for path in paths]
    assert numbers == [f"{number:04}" for number in range(1, len(paths) + 1)]
    for path, number in zip(paths, numbers, strict=True):
        assert path.read_text().startswith(f"# {number} · ")


def test_promises_are_numbered_one_after_the_other() -> None:
    found = re.findall(r"^\| (\d+) \|", (ROOT / "docs/SPECIFICATION.md").read_text(), re.MULTILINE)
    assert found == [str(number) for number in range(1, len(found) + 1)]
